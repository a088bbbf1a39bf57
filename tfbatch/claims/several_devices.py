"""X15: what several devices make of the batch size that one of them works best with.

With n devices that look at b examples each, an update is one from n b examples: the gradient of
tf.distribute.MirroredStrategy on two logical CPU devices is compared with that of one device. What
such an update is worth is a matter of n b alone, and is measured on one device:

    efficiency = examples to the target at the knee / examples to the target at n knees

Devices that lose nothing to each other are n times the efficiency as fast to the target as one is
at its knee. What they lose is only measured where there are several.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from tfbatch.claims._claim import Claim, Evidence, UntestableError
from tfbatch.claims._pairs import fell_short
from tfbatch.claims.steps_to_target import log_examples
from tfbatch.claims.throughput import knee_of
from tfbatch.errors import InputError

if TYPE_CHECKING:
    import tensorflow as tf

    from tfbatch.claims._court import Court
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import Job, TaskContext
    from tfbatch.training.workload import Workload

P = ParamSpec("P")
R = TypeVar("R")
Vector = npt.NDArray[np.float64]

CARD = "X15"
TITLE = "what several devices make of the batch size of one"
ORDER = 45.0
CLAIMS: tuple[Claim, ...] = ()
_WORTH = 0.8
_SAME = 1e-4
"""Two gradients are equal up to rounding in 32 bits."""
_IMAGINED = 4
"""Devices whose efficiency is asked for where there is one."""
_MANY = 16
"""The claim's own number of devices."""
_LOGICAL = 2
_SEED = 1
_UPDATES = 20
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class TwoDevices:
    """How two logical devices differ from one with twice the batch.

    Attributes:
        gradient: Relative difference of the gradients, as at inference.
        training: Distance of the weights after a short training, over the way that they went.
    """

    gradient: float
    training: float


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    try:
        devices = court.measure(count_accelerators)
    except InputError:  # rehearsed
        devices = 1
    blank = Evidence(
        "best-size-times-devices",
        effects=(),
        margin=0.0,
        unit="share",
        axis="time to target",
        policy="tuned",
        finding="",
    )
    parts = {"devices": _efficiency, "speed": _speed, "equality": _equality}
    for part, find in parts.items():
        own = dataclasses.replace(blank, part=part)
        try:
            yield find(court, own, devices)
        except (InputError, UntestableError) as error:
            yield dataclasses.replace(own, untestable=str(error))


def _efficiency(court: Court, blank: Evidence, devices: int) -> Evidence:
    study = court.study
    number = devices if devices > 1 else _IMAGINED
    times = {one.batch_size: one for one in court.step_times(study.sizes)}
    try:
        knee = knee_of(times).batch_size
    except UntestableError as error:
        # The larger the knee, the less an example is worth at a multiple of it.
        bound = _predicted(court, study.large, number) if study.large in times else ""
        raise UntestableError(f"{error}{bound}") from error
    together = number * knee
    if together > court.workload.num_examples // 2:
        raise UntestableError(
            f"{number} devices at their knee of {knee} look at {together} examples in a step, more "
            f"than half of {court.workload.num_examples} training examples; take more data"
        )
    runs = {size: study.updates_to_target(size, "tuned") for size in (knee, together)}
    found = efficiencies(*log_examples(runs).values())
    imagined = "" if devices > 1 else "if there were "
    return dataclasses.replace(
        blank,
        effects=tuple(value - _WORTH for value in found),
        finding=f"{imagined}{number} devices at their knee, {knee}: an example in a batch of "
        f"{together} is worth {statistics.fmean(found):.2f} of one in a batch of {knee}, and "
        f"{_WORTH} is asked for{_predicted(court, knee, _MANY)}",
        doubts=study.doubts("tuned", "target", (knee, together)),
        censored=fell_short(*runs.values()),
    )


def efficiencies(at_knee: Sequence[float], together: Sequence[float]) -> list[float]:
    """What an example is worth in the batch of all devices, seed by seed.

    Args:
        at_knee: Log examples to the target at the knee.
        together: The same with the batch of all devices.
    """
    return [math.exp(one - other) for one, other in zip(at_knee, together, strict=True)]


def _predicted(court: Court, knee: int, number: int) -> str:
    """What the hyperbola of McCandlish et al. 2018 says of so many devices at a knee.

    It is fitted from B0 on: small batches take long, and tell little of large ones.
    """
    from tfbatch.estimators.critical_batch_size import fit_critical_batch_size

    study = court.study
    sizes = [size for size in study.sizes if size >= study.base]
    try:
        runs = [run for size in sizes for run in study.updates_to_target(size, "tuned")]
        fit = fit_critical_batch_size(runs)
    except (InputError, UntestableError):
        return ""
    share = fit.hyperbola.examples(knee) / fit.hyperbola.examples(number * knee)
    doubts = f" (weak: {'; '.join(fit.doubts)})" if fit.doubts else ""
    return (
        f"; an example of {number} devices at {knee} each is predicted to be worth "
        f"{share:.2f}{doubts}"
    )


