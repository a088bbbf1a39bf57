"""A search on a Ray cluster: who gets which trial, and real nodes that come late and die."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import signal
import types
from concurrent.futures import Future
from typing import NamedTuple

import keras
import pytest
from processes import HANG_SECONDS, WarmProcess, wait_until
from ray_clusters import add_node, ray_cluster
from search_fixtures import (
    BASELINE,
    NUM_EXAMPLES,
    TOTAL_EXAMPLES,
    open_folder,
    outcome,
    runner_of,
)

from tfbatch.errors import InputError, SearchError, StoppedError
from tfbatch.finder import find_batch_size
from tfbatch.process.gpus import CudaBuild, Gpu, GpuMachine
from tfbatch.reporting.recorded import _machine
from tfbatch.request.execution import Execution
from tfbatch.run_folder.files import CLUSTER
from tfbatch.run_folder.fingerprint import software
from tfbatch.search import cluster, trial_runner
from tfbatch.search.cluster import ClusterProcesses
from tfbatch.search.trial_runner import InterruptedTrialError
from tfbatch.search.worker_engine import WorkerEngine
from tfbatch.training import node_check
from tfbatch.training.context import Job, describe_devices
from tfbatch.training.devices import (
    Devices,
    Place,
    claim_devices,
    gpu_settings,
    workers_on_a_gpu,
)
from tfbatch.training.node_check import CheckedNode, NodeCheck, check_node, describe_gpus
from tfbatch.training.trial import run_spec
from tfbatch.trial.outcome import TrialSpec
from tfbatch.workers import ProcessEndedError
from tfbatch.workers.mailbox import TaskProgress
from tfbatch.workers.ray_slot import Greeting, Node, connect

OLD = Node("old", "10.0.0.1", 2, 0)
NEW = Node("new", "10.0.0.2", 16, 3)
LATE = Node("late", "10.0.0.3", 4, 2)
KINDS = {"old": "CPU"}
NO_GPU = GpuMachine()
RELEASED = CudaBuild("12.5.1", "9", ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90"))
"""As TensorFlow 2.21 says of itself."""


def gpus_of(*uuids, name="NVIDIA H100", capability=(9, 0)):
    """What a node's driver names."""
    found = (Gpu(name, capability, 85 * 10**9, 85 * 10**9, uuid) for uuid in uuids)
    return GpuMachine(tuple(found), "550.54.15", "12.4")


@pytest.mark.parametrize("address", ["", "head", "head:", ":80", "head:port", "h:0", "ray://h:1"])
def test_an_address_of_another_form_is_refused(address):
    with pytest.raises(InputError, match=r"`cluster` must be auto, .* or HOST:PORT of its head"):
        Execution(cluster=address)


@pytest.mark.parametrize("address", ["auto", "192.168.0.1:6379", "head.local:6379", "[::1]:6379"])
def test_an_address_is_taken(address):
    assert Execution(cluster=address).cluster == address


@pytest.mark.parametrize("more", [{"workers": 0}, {"memory_budget": "auto"}])
def test_what_a_cluster_cannot_do_is_refused(more):
    with pytest.raises(InputError, match=rf"Received: .*{next(iter(more.values()))}.*[Ll]eave"):
        Execution(cluster="auto", **more)


def test_how_a_process_ended_travels_between_machines():
    error = ProcessEndedError("oom", "An allocator failed.", starting=True)
    found = pickle.loads(pickle.dumps(error))
    assert (found.ending, found.message, found.starting) == ("oom", "An allocator failed.", True)


def test_the_threads_of_a_worker_are_of_the_cores_that_its_node_lends(monkeypatch):
    monkeypatch.setattr("tfbatch.training.devices.whole_cores", lambda: 16)
    threads = []
    monkeypatch.setattr(
        "tensorflow.config.threading.set_intra_op_parallelism_threads", threads.append
    )
    monkeypatch.setattr("tensorflow.config.threading.set_inter_op_parallelism_threads", int)
    for cores in (None, 4, 64):
        claim_devices(Place(workers=2, cores=cores))
    assert threads == [8, 2, 8]


@pytest.fixture
def node_context(tmp_path, monkeypatch):
    """A node's task context, whose own preparation makes the folder "own"."""
    calls = []

    def prepare(task, *folders):
        calls.append(folders)
        return tmp_path / "own"

    described = types.SimpleNamespace(identity="data")
    monkeypatch.setattr(node_check, "prepare_data", prepare)
    monkeypatch.setattr(node_check, "describe_data", lambda task: described)
    monkeypatch.setattr(
        node_check, "measure_untrained", lambda *_: types.SimpleNamespace(model_hash="model")
    )
    context = types.SimpleNamespace(opened=lambda records: f"opened {records}")
    return context, calls


