"""Slots: one process each, whose end costs one task, whatever ended it."""

from __future__ import annotations

import atexit
import contextlib
import mmap
import os
import resource
import signal
import struct
import subprocess
import sys
import textwrap
import time
import types
from concurrent.futures import Future, wait
from pathlib import Path

import psutil
import pytest
from processes import HANG_SECONDS, fall_silent, wait_until
from ray_clusters import connected, ray_cluster

from tfbatch.run_folder.file_lock import wait_until_released
from tfbatch.workers import ProcessEndedError, Slot, process_end, ray_slot
from tfbatch.workers.mailbox import Mailbox, TaskProgress
from tfbatch.workers.ray_slot import RaySlot, Seat, living_nodes
from tfbatch.workers.slot import Start, _log_level, worker_mailbox

pytestmark = pytest.mark.usefixtures("one_at_a_time")


def nothing():
    """What a worker does first here."""


@pytest.fixture
def make_slot(tmp_path):
    slots = []

    def make(function=nothing, *arguments, lock=None, **options):
        slot = Slot(Start(tmp_path / "worker.log", lock, function, arguments), **options)
        slots.append(slot)
        return slot

    yield make
    for slot in slots:
        slot.close()


@pytest.fixture(scope="module")
def node():
    with ray_cluster(1) as cluster, connected(cluster.address):
        yield living_nodes()[0]


@pytest.fixture(params=["here", pytest.param("node", marks=pytest.mark.slow)])
def make_any_slot(request, make_slot, tmp_path):
    """Makes slots of this machine, or on a node of a Ray cluster: the same must hold for both."""
    seats = []

    def make_far(function=nothing, *arguments, stall_seconds=float("inf")):
        seats.append(Seat(request.getfixturevalue("node"), cpus=0.1, gpus=0))
        start = Start(tmp_path / "worker.log", None, function, arguments)
        return RaySlot(seats[-1], "0", start, stall_seconds=stall_seconds)

    yield make_slot if request.param == "here" else make_far
    for seat in seats:
        seat.drop()


def run(slot, task, *arguments):
    slot.submit(task, *arguments)
    return slot.result()


def wait_until_it_runs(slot):
    """Waits until `_until_asked` has begun; a slot is watched as a search watches it."""

    def runs():
        slot.watch()
        return slot.mailbox.progress() == TaskProgress(1, 2)

    wait_until(runs)


def ask(slot):
    """Asks a task to stop, as a search does, and waits until it has ended."""

    def ended():
        slot.mailbox.request_stop()
        slot.watch()
        return slot.future.done()

    wait_until(ended)


def end_of(slot, task, *arguments):
    with pytest.raises(ProcessEndedError) as caught:
        run(slot, task, *arguments)
    return caught.value


def test_tasks_run_in_one_process_that_stays(make_any_slot):
    slot = make_any_slot()
    first, second = run(slot, os.getpid), run(slot, os.getpid)
    assert first == second != os.getpid()


def test_an_exception_of_a_task_is_raised_and_the_process_stays(make_any_slot):
    slot = make_any_slot()
    before = run(slot, os.getpid)
    with pytest.raises(ZeroDivisionError):
        run(slot, divmod, 1, 0)
    assert run(slot, os.getpid) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_killed_process_costs_its_task_and_is_replaced(make_any_slot, number):
    slot = make_any_slot()
    before = run(slot, os.getpid)
    found = end_of(slot, _die_of, number)
    assert found.ending == "killed"
    assert number.name in found.message
    assert run(slot, os.getpid) != before


def test_a_process_that_is_killed_between_two_tasks_is_replaced(make_any_slot):
    slot = make_any_slot()
    before = run(slot, os.getpid)
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(before))
    if isinstance(slot, Slot):  # its parent has seen it, and refuses what is submitted then
        wait_until(lambda: slot._executor._flags.broken)
    else:  # not seen yet, it is a process that could not start
        with contextlib.suppress(ProcessEndedError):
            run(slot, os.getpid)
    assert run(slot, os.getpid) != before


class TwoArgumentsError(Exception):
    """Cannot be unpickled: its class wants one argument more than it tells."""

    def __init__(self, place, message):
        super().__init__(f"{place}: {message}")