def _speed(court: Court, blank: Evidence, devices: int) -> Evidence:
    blank = dataclasses.replace(blank, axis="step time", policy="no")
    if devices < 2:
        raise UntestableError(
            "this machine has one device: what several lose to each other takes several; their "
            "statistical half is judged apart"
        )
    knee = knee_of({o.batch_size: o for o in court.step_times(court.study.sizes)}).batch_size
    rounds = court.measure(
        time_one_and_all,
        court.workload.baseline.model_copy(update={"batch_size": knee}),
        rounds=court.preset.rounds,
        seconds=court.preset.timing_seconds,
    )
    shares = [one / together for one, together in rounds]
    return dataclasses.replace(
        blank,
        effects=tuple(share - _WORTH for share in shares),
        finding=f"{devices} devices with {knee} examples each reach {statistics.fmean(shares):.2f} "
        f"of {devices} times the speed of one, and {_WORTH} is asked for",
    )


def _equality(court: Court, blank: Evidence, devices: int) -> Evidence:
    del devices
    study = court.study
    rate = study.rate(study.base, "fixed", "epochs").value
    found = court.measure(two_devices_against_one, study.configuration(study.base, rate))
    return dataclasses.replace(
        blank,
        effects=(_SAME - found.gradient,),
        finding=f"the gradient of {_LOGICAL} devices with {study.base} examples each differs from "
        f"that of one with {_LOGICAL * study.base} by {found.gradient:.1e}; after {_UPDATES} "
        f"updates their weights are {found.training:.1e} of the way apart (dropout and batch "
        "normalization act on each device alone)",
        axis="one gradient",
        policy="no",
    )


def count_accelerators(task: TaskContext) -> int:
    """Inside the process that trains: GPUs of the machine; 1 without any."""
    import tensorflow as tf

    del task
    return max(1, len(tf.config.list_physical_devices("GPU")))


def two_devices_against_one(task: TaskContext, configuration: Configuration) -> TwoDevices:
    """Inside the process that trains: starts one whose CPU is two devices.

    Raises:
        InputError: The gradient cannot be measured, or there are too few examples.
        StoppedError: A stop was requested.
    """
    return _in_a_fresh_process(task, _on_two_logical_devices, configuration)


