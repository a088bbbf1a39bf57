"""`--workers_per_gpu=auto`: measured once, bounded, told and kept. Nothing here ran on a GPU."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import math
import os
import types

import numpy as np
import pytest
import tensorflow as tf
import tiny_model

import tfbatch
from tfbatch import tune
from tfbatch.answer.gpu_sharing import GpuSharing, read_gpu_sharing
from tfbatch.answer.memory_limits import MemoryLimit, MemoryPeak
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, RunFolderError, SearchError, StoppedError
from tfbatch.estimators.side_by_side import Passages
from tfbatch.reporting.recorded import _machine
from tfbatch.request.execution import Execution
from tfbatch.run_folder.files import GPU_SHARING
from tfbatch.search import gpu_sharing, preparation, worker_engine
from tfbatch.search.gpu_sharing import SharingRequest, share_gpus, workers_that_fit
from tfbatch.search.progress import Progress
from tfbatch.search.worker_engine import WorkerEngine, WorkerProcesses
from tfbatch.training import context
from tfbatch.training.context import Job, TaskContext, UserCode
from tfbatch.training.data_place import Placement
from tfbatch.training.devices import MOST_ON_A_GPU, Devices, Place, workers_on_a_gpu
from tfbatch.training.side_by_side import Look, look_at_baseline, train_beside_others

BASELINE = Configuration(batch_size=32, base_learning_rate=0.01)
GPUS = ("/physical_device:GPU:0", "/physical_device:GPU:1")
OUT_OF_MEMORY = SearchError("Memory was exhausted in `look_at_baseline`: OOM when allocating")


class Engine:
    """Trains by heart on two GPUs.

    Attributes:
        rates: Examples a second of all trainings on a GPU by their number, or what they raise.
        shared: Every number of workers that a GPU was given.
        cases: Every task with its arguments.
    """

    def __init__(self, rates, *, cores=16, resident=1, seconds=()):
        self.rates, self.resident, self.seconds = rates, resident, list(seconds)
        self.devices = Devices("A GPU", GPUS, 2, cores // 2, cores)
        self.shared, self.cases, self.rested = [], [], 0

    def share_gpus(self, workers):
        self.shared.append(workers)
        self.devices = self.devices.shared_by(workers)

    def rest(self):
        self.rested += 1

    def call_side_by_side(self, task, case):
        number = self.devices.sharers
        self.cases.append((task, case))
        rate = self.rates[number]
        if isinstance(rate, Exception):
            raise rate
        if task is look_at_baseline:
            return [Look(0.01, 0.5, self.resident)] * number
        seconds = self.seconds.pop(0) if self.seconds else 2.0
        return [Passages((0.0, seconds), round(rate * seconds / number))] * number


def settle(engine, folder, **asked):
    """What was said."""
    progress, said = Progress(None), []
    progress.say = said.append
    request = SharingRequest(BASELINE, **{"largest": 256, **asked})
    share_gpus(engine, request, folder, progress)
    return said


def test_the_number_goes_up_as_long_as_doubling_gains_and_is_told_and_kept(tmp_path):
    engine = Engine({1: 1000.0, 2: 1900.0, 4: 2000.0})
    said = settle(engine, tmp_path)

    assert engine.shared == [2, 4, 2]
    assert engine.devices.workers == 4
    assert said[1:] == [
        "Each GPU gets 2 trials at a time (--workers_per_gpu=auto): of the baseline, batch size "
        "32, 1 training alone did 1,000, 2 trainings side by side did 1,900, 4 trainings side by "
        "side did 2,000 examples a second, and 4 gained less than 15%."
    ]
    assert read_gpu_sharing(tmp_path) == GpuSharing(
        device="A GPU",
        batch_size=32,
        workers_per_gpu=2,
        examples_per_second={1: 1000.0, 2: 1900.0, 4: 2000.0},
        reason="4 gained less than 15%",
    )
    looks = [case for task, case in engine.cases if task is look_at_baseline]
    assert looks == [{"baseline": BASELINE, "largest": 256}] * 3
    trained = [case for task, case in engine.cases if task is train_beside_others]
    assert trained == [{"baseline": BASELINE, "per_step": 0.01, "seconds": 2.5}] * 3


def test_the_processes_of_the_chosen_number_are_kept_where_it_was_the_last_one(tmp_path):
    engine = Engine({1: 1000.0, 2: 2000.0, 4: 4000.0})
    settle(engine, tmp_path)
    assert engine.shared == [2, 4]
    assert read_gpu_sharing(tmp_path).reason == "more are not tried"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OUT_OF_MEMORY, "2 ran out of memory"),
        (ValueError("no such\nshape"), "2 could not be trained (ValueError: no such)"),
    ],
    ids=["memory", "another error"],
)
def test_a_larger_number_that_fails_leaves_the_smaller_one(tmp_path, error, reason):
    engine = Engine({1: 1000.0, 2: error})
    said = settle(engine, tmp_path)

    assert engine.shared == [2, 1]
    assert said[-1].endswith(f"did 1,000 examples a second, and {reason}.")
    assert read_gpu_sharing(tmp_path).workers_per_gpu == 1


def test_where_nothing_can_be_measured_a_gpu_has_one_worker_which_begins_anew(tmp_path):
    engine = Engine({1: OUT_OF_MEMORY})
    said = settle(engine, tmp_path)
    assert said[-1] == (
        "Each GPU gets 1 trial at a time (--workers_per_gpu=auto): 1 ran out of memory."
    )
    assert (engine.shared, engine.rested) == ([], 4)  # 256, 128, 64 and 32


def test_a_largest_size_that_does_not_fit_alone_is_not_asked_of_several(tmp_path):
    class Smaller(Engine):
        def call_side_by_side(self, task, case):
            if case.get("largest", 0) > 100:
                raise OUT_OF_MEMORY
            return super().call_side_by_side(task, case)

    engine = Smaller({1: 1000.0, 2: 1900.0, 4: 2000.0})
    settle(engine, tmp_path, largest=300)

    assert read_gpu_sharing(tmp_path).workers_per_gpu == 2
    looks = [case["largest"] for task, case in engine.cases if task is look_at_baseline]
    assert looks == [75, 75, 75]


@pytest.mark.parametrize("error", [StoppedError("stop"), RunFolderError("full")])
def test_a_stop_or_a_full_disk_is_no_result(tmp_path, error):
    with pytest.raises(type(error)):
        settle(Engine({1: 1000.0, 2: error}), tmp_path)
    assert read_gpu_sharing(tmp_path) is None


def test_trainings_that_hardly_ran_together_are_measured_longer_then_given_up(tmp_path):
    engine = Engine({1: 1000.0, 2: 1900.0}, seconds=[2.0, 0.5, 0.9])
    settle(engine, tmp_path)
    trained = [case["seconds"] for task, case in engine.cases if task is train_beside_others]
    assert trained == [2.5, 2.5, 7.5]
    assert read_gpu_sharing(tmp_path).reason == "2 did not run at the same time for long enough"
    assert read_gpu_sharing(tmp_path).examples_per_second == {1: 1000.0}


@pytest.mark.parametrize(
    ("engine", "asked", "reason"),
    [
        ({"cores": 7}, {}, "4 on each would have less than a core each"),
        ({}, {"fit": 3.0}, "the largest batches of 4 exceed the memory budget"),
        ({}, {"max_minutes": 1e-9}, "there was no time to measure 2"),
        ({"resident": 10**18}, {}, "2 on each would fill the host's memory"),
    ],
)
def test_what_cannot_be_is_not_tried(tmp_path, engine, asked, reason):
    settle(Engine({1: 1000.0, 2: 2000.0}, **engine), tmp_path, **asked)
    assert read_gpu_sharing(tmp_path).reason == reason


def test_a_resumed_run_has_the_number_without_measuring_again(tmp_path):
    settle(Engine({1: 1000.0, 2: 1900.0, 4: 2000.0}), tmp_path)
    resumed = Engine({})
    assert settle(resumed, tmp_path) == []
    assert (resumed.shared, resumed.cases) == ([2], [])
    settle(resumed, tmp_path)
    assert resumed.shared == [2], "it has it already"


def test_on_another_gpu_it_is_measured_again(tmp_path):
    settle(Engine({1: 1000.0, 2: 1900.0, 4: 2000.0}), tmp_path)
    other = Engine({1: 1000.0, 2: 1000.0})
    other.devices = dataclasses.replace(other.devices, kind="Another GPU")
    settle(other, tmp_path)
    assert read_gpu_sharing(tmp_path).device == "Another GPU"
    assert read_gpu_sharing(tmp_path).workers_per_gpu == 1


def test_without_a_gpu_nothing_is_measured_or_said(tmp_path):
    engine = Engine({})
    engine.devices = Devices("CPU", (), 2, 1, 2)
    assert settle(engine, tmp_path) == []
    assert not (tmp_path / GPU_SHARING).exists()


def test_a_damaged_record_is_refused(tmp_path):
    (tmp_path / GPU_SHARING).write_text('{"device": "A GPU"}')
    with pytest.raises(RunFolderError, match=r"(?s)gpu_sharing.json is damaged.*Remove it"):
        read_gpu_sharing(tmp_path)


def test_workers_that_fit_follow_from_the_largest_batch_that_was_measured():
    limit = MemoryLimit(
        memory_budget="8 GB",
        workers=1,
        device="A GPU",
        largest_asked=64,
        largest_batch_size=64,
        conclusion="",
        peaks=(
            MemoryPeak(batch_size=32, megabytes=1500),
            MemoryPeak(batch_size=64, megabytes=2500),
        ),
    )
    assert workers_that_fit(limit, math.inf) == 3
    automatic = limit.model_copy(update={"memory_budget": "auto"})
    assert workers_that_fit(automatic, 10e9) == 3
    assert workers_that_fit(automatic, 80e9) == 25
    assert workers_that_fit(limit.model_copy(update={"peaks": ()}), 1.0) == math.inf
    assert workers_that_fit(None, 1.0) == math.inf


def test_the_report_says_what_was_chosen_and_why(tmp_path):
    settle(Engine({1: 1000.0, 2: 1001.0}), tmp_path)
    ((name, told),) = _machine(tmp_path).gpu_software
    assert name == "GPU: trials at a time"
    assert "1 trial at a time" in told
    assert "2 gained less than 15%" in told


# What is asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"workers_per_gpu": "many"}, "from 1 to 256, or auto. Received: 'many'"),
        ({"workers_per_gpu": 1.5}, "from 1 to 256, or auto. Received: 1.5"),
        ({"workers_per_gpu": "auto", "workers": 1}, "workers_per_gpu=auto, workers=1"),
        ({"workers_per_gpu": "auto", "workers": 0}, "workers_per_gpu=auto, workers=0"),
        ({"workers_per_gpu": "auto", "strategy": "mirrored"}, "strategy=mirrored"),
        ({"workers_per_gpu": "auto", "cluster": "auto"}, "on a node with a GPU, and give the num"),
    ],
)
def test_what_auto_cannot_be_combined_with_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Execution(**given)


def test_the_flag_takes_a_number_or_auto():
    assert [tune._workers_per_gpu(given) for given in ("1", "4", "auto")] == [1, 4, "auto"]
    with pytest.raises(InputError, match=r"a whole number, or auto .*Received: 'two'"):
        tune._workers_per_gpu("two")


def test_the_place_of_the_data_does_not_depend_on_the_number_that_is_found(monkeypatch):
    """It is part of the run's identity, and a resumed run begins with one worker again."""
    sharers = []

    def place_data(*_, **options):
        sharers.append(options["sharers"])
        return Placement(None, "")

    monkeypatch.setattr(context, "place_data", place_data)
    monkeypatch.setattr(TaskContext, "data", None)
    place = Place(data_sharers=MOST_ON_A_GPU)
    for one in (place, dataclasses.replace(place, workers_per_gpu=2, slot=1), Place()):
        found = TaskContext(Job(None, b"", place=one), UserCode(tiny_model.build), None)
        assert found.placement.on == "host"
    assert sharers == [4, 4, 1]


