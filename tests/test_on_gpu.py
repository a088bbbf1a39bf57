"""The script of the checks on a GPU: order, time, and what is written when one part fails."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
import types
from pathlib import Path

import pytest
from processes import HANG_SECONDS, wait_until

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "on_gpu.py"


@pytest.fixture(scope="module")
def on_gpu():
    spec = importlib.util.spec_from_file_location("on_gpu", SCRIPT)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["on_gpu"] = module
    assert spec.loader is not None
    spec.loader.exec_module(module)
    return module


def test_a_part_that_fails_or_takes_all_the_time_costs_no_other_what_it_found(on_gpu):
    """Ten minutes: 60 s, an abort after 10 s, one that is ended at 400 s; the rest has 130 s."""
    clock = [0.0]
    takes = {"first": 60.0, "aborts": 10.0, "hangs": 1e9, "next": 200.0, "last": 1.0}
    allowed: dict[str, float] = {}
    written: list[list[str]] = []

    def run(part, seconds):
        allowed[part.name] = seconds
        took = min(takes[part.name], seconds)
        clock[0] += took
        outcome = "out of time" if took < takes[part.name] else "done"
        return on_gpu.Ended(part.name, "failed" if part.name == "aborts" else outcome, took)

    parts = [on_gpu.Part(name, 400.0, lambda asked, keep: None) for name in takes]
    ended = on_gpu.run_all(
        parts,
        run,
        minutes=10.0,
        written=lambda ended: written.append([one.outcome for one in ended]),
        now=lambda: clock[0],
    )

    assert [one.outcome for one in ended] == [
        "done", "failed", "out of time", "out of time", "no time"
    ]  # fmt: skip
    assert allowed == {"first": 400.0, "aborts": 400.0, "hangs": 400.0, "next": 130.0}
    assert [len(one) for one in written] == [1, 2, 3, 4, 5], "written after each"
    assert clock[0] == 600.0


def test_all_parts_begin_with_what_is_there_and_all_but_the_last_fit_into_the_whole(on_gpu):
    assert on_gpu.PARTS[0].name == "facts"
    assert on_gpu.MOST_MINUTES < 10
    certain, left_overs = on_gpu.PARTS[: -on_gpu.LEFT_OVERS], on_gpu.PARTS[-on_gpu.LEFT_OVERS :]
    assert sum(part.seconds for part in certain) <= 60 * on_gpu.MOST_MINUTES
    assert [part.name for part in left_overs] == ["large_model", "finder_xla"]
    assert left_overs[-1].seconds >= 150, "compiling every size is allowed to take so long"


def report_of(**changes):
    """Stands in for what `measure_throughput` returns."""
    knee = types.SimpleNamespace(batch_size=64)
    made = {
        "conclusion": lambda: "A knee.",
        "of_knee": lambda: "64",
        "knee": knee,
        "batch_sizes": (8, 64, 512),
        "left_out": (),
        "too_large": (),
        "columns": lambda: ("batch size",),
        "rows": lambda: [("8",), ("64",), ("512",)],
        "xla": None,
        "precision": None,
    }
    return types.SimpleNamespace(throughput=types.SimpleNamespace(**{**made, **changes}))


@pytest.mark.parametrize("part", ["knee", "precision", "large_model"])
def test_each_measurement_is_kept_when_it_is_made(on_gpu, monkeypatch, part):
    """The second one ends the process, as XLA may: no code of the part's runs after it."""
    asked, kept = [], []

    class Aborts(BaseException):
        """No Exception: nothing of a process is left to catch it."""

    def measure_throughput(model, data, **options):
        asked.append(options)
        if len(asked) == 2:
            raise Aborts
        return report_of()

    monkeypatch.setattr("tfbatch.measure_throughput", measure_throughput)
    monkeypatch.setattr(on_gpu, "_images", lambda examples: None)
    with pytest.raises(Aborts):
        getattr(on_gpu, part)(on_gpu.Asked(50_000), lambda found: kept.append(str(found)))
    assert len(kept) == 1
    assert ("A knee." in kept[0]) == (part == "knee")
    assert [one["jit_compile"] for one in asked] == [False, False], "XLA only where it is compared"