def test_a_node_takes_the_shared_data_or_prepares_its_own(node_context, tmp_path):
    context, calls = node_context
    expected = NodeCheck("data", "model", BASELINE, tmp_path, None, tmp_path / "run")

    assert check_node(context, tmp_path, expected, NO_GPU) == CheckedNode(tmp_path)
    assert calls == []
    found = check_node(context, tmp_path / "absent", expected, NO_GPU)
    assert found == CheckedNode(tmp_path / "own")
    assert calls == [(tmp_path, None, tmp_path / "run")]


@pytest.mark.parametrize(("data", "model"), [("other", "model"), ("data", "other")])
def test_a_node_with_other_data_or_another_model_is_refused(data, model, node_context, tmp_path):
    context, _ = node_context
    expected = NodeCheck(data, model, BASELINE, None, None, tmp_path)
    with pytest.raises(InputError, match=r"differs? from the search's|is not the search's"):
        check_node(context, tmp_path, expected, NO_GPU)


@pytest.mark.parametrize("jit_compile", [True, False])
def test_a_node_with_gpus_says_what_its_model_is_trained_with(jit_compile):
    built = []
    workload = types.SimpleNamespace(
        jit_compile=jit_compile, build=lambda *_, **options: built.append(options)
    )
    context = types.SimpleNamespace(programs=types.SimpleNamespace(workload=workload))

    assert describe_gpus(context, NO_GPU, BASELINE) is None  # type: ignore[arg-type]
    assert built == []
    found = describe_gpus(context, gpus_of("GPU-a"), BASELINE)  # type: ignore[arg-type]
    assert found is not None
    assert (found.machine, found.jit_compile) == (gpus_of("GPU-a"), jit_compile)
    assert built[0]["arguments"] == BASELINE.model


class World:
    """Stands in for Ray: nodes that live, and what each answers."""

    def __init__(self):
        self.living = [OLD, NEW]
        self.greetings: dict[str, dict[str, object]] = {}
        self.refused: dict[str, str] = {}
        self.cannot_start: set[str] = set()
        self.hanging: set[str] = set()
        self.failing: set[str] = set()
        self.slots: list[FarSlot] = []
        self.instant = False
        self.busy: set[str] = set()
        self.gpus: dict[str, list[GpuMachine]] = {}

    def seat(self, node, *, cpus, gpus):
        return FarSeat(self, node, cpus, gpus)

    def kill(self, node):
        self.living.remove(node)
        for slot in self.slots:
            if slot.seat.node is node and slot.future and not slot.future.done():
                slot.future.set_result(ProcessEndedError("killed", f"{node.address} died"))


class FarSeat:
    def __init__(self, world, node, cpus, gpus):
        self.world, self.node, self.cpus, self.gpus = world, node, cpus, gpus
        self.lost = False

    def ask(self, method, *arguments):
        of_node = self.world.gpus.get(self.node.name, [])
        gpus = of_node.pop(0) if of_node else NO_GPU  # each actor sees its own
        if method == "gpus":
            return done(gpus)
        assert method == "greet"
        read, write = arguments
        write.write_text(read.read_text())
        if self.node.name in self.world.busy:  # Ray cannot place the actor
            return Future()
        greeting = Greeting(read.read_text(), software(), "Xeon", gpus)
        more = self.world.greetings.get(self.node.name, {})
        return done(dataclasses.replace(greeting, **more))

    def drop(self):
        self.lost = True


class FarSlot:
    """Is told by its world how tasks end; a trial ends when a test says so."""

    def __init__(self, seat, name, start, *, stall_seconds, workers):
        self.seat, self.name, self.start, self.workers = seat, name, start, workers
        self.future = None
        self.spec = None
        self.looked_at = 0
        self.recycled = False
        self.mailbox = self
        seat.world.slots.append(self)

    def submit(self, task, *arguments):
        world, node = self.seat.world, self.seat.node.name
        if task is describe_devices:
            kind = KINDS.get(node, "NVIDIA H100")
            self.future = done(Devices(kind, (), self.workers, 1, 2))
            if node in world.hanging:
                self.future = Future()
            if self.name in world.failing:
                self.future = done(OSError("no space left"))
            if node in world.cannot_start:
                self.future = done(ProcessEndedError("killed", "no", starting=True))
        elif arguments[1] is check_node:
            failure = world.refused.get(node)
            settings = gpu_settings(arguments[4], jit_compile=True)
            found = CheckedNode(arguments[2], settings)
            self.future = done(InputError(failure) if failure else found)
        elif arguments[1] is describe_gpus:
            self.future = done(gpu_settings(arguments[2], jit_compile=True))
        elif arguments[1] is run_spec:
            self.spec, self.future = arguments[2], Future()
            if world.instant:
                self.end()
        else:
            self.future = done(node)
        return self.future

    def end(self):
        self.future.set_result(outcome(self.spec))

    def result(self):
        future, self.future = self.future, None
        found = future.result()
        if isinstance(found, ProcessEndedError):
            self.seat.drop()
        if isinstance(found, Exception):
            raise found
        return found

    def watch(self):
        self.looked_at += 1

    def progress(self):
        return TaskProgress()

    def recycle(self):
        self.recycled = True

    def close(self):
        """Nothing to end."""

    def request_stop(self):
        """Nothing: a trial ends when a test says so."""