@pytest.mark.parametrize(("asked", "sharers"), [("auto", 4), (3, None)])
def test_a_run_begins_with_one_worker_where_the_number_is_measured(
    tmp_path, monkeypatch, asked, sharers
):
    jobs = []

    def processes(job, **_):
        jobs.append(job)
        return types.SimpleNamespace(close=lambda: None)

    monkeypatch.setattr(preparation, "WorkerProcesses", processes)
    lock = types.SimpleNamespace(path=tmp_path, logs=tmp_path / "logs", workers_file=None)
    with preparation._open_engine(
        None,
        Execution(workers_per_gpu=asked),
        UserCode(tiny_model.build),
        lock=lock,
        warm=None,
        stop_requested=bool,
        say=print,
    ):
        pass
    assert jobs[0].place == Place(workers_per_gpu=3 if sharers is None else 1, data_sharers=sharers)


# Workers


class Slot:
    """Takes tasks, and starts no process."""

    def __init__(self, start, **limits):
        self.place, self.limits = start.arguments[0].place, limits
        self.tasks, self.closed, self.future = [], False, None
        self.alive = True

    def recycle(self):
        self.alive = False

    def submit(self, task, *arguments, **options):
        self.tasks.append((task, options))

    def close(self):
        self.closed = True


@pytest.fixture
def two_gpus(tmp_path, monkeypatch):
    """Worker processes as they are once the first one has found two GPUs."""
    monkeypatch.setattr(worker_engine, "Slot", Slot)
    processes = WorkerProcesses(
        Job(data=None, code=b""),
        workers=None,
        folder=tmp_path,
        lock=None,
        stop_requested=bool,
        stall_minutes=1.0,
        warm=None,
    )
    processes._devices = Devices("A GPU", GPUS, 2, 8, 16)
    processes.slots = [processes._slot(0), processes._slot(1)]
    return processes