def test_an_exception_that_cannot_travel_is_told_and_the_process_stays(make_any_slot):
    slot = make_any_slot()
    before = run(slot, os.getpid)
    with pytest.raises(RuntimeError, match="TwoArgumentsError: line 7: no such column"):
        run(slot, _raise_two_arguments)
    assert run(slot, os.getpid) == before


def _raise_two_arguments():
    raise TwoArgumentsError("line 7", "no such column")


def _die_of(number):
    os.kill(os.getpid(), number)
    time.sleep(HANG_SECONDS)


def test_trap_one_slots_death_leaves_the_other_slot_alone(make_any_slot):
    doomed, innocent = make_any_slot(), make_any_slot()
    before = run(innocent, os.getpid)
    innocent.submit(_until_asked)
    assert end_of(doomed, _die_of, signal.SIGKILL).ending == "killed"
    ask(innocent)
    assert innocent.result() == "asked"
    assert run(innocent, os.getpid) == before


def test_a_process_at_its_memory_limit_is_told_from_its_last_words(make_any_slot):
    found = end_of(make_any_slot(), _abort_like_an_allocator)
    assert found.ending == "oom"
    assert "std::bad_alloc" in found.message


def _abort_like_an_allocator():
    os.write(2, b"terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def test_the_last_words_of_an_earlier_process_do_not_count(make_any_slot):
    slot = make_any_slot()
    assert end_of(slot, _abort_like_an_allocator).ending == "oom"
    assert end_of(slot, os.abort).ending == "killed"


def test_an_unexplained_sigkill_is_not_called_out_of_memory(make_any_slot, tmp_path):
    (tmp_path / "worker.log").write_text("std::bad_alloc\n")
    found = end_of(make_any_slot(), _die_of, signal.SIGKILL)
    assert found.ending == "killed"


def test_memory_error_of_a_real_limit_is_an_exception_of_the_task(make_any_slot):
    slot = make_any_slot()
    before = run(slot, os.getpid)
    with pytest.raises(MemoryError):
        run(slot, _allocate_over_a_limit)
    assert run(slot, os.getpid) == before


def _allocate_over_a_limit():
    limit = psutil.Process().memory_info().vms + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return len(bytearray(2**30))


def test_the_kernels_own_kill_is_out_of_memory(make_slot, memory_cgroup):
    slot = make_slot(_join, memory_cgroup)
    assert run(slot, os.getpid) > 0
    found = end_of(slot, _touch, 2**28)
    assert found.ending == "oom"
    assert "kernel" in found.message


@pytest.fixture
def memory_cgroup():
    """A control group of 128 MiB, where this machine lets one be made."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    own = next((line.split(":", 2)[2] for line in lines if ":memory:" in line), None)
    group = Path(f"/sys/fs/cgroup/memory{own}") / f"tfbatch-{os.getpid()}"
    try:
        if own is None:
            raise OSError("no memory controller of version 1")
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(2**27))
    except OSError as error:
        pytest.skip(f"control groups cannot be made here: {error}")
    yield group
    group.rmdir()


def _join(group):
    (group / "cgroup.procs").write_text(str(os.getpid()))


def _touch(size):
    return sum(bytearray(size)[::4096])


def test_a_silent_task_is_ended_and_one_with_signs_of_life_is_not(make_any_slot):
    slot = make_any_slot(stall_seconds=HANG_SECONDS)
    slot.submit(_until_asked)
    wait_until_it_runs(slot)
    ask(slot)
    assert slot.result() == "asked"
    future = slot.submit(fall_silent)
    while not wait([future], timeout=0.05).done:
        slot.watch()
    with pytest.raises(ProcessEndedError) as caught:
        slot.result()
    assert caught.value.ending == "timeout"


def test_a_heartbeat_ends_a_silence(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    mailbox = Mailbox(tmp_path / "mailbox")
    mailbox.clear()
    now[0] = 107.0
    assert mailbox.silence() == 7
    mailbox.report(1, 2)
    assert mailbox.silence() == 0
    now[0] = 108.5
    assert mailbox.silence() == 1.5
    mailbox.close()


def test_a_task_that_stood_still_with_its_parent_was_not_silent(make_slot, monkeypatch):
    """Ctrl-Z and `fg`, or a scheduler, stop and continue a whole process group."""
    now, ended = [100.0], []
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    slot = make_slot(stall_seconds=60.0)
    slot.mailbox.clear()
    slot._future = Future()  # a task runs
    monkeypatch.setattr(slot, "kill", lambda: ended.append(now[0]))

    def look(*moments):
        for now[0] in moments:
            slot.watch()

    look(100.1)
    now[0] = 100.2
    slot.mailbox.report(1, 2)
    look(3000.0, *range(3001, 3040))  # it is continued, and in a long step
    look(6000.0, *range(6001, 6021))  # once more
    assert ended == []
    look(6022)
    assert ended == [6022], "60 s without a sign of life while it was watched"
    slot.mailbox.report(1, 3)
    look(*range(6023, 6083))
    assert ended == [6022]
    look(6083)
    assert ended == [6022, 6083]


class _Writes(list):
    """Stands in for a mapped file: takes what is assigned, and gives no one its memory."""

    def __setitem__(self, place, content):
        self.append((place, content))


def test_a_heartbeat_is_written_in_one_piece(tmp_path, monkeypatch):
    """`struct.pack_into` writes zeros first: read then, a beat is as old as the machine's start."""
    monkeypatch.setattr(time, "monotonic", lambda: 7.0)
    mailbox = Mailbox(tmp_path / "mailbox")
    mailbox._map, mapped = _Writes(), mailbox._map
    mailbox.report(1, 2)
    assert [content for place, content in mailbox._map if place == slice(8, 16)] == [
        struct.pack("<d", 7.0)
    ]
    mapped.close()


def test_a_request_to_stop_reaches_a_running_task(make_any_slot):
    slot = make_any_slot()
    slot.submit(_until_asked)
    wait_until_it_runs(slot)
    ask(slot)
    assert slot.result() == "asked"
    slot.submit(_is_asked)
    assert slot.result() is False


def _until_asked():
    worker_mailbox().report(1, 2)
    while not worker_mailbox().stop_requested():
        time.sleep(0.01)
    return "asked"


def _is_asked():
    return worker_mailbox().stop_requested()


def test_linear_algebra_in_a_worker_has_one_thread(make_slot):
    slot = make_slot()
    slot.submit(os.getenv, "OPENBLAS_NUM_THREADS")
    assert slot.result() == os.environ.get("OPENBLAS_NUM_THREADS", "1")


def test_a_worker_warns_in_its_log_whatever_a_user_silences(make_slot):
    """How it ended is read there: what the allocator says near the wall is a warning."""
    slot = make_slot()
    slot.submit(os.getenv, "TF_CPP_MIN_LOG_LEVEL")

    assert slot.result() == _log_level(os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
    assert [_log_level(one) for one in (None, "0", "1", "3")] == ["0", "0", "1", "1"]


def test_a_process_that_has_grown_past_its_bound_is_replaced(make_slot):
    slot = make_slot(most_bytes=2**28)
    first = run(slot, _grow, 1)
    assert run(slot, os.getpid) == first
    assert run(slot, _grow, 2**29) == first
    assert run(slot, os.getpid) != first


_KEPT = []


def _grow(size):
    _KEPT.append(bytearray(size))
    _KEPT[-1][::4096] = b"x" * len(range(0, size, 4096))
    return os.getpid()


def test_mapped_files_are_no_growth(make_slot, tmp_path):
    slot = make_slot(most_bytes=2**28)
    with (tmp_path / "array").open("wb") as file:
        file.truncate(2**29)
    first = run(slot, _map, tmp_path / "array")
    assert run(slot, os.getpid) == first


def _map(path):
    with path.open("rb") as file:
        _KEPT.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    assert not any(_KEPT[-1][::4096])
    assert psutil.Process().memory_info().rss > 2**29
    return os.getpid()


def test_a_process_that_is_replaced_has_no_end_of_its_own(make_any_slot, tmp_path):
    """TensorFlow's can hang."""
    slot = make_any_slot()
    run(slot, _write_at_the_end, tmp_path / "ended")
    slot.recycle()
    run(slot, os.getpid)
    assert not (tmp_path / "ended").exists()


def _write_at_the_end(path):
    atexit.register(path.touch)


@pytest.mark.slow
def test_an_actor_that_is_ended_leaves_no_folder(node, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_slot, "_LEAVE_SECONDS", HANG_SECONDS)
    seat = Seat(node, cpus=0.1, gpus=0)
    slot = RaySlot(seat, "0", Start(tmp_path / "log", None, nothing, ()), stall_seconds=9e9)
    folder = run(slot, _mailbox_folder)
    assert folder.exists()
    seat.drop()
    assert not folder.exists()


def _mailbox_folder():
    return worker_mailbox().path.parent


def test_an_error_of_the_actors_own_costs_the_task_that_it_had():
    errors = pytest.importorskip("ray.exceptions")
    slot = RaySlot.__new__(RaySlot)
    slot.seat = types.SimpleNamespace(node=types.SimpleNamespace(address="here"), dropped=0)
    slot.seat.drop = lambda: setattr(slot.seat, "dropped", 1)
    slot._future = Future()
    traceback = "Traceback ...\nOSError: No space left on device"
    slot._future.set_exception(errors.RayTaskError("run", traceback, OSError(28, "No space")))
    with pytest.raises(ProcessEndedError) as caught:
        slot.result()
    assert caught.value.ending == "killed"
    assert caught.value.message == (
        "Its actor on node here failed: OSError: No space left on device"
    )
    assert slot.seat.dropped


PARENT = """
    import os, sys, time
    from pathlib import Path
    from tfbatch.workers.slot import Slot, Start
    folder = Path(sys.argv[1])
    def busy():                      # of __main__, in a script without a guard
        import ctypes, os
        (folder / "pid").write_text(str(os.getpid()))
        ctypes.PyDLL(None).sleep(9999)   # holds the interpreter's lock: no thread can run
    slot = Slot(Start(folder / "log", folder / "lock", os.getpid))
    slot.submit(busy)
    print("started", flush=True)
    time.sleep(9999)
"""


def test_workers_end_with_their_killed_parent_also_in_the_middle_of_a_step(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(textwrap.dedent(PARENT))
    parent = subprocess.Popen([sys.executable, script, tmp_path], stdout=subprocess.PIPE)
    assert parent.stdout.readline() == b"started\n"
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    assert not wait_until_released(tmp_path / "lock", seconds=0)
    parent.kill()
    parent.wait()
    assert wait_until_released(tmp_path / "lock", seconds=HANG_SECONDS)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
    parent.stdout.close()


def test_a_worker_whose_parent_is_gone_before_it_asks_the_kernel_ends_too():
    code = (
        "import time; from tfbatch.workers.lifeline import follow_parent;"
        "follow_parent(1 + 2**20); time.sleep(9999)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], timeout=HANG_SECONDS, check=False).returncode
        == 1
    )


@pytest.mark.parametrize(
    ("exit_code", "words", "kills", "silent", "expected"),
    [
        (-9, "", 0, None, "killed"),
        (-9, "", 1, None, "oom"),
        (-6, "what():  std::bad_alloc", 0, None, "oom"),
        (-6, "assertion failed", 0, None, "killed"),
        (-11, "", 1, None, "killed"),
        (-9, "", 1, 61.0, "timeout"),
        (None, "std::bad_alloc", 0, None, "killed"),
    ],
)
def test_endings(exit_code, words, kills, silent, expected):
    found = process_end.describe_end(
        exit_code, last_words=words, kernel_kills=kills, silent_for=silent
    )
    assert found.ending == expected
    assert words in found.message


def test_kernel_kills_are_counted_in_either_version_of_control_groups(tmp_path):
    proc, groups = tmp_path / "proc", tmp_path / "sys/fs/cgroup"
    (proc / "self").mkdir(parents=True)
    (proc / "vmstat").write_text("pgfault 1\noom_kill 7\n")
    assert process_end.kernel_kills(tmp_path) == 7
    (proc / "self" / "cgroup").write_text("4:cpu,memory:/a\n0::/b\n")
    (groups / "b").mkdir(parents=True)
    (groups / "b" / "memory.events").write_text("oom 9\noom_kill 3\n")
    assert process_end.kernel_kills(tmp_path) == 10
    (groups / "memory" / "a").mkdir(parents=True)
    (groups / "memory" / "a" / "memory.oom_control").write_text("under_oom 0\noom_kill 2\n")
    assert process_end.kernel_kills(tmp_path) == 12
