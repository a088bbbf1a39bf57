"""The nodes of a Ray cluster as a search sees them: who comes, who dies, who may take which trial.

A node is greeted (does it share the run folder, has it the same software, is there code for its
GPUs?), its workers start, and its data and its model are compared with the search's. Only then it
gets trials. What is compared in seconds, verified, or done once for a run is placed on one kind of
device.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Literal

from tfbatch.errors import STOPPED_EARLY, SearchError, StoppedError
from tfbatch.process.gpus import NOT_SEEN, GpuMachine, GpuSettings, gpu_notes, unusable
from tfbatch.run_folder.cluster_nodes import ClusterNode, read_verified_on, write_nodes
from tfbatch.run_folder.files import worker_log
from tfbatch.run_folder.fingerprint import software
from tfbatch.search.worker_engine import MEASURED, SEARCHED, Processes
from tfbatch.training.context import Job, begin_worker, describe_devices, perform
from tfbatch.training.devices import MOST_WORKERS, Devices, cuda_build
from tfbatch.training.node_check import CheckedNode, NodeCheck, check_node, describe_gpus
from tfbatch.trial.outcome import Phase
from tfbatch.workers import ProcessEndedError
from tfbatch.workers.ray_slot import (
    Greeting,
    Node,
    RaySlot,
    Seat,
    connect,
    disconnect,
    living_nodes,
)
from tfbatch.workers.slot import Start, TaskSlot

_LOOK_SECONDS = 2.0
_POLL_SECONDS = 0.1
_GREETING_SECONDS = 60.0
"""The search does not wait longer for an actor that Ray cannot place, if others are placed."""
_START_SECONDS = 180.0
"""Nor for a node whose worker starts up, if those of others have; from a cold disk that is slow."""
_STARTS = 2
_HIDE = (
    "hide the GPU there (start that node's Ray with `CUDA_VISIBLE_DEVICES=-1 ray start "
    "--num-gpus=0`) and train on its CPU"
)
Stage = Literal["greeted", "starting", "waiting", "checked", "open", "closed"]


@dataclasses.dataclass(eq=False)
class _Member:
    """A node of the cluster, and how far it has come.

    Attributes:
        node: The node.
        workers: Its slots.
        numbers: Their numbers in the list of all slots.
        stage: "greeted" and "checked": it has been asked and has not answered; "waiting": its
            devices are known, and there is nothing yet that it could be compared with.
        greeting: What it answers.
        processor: The name of its processor.
        gpus: What its driver names: to the first worker, and to each further one as it starts.
        asked: What the driver names to workers that start.
        told: What was told of its GPUs.
        gpu_settings: What its trainings run with; None without a GPU.
        devices: What its first worker has found.
        kind: Its kind of device, for comparison and for people.
        records: Where the prepared data is on it; None for where it is here.
        joined: Whether it has taken trials.
    """

    node: Node
    workers: int
    numbers: tuple[int, ...]
    greeting: Future[Greeting]
    stage: Stage = "greeted"
    processor: str = ""
    gpus: GpuMachine = dataclasses.field(default_factory=GpuMachine)
    asked: dict[int, Future[GpuMachine]] = dataclasses.field(default_factory=dict)
    told: set[str] = dataclasses.field(default_factory=set)
    gpu_settings: GpuSettings | None = None
    devices: Devices | None = None
    kind: str = ""
    records: Path | None = None
    joined: bool = False

    def recorded(self) -> ClusterNode:
        """As the run folder has it."""
        settings = self.gpu_settings
        if settings is not None:
            settings = dataclasses.replace(settings, machine=self.gpus)
        return ClusterNode(self.node.address, self.kind, self.workers, settings)


class ClusterProcesses(Processes):
    """The worker processes of all nodes of a Ray cluster.

    Args:
        job: What all tasks have in common.
        address: See tfbatch.workers.ray_slot.connect.
        workers: Workers of each node; None for `workers_per_gpu`, or the default of a CPU.
        run_dir: The run folder, which all nodes share.
        logs: The workers' output goes there.
        lock: File that every worker keeps locked while it lives.
        stop_requested: When true, the user asks to stop.
        stall_minutes: A task without a heartbeat for this long is ended.
        say: Told of nodes that come, go, or cannot be used.
        advice: See Processes.

    Raises:
        InputError: There is no such cluster.
    """

    def __init__(
        self,
        job: Job,
        *,
        address: str,
        workers: int | None,
        run_dir: Path,
        logs: Path,
        lock: Path,
        stop_requested: Callable[[], bool],
        stall_minutes: float,
        say: Callable[[str], None],
        advice: str = "",
    ):
        super().__init__(job, stop_requested=stop_requested, advice=advice)
        connect(address)
        self._workers, self._run_dir, self._logs, self._lock = workers, run_dir, logs, lock
        self._stall_seconds = stall_minutes * 60
        self._say = say
        self._software = software()
        self._word = os.urandom(16).hex()
        self._token = logs / f"node-{self._word}"
        self._token.write_text(self._word, encoding="utf-8")
        self._members: dict[str, _Member] = {}
        self._seats: list[Seat] = []
        self._warming: set[int] = set()
        self._failed_starts: dict[int, int] = {}
        self._expected: tuple[Path, NodeCheck] | None = None
        self._first: _Member | None = None
        self._told_where = False
        self._began, self._looked = time.monotonic(), -_LOOK_SECONDS
        self._look()

    @property
    def devices(self) -> Devices:
        """See Processes; `workers` are those of this kind on all nodes."""
        first = self._chosen()
        if first.devices is None:
            raise RuntimeError("a node is chosen by its devices")
        alike = [one.workers for one in self._of_kind() if one.stage != "closed"]
        return dataclasses.replace(first.devices, workers=max(sum(alike), 1))

    def open_to(self, phase: Phase) -> Sequence[int]:
        """See Processes."""
        self._chosen()
        self._look()
        members = self._members.values() if phase == SEARCHED else self._of_kind()
        return [n for one in members if one.stage == "open" for n in one.numbers if self._ready(n)]

    def device_of(self, number: int) -> str:
        """See Processes."""
        devices = self._member_of(self.slots[number]).devices
        return devices.kind if devices else ""

    def admit(self, records: Path, expected: NodeCheck) -> None:
        """See Processes."""
        first = self._chosen()
        if first.gpus.gpus:
            found: GpuSettings | None = self.perform(
                records,
                describe_gpus,
                (first.gpus, expected.baseline),
                {},
                on_progress=None,
                alone=False,
            )
            self._tell_settings(first, found)
        self._expected = (records, expected)
        self._tell_where()
        self._write()
        self._look(now=True)

    def share_gpus(self, workers: int) -> None:
        """See Processes; a request for it is refused before any work.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError(f"a cluster's nodes cannot be given {workers} workers for each GPU")

    def of_one_gpu(self) -> Sequence[int]:
        """See Processes.

        Raises:
            RuntimeError: Always.
        """
        raise RuntimeError("a cluster's GPUs may differ")

    def submit(
        self,
        slot: TaskSlot,
        records: Path | None,
        task: Callable[..., object],
        *arguments: object,
        **options: object,
    ) -> None:
        """See Processes; the data is where the slot's node has it."""
        here = self._member_of(slot).records
        super().submit(slot, here or records, task, *arguments, **options)

    def close(self) -> None:
        """See Engine."""
        for seat in self._seats:
            seat.drop()
        self._token.unlink(missing_ok=True)
        disconnect()

    def _caller(self) -> TaskSlot:
        """A worker of the kind on which seconds are compared.

        Raises:
            SearchError: The node that prepared the run has died before others could take over.
            StoppedError: There is none, and the user does not want to wait for one.
        """
        while True:
            self._chosen()
            idle = [n for n in self.open_to(MEASURED) if self.slots[n].future is None]
            if idle:
                return self.slots[idle[0]]
            if self.stop_requested():
                raise StoppedError(STOPPED_EARLY)
            if self._expected is None and self._chosen().stage == "closed":
                raise SearchError(
                    f"Node {self._chosen().node.address} has died before the search began. Run the "
                    "same command again."
                )
            time.sleep(_POLL_SECONDS)

    def _apart(self, caller: TaskSlot) -> TaskSlot | None:
        member = self._member_of(caller)
        if member.workers == 1 or not isinstance(caller, RaySlot):
            return None
        return self._slot(caller.seat, member, 0, whole=True)

    def _beside(self, caller: TaskSlot) -> Sequence[TaskSlot]:
        member = self._member_of(caller)
        if not member.node.gpus:
            return []
        if member.node.gpus >= member.workers:  # each worker sees GPUs of its own alone
            return [caller]
        return [self.slots[n] for n in member.numbers]

    # Nodes

    def _chosen(self) -> _Member:
        """The node of single tasks: of the kind that most workers have, or that the run had before.

        Raises:
            SearchError: No node can be used.
            StoppedError: The user has asked to stop.
        """
        while self._first is None:
            self._look(now=True)
            if self.stop_requested():
                raise StoppedError(STOPPED_EARLY)
            members = list(self._members.values())
            if any(self._comes(one) for one in members):
                time.sleep(_POLL_SECONDS)
                continue
            usable = [one for one in members if one.stage == "waiting"]
            if not usable:
                raise SearchError(
                    "No node of the cluster can be used: each must lend a core or a GPU "
                    "(`ray start --num-cpus=N`), share the run folder, and have the same software."
                )
            kind = self._kind_of_most(usable)
            self._first = next(one for one in usable if one.kind == kind)
            self._first.stage = "open"  # it makes what the others are compared with
            self._first.joined = True
        return self._first

    def _comes(self, member: _Member) -> bool:
        """Whether a node is waited for: not for long once there are others."""
        if member.stage not in ("greeted", "starting"):
            return False
        seconds = _GREETING_SECONDS if member.stage == "greeted" else _START_SECONDS
        others = any(one.stage == "waiting" for one in self._members.values())
        return not others or time.monotonic() < self._began + seconds

    def _kind_of_most(self, usable: Sequence[_Member]) -> str:
        before = read_verified_on(self._run_dir)
        if any(one.kind == before for one in usable):
            return before
        counts: dict[str, int] = {}
        for one in usable:
            counts[one.kind] = counts.get(one.kind, 0) + one.workers
        return max(counts, key=lambda kind: counts[kind])

    def _of_kind(self) -> list[_Member]:
        kind = self._chosen().kind
        return [one for one in self._members.values() if one.kind == kind]

    def _member_of(self, slot: TaskSlot) -> _Member:
        if not isinstance(slot, RaySlot):
            raise TypeError("every slot of a cluster is on a node")
        return self._members[slot.seat.node.name]

    def _ready(self, number: int) -> bool:
        future = self.slots[number].future
        started = number not in self._warming and not self._seats[number].lost
        return started and (future is None or future.done())

    def _look(self, *, now: bool = False) -> None:
        """Looks at every node and slot once: who has come, answered, failed, died."""
        if not now and time.monotonic() < self._looked + _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        living = {node.name: node for node in living_nodes()}
        for name, member in self._members.items():
            if name not in living and member.stage != "closed":
                self._close(member, "it has died; what ran on it is lost")
        for name, node in living.items():
            if name not in self._members:
                self._greet(node)
        for member in self._members.values():
            self._look_at(member, self._advance)
        for member in self._members.values():
            if member.stage in ("waiting", "checked", "open"):
                self._look_at(member, self._start_again)

    def _look_at(self, member: _Member, step: Callable[[_Member], None]) -> None:
        """Whatever a node's task raises: the others go on."""
        try:
            for number in self._warming.intersection(member.numbers):
                self.slots[number].watch()
            step(member)
        except Exception as error:
            self._close(member, _reason(error))

    def _greet(self, node: Node) -> None:
        workers = self._workers_on(node)
        numbers = tuple(range(len(self.slots), len(self.slots) + workers))
        future: Future[Greeting] = Future()
        member = _Member(node, workers, numbers, future, stage="greeted" if workers else "closed")
        self._members[node.name] = member
        for index in range(workers):
            seat = Seat(
                node,
                cpus=_share(node.cpus, workers),
                gpus=float(node.gpus) if self.job.place.strategy else _share(node.gpus, workers),
            )
            self._seats.append(seat)
            self.slots.append(self._slot(seat, member, index))
        if workers:
            written = self._logs / f"{self._token.name}-{node.name}"
            member.greeting = self._seats[numbers[0]].ask("greet", self._token, written)

    def _advance(self, member: _Member) -> None:
        """One stage further, if what it waits for has come."""
        if member.stage == "closed":
            return
        slot = self.slots[member.numbers[0]]
        if member.stage == "greeted" and member.greeting.done():
            self._compare(member, member.greeting.result())
            member.stage = "starting"
            for number in member.numbers:
                self._warm(number)
        elif member.stage == "starting" and slot.future and slot.future.done():
            self._warming.discard(member.numbers[0])
            member.devices = devices = slot.result()
            member.kind = _kind(devices, member.processor)
            self._compare_replicas(devices)
            if devices.kind == "CPU" and member.gpus.gpus and cuda_build().cuda:
                self._say(f"Node {member.node.address}: {NOT_SEEN}")
            member.stage = "waiting"
        elif member.stage == "waiting" and self._expected:
            slot.submit(perform, None, check_node, *self._expected, member.gpus)
            member.stage = "checked"
        elif member.stage == "checked" and slot.future and slot.future.done():
            found: CheckedNode = slot.result()
            member.records, member.stage, member.joined = found.records, "open", True
            workers = f"{member.workers} worker{'s' if member.workers > 1 else ''}"
            self._say(f"Node {member.node.address} takes trials: {workers}, {member.kind}.")
            self._tell_where()
            self._tell_settings(member, found.gpu_settings)
            self._write()

    def _compare(self, member: _Member, greeting: Greeting) -> None:
        """Refuses a node that the search could not use.

        Raises:
            SearchError: It does not share the run folder, has other software, or GPUs that this
                TensorFlow has no code for.
        """
        written = self._logs / f"{self._token.name}-{member.node.name}"
        back = written.read_text(encoding="utf-8") if written.exists() else ""
        written.unlink(missing_ok=True)
        if greeting.read != self._word or back != self._word:
            raise SearchError(
                f"the run folder {self._run_dir} is not the same folder there ({greeting.read}). "
                "Give a --run_dir that all nodes share"
            )
        other = [
            f"{name} {greeting.software.get(name)} instead of {version}"
            for name, version in self._software.items()
            if name != "platform" and greeting.software.get(name) != version
        ]
        if other:
            raise SearchError(f"it has {', '.join(other)}")
        self._take_gpus(member, greeting.gpus)
        member.processor = greeting.processor

    def _take_gpus(self, member: _Member, gpus: GpuMachine) -> None:
        """Refuses GPUs that cannot be used, and tells once what stands against those that can.

        Raises:
            SearchError: This TensorFlow has no code for any of them.
        """
        build = cuda_build()
        if reason := unusable(gpus, build, hide=_HIDE):
            raise SearchError(reason)
        member.gpus = member.gpus.with_those_of(gpus)
        for note in gpu_notes(member.gpus, build):
            if note not in member.told:
                member.told.add(note)
                self._say(f"Node {member.node.address}: {note}")

    def _tell_where(self) -> None:
        """Says once, as soon as kinds of devices differ, which one seconds are compared on."""
        kinds = {one.kind for one in self._members.values() if one.kind}
        if len(kinds) > 1 and not self._told_where:
            self._told_where = True
            self._say(
                "Trials of the search run on every node. Verification and step times: on "
                f"{self._chosen().kind} alone."
            )

    def _tell_settings(self, member: _Member, settings: GpuSettings | None) -> None:
        member.gpu_settings = settings
        if settings is not None:
            self._say(f"Node {member.node.address}: {settings}.")

    def _compare_replicas(self, devices: Devices) -> None:
        """Refuses a node that would share every batch otherwise.

        Raises:
            SearchError: It has another number of replicas.
        """
        first = self._first.devices if self._first else None
        if first and devices.replicas != first.replicas:
            raise SearchError(
                f"a batch would have {devices.replicas} replicas there, not {first.replicas}"
            )

    def _close(self, member: _Member, why: str) -> None:
        member.stage = "closed"
        self._say(f"Node {member.node.address} is not used: {why.rstrip('.')}.")
        for number in member.numbers:
            self._warming.discard(number)
            self._seats[number].drop()
        if self._expected:
            self._write()

    def _warm(self, number: int) -> None:
        seat, slot = self._seats[number], self.slots[number]
        member = self._member_of(slot)
        seat.lost = False
        self._warming.add(number)
        if member.node.gpus and number != member.numbers[0]:  # the first has told it
            member.asked[number] = seat.ask("gpus")
        slot.submit(describe_devices)

    def _start_again(self, member: _Member) -> None:
        """Takes the results of slots that were starting, and starts those whose actor has ended."""
        for number in member.numbers:
            slot = self.slots[number]
            if number in self._warming and slot.future and slot.future.done():
                self._warming.discard(number)
                try:
                    slot.result()
                except ProcessEndedError:
                    self._seats[number].lost = True
                    self._failed_starts[number] = self._failed_starts.get(number, 0) + 1
                else:
                    self._failed_starts.pop(number, None)
                    self._take_gpus_of(member, number)
            ended = self._seats[number].lost and slot.future is None
            if ended and self._failed_starts.get(number, 0) < _STARTS:
                self._warm(number)

    def _take_gpus_of(self, member: _Member, number: int) -> None:
        """What the driver names to a further worker of a node; without code for it, it is ended."""
        asked = member.asked.pop(number, None)
        if asked is None:
            return
        before = member.gpus
        try:
            self._take_gpus(member, asked.result())
        except Exception as error:  # its own, or whatever the actor raises: the others go on
            self._failed_starts[number] = _STARTS
            self._seats[number].drop()
            self._say(f"A worker of node {member.node.address} is not used: {_reason(error)}")
        if member.joined and self._expected and member.gpus != before:
            self._write()

    # Slots

    def _workers_on(self, node: Node) -> int:
        if not node.cpus and not node.gpus:
            return 0
        if self.job.place.strategy:
            return 1
        on_gpus = node.gpus * self.job.place.workers_per_gpu
        return self._workers or on_gpus or min(node.cpus, MOST_WORKERS)

    def _slot(self, seat: Seat, member: _Member, index: int, *, whole: bool = False) -> RaySlot:
        of_workers = member.devices if whole else None
        place = dataclasses.replace(
            self.job.place.apart(of_workers) if of_workers else self.job.place,
            slot=index,
            workers=1 if whole else member.workers,
            whole=whole or member.workers == 1,
            cores=member.node.cpus or None,
            gpus=member.node.gpus or None,
        )
        job = dataclasses.replace(self.job, place=place)
        name = "alone" if whole else len(self.slots)
        start = Start(worker_log(self._logs, name), self._lock, begin_worker, (job,))
        return RaySlot(
            seat, str(name), start, stall_seconds=self._stall_seconds, workers=member.workers
        )

    def _write(self) -> None:
        """Notes in the run folder which nodes there are, and on which kind seconds are compared."""
        nodes = [one.recorded() for one in self._members.values() if one.joined]
        write_nodes(self._run_dir, self._chosen().kind, nodes)


def _share(resource: int, workers: int) -> float:
    """One worker's part of a node's cores or GPUs: a whole number of them, or a part of one."""
    if resource == 0 or resource >= workers:
        return float(resource // workers)
    return 1 / math.ceil(workers / resource)  # no GPU's parts lie on two of them


def _kind(devices: Devices, processor: str) -> str:
    """What must be equal for seconds to be comparable."""
    if devices.kind == "CPU":
        return f"{processor}, {devices.name.removeprefix('CPU, ')}"
    return devices.kind if devices.replicas == 1 else f"{devices.replicas} x {devices.kind}"


def _reason(error: Exception) -> str:
    """The first line of what is told of a failure and, where there is a traceback, its last."""
    first, *more = str(error).strip().splitlines() or [repr(error)]
    return f"{first} {more[-1].strip()}" if more else first