def test_workers_that_share_gpus_begin_anew_and_surplus_ones_are_closed(two_gpus):
    first = list(two_gpus.slots)
    two_gpus.share_gpus(4)
    eight = list(two_gpus.slots)
    assert all(slot.closed for slot in first)
    assert [slot.place for slot in eight] == [Place(slot=n, workers_per_gpu=4) for n in range(8)]
    assert two_gpus.of_one_gpu() == range(0, 8, 2), "every other one, as they take the GPUs in turn"
    assert (two_gpus.devices.workers, two_gpus.devices.threads, two_gpus.devices.sharers) == (
        8,
        2,
        4,
    )

    two_gpus.share_gpus(1)
    assert all(slot.closed for slot in eight)
    assert len(two_gpus.slots) == 2
    assert not any(slot.tasks for slot in (*eight, *two_gpus.slots)), "no process was started"
    assert first[0].limits == two_gpus.slots[0].limits != eight[0].limits


def test_a_task_side_by_side_runs_once_in_each_worker_of_one_gpu(two_gpus, monkeypatch):
    two_gpus.share_gpus(4)
    asked = []

    def perform_each(records, task, cases, ended, numbers):
        asked.append((task, cases, list(numbers)))
        for index in reversed(range(len(cases))):
            ended(index, numbers[index])

    monkeypatch.setattr(two_gpus, "perform_each", perform_each)
    engine = WorkerEngine(two_gpus)
    assert engine.call_side_by_side(look_at_baseline, {"largest": 8}) == [0, 2, 4, 6]
    assert asked == [(look_at_baseline, [{"largest": 8}] * 4, [0, 2, 4, 6])]


