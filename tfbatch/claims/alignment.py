"""X2: powers of two, multiples of 8, 10 and 32, and their neighbors, the trend removed.

Larger batches are faster whatever they are divisible by. So log throughput is fitted, in each round
of timing apart, by a cubic in log B and a step for the group:

    log(B / seconds) = c0 + c1 log B + c2 log^2 B + c3 log^3 B + effect * [B in group]

over the group and what it is compared with. Nothing that all sizes of a round share, such as a busy
machine, is in the effect. The alignment of addresses is another experiment: the same numbers from a
buffer that begins 4 bytes after a multiple of 64, which TensorFlow copies first.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tfbatch.claims._claim import Claim, Evidence
from tfbatch.claims._pairs import restless

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.training.context import TaskContext
    from tfbatch.training.step_times import StepTime

CARD = "X2"
TITLE = "powers of two, multiples of 8 and 10, and misaligned addresses"
ORDER = 20.0
CLAIMS: tuple[Claim, ...] = ()
MARGIN = math.log(1.02)
"""A difference of 2 % in speed matters."""
POWERS = (16, 32, 64, 128)
TENS = (30, 50, 60, 70, 100, 110)
EIGHTS = (24, 48, 72, 96, 136)
NEIGHBORS = (15, 17, 31, 33, 63, 65, 127, 129)
SIZES = tuple(sorted({*POWERS, *TENS, *EIGHTS, *NEIGHBORS}))
_FED = 64
"""Examples in the batches of the experiment on addresses."""
_OFFSET = 4
_ALIGNMENT = 64
_FEEDS = 20


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    most = court.workload.num_examples
    times = court.step_times([size for size in SIZES if size <= most])
    multiples, others = (*POWERS, *EIGHTS), (*TENS, *NEIGHBORS)
    yield _evidence(times, "powers-of-two-beat-tens", POWERS, TENS)
    yield _evidence(times, "multiples-of-8", multiples, others)
    on_cpu = court.workload.device == "CPU"
    yield _evidence(
        times,
        "cpu-dislikes-powers-of-two",
        NEIGHBORS[:6],
        POWERS[:3],
        elsewhere="" if on_cpu else f"it speaks of a CPU, and this is a {court.workload.device}",
    )
    thirties = tuple(size for size in SIZES if size % 32 == 0)
    rest = tuple(size for size in SIZES if size % 32)
    yield _evidence(
        times,
        "gpu-wants-multiples-of-32",
        thirties,
        rest,
        elsewhere="it speaks of a GPU, and this is a CPU" if on_cpu else "",
    )
    for claim, part in (("choose-casually", "speed"), ("no-need-for-powers-of-two", "")):
        yield _evidence(times, claim, POWERS, (*EIGHTS, *others), part=part)
    feeds = court.measure(time_addresses, rounds=court.preset.rounds)
    misaligned = tuple(math.log(off / on) for on, off in feeds)
    yield Evidence(
        "address-alignment-matters",
        effects=misaligned,
        margin=MARGIN,
        unit="log ratio",
        axis="step time",
        policy="no",
        finding=f"seconds of a forward pass on {_FED} examples from a buffer {_OFFSET} bytes off "
        "over one from an aligned buffer",
        doubts=restless(misaligned, MARGIN),
    )


def contrast(
    sizes: Sequence[int],
    rounds: Sequence[Sequence[float]],
    group: Collection[int],
    others: Collection[int],
) -> tuple[float, ...]:
    """How much faster a group is than others in each round, as a log, the trend removed.

    Args:
        sizes: [n] batch sizes.
        rounds: [n][rounds] seconds of a step of each.
        group: The sizes of the group.
        others: Those it is compared with.
    """
    used = [index for index, size in enumerate(sizes) if size in group or size in others]
    chosen = np.array([sizes[index] for index in used], dtype=np.float64)
    seconds = np.array([rounds[index] for index in used])
    x = np.log(chosen) - np.log(chosen).mean()
    member = np.array([size in group for size in chosen], dtype=np.float64)
    design = np.stack([x**0, x, x**2, x**3, member], axis=1)
    speed = np.log(chosen)[:, None] - np.log(seconds)
    found = np.linalg.lstsq(design, speed, rcond=None)[0]
    return tuple(map(float, found[-1]))


def time_addresses(task: TaskContext, *, rounds: int) -> tuple[tuple[float, float], ...]:
    """Inside the process that trains: seconds from aligned and misaligned buffers, each round."""
    import keras
    import tensorflow as tf

    data = task.programs.workload.data
    batch = next(iter(data.training(batch_size=_FED, seed=1, num_examples=_FED)))
    inputs = keras.tree.flatten(keras.utils.unpack_x_y_sample_weight(batch)[0])
    weights = [tf.random.normal([math.prod(leaf.shape[1:]), 64]) for leaf in inputs]

    @tf.function  # type: ignore[untyped-decorator]
    def forward(*leaves: tf.Tensor) -> tf.Tensor:
        flat = [tf.reshape(tf.cast(leaf, tf.float32), [len(leaf), -1]) for leaf in leaves]
        return tf.add_n(
            [tf.reduce_sum(tf.matmul(x, w)) for x, w in zip(flat, weights, strict=True)]
        )

    values = [leaf.numpy() for leaf in inputs]
    buffers = [[_placed(value, offset) for value in values] for offset in (0, _OFFSET)]
    found: list[tuple[float, float]] = []
    for _ in range(rounds + 1):
        task.heartbeat_or_stop()
        seconds = []
        for leaves in buffers:
            started = time.perf_counter()
            for _ in range(_FEEDS):
                result = forward(*(tf.convert_to_tensor(leaf) for leaf in leaves))
            float(result)
            seconds.append((time.perf_counter() - started) / _FEEDS)
        found.append((seconds[0], seconds[1]))
    return tuple(found[1:])  # the first round traces


def _placed(values: np.ndarray, offset: int) -> np.ndarray:
    """The same values so many bytes after a multiple of 64."""
    room = np.empty(values.nbytes + _ALIGNMENT + offset, np.uint8)
    begin = -room.ctypes.data % _ALIGNMENT + offset
    placed = room[begin : begin + values.nbytes].view(values.dtype).reshape(values.shape)
    placed[...] = values
    return placed


def _evidence(
    times: Sequence[StepTime],
    claim: str,
    group: Collection[int],
    others: Collection[int],
    *,
    part: str = "",
    elsewhere: str = "",
) -> Evidence:
    sizes = [one.batch_size for one in times]
    untestable = elsewhere
    if any(size not in sizes for size in (*group, *others)):
        untestable = "the training split is too small for these sizes, or they take too long"
    effects = () if untestable else contrast(sizes, [one.rounds for one in times], group, others)
    return Evidence(
        claim,
        effects=effects,
        margin=MARGIN,
        unit="log ratio",
        axis="step time",
        policy="no",
        finding=f"batch sizes {_listed(group)} against {_listed(others)}, trend removed",
        part=part,
        doubts=restless(effects, MARGIN),
        untestable=untestable,
    )


def _listed(sizes: Collection[int]) -> str:
    return ", ".join(map(str, sizes))
