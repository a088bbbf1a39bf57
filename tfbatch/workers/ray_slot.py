"""Slots on the nodes of a Ray cluster: the same tasks, mailbox and endings as on one machine.

An actor on the node reserves the slot's cores and GPUs and holds a Slot of its own machine. So the
process that trains is started, watched and replaced, and its ending is explained, where it runs.
What passes through the actor is bytes: it imports no TensorFlow, and a killed worker process leaves
the actor alive. What is sent is code, which the node runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import cloudpickle
from loky.process_executor import BrokenProcessPool

from tfbatch.errors import InputError
from tfbatch.process.gpus import GpuMachine, read_gpus
from tfbatch.process.memory import worker_bytes
from tfbatch.run_folder.fingerprint import processor, software
from tfbatch.workers.lifeline import GROUP_SIGNALS
from tfbatch.workers.mailbox import TaskProgress
from tfbatch.workers.process_end import Ending, ProcessEndedError
from tfbatch.workers.slot import Slot, Start, as_it_travels

AUTO = "auto"
"""The address of the cluster that runs on this machine."""
INSTALL = "pip install 'tfbatch[ray]'"
_LOOK_SECONDS = 1.0
_ANSWER_SECONDS = 30.0
_CONNECT_SECONDS = 10.0
_LEAVE_SECONDS = 1.0
"""So long an actor that is ended may take to remove what it has made; one that hangs does not."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A living node of the cluster.

    Attributes:
        name: Ray's ID of it; a node that is started anew has another one.
        address: Its address, for people.
        cpus: Cores that it lends.
        gpus: GPUs that it lends.
    """

    name: str
    address: str
    cpus: int
    gpus: int


@dataclasses.dataclass(frozen=True)
class Greeting:
    """What a node says of itself before TensorFlow is imported there.

    Attributes:
        read: What it has read from the file that it was asked to read, or why it could not.
        software: Versions of Python and of the packages that shape a result.
        processor: The name of its processor.
        gpus: Its GPUs that the actor holds, before any process opens one.
    """

    read: str
    software: dict[str, str]
    processor: str
    gpus: GpuMachine = dataclasses.field(default_factory=GpuMachine)


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a slot on a node needs to start its processes.

    Attributes:
        log: File in the shared run folder for everything that they print.
        lock: A file that they keep locked, or None.
        first: The pickled function and arguments that each of them begins with.
        paths: Folders that modules are imported from here; those that exist there are used too.
        stall_seconds: After this long without a heartbeat from a task its process is ended.
        workers: Slots of the node, which share its memory.
    """

    log: Path
    lock: Path | None
    first: bytes
    paths: tuple[str, ...]
    stall_seconds: float
    workers: int


@dataclasses.dataclass(frozen=True)
class _Raised:
    """An exception of a task, with its traceback there."""

    error: BaseException
    traceback: str


class TracebackThere(Exception):  # noqa: N818 - never raised: the cause of what is
    """The traceback of an exception in another process."""


class Host:
    """The actor: a slot of this machine, and beside it perhaps one that has the whole of it."""

    def __init__(self) -> None:
        self._slots: dict[str, Slot] = {}

    async def greet(self, read: Path, write: Path) -> Greeting:
        """Reads one file of the shared folder and copies it to another."""
        try:
            found = read.read_text(encoding="utf-8")
            write.write_text(found, encoding="utf-8")
        except OSError as error:
            found = str(error)
        return Greeting(found, software(), processor(), read_gpus())

    async def gpus(self) -> GpuMachine:
        """The GPUs that this actor holds; before `run`, as they are without its processes."""
        return read_gpus()

    async def run(self, name: str, settings: Settings, task: bytes) -> bytes | ProcessEndedError:
        """Runs a pickled task, and returns its pickled result or how its process ended."""
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = Slot(
                Start(settings.log, settings.lock, _call, (settings.paths, settings.first)),
                stall_seconds=settings.stall_seconds,
                most_bytes=worker_bytes(settings.workers),
            )
        with contextlib.suppress(BrokenProcessPool):
            await asyncio.wrap_future(slot.submit(_answer, task))
        try:
            answer: bytes = slot.result()
        except ProcessEndedError as error:
            return error
        return answer

    async def look(self, name: str, stop: bool) -> TaskProgress:
        """How far the task is; passes on a request to stop, and ends what is silent."""
        slot = self._slots.get(name)
        if slot is None:  # it is not there yet
            return TaskProgress()
        if stop:
            slot.mailbox.request_stop()
        slot.watch()
        return slot.mailbox.progress()

    async def printed(self, name: str) -> str:
        """See Slot."""
        return self._slots[name].printed() if name in self._slots else ""

    async def recycle(self, name: str) -> None:
        """See Slot."""
        if name in self._slots:
            self._slots[name].recycle()

    async def close(self, name: str) -> None:
        """See Slot."""
        if name in self._slots:
            self._slots.pop(name).close()

    async def leave(self) -> None:
        """The actor is ended next, and has no end of its own."""
        for slot in self._slots.values():
            slot.remove_folder()


