"""What a person sees of a run: plain lines, a terminal's display, and machines that are busy."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys
import time

import pytest
from rich.console import Console
from search_fixtures import BASELINE

from tfbatch.process import limits
from tfbatch.process.limits import usable_cores
from tfbatch.run_folder.fingerprint import record_load, write_fingerprint
from tfbatch.run_folder.machine_load import LoadSample, load_between, sample_load
from tfbatch.search.engine import Running
from tfbatch.search.progress import (
    FIRST_SILENCE,
    LATER_SILENCE,
    MEASURING_SECONDS,
    LiveProgress,
    Progress,
)
from tfbatch.training.trial import Heartbeat
from tfbatch.trial.finished_trial import make_row, read_row
from tfbatch.trial.outcome import Outcome, TrialSpec
from tfbatch.workers.mailbox import Mailbox, TaskProgress


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.seconds = 0.0

    def __call__(self):
        return self.seconds


def running(trial, progress, seconds):
    return Running(TrialSpec(trial, "search", 1, BASELINE, 2500, 1000), progress, seconds)


def finished(status, message):
    spec = TrialSpec("search-0001", "search", 1, BASELINE, 2500, 1000)
    outcome = Outcome(status, {"val_loss": 0.5}, 2500, 79, 3.0, 2.0, message)
    score = 0.5 if status == "completed" else None
    return read_row(make_row(spec, outcome, score=score, finished_at="2030-01-01"))


@pytest.fixture
def told():
    file, clock = io.StringIO(), Clock()
    progress = Progress(Console(file=file, width=140), now=clock)
    progress.end()  # it is asked here, by no thread
    return progress, file, clock


def test_without_a_terminal_a_line_tells_what_runs_once_nothing_else_does(told):
    progress, file, clock = told
    at_once = [
        running("search-0003", TaskProgress(2, 10, 0.5), 41.0),
        running("search-0004", TaskProgress(), 1.0),
    ]
    progress.watch(lambda: at_once)
    progress.begin(done=2, total=24, seconds_left=lambda: 192.0)
    for seconds in (FIRST_SILENCE - 1, FIRST_SILENCE, FIRST_SILENCE + LATER_SILENCE - 1):
        clock.seconds = seconds
        progress.tick()

    assert file.getvalue() == (
        "running search-0003 (batch size 32, epoch 3 of 10, 41 s), search-0004 (batch size 32, "
        "building, 1 s); 2 of 24 trials done; 3.2 min left\n"
    )
    clock.seconds = FIRST_SILENCE + LATER_SILENCE
    progress.tick()
    assert file.getvalue().count("\n") == 2
    progress.trial_finished(finished("completed", ""), None)
    clock.seconds += FIRST_SILENCE - 1
    progress.tick()
    assert file.getvalue().count("\n") == 3


def test_a_long_stage_without_trials_tells_what_it_is(told):
    progress, file, clock = told
    progress.tick()
    progress.say("Measuring the step times of batch sizes 32, 64, each alone.")
    clock.seconds = 45.0
    progress.tick()

    assert file.getvalue().splitlines()[1:] == [
        "now: Measuring the step times of batch sizes 32, 64, each alone. (45 s)"
    ]


def test_a_thread_asks_for_the_line_and_ends():
    file, clock = io.StringIO(), Clock()
    progress = Progress(Console(file=file), now=clock)
    progress.doing("building the model")
    clock.seconds = 1000.0
    while "building the model" not in file.getvalue():
        time.sleep(0.02)
    progress.end()
    ticker = progress._ticker
    assert ticker is not None
    ticker.join()


@pytest.mark.parametrize(
    ("status", "message", "lines"),
    [
        ("oom", "Out of memory: OOM when allocating\n" + "graph\n" * 90, 2),
        ("killed", "Its process ended by SIGKILL.\nIts last output:\nx\ny", 2),
        ("timeout", "It gave no heartbeat for 600 s and was ended.\nIts last output:\nx", 2),
        ("error", "Traceback (most recent call last)\n  File a\nValueError: b\n", 5),
        ("completed", "", 1),
    ],
)
def test_what_a_trial_came_to_is_told_briefly(told, status, message, lines):
    progress, file, _ = told
    progress.trial_finished(finished(status, message), None)

    assert len(file.getvalue().splitlines()) == lines
    assert (message.splitlines() or [""])[0] in file.getvalue()


def test_the_line_of_a_part_of_a_training_says_where_it_ends(told):
    progress, file, _ = told
    row = finished("completed", "").row | {"to_examples": 1250, "from_examples": 0}
    progress.trial_finished(read_row(row), None)

    assert "constant up to example 1,250: 0.5000 in 3.0 s" in file.getvalue()


def test_the_line_of_a_training_that_is_shorter_than_the_runs_says_where_it_ends(told):
    """Its score may be the best so far, and is not compared with the others."""
    progress, file, _ = told
    trial = finished("completed", "")
    progress.trial_finished(trial, None, total_examples=trial.total_examples)
    progress.trial_finished(trial, None, total_examples=8 * trial.total_examples)

    whole, short = file.getvalue().splitlines()
    assert "up to example" not in whole
    assert f"constant up to example {trial.length:,}: 0.5000" in short


def test_the_display_shows_every_running_trial_with_its_epochs_and_the_time():
    file, clock = io.StringIO(), Clock()
    console = Console(file=file, width=120, force_terminal=True, color_system=None)
    progress = LiveProgress(console, now=clock)
    progress.end()
    left = [200.0]
    progress.watch(
        lambda: [
            running("search-0003", TaskProgress(2, 10, 0.5), 41.0),
            running("search-0004", TaskProgress(0, 10, 0.1), 3.0),
        ]
    )
    progress.begin(done=2, total=24, seconds_left=lambda: left[0])

    def shown():
        with console.capture() as capture:
            console.print(progress.render())
        return capture.get()

    assert "search-0003: batch size 32" in shown()
    assert "epoch 3 of 10, 0:41" in shown()
    assert "epoch 1 of 10, 0:03" in shown()
    assert "2 of 24 trials" in shown()
    assert "0:00, 3:20 left" in shown()
    left[0], clock.seconds = 199.0, 1.0  # the next second is another picture
    assert "0:01, 3:19 left" in shown()


def test_the_display_shows_what_goes_on_before_there_are_trials():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    progress = LiveProgress(console, now=Clock())
    progress.doing("building the model")
    progress.preparing("train", 1000, 4000)
    with console.capture() as capture:
        console.print(progress.render())
    progress.preparing("train", 4000, 4000)
    with console.capture() as later:
        console.print(progress.render())
    progress.end()

    assert "preparing train" in capture.get()
    assert "1,000 of 4,000 examples" in capture.get()
    assert "building the model" in later.get()


def test_without_a_terminal_data_of_unknown_size_is_told_every_few_seconds(told):
    progress, file, clock = told
    for done in (256, 20_000, 20_256):
        clock.seconds += MEASURING_SECONDS - 1
        progress.preparing("records", done, 0)
    clock.seconds += MEASURING_SECONDS
    progress.preparing("records", 0, 0)  # the task has ended

    assert file.getvalue().splitlines() == ["reading your data: 20,000 examples so far"]


def test_the_display_shows_data_of_unknown_size_without_a_bar():
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None)
    progress = LiveProgress(console, now=Clock())
    progress.preparing("records", 1000, 4000)
    progress.preparing("records", 20_000, 0)
    with console.capture() as capture:
        console.print(progress.render())
    progress.end()

    assert "reading your data: 20,000 examples so far" in capture.get()
    assert "of 0" not in capture.get()
    assert "preparing" not in capture.get()


def test_a_heartbeat_carries_how_far_a_training_is(tmp_path):
    mailbox = Mailbox(tmp_path / "mailbox")
    beat = Heartbeat(mailbox.report)
    beat.set_params({"epochs": 4, "steps": 10})
    beat.on_epoch_begin(2)
    beat.on_train_batch_end(4)

    assert Mailbox(tmp_path / "mailbox").progress() == TaskProgress(2, 4, 0.5)
    assert mailbox.progress().fraction == 0.625
    mailbox.clear()
    assert mailbox.progress() == TaskProgress()
    assert mailbox.progress().fraction == 0.0


def test_a_mailbox_that_is_closed_has_no_news(tmp_path):
    mailbox = Mailbox(tmp_path / "mailbox")
    mailbox.report(1, 2)
    mailbox.close()
    assert mailbox.progress() == TaskProgress()


def test_a_display_asks_no_worker_while_it_ends():
    progress = LiveProgress(Console(file=io.StringIO(), force_terminal=True), now=Clock())
    asked = []
    progress.watch(lambda: asked.append("after the end") or [])
    asked.clear()
    progress.end()
    assert asked == []


def test_the_load_is_what_others_take_of_the_cores():
    first, last = LoadSample(10.0, 100.0, 50.0), LoadSample(20.0, 118.0, 54.0)
    load = load_between(first, last, cores=2.0)

    assert load.others == pytest.approx(1.4)  # (18 - 4) / 10
    assert load.available == pytest.approx(0.6)
    assert load.busy
    own_alone = dataclasses.replace(last, own=68.0)
    assert not load_between(first, own_alone, cores=2.0).busy
    assert load_between(first, dataclasses.replace(last, own=90.0), cores=2.0).others == 0.0
    assert load_between(first, first, cores=2.0).others == 0.0
    short = LoadSample(10.5, 101.0, 50.0)
    assert not load_between(first, short, cores=2.0).busy
    little = LoadSample(20.0, 100.0 + 19.0, 50.0 + 16.0)  # 0.3 of 2 cores
    assert not load_between(first, little, cores=2.0).busy


def test_work_of_this_process_and_its_children_is_not_others(monkeypatch):
    """Counted by the kernel: a child that works is own while it runs and after it has ended."""
    work = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\n{}"
    before = sample_load()
    child = subprocess.Popen(
        [sys.executable, "-c", work.format("input()")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout
    child.stdout.readline()
    during = sample_load()
    child.communicate(b"\n")
    after = sample_load()

    assert during.own - before.own > 0.3  # of 0.5; the kernel counts in hundredths
    assert after.own - before.own > 0.3
    assert during.busy - before.busy > 0


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 4.0),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 4.0),
        ({"proc/self/cgroup": "0::/a\n", "sys/fs/cgroup/a/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/b\n",
                "sys/fs/cgroup/cpu/b/cpu.cfs_quota_us": "50000\n",
                "sys/fs/cgroup/cpu/b/cpu.cfs_period_us": "100000\n",
            },
            0.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/b\n",
                "sys/fs/cgroup/cpu/b/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/b/cpu.cfs_period_us": "100000\n",
            },
            4.0,
        ),
        (  # in a container the path is the host's, and the files are at the mount
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            2.0,
        ),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
                "sys/fs/cgroup/a/cpu.max": "150000 100000\n",
            },
            1.5,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu,cpuacct:/b\n0::/a\n",
                "sys/fs/cgroup/unified/a/cpu.max": "250000 100000\n",
            },
            2.5,
        ),
    ],
)
def test_usable_cores_are_bounded_by_the_control_groups_quota(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert usable_cores(tmp_path) == cores


@pytest.mark.parametrize(("cores", "whole"), [(0.5, 1), (2.7, 2), (4.0, 4)])
def test_a_part_of_a_core_is_none_but_there_is_one(monkeypatch, cores, whole):
    monkeypatch.setattr(limits, "usable_cores", lambda: cores)
    assert limits.whole_cores() == whole


def test_the_load_is_in_the_fingerprint_and_stays_when_it_is_written_anew(tmp_path):
    load = load_between(LoadSample(0, 0, 0), LoadSample(10, 14, 0), cores=2.0)
    record_load(tmp_path, at_start=load)
    write_fingerprint(tmp_path, [])
    record_load(tmp_path, during_run=load)
    written = json.loads((tmp_path / "fingerprint.json").read_text())

    assert written["load"]["at_start"] == {"cores": 2.0, "used_by_others": 1.4, "seconds": 10}
    assert written["load"].keys() == {"at_start", "during_run"}
    assert written["hardware"]["usable_cores"] <= written["hardware"]["cores"]