def done(value):
    future = Future()
    future.set_result(value)
    return future


@pytest.fixture
def world(monkeypatch):
    made = World()
    monkeypatch.setattr(cluster, "connect", lambda address: None)
    monkeypatch.setattr(cluster, "disconnect", lambda: None)
    monkeypatch.setattr(cluster, "living_nodes", lambda: list(made.living))
    monkeypatch.setattr(cluster, "Seat", made.seat)
    monkeypatch.setattr(cluster, "RaySlot", FarSlot)
    monkeypatch.setattr(cluster, "_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(cluster, "cuda_build", lambda: RELEASED)
    return made


@pytest.fixture
def open_cluster(world, tmp_path):
    """Opens the cluster's processes, and an engine on them."""
    said = []

    def opened(*, stop_requested=lambda: False, **more):
        (tmp_path / "logs").mkdir(exist_ok=True)
        processes = ClusterProcesses(
            Job(None, b"", place=Place(**more)),  # type: ignore[arg-type]
            address="auto",
            workers=None,
            run_dir=tmp_path,
            logs=tmp_path / "logs",
            lock=tmp_path / ".workers",
            stop_requested=stop_requested,
            stall_minutes=1,
            say=said.append,
        )
        return WorkerEngine(processes, records=tmp_path), processes

    opened.said = said
    return opened


def admit(engine):
    engine.admit(NodeCheck("data", "model", BASELINE, None, None, engine._records))
    engine.can_start("search")  # nodes are compared, and open at the next look


def spec_of(trial, phase="search"):
    return TrialSpec(trial, phase, 1, BASELINE, TOTAL_EXAMPLES, NUM_EXAMPLES)


def nodes_of(processes, phase):
    return [processes.slots[n].seat.node.name for n in processes.open_to(phase)]


def test_the_search_is_everywhere_and_what_is_compared_on_one_kind(world, open_cluster, tmp_path):
    engine, processes = open_cluster()
    assert nodes_of(processes, "search") == ["new"] * 3, "the others are not compared yet"
    assert engine.call(print) == "new"
    admit(engine)

    assert nodes_of(processes, "search") == ["old", "old", "new", "new", "new"]
    assert nodes_of(processes, "confirmation") == nodes_of(processes, "measured") == ["new"] * 3
    assert (engine.devices.kind, engine.devices.workers) == ("NVIDIA H100", 3)
    assert [processes.device_of(n) for n in (0, 2)] == ["CPU", "NVIDIA H100"]
    assert any("Verification and step times: on NVIDIA H100 alone" in s for s in open_cluster.said)
    written = json.loads((tmp_path / CLUSTER).read_text())
    assert written["verified_on"] == "NVIDIA H100"
    assert [one["workers"] for one in written["nodes"]] == [2, 3]
    shares = [(slot.seat.cpus, slot.seat.gpus) for slot in processes.slots]
    assert shares == [(1.0, 0.0)] * 2 + [(5.0, 1.0)] * 3


def test_each_node_is_recorded_with_all_of_its_gpus_and_what_its_trainings_run_with(
    world, open_cluster, tmp_path
):
    world.living.append(LATE)
    world.gpus["new"] = [gpus_of("GPU-a"), gpus_of("GPU-b"), gpus_of("GPU-c")]
    world.gpus["late"] = [gpus_of("GPU-d"), gpus_of("GPU-d")]  # two workers see one GPU
    engine, _ = open_cluster()
    admit(engine)

    cpu, new, late = json.loads((tmp_path / CLUSTER).read_text())["nodes"]
    assert set(cpu) == {"address", "kind", "workers"}, "nothing more without a GPU"
    assert [one["compute_capability"] for one in new["gpus"]] == ["9.0"] * 3
    assert len(late["gpus"]) == 1
    expected = {"driver": "550.54.15", "cuda_of_driver": "12.4", "xla": True, "allocator": "BFC"}
    assert expected.items() <= new["gpu_software"].items()
    assert {"cuda", "cudnn", "memory_growth", "tensor_float_32"} <= set(new["gpu_software"])
    assert any("10.0.0.2: NVIDIA H100 (compute" in said for said in open_cluster.said)


def test_the_report_has_each_kind_of_node_in_a_row_and_the_one_that_verifies(
    world, open_cluster, tmp_path
):
    world.living += [dataclasses.replace(LATE, name=f"n{n}", address=f"10.0.1.{n}") for n in "12"]
    world.gpus |= {f"n{n}": [gpus_of(f"GPU-{n}a"), gpus_of(f"GPU-{n}b")] for n in "12"}
    engine, _ = open_cluster()
    admit(engine)

    rows = dict(_machine(tmp_path).nodes)
    assert rows["node 10.0.0.1"] == "2 workers on Xeon, 2 threads"
    alike = rows["2 nodes: 10.0.1.1, 10.0.1.2"]
    assert alike.startswith(
        "2 workers on NVIDIA H100, 2 x NVIDIA H100 (compute capability 9.0, 85 GB), driver 550.54"
    )
    assert "allocator BFC" in alike
    assert rows["step times and verification"] == "on NVIDIA H100 alone"


def test_a_node_that_has_died_stays_recorded(world, open_cluster, tmp_path):
    engine, _ = open_cluster()
    admit(engine)
    world.kill(OLD)
    engine.can_start("search")
    written = json.loads((tmp_path / CLUSTER).read_text())
    assert [one["address"] for one in written["nodes"]] == ["10.0.0.1", "10.0.0.2"]


def test_a_node_whose_gpus_there_is_no_code_for_is_named_with_the_remedy_and_starts_nothing(
    world, open_cluster, tmp_path
):
    world.gpus["new"] = [gpus_of("GPU-a", name="GTX 980", capability=(5, 2))]
    engine, processes = open_cluster()
    admit(engine)

    assert nodes_of(processes, "search") == nodes_of(processes, "measured") == ["old", "old"]
    assert all(slot.future is None for slot in processes.slots if slot.seat.node is NEW)
    (said,) = [said for said in open_cluster.said if "10.0.0.2" in said]
    assert said.startswith("Node 10.0.0.2 is not used: This TensorFlow has no code for GTX 980")
    assert "Install a TensorFlow that has it" in said
    assert "`CUDA_VISIBLE_DEVICES=-1 ray start --num-gpus=0`" in said
    assert "GTX" not in (tmp_path / CLUSTER).read_text()


def test_a_worker_whose_own_gpu_there_is_no_code_for_gets_no_trial(world, open_cluster, tmp_path):
    unlike = gpus_of("GPU-b", name="GTX 980", capability=(5, 2))
    world.gpus["new"] = [gpus_of("GPU-a"), unlike, gpus_of("GPU-c")]
    engine, processes = open_cluster()
    admit(engine)

    assert list(processes.open_to("measured")) == [2, 4]
    said = [said for said in open_cluster.said if "GTX 980" in said]
    assert [one.startswith("A worker of node 10.0.0.2 is not used: ") for one in said] == [True]
    assert "GTX" not in (tmp_path / CLUSTER).read_text()


def test_gpus_that_tensorflow_does_not_see_are_told_of_their_node(world, open_cluster):
    world.gpus["old"] = [gpus_of("GPU-a")]
    engine, _ = open_cluster()
    admit(engine)
    assert any(
        said.startswith("Node 10.0.0.1: TensorFlow does not see the GPU")
        for said in open_cluster.said
    )


def test_a_run_that_is_continued_verifies_on_the_kind_that_it_has_verified_on(
    world, open_cluster, tmp_path
):
    (tmp_path / CLUSTER).write_text('{"verified_on": "Xeon, 2 threads"}')
    _, processes = open_cluster()
    assert nodes_of(processes, "confirmation") == ["old", "old"]


def test_a_strategy_has_all_gpus_of_a_node_in_one_worker(world, open_cluster):
    _, processes = open_cluster(strategy="mirrored")
    assert [(slot.seat.node.name, slot.seat.gpus) for slot in processes.slots] == [
        ("old", 0.0),
        ("new", 3.0),
    ]


def test_workers_that_share_a_gpu_have_parts_of_it(world, open_cluster):
    world.living = [NEW]
    _, processes = open_cluster(workers_per_gpu=2)
    assert [slot.seat.gpus for slot in processes.slots] == [0.5] * 6


@pytest.mark.parametrize(
    ("node", "per_gpu", "recycled"),
    [(NEW, 1, [0]), (NEW, 2, [0, 1, 2, 3, 4, 5]), (OLD, 1, [])],
    ids=["a GPU each", "shared GPUs", "CPU"],
)
def test_a_task_alone_on_a_node_begins_when_its_idle_workers_hold_no_memory_of_a_gpu(
    node, per_gpu, recycled, world, open_cluster, monkeypatch
):
    world.living = [node]
    engine, processes = open_cluster(workers_per_gpu=per_gpu)
    admit(engine)
    apart = []
    monkeypatch.setattr(processes, "_perform", lambda slot, *_: apart.append(slot))
    engine.call_alone(print)
    assert apart[0].start.arguments[0].place.data_sharers == 1, "as the node's first worker says"
    assert [number for number, slot in enumerate(processes.slots) if slot.recycled] == recycled


def test_a_worker_that_sees_its_own_gpu_alone_knows_how_many_share_it(monkeypatch):
    monkeypatch.setattr("tensorflow.config.list_physical_devices", lambda kind: ["its own"])
    found = [workers_on_a_gpu(Place(workers=workers, gpus=4)) for workers in (1, 4, 8, 9)]
    assert found == [1, 1, 2, 3]


def test_a_late_node_is_used_while_a_trial_runs(world, open_cluster):
    world.living = [OLD]
    engine, processes = open_cluster()
    admit(engine)
    engine.start(spec_of("search-0001"))
    engine.start(spec_of("search-0002"))
    assert not engine.can_start("search")
    world.living.append(LATE)
    assert engine.wait() == [], "it returns though no trial has ended"
    assert engine.can_start("search")
    assert not engine.can_start("confirmation"), "another kind"
    told = [s for s in open_cluster.said if "step times: on Xeon, 2 threads alone" in s]
    assert len(told) == 1, "kinds differ since the second node came"
    engine.start(spec_of("search-0003"))
    assert [slot.seat.node.name for slot in processes.slots if slot.spec] == ["old", "old", "late"]


def test_a_node_that_dies_costs_its_running_trials(world, open_cluster):
    engine, processes = open_cluster()
    admit(engine)
    for number in range(5):
        engine.start(spec_of(f"search-{number}"))
    world.kill(OLD)
    ended = engine.wait()
    assert {spec.trial: found.status for spec, found in ended} == {
        "search-0": "killed",
        "search-1": "killed",
    }
    assert "10.0.0.1 died" in ended[0][1].message
    assert nodes_of(processes, "search") == [], "those of the other node are busy"
    processes.slots[2].end()
    assert [spec.trial for spec, _ in engine.wait()] == ["search-2"]
    assert any("Node 10.0.0.1 is not used: it has died" in said for said in open_cluster.said)


@pytest.mark.parametrize(
    ("greeting", "why"),
    [
        ({"read": "[Errno 2] No such file"}, "is not the same folder there"),
        ({"software": {**software(), "keras": "1.0"}}, "it has keras 1.0 instead of"),
    ],
)
def test_a_node_that_has_not_what_it_takes_is_named_and_left_out(
    greeting, why, world, open_cluster
):
    world.greetings["old"] = greeting
    engine, processes = open_cluster()
    admit(engine)
    assert nodes_of(processes, "search") == ["new"] * 3
    assert any("10.0.0.1 is not used" in said and why in said for said in open_cluster.said)


def test_a_node_with_other_data_gets_no_trial(world, open_cluster):
    world.refused["old"] = "Its data differs from the search's (a and b)."
    engine, processes = open_cluster()
    admit(engine)
    assert nodes_of(processes, "search") == ["new"] * 3
    assert "Node 10.0.0.1 is not used: Its data differs from the search's (a and b)." in (
        open_cluster.said
    )


def test_without_a_usable_node_the_search_does_not_begin(world, open_cluster):
    world.living = [Node("head", "10.0.0.9", 0, 0)]
    _, processes = open_cluster()
    with pytest.raises(SearchError, match="No node of the cluster can be used"):
        _ = processes.devices


def test_a_node_whose_resources_others_hold_is_not_waited_for(world, open_cluster, monkeypatch):
    monkeypatch.setattr(cluster, "_GREETING_SECONDS", 0.0)
    world.busy.add("new")
    _, processes = open_cluster()
    assert nodes_of(processes, "confirmation") == ["old", "old"]


def test_a_node_whose_worker_hangs_while_it_starts_is_looked_at_and_not_waited_for(
    world, open_cluster, monkeypatch
):
    monkeypatch.setattr(cluster, "_START_SECONDS", 0.0, raising=False)
    world.hanging.add("new")
    looks = iter([False] * 99)
    _, processes = open_cluster(stop_requested=lambda: next(looks, True))
    assert nodes_of(processes, "confirmation") == ["old", "old"]
    assert all(slot.looked_at for slot in processes.slots if slot.seat.node is NEW)


def test_a_failure_of_a_further_worker_costs_its_node_alone(world, open_cluster):
    world.failing.add("1")  # the second worker of the first node
    engine, processes = open_cluster()
    admit(engine)
    assert nodes_of(processes, "search") == ["new"] * 3
    assert "Node 10.0.0.1 is not used: no space left." in open_cluster.said


def test_an_address_of_version_6_is_asked_without_its_brackets(monkeypatch):
    pytest.importorskip("ray", reason="not installed: pip install 'tfbatch[ray]'")
    asked = []

    def refuse(address, timeout):
        asked.append(address)
        raise OSError("refused")

    monkeypatch.setattr("socket.create_connection", refuse)
    with pytest.raises(InputError, match="refused"):
        connect("[::1]:6379")
    assert asked == [("::1", 6379)]


def test_a_node_names_the_last_line_of_a_failure_too(world, open_cluster):
    world.refused["old"] = "The actor died:\n  File\nModuleNotFoundError: No module named 'mine'"
    engine, _ = open_cluster()
    admit(engine)
    assert (
        "Node 10.0.0.1 is not used: The actor died: ModuleNotFoundError: No module named 'mine'."
        in open_cluster.said
    )


def test_a_node_that_dies_before_the_search_begins_ends_it(world, open_cluster):
    engine, _ = open_cluster()
    assert engine.call(print) == "new"
    world.kill(NEW)
    with pytest.raises(SearchError, match=r"Node 10.0.0.2 has died before the search began"):
        engine.call(print)


def test_a_stop_ends_the_wait_for_the_first_nodes(world, open_cluster):
    _, processes = open_cluster(stop_requested=lambda: True)
    with pytest.raises(StoppedError):
        _ = processes.devices


def test_an_actor_that_ends_on_a_living_node_is_started_again_but_not_for_ever(world, open_cluster):
    world.living = [OLD]
    engine, processes = open_cluster()
    admit(engine)
    engine.start(spec_of("search-0001"))
    slot = processes.slots[0]
    slot.future.set_result(ProcessEndedError("killed", "its actor ended"))
    assert [found.status for _, found in engine.wait()] == ["killed"]
    wait_until(lambda: len(processes.open_to("search")) == 2)

    engine.start(spec_of("search-0002"))
    world.cannot_start.add("old")
    slot.future.set_result(ProcessEndedError("killed", "its actor ended"))
    engine.wait()
    for _ in range(5):
        assert processes.open_to("search") == [1]
    assert slot.future is None, "two starts have failed, and no third is tried"


def test_a_trial_waits_for_a_node_of_its_kind(world, open_cluster, tmp_path, monkeypatch):
    """The node that verifies dies between two trials, and another one of its kind comes."""
    monkeypatch.setattr(trial_runner, "_ASK_SECONDS", 0.0)
    world.instant = True
    engine, processes = open_cluster()
    admit(engine)
    world.kill(NEW)
    asked = []

    def comes(phase, *, can_start=engine.can_start):
        asked.append(phase)
        if len(asked) == 3:
            world.living.append(LATE)
        return can_start(phase)

    engine.can_start = comes  # type: ignore[method-assign]
    with open_folder(tmp_path / "run") as folder:
        runner = runner_of(folder, engine)
        (found,) = runner.run_all(iter([spec_of("confirm-1", "confirmation")]))
    assert found.status == "completed"
    assert len(asked) > 3
    ran = [slot.seat.node.name for slot in processes.slots if slot.spec]
    assert ran == ["late"]


def test_who_waits_for_a_node_can_be_stopped(world, open_cluster, tmp_path):
    engine, _ = open_cluster()
    admit(engine)
    world.kill(NEW)
    with open_folder(tmp_path / "run") as folder:
        runner = runner_of(folder, engine, stop_requested=lambda: True)
        with pytest.raises(InterruptedTrialError, match="confirm-1"):
            list(runner.run_all(iter([spec_of("confirm-1", "confirmation")])))


HOLDING = """
import os, time
from pathlib import Path
import keras

HERE = Path(__file__).parent

class Hold(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        if (HERE / "hold").exists():
            (HERE / f"held-{os.getpid()}").touch()
            while (HERE / "hold").exists():
                time.sleep(0.05)

def make():
    return [Hold()]
"""


@pytest.fixture
def tune(tmp_path):
    """Starts a search of trials that can be held in their first step."""
    (tmp_path / "holding.py").write_text(HOLDING)

    def start(run_dir, trials, *more):
        return WarmProcess(
            "-m",
            "tfbatch.tune",
            f"--run_dir={tmp_path / run_dir}",
            f"--max_trials={trials}",
            *("--search=random", "--batch_sizes=32,64", "--trial_length=256 examples"),
            *("--verification_seeds=0", "--callbacks=holding:make", "--stall_minutes=600"),
            *more,
            cwd=tmp_path,
            environment={"TFBATCH_RECORDS_DIR": str(tmp_path / "records")},
        )

    return start


def rows_of(run_dir):
    journal = run_dir / "trials.jsonl"
    lines = journal.read_text().splitlines(keepends=True) if journal.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


MEASURED = ("seconds", "training_seconds", "finished_at", "status", "message")


def of_search(rows):
    """Each trial by name, without what differs from run to run; none is there twice."""
    found = {row["trial"]: row for row in rows if row["phase"] == "search"}
    assert len(found) == sum(row["phase"] == "search" for row in rows)
    return {
        name: {key: value for key, value in row.items() if key not in MEASURED}
        for name, row in found.items()
    }


@pytest.mark.slow
def test_200_trials_come_to_the_same_as_on_one_machine_though_a_node_dies_and_one_comes_late(
    tune, tmp_path
):
    with tune("here", 200, f"--workers={len(os.sched_getaffinity(0))}") as process:
        _, err = process.communicate()
        assert process.returncode == 0, err
    expected = of_search(rows_of(tmp_path / "here"))
    hold, run_dir = tmp_path / "hold", tmp_path / "far"

    with ray_cluster(1, 1) as nodes, tune("far", 200, f"--cluster={nodes.address}") as process:
        (doomed,) = nodes.worker_nodes
        wait_until(lambda: len(rows_of(run_dir)) >= 20, process=process)
        hold.touch()
        wait_until(lambda: len(list(tmp_path.glob("held-*"))) == 2, process=process)
        nodes.remove_node(doomed, allow_graceful=False)
        add_node(nodes, 1)
        wait_until(lambda: len(list(tmp_path.glob("held-*"))) == 3, process=process)
        hold.unlink()
        out, err = process.communicate()
        assert process.returncode == 0, err
    assert "is not used: it has died" in out + err
    rows = rows_of(run_dir)
    killed = [row for row in rows if row["status"] != "completed"]
    assert [row["status"] for row in killed] == ["killed"]
    assert "Its actor on node" in killed[0]["message"]
    found = of_search(rows)
    assert set(found) == set(expected) == {f"search-{n:04d}" for n in range(1, 201)}
    for name, row in found.items():
        if name == killed[0]["trial"]:
            assert row["base_learning_rate"] == expected[name]["base_learning_rate"]
        else:
            assert row == expected[name], "the same proposal and outcome, to the last bit"


@pytest.mark.slow
def test_the_heads_death_leaves_a_run_folder_that_continues(tune, tmp_path):
    hold, run_dir = tmp_path / "hold", tmp_path / "run"
    with ray_cluster(2) as nodes, tune("run", 60, f"--cluster={nodes.address}") as process:
        wait_until(lambda: len(rows_of(run_dir)) >= 3, process=process)
        hold.touch()
        wait_until(lambda: len(list(tmp_path.glob("held-*"))) == 2, process=process)
        for node in nodes.list_all_nodes():
            node.kill_all_processes(check_alive=False, allow_graceful=False, wait=True)
        process.wait(HANG_SECONDS)  # Ray ends the driver of a cluster that is gone
        hold.unlink()
    before = rows_of(run_dir)
    with ray_cluster(2) as nodes, tune("run", 60, f"--cluster={nodes.address}") as process:
        out, err = process.communicate()
        assert process.returncode == 0, out + err
    rows = rows_of(run_dir)
    assert rows[: len(before)] == before
    assert set(of_search(rows)) == {f"search-{n:04d}" for n in range(1, 61)}
    # The two that ran may be told as killed, if the driver lives long enough to see it.
    ended = [row for row in rows if row["status"] != "completed"]
    assert [row["status"] for row in ended] == ["killed"] * len(ended)
    assert len(ended) <= 2
    assert all(row in before for row in ended)


@pytest.mark.slow
def test_a_signal_stops_trials_on_nodes_and_leaves_the_answer(tune, tmp_path):
    hold, run_dir = tmp_path / "hold", tmp_path / "run"
    with ray_cluster(2) as nodes, tune("run", 50, f"--cluster={nodes.address}") as process:
        wait_until(lambda: len(rows_of(run_dir)) >= 3, process=process)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM, out + err
    assert (run_dir / "recommendation.json").exists(), out + err
    assert not hold.exists()


@pytest.mark.slow
def test_without_a_cluster_the_command_says_how_to_start_one(tune, tmp_path):
    with tune("run", 8, "--cluster=127.0.0.1:1") as process:
        out, err = process.communicate()
    assert process.returncode == 2, out + err
    assert "`ray start --head`" in " ".join((out + err).split())


STAND_IN = """
class NVMLError(Exception):
    pass

class _Memory:
    total = free = 85 * 10**9
    reserved = 0

nvmlMemory_v2 = 0
nvmlInit = nvmlShutdown = lambda: None
nvmlSystemGetDriverVersion = lambda: "550.54.15"
nvmlSystemGetCudaDriverVersion = lambda: 12040
nvmlDeviceGetCount = lambda: 1
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetName = lambda handle: "{name}"
nvmlDeviceGetUUID = lambda handle: "GPU-stand-in"
nvmlDeviceGetCudaComputeCapability = lambda handle: {capability}
nvmlDeviceGetMemoryInfo = lambda handle, version=None: _Memory
"""
"""A module `pynvml` for the processes of one node: a driver that names a GPU."""


@pytest.fixture
def node_with_gpu(tmp_path):
    """Starts a node whose driver names a GPU, which TensorFlow does not see there."""

    def start(cluster, cpus, name, capability):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pynvml.py").write_text(STAND_IN.format(name=name, capability=capability))
        paths = [str(folder), os.environ.get("PYTHONPATH", "")]
        return add_node(
            cluster,
            cpus,
            PYTHONPATH=os.pathsep.join(filter(None, paths)),
            CUDA_VISIBLE_DEVICES="GPU-stand-in",
            NODE_OF_A_TEST=name,
        )

    return start


PHASES = ("baseline", "search", "confirmation")


class Placed(NamedTuple):
    """A task of a search, with the phase and the name of a trial, and the node."""

    task: str
    phase: str
    trial: str
    node: str


@pytest.fixture
def placed(monkeypatch):
    """Where the tasks of a search are placed, which begins when a second node takes trials."""
    found: list[Placed] = []
    submit, admit = ClusterProcesses.submit, ClusterProcesses.admit

    def submitted(processes, slot, records, task, *arguments, **options):
        spec = arguments[0] if task is run_spec else None
        phase, trial = (spec.phase, spec.trial) if spec else ("", "")
        found.append(Placed(task.__name__, phase, trial, slot.seat.node.name))
        submit(processes, slot, records, task, *arguments, **options)

    def admitted(processes, *arguments):
        admit(processes, *arguments)
        wait_until(lambda: len(set(nodes_of(processes, "search"))) >= 2)

    monkeypatch.setattr(ClusterProcesses, "submit", submitted)
    monkeypatch.setattr(ClusterProcesses, "admit", admitted)
    return found


def marking(folder):
    """Callbacks that note in a file of each node every training there."""

    class Mark(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            with (folder / os.environ.get("NODE_OF_A_TEST", "head")).open("a") as file:
                file.write("x")

    return lambda: [Mark()]


@pytest.mark.slow
def test_a_node_of_another_kind_takes_trials_of_the_search_alone_and_one_without_code_none(
    node_with_gpu, placed, tmp_path, monkeypatch, capsys
):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("the kinds of nodes on one machine are numbers of its cores")
    monkeypatch.setattr(cluster, "cuda_build", lambda: RELEASED)
    monkeypatch.setattr(cluster, "_GREETING_SECONDS", HANG_SECONDS)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")  # kinds of CPUs, also where there is a GPU
    marks, run_dir = tmp_path / "marks", tmp_path / "run"
    marks.mkdir()
    with ray_cluster(1) as nodes:
        other = nodes.head_node.node_id
        verifying = node_with_gpu(nodes, 2, "NVIDIA H100", (9, 0)).node_id
        node_with_gpu(nodes, 1, "GTX 980", (5, 2))
        nodes.wait_for_nodes(HANG_SECONDS)
        result = find_batch_size(
            *("mlp", "digits"),
            search="trunks",  # it measures prices too
            batch_sizes=[32, 64],
            trial_length="256 examples",
            max_trials=4,
            verification_seeds=2,
            callbacks=marking(marks),
            cluster=nodes.address,
            run_dir=run_dir,
        )
    printed = " ".join(capsys.readouterr().out.split())
    by_phase = {phase: {one.node for one in placed if one.phase == phase} for phase in PHASES}
    assert other in by_phase.pop("search"), "trials of the search are on every node"
    assert by_phase == {"baseline": {verifying}, "confirmation": {verifying}}
    tasks = {one.task: one.node for one in placed if not one.phase}
    assert {"measure_prices", "evaluate_weights", "save_model"} <= set(tasks)
    assert set(tasks.values()) == {verifying}
    assert re.search(r"Verification and step times: on [^.]*, 2 threads alone\.", printed)
    assert "is not used: This TensorFlow has no code for GTX 980" in printed

    trials = [one.trial for one in placed if one.trial]
    assert sorted(row["trial"] for row in rows_of(run_dir)) == sorted(trials), "each once"
    assert len(set(trials)) == len(trials)
    trained = {path.name: len(path.read_text()) for path in marks.iterdir()}
    on_other = sum(one.node == other for one in placed if one.trial)
    assert trained == {"head": on_other, "NVIDIA H100": len(trials) - on_other}
    assert result.batch_size in (32, 64)
    rows = [words for _, words in _machine(run_dir).nodes]
    assert any("2 threads, 1 x NVIDIA H100 (compute capability 9.0, 85 GB)" in one for one in rows)
    assert not any("GTX" in one for one in rows)