def _call(paths: tuple[str, ...], first: bytes) -> None:
    """Inside a worker: what it begins with, whose unpickling may import what is in `paths`."""
    sys.path.extend(path for path in paths if path not in sys.path and Path(path).exists())
    function, arguments = cloudpickle.loads(first)
    function(*arguments)


def _answer(task: bytes) -> bytes:
    """Inside a worker: a task's pickled result, or its exception."""
    try:
        function, arguments, options = cloudpickle.loads(task)
        return cloudpickle.dumps(function(*arguments, **options))  # type: ignore[no-any-return]
    except BaseException as error:
        raised = _Raised(as_it_travels(error), traceback.format_exc())
        return cloudpickle.dumps(raised)  # type: ignore[no-any-return]


class Seat:
    """Cores and GPUs of one node that an actor holds, which is started when it is needed.

    Args:
        node: The node.
        cpus: Cores.
        gpus: GPUs, or shares of one.

    Attributes:
        lost: Whether an actor has ended here since this was last set to False.
    """

    def __init__(self, node: Node, *, cpus: float, gpus: float):
        self.node, self._cpus, self._gpus = node, cpus, gpus
        self._actor: Any = None
        self.lost = False

    @property
    def taken(self) -> bool:
        """Whether there is an actor, or one that starts."""
        return self._actor is not None

    def ask(self, method: str, *arguments: Any) -> Future[Any]:
        """Calls a method of Host."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        if self._actor is None:
            self._actor = (
                ray.remote(Host)
                .options(
                    num_cpus=self._cpus,
                    num_gpus=self._gpus,
                    max_restarts=0,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(self.node.name, soft=False),
                )
                .remote()
            )
        future: Future[Any] = getattr(self._actor, method).remote(*arguments).future()
        return future

    def answer(self, method: str, *arguments: Any, seconds: float = _ANSWER_SECONDS) -> Any:
        """The same, and waits; None where there is no actor that answers soon."""
        from ray.exceptions import RayError

        if self._actor is None:
            return None
        try:
            return self.ask(method, *arguments).result(timeout=seconds)
        except (RayError, TimeoutError):
            return None

    def drop(self) -> None:
        """Ends the actor, and with it its processes."""
        import ray

        actor = self._actor
        if actor is not None:
            self.lost = True
            self.answer("leave", seconds=_LEAVE_SECONDS)
            self._actor = None
            with contextlib.suppress(Exception):  # of a node that is gone
                ray.kill(actor)


class RaySlot:
    """A place for one worker process on a node; see TaskSlot.

    Args:
        seat: Where.
        name: Its name among the slots of its seat.
        start: What each of its processes does first.
        stall_seconds: After this long without a heartbeat from a task its process is ended.
        workers: Slots of the node, which share its memory.
    """

    def __init__(
        self, seat: Seat, name: str, start: Start, *, stall_seconds: float, workers: int = 1
    ):
        import ray

        self.seat, self._name = seat, name
        settings = Settings(
            start.log,
            start.lock,
            cloudpickle.dumps((start.function, start.arguments)),
            tuple(str(Path(path).resolve()) for path in sys.path),
            stall_seconds,
            workers,
        )
        self._settings = ray.put(settings)
        self.mailbox = _FarMailbox()
        self._future: Future[Any] | None = None
        self._looking: Future[Any] | None = None
        self._looked = 0.0

    @property
    def future(self) -> Future[Any] | None:
        """That of the task whose result has not been taken, or None."""
        return self._future

    @property
    def alive(self) -> bool:
        """Whether its actor lives."""
        return self.seat.taken

    def submit(self, task: Callable[..., Any], *arguments: Any, **options: Any) -> Future[Any]:
        """Begins a task on the node, where a process is started if there is none."""
        self.mailbox.clear()
        self._looking, self._looked = None, time.monotonic()
        packed = cloudpickle.dumps((task, arguments, options))
        self._future = self.seat.ask("run", self._name, self._settings, packed)
        return self._future

    def watch(self) -> None:
        """Asks the node now and then how far the task is, and passes on a request to stop."""
        if self._looking is not None:
            if self._looking.done():
                if self._looking.exception() is None:
                    self.mailbox.heard(self._looking.result())
                self._looking = None
            return
        news = self.mailbox.asked and not self.mailbox.passed_on
        due = news or time.monotonic() > self._looked + _LOOK_SECONDS
        if self._future and self.seat.taken and due:
            self._looked, self.mailbox.passed_on = time.monotonic(), self.mailbox.asked
            self._looking = self.seat.ask("look", self._name, self.mailbox.asked)

    def result(self) -> Any:
        """Waits for the task and returns its result, or raises its exception.

        Raises:
            ProcessEndedError: The process, its actor or the node ended before its task.
        """
        from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

        future, self._future = self._future, None
        if future is None:
            raise RuntimeError("no task was submitted")
        try:
            answer = future.result()
        except RayError as error:
            self.seat.drop()
            if isinstance(error, RayTaskError):  # of the actor's own code
                reason = "failed: " + (str(error).strip().splitlines() or [""])[-1]
            else:
                reason = "ended: " + " ".join(str(error).split())
            message = f"Its actor on node {self.seat.node.address} {reason}"
            # Ray's own monitor kills what uses most before the kernel does.
            ending: Ending = "oom" if isinstance(error, OutOfMemoryError) else "killed"
            raise ProcessEndedError(ending, message) from error
        if isinstance(answer, ProcessEndedError):
            raise answer
        value = cloudpickle.loads(answer)
        if isinstance(value, _Raised):
            raise value.error from TracebackThere(f"\n{value.traceback}")
        return value

    def kill(self) -> None:
        """Ends the slot's process at once, with its actor: also where the node does not answer."""
        self.seat.drop()

    def printed(self) -> str:
        """The end of what the process has printed since its task was submitted."""
        return self.seat.answer("printed", self._name) or ""

    def recycle(self) -> None:
        """Ends the process in good order; the next task begins in a new one."""
        self.seat.answer("recycle", self._name)

    def close(self) -> None:
        """Ends the process at once; its seat is not given back."""
        self.seat.answer("close", self._name)