@pytest.mark.parametrize(
    ("gpus", "stopped", "alive"),
    [(2, False, [False, True, False, True]), (2, True, [True] * 4), (0, False, [True] * 4)],
    ids=["its GPU's", "no process begins after a stop", "a CPU has no allocator of a GPU"],
)
def test_a_task_alone_begins_when_no_idle_worker_holds_memory_of_its_gpu(
    two_gpus, monkeypatch, gpus, stopped, alive
):
    two_gpus.share_gpus(2)
    two_gpus._devices = dataclasses.replace(two_gpus.devices, accelerators=GPUS[:gpus])
    two_gpus.stop_requested = lambda: stopped
    found = []

    def perform(slot, *_):
        assert slot.place.whole
        found.append([one.alive for one in two_gpus.slots])

    monkeypatch.setattr(two_gpus, "_perform", perform)
    WorkerEngine(two_gpus).call_alone(look_at_baseline)
    assert found == [alive]


@pytest.mark.parametrize(
    ("workers", "per_gpu", "asked", "expected"),
    [(None, 2, None, 2), (6, 1, None, 3), (None, 1, None, 1), (None, 1, 4, 4), (1, 1, None, 1)],
    ids=["workers_per_gpu", "workers", "one each", "measured later", "one worker"],
)
def test_the_data_of_what_is_measured_alone_lies_where_that_of_the_trials_does(
    two_gpus, tmp_path, monkeypatch, workers, per_gpu, asked, expected
):
    """So that memory and step times are those of the trials."""
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: GPUS)
    found = []
    monkeypatch.setattr(context, "place_data", lambda *_, sharers, **__: found.append(sharers))
    monkeypatch.setattr(TaskContext, "data", None)
    monkeypatch.setattr(two_gpus, "_perform", lambda *_: None)
    place = Place(workers_per_gpu=per_gpu, data_sharers=asked)
    two_gpus.job, two_gpus._workers = dataclasses.replace(two_gpus.job, place=place), workers
    first = two_gpus._begin(0, whole=False).arguments[0]
    sharers = workers_on_a_gpu(first.place)  # as the first worker says when it has begun
    two_gpus._devices = dataclasses.replace(two_gpus.devices, sharers=sharers)

    engine = WorkerEngine(two_gpus)
    apart = two_gpus._begin(0, whole=True).arguments[0]
    own = engine.own_process(tmp_path / "log").arguments[0]
    for job in (first, apart, own):
        TaskContext(job, UserCode(tiny_model.build), None).placement  # noqa: B018
    assert found == [expected] * 3