def test_a_measurement_that_fails_costs_itself_alone(on_gpu, monkeypatch):
    asked, kept = [], []

    def measure_throughput(model, data, **options):
        asked.append((options["batch_sizes"], options["xla"], options["mixed_precision"]))
        if options["xla"]:
            raise RuntimeError("no libdevice")
        return report_of()

    monkeypatch.setattr("tfbatch.measure_throughput", measure_throughput)
    monkeypatch.setattr(on_gpu, "_images", lambda examples: None)
    on_gpu.knee(on_gpu.Asked(50_000), lambda found: kept.append(dict(found)))
    assert asked == [(None, False, False), ([64], True, False), ([64, 512], False, True)]
    assert kept[-1]["xla failed"] == "RuntimeError: no libdevice"
    assert "precision" in kept[-1]


def test_what_a_finder_or_a_search_says_is_kept_line_by_line(on_gpu, monkeypatch, tmp_path):
    kept = []

    def find_max_batch_size(model, data, **options):
        print("Batch size 8: 1 GB.", flush=True)
        raise KeyboardInterrupt

    def find_batch_size(model, data, *, run_dir, **options):
        run_dir.mkdir()
        print("The data is prepared.")
        (run_dir / "fingerprint.json").write_text('{"gpu": 1}')
        (run_dir / "trials.jsonl").write_text('{"trial": "search-0001", "status": "oom"}\n{"tri')
        print("A trial has ended.")
        raise KeyboardInterrupt

    monkeypatch.setattr("tfbatch.find_max_batch_size", find_max_batch_size)
    monkeypatch.setattr("tfbatch.find_batch_size", find_batch_size)
    monkeypatch.setattr(on_gpu, "_images", lambda examples: None)

    def keep(found):
        kept.append(json.loads(json.dumps(found)))

    with pytest.raises(KeyboardInterrupt):
        on_gpu.finder(on_gpu.Asked(100), keep)
    assert kept[0]["said"][0].endswith("s: Batch size 8: 1 GB.")
    kept.clear()
    with pytest.raises(KeyboardInterrupt):
        on_gpu.search(on_gpu.Asked(100), keep)
    assert "fingerprint" not in kept[0]
    assert kept[1]["fingerprint"] == {"gpu": 1}
    assert [row["status"] for row in kept[1]["trials"]] == ["oom"]


@pytest.mark.parametrize(
    ("check", "found"),
    [
        ("print('2.0')", (True, "2.0")),
        ("import os; print('no ptxas', flush=True); os.abort()", (False, "no ptxas")),
    ],
)
def test_whether_xla_works_is_found_in_a_process_of_its_own(on_gpu, check, found):
    assert on_gpu.xla_works(check, seconds=HANG_SECONDS) == found


def test_xla_that_hangs_does_not_work(on_gpu):
    assert on_gpu.xla_works("import time; time.sleep(1e6)", seconds=0.1) == (
        False,
        "nothing in 0 s",
    )


PART_OF_A_SCRIPT = """
import json, os, sys, time
given = dict(one.removeprefix("--").split("=", 1) for one in sys.argv[1:])
part, folder = given["part"], given["output"]
path = os.path.join(folder, "on_gpu.json")
whole = json.load(open(path)) if os.path.exists(path) else {}
found = {"peak": 5, "xla": given["xla"], "xla_works": part != "facts"}
whole[part] = {"outcome": "running", "findings": found}
json.dump(whole, open(path, "w"))
open(os.path.join(folder, part + " has written"), "w").close()
print("printed by", part, flush=True)
if part == "hangs":
    time.sleep(1e6)
elif part == "aborts":
    os.abort()
"""