class _FarMailbox:
    """What the driver last heard of a task on a node, and what it asks of it."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.asked = self.passed_on = False
        self._heard = TaskProgress()

    def heard(self, progress: TaskProgress) -> None:
        self._heard = progress

    def request_stop(self) -> None:
        """The task is to end."""
        self.asked = True

    def progress(self) -> TaskProgress:
        """As last heard, about once in a second."""
        return self._heard


def connect(address: str) -> None:
    """Connects this process, which must run on a node of it, to a cluster.

    Ray's own sentences and statistics of use stay out. A signal is handled as before.

    Args:
        address: "auto", or HOST:PORT of the cluster's head.

    Raises:
        InputError: Ray is not installed, or there is no such cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise InputError(f"`cluster` needs Ray, which is not installed: {INSTALL}.") from error
    start = "Start one with `ray start --head` and, on the other machines, `ray start --address=..`"
    if address != AUTO:
        host, port = address.rsplit(":", 1)
        try:
            place = (host.strip("[]"), int(port))  # an IPv6 address is in brackets
            socket.create_connection(place, timeout=_CONNECT_SECONDS).close()
        except OSError as error:
            raise InputError(
                f"`cluster` must be the address of a Ray cluster that runs. At {address}: {error}. "
                f"{start}."
            ) from error
    with _handlers_kept():
        try:
            ray.init(address=address, log_to_driver=False, configure_logging=False)
        except Exception as error:  # ConnectionError, RuntimeError (other versions), ValueError
            reason = " ".join(str(error).split())
            raise InputError(
                f"`cluster` must be a Ray cluster, one node of which is this machine. Received: "
                f"{address!r}. Ray: {reason} {start}."
            ) from error


def disconnect() -> None:
    """Leaves the cluster: what this process has started there ends."""
    import ray

    ray.shutdown()


def living_nodes() -> list[Node]:
    """The nodes that live, the head first."""
    import ray

    found = []
    for node in ray.nodes():
        resources = node["Resources"]
        if node["Alive"]:
            head = "node:__internal_head__" in resources
            cpus, gpus = int(resources.get("CPU", 0)), int(resources.get("GPU", 0))
            place = Node(node["NodeID"], node["NodeManagerAddress"], cpus, gpus)
            found.append((not head, place))
    return [node for _, node in sorted(found, key=lambda one: one[0])]


@contextlib.contextmanager
def _handlers_kept() -> Iterator[None]:
    """Ray sets a handler of its own for SIGTERM, which would end a search without its answer."""
    before = {number: signal.getsignal(number) for number in GROUP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            with contextlib.suppress(ValueError):  # not in the main thread: Ray sets none there
                signal.signal(number, handler)