def test_a_busy_worker_is_left_alone_by_a_task_that_is_not(two_gpus, monkeypatch):
    two_gpus.share_gpus(2)
    two_gpus.slots[2].future = object()
    monkeypatch.setattr(two_gpus, "_perform", lambda *_: None)
    WorkerEngine(two_gpus).call_alone(look_at_baseline)
    assert [slot.alive for slot in two_gpus.slots] == [False, True, True, True]


def as_on_a_gpu(monkeypatch, *, cores):
    """Real worker processes on the CPU, of which the run is told that they have a GPU."""
    first_result = WorkerProcesses.first_result

    def told(self, slot):
        found = first_result(self, slot)
        gpu = Devices("A GPU", GPUS[:1], 1, found.threads, cores)
        return gpu if self._devices is None else found

    monkeypatch.setattr(WorkerProcesses, "first_result", told)
    monkeypatch.setattr(gpu_sharing, "SECONDS", 0.2)


def data():
    random = np.random.default_rng(0)
    classes = random.integers(0, 2, 400).astype("int32")
    return (classes[:, None] + 0.1 * random.normal(size=(400, 2))).astype("float32"), classes


def find(folder, build_model, **options):
    return tfbatch.find_batch_size(
        build_model,
        data(),
        batch_sizes=[32, 64],
        verification_seeds=1,
        trial_length="2 epochs",
        workers_per_gpu="auto",
        run_dir=folder,
        **options,
    )


def dense(input_shape, num_classes):
    import keras

    inputs = keras.Input(input_shape)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(inputs))


@pytest.mark.slow
def test_a_run_measures_keeps_and_says_the_number_and_a_resumed_one_does_not_measure(
    tmp_path, monkeypatch, capsys
):
    as_on_a_gpu(monkeypatch, cores=2)
    monkeypatch.setattr(gpu_sharing, "workers_worth", lambda rates: max(rates))
    # On a busy machine two begin seconds apart: where they do, they are measured again for long.
    monkeypatch.setattr(gpu_sharing, "_LONGER", 20.0)
    find(tmp_path / "run", dense, search="trunks", max_trials=2)
    printed = " ".join(capsys.readouterr().out.split())
    kept = json.loads((tmp_path / "run" / GPU_SHARING).read_text())

    assert "Each GPU gets 2 trials at a time (--workers_per_gpu=auto)" in printed
    assert kept["workers_per_gpu"] == 2
    assert kept["examples_per_second"].keys() == {"1", "2"}
    assert all(rate > 0 for rate in kept["examples_per_second"].values())
    assert kept["reason"] == "4 on each would have less than a core each"
    assert "GPU: trials at a time" in (tmp_path / "run" / "report.html").read_text()

    monkeypatch.setattr(gpu_sharing, "_Measurement", None)
    shared = []
    share = WorkerProcesses.share_gpus
    monkeypatch.setattr(
        WorkerProcesses, "share_gpus", lambda self, n: (shared.append(n), share(self, n))
    )
    find(tmp_path / "run", dense, search="trunks", max_trials=3)
    assert shared == [2]
    assert json.loads((tmp_path / "run" / GPU_SHARING).read_text()) == kept


@pytest.mark.slow
def test_a_gpu_with_room_for_one_worker_keeps_one(tmp_path, monkeypatch, capsys):
    """Of real processes the second one finds no memory, which does not end the run."""
    as_on_a_gpu(monkeypatch, cores=4)
    room = tmp_path / "room"

    def build(input_shape, num_classes):
        held = os.open(room, os.O_RDWR | os.O_CREAT)  # until the process ends
        try:
            fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating") from error
        return dense(input_shape, num_classes)

    result = find(tmp_path / "run", build, search="random", max_trials=1)
    printed = " ".join(capsys.readouterr().out.split())

    assert "Each GPU gets 1 trial at a time" in printed
    assert "and 2 ran out of memory." in printed
    assert read_gpu_sharing(tmp_path / "run").workers_per_gpu == 1
    assert {row["status"] for row in result.rows} == {"completed"}