@pytest.fixture
def script(on_gpu, tmp_path, monkeypatch):
    """Stands in for the script where it runs a part."""
    path = tmp_path / "script.py"
    path.write_text(PART_OF_A_SCRIPT)
    monkeypatch.setattr(on_gpu, "__file__", str(path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # a GPU would be sampled


def test_few_files_are_left_and_the_report_is_printed(on_gpu, script, tmp_path, capsys):
    """However many parts there are; without XLA where the first one finds that it does not work."""
    output = tmp_path / "output"
    output.mkdir()
    (output / "on_gpu.json").write_text('{"of an earlier run": {}}')
    names = ["facts", *map("part{}".format, range(8)), "aborts"]
    parts = [on_gpu.Part(name, HANG_SECONDS, lambda asked, keep: None) for name in names]
    on_gpu.run_parts(parts, output, on_gpu.Asked(10), minutes=1e3)
    printed = capsys.readouterr().out

    for left in output.glob("* has written"):  # the stand-in's own
        left.unlink()
    assert {one.name for one in output.iterdir()} == {"on_gpu.json", "on_gpu.md", "logs.tar.gz"}
    found = json.loads((output / "on_gpu.json").read_text())
    assert list(found) == names
    assert found["part0"]["findings"]["peak"] == 5
    assert [found[name]["findings"]["xla"] for name in names[:3]] == ["auto", "off", "off"]
    assert (output / "on_gpu.md").read_text() in printed
    assert "## aborts: failed" in printed
    with tarfile.open(output / "logs.tar.gz") as packed:
        assert packed.extractfile("logs/part3.log").read() == b"printed by part3\n"


def test_what_a_part_had_found_stays_where_it_is_ended_or_fails(
    on_gpu, script, tmp_path, monkeypatch
):
    """Processes as the script starts them: one is ended in the middle of its work."""

    class TimeIsOver(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout == 10.0:
                wait_until((tmp_path / "hangs has written").exists)
                raise subprocess.TimeoutExpired("hangs", 10.0)
            return super().wait(timeout)

    monkeypatch.setattr(on_gpu.subprocess, "Popen", TimeIsOver)
    run = on_gpu.in_a_process(tmp_path, tmp_path, on_gpu.Asked(10, xla=False))
    hangs = run(on_gpu.Part("hangs", 0, lambda asked, keep: None), 10.0)
    aborts = run(on_gpu.Part("aborts", 0, lambda asked, keep: None), HANG_SECONDS)

    assert (hangs.outcome, hangs.findings["peak"]) == ("out of time", 5)
    assert (aborts.outcome, aborts.findings["peak"]) == ("failed", 5)
    assert aborts.findings["xla"] == "off", "as asked"
    assert "exit code -6" in aborts.message


def test_the_report_holds_tables_findings_and_the_end_of_a_log(on_gpu):
    table = [["batch size", "step (ms)"], ["8", "1.5"]]
    done = on_gpu.Ended("knee", "done", 12.0, {"knee": "none", "table": table})
    failed = on_gpu.Ended("wall", "failed", 3.0, message="exit code -6\nAborted")
    text = on_gpu.report([done, failed])

    assert "## knee: done, 12 s" in text
    assert "| batch size | step (ms) |\n| --- | --- |\n| 8 | 1.5 |" in text
    assert "- knee: none" in text
    assert "exit code -6\nAborted" in text


@pytest.mark.slow
def test_it_runs_without_a_gpu(tmp_path):
    command = [sys.executable, str(SCRIPT), f"--output={tmp_path}", "--parts=facts,knee,callbacks"]
    long = ["--patience=60", "--minutes=600"]
    subprocess.run([*command, "--examples=400", *long], check=True, timeout=HANG_SECONDS)
    parts = json.loads((tmp_path / "on_gpu.json").read_text())
    facts, knee, waits = (parts[name]["findings"] for name in ("facts", "knee", "callbacks"))

    assert facts["xla_works"] or facts["xla_said"] == "nothing in 30 s", "on a busy machine"
    if facts["xla_works"]:
        assert facts["auto_is_as_in_keras"]
        assert not facts["xla_compiled"], "of a CPU's own accord"
        assert knee["xla"] is not None
    compared = knee["precision"]
    assert (compared["policy"], compared["used"]) == ("mixed_bfloat16", "float32")
    assert "## knee: done" in (tmp_path / "on_gpu.md").read_text()
    assert waits["sleeps_20_ms"]["seconds_per_step"] > 0.02
    assert len(waits["losses_whole_and_accumulated"]) == 2