def _on_two_logical_devices(job: Job, records: Path, configuration: Configuration) -> TwoDevices:
    """In a process where TensorFlow has run nothing yet."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(
        cpu, [tf.config.LogicalDeviceConfiguration()] * _LOGICAL
    )
    one = _workload(job, records, None)
    several = _workload(
        job,
        records,
        tf.distribute.MirroredStrategy([d.name for d in tf.config.list_logical_devices("CPU")]),
    )
    return compare_devices(one, several, configuration, seed=_SEED)


def compare_devices(
    one: Workload, several: Workload, configuration: Configuration, *, seed: int
) -> TwoDevices:
    """The same batches on one device, and shared by several.

    Args:
        one: Without a strategy.
        several: The same model and data under one.
        configuration: Its batch size is that of each device.
        seed: Of the weights and the order.

    Raises:
        InputError: The gradient cannot be measured, or there are too few examples.
    """
    size = configuration.batch_size * several.replicas
    together = configuration.model_copy(update={"batch_size": size, "base_batch_size": size})
    if size > one.data.num_examples("train"):
        raise InputError(
            f"{several.replicas} devices with {configuration.batch_size} examples each need "
            f"{size} training examples; give a smaller --baseline=batch_size"
        )
    examples = size * _UPDATES
    gradients, starts, ends = [], [], []
    for workload in (one, several):
        model = workload.compiled(together, total_examples=examples, seed=seed)
        starts.append(_weights(model))
        gradients.append(_gradient(workload, model, size, seed))
        stream = workload.data.training(batch_size=size, seed=seed, num_examples=examples)
        model.fit(stream, steps_per_epoch=_UPDATES, shuffle=False, verbose=0)
        ends.append(_weights(model))

    way = float(np.linalg.norm(ends[0] - starts[0]))
    return TwoDevices(
        float(np.linalg.norm(gradients[1] - gradients[0]) / np.linalg.norm(gradients[0])),
        float(np.linalg.norm(ends[1] - ends[0])) / max(way, np.finfo(float).tiny),
    )


def _weights(model: tf.keras.Model) -> Vector:
    return np.concatenate([v.numpy().astype(np.float64).ravel() for v in model.trainable_variables])


def _gradient(workload: Workload, model: tf.keras.Model, size: int, seed: int) -> Vector:
    """Of one batch, each device's share of it added up as MirroredStrategy does.

    Raises:
        InputError: It cannot be measured.
    """
    import tensorflow as tf

    from tfbatch.gradients.loss import gradients_of, why_not

    if reason := why_not(model):
        raise InputError(f"the model's gradients cannot be measured: {reason}")
    batch = next(iter(workload.data.training(batch_size=size, seed=seed, num_examples=size)))
    strategy, own = workload.strategy, size // workload.replicas
    if strategy is None:
        parts = gradients_of(model, batch, training=False)
    else:
        shared = strategy.experimental_distribute_values_from_function(
            lambda place: tf.nest.map_structure(
                lambda leaf: leaf[place.replica_id_in_sync_group * own :][:own], batch
            )
        )
        # Each device's loss is divided by their number already.
        found = strategy.run(lambda part: gradients_of(model, part, training=False), args=(shared,))
        parts = [strategy.reduce("SUM", part, axis=None) for part in found]
    return np.concatenate([part.numpy().astype(np.float64).ravel() for part in parts])


def _workload(job: Job, records: Path, strategy: tf.distribute.Strategy | None) -> Workload:
    from tfbatch.pipeline.load import open_prepared
    from tfbatch.training.context import load_code
    from tfbatch.training.workload import Workload

    code = load_code(job)
    return Workload(
        open_prepared(job.data, records, code.make_dataset),
        code.build_model,
        compilation=code.compilation,
        precision="float32",  # rounding in 16 bits would hide what differs
        strategy=strategy,
    )


def time_one_and_all(
    task: TaskContext, configuration: Configuration, *, rounds: int, seconds: float
) -> tuple[tuple[float, float], ...]:
    """Inside the process that trains: starts one that has all accelerators.

    Returns:
        Seconds of a step of one device with its batch, and of all with as many examples each, for
        each round.

    Raises:
        StoppedError: A stop was requested.
    """
    return _in_a_fresh_process(task, _time_on_all, configuration, rounds, seconds)


def _time_on_all(
    job: Job, records: Path, configuration: Configuration, rounds: int, seconds: float
) -> tuple[tuple[float, float], ...]:
    """In a process where TensorFlow has run nothing yet."""
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        tf.config.experimental.set_memory_growth(gpu, True)
    several = _workload(job, records, tf.distribute.MirroredStrategy())
    return time_devices(
        _workload(job, records, None), several, configuration, rounds=rounds, seconds=seconds
    )


def time_devices(
    one: Workload, several: Workload, configuration: Configuration, *, rounds: int, seconds: float
) -> tuple[tuple[float, float], ...]:
    """Seconds of a step of one device and of several with as many examples each, round by round.

    Args:
        one: Without a strategy.
        several: The same model and data under one.
        configuration: Its batch size is that of each device.
        rounds: Their number, in shuffled order.
        seconds: About what all of them may take.
    """
    from tfbatch.interleaved_rounds import first_visit, measure_round
    from tfbatch.training.program_cache import ProgramCache
    from tfbatch.training.step_times import step_time_of, steps_at_once, time_training

    kinds = []
    for workload in (one, several):
        size = configuration.batch_size * workload.replicas
        own = configuration.model_copy(update={"batch_size": size})
        programs = ProgramCache(workload)
        time_them = functools.partial(time_training, programs, own)
        kinds.append(first_visit(size, time_them, most_at_once=steps_at_once(programs, own)))
    generator = random.Random(1)
    for _ in range(rounds):
        order = list(kinds)
        generator.shuffle(order)
        measure_round(order, seconds / (rounds * len(kinds)), heartbeat=lambda: None)
    found = [step_time_of(paced).rounds for paced in kinds]
    return tuple(zip(*found, strict=True))


def _in_a_fresh_process(
    task: TaskContext,
    function: Callable[Concatenate[Job, Path, P], R],
    *arguments: P.args,
    **options: P.kwargs,
) -> R:
    """Calls a function where devices can still be arranged: in a process of its own.

    Raises:
        StoppedError: A stop was requested.
    """
    from tfbatch.workers import Slot
    from tfbatch.workers.slot import Start

    if task.records is None:
        raise RuntimeError("the data must be prepared first")
    with tempfile.TemporaryDirectory(prefix="tfbatch-devices-") as folder:
        slot = Slot(Start(Path(folder) / "log", None, _nothing))
        try:
            future = slot.submit(function, task.job, task.records, *arguments, **options)
            while not future.done():
                concurrent.futures.wait([future], timeout=_POLL_SECONDS)
                task.heartbeat_or_stop()
            result: R = slot.result()
            return result
        finally:
            slot.close()


def _nothing() -> None:
    """What the process does first."""
