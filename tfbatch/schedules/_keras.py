"""The one native Keras class of all schedule families: it turns steps into examples."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.schedules import make_family
from tfbatch.schedules._batch_sizes import BatchSizes
from tfbatch.schedules._family import ScheduleNumbers, progress_of, rate, warmup_kind


@keras.saving.register_keras_serializable(package="tfbatch")
class LearningRateInExamples(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning-rate schedule defined over examples: a new batch size needs no other edit.

    Example:
        ```python
        schedule = tfbatch.schedules.LearningRateInExamples(
            "cosine", learning_rate=0.1, batch_size=128, total_examples=450_000,
            warmup_examples=13_500, parameters={"final_fraction": 0.01},
        )
        model.compile(optimizer=keras.optimizers.SGD(schedule, momentum=0.9), loss="mse")
        ```

    The update at optimizer iteration t has seen x = t * batch_size examples; the formula is in
    `tfbatch.schedules._family.value`. The learning rate is computed in float32, which counts
    examples exactly up to 2**24 and to 6e-8 of their number beyond.

    In a plain `fit` whose last batch of an epoch is short, every update still counts as a whole
    batch: N = 1,000 and B = 600 are two updates an epoch, and ten epochs' schedule is over after
    8.3. This one line lets it end with the training:

        total_examples=epochs * math.ceil(num_examples / batch_size) * batch_size

    The callbacks of tfbatch warn where they see that the schedule ends before `fit` does. The
    stream of `tfbatch.load_data(...).training(...)` reaches over the ends of epochs and needs none.

    Where the batch size changes during training (`tfbatch.callbacks.BatchSizeScheduler`), x is
    counted piece by piece inside the graph:

        def examples(t):  # piece i begins with update t_i, after x_i examples
            i = max(i for i in pieces if t_i <= t)
            return x_i + (t - t_i) * B_i

    An optimizer made with a schedule refuses `optimizer.learning_rate = x`, so Keras's
    ReduceLROnPlateau and LearningRateScheduler cannot be combined with this class.

    Args:
        family: A file name in tfbatch/schedules, e.g. "cosine".
        learning_rate: The peak, after any scaling by the batch size. Positive.
        batch_size: Examples in one update (over all replicas); in one micro-step, which is the
            batch size of `fit`, where the optimizer has `gradient_accumulation_steps`: Keras reads
            a schedule at each. Positive integer; or (first example, batch size) pairs, as
            `BatchSizeScheduler.batch_sizes` has them.
        total_examples: Length of the whole training. Positive integer.
        warmup_examples: Length of the linear warm-up, in [0, total_examples]; 0 for a family that
            has its own ("one_cycle").
        warmup_start: The warm-up's first factor in [0, 1]; with 0 the first update uses
            `min(batch_size, warmup_examples) / warmup_examples`, so that it is not wasted.
        parameters: The family's parameters.
        piece_factors: What the learning rate is multiplied by in each piece of `batch_size`, as
            `BatchSizeScheduler.learning_rate` has it from a scaling rule. Default: 1.
        name: Name of the schedule.

    Raises:
        InputError: An unknown family or parameter, or a value out of its range.
    """

    def __init__(
        self,
        family: str,
        *,
        learning_rate: float,
        batch_size: int | BatchSizes | Iterable[Iterable[int]],
        total_examples: int,
        warmup_examples: int = 0,
        warmup_start: float = 0.0,
        parameters: Mapping[str, object] | None = None,
        piece_factors: Sequence[float] | None = None,
        name: str = "LearningRateInExamples",
    ):
        _require(learning_rate > 0, "`learning_rate` must be > 0", learning_rate=learning_rate)
        if isinstance(batch_size, int):
            _require(batch_size >= 1, "`batch_size` must be >= 1", batch_size=batch_size)
        _require(
            total_examples >= 1, "`total_examples` must be >= 1", total_examples=total_examples
        )
        _require(
            0 <= warmup_examples <= total_examples,
            "`0 <= warmup_examples <= total_examples` must hold",
            warmup_examples=warmup_examples,
            total_examples=total_examples,
        )
        _require(
            0 <= warmup_start <= 1, "`warmup_start` must be in [0, 1]", warmup_start=warmup_start
        )
        for key, number, remedy in (
            ("total_examples", total_examples, "epochs * examples_in_an_epoch"),
            ("warmup_examples", warmup_examples, "share * total_examples"),
        ):
            _require(
                float(number).is_integer(),
                f"`{key}` is a number of examples and must be whole: give round({remedy})",
                **{key: number},
            )
        super().__init__()
        self.family = family
        self.learning_rate = float(learning_rate)
        self.batch_sizes = BatchSizes.of(batch_size)
        self.batch_size = self.batch_sizes.pieces[0][1]
        self.piece_factors = _checked_factors(piece_factors, self.batch_sizes)
        self.total_examples = int(total_examples)
        self.warmup_examples = int(warmup_examples)
        self.warmup_start = float(warmup_start)
        self.parameters = dict(parameters or {})
        self.name = name
        self._given: Any = None
        self._shape = make_family(family, **self.parameters)
        _require(
            self.warmup_examples == 0 or not self._shape.own_warmup,
            f"The schedule {family} begins with a warm-up of its own: `warmup_examples` must be 0",
            warmup_examples=warmup_examples,
        )

    def __call__(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """The learning rate (float32 scalar) of the update number `step`, counted from 0."""
        with keras.name_scope(self.name):
            numbers = self._read()
            found = rate(
                self._shape,
                self._examples(step, numbers),
                numbers,
                warmup=warmup_kind(self.warmup_examples, self.warmup_start),
                ops=keras.ops,
            )
            return found if self.piece_factors is None else found * self._factor(step)

    @property
    def numbers(self) -> npt.NDArray[np.float32]:
        """All that it can differ in from a schedule of equal `form`, float32 [7]."""
        numbers = ScheduleNumbers.of(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            total_examples=self.total_examples,
            warmup_examples=self.warmup_examples,
            warmup_start=self.warmup_start,
        )
        return np.array(numbers, np.float32)

    @property
    def form(self) -> str:
        """Equal for schedules that are one computation, of other `numbers`."""
        several = len(self.batch_sizes.joints) > 1
        return repr(
            [
                self.family,
                self._shape.model_dump(),
                warmup_kind(self.warmup_examples, self.warmup_start),
                self.batch_sizes.joints if several else None,
                self.piece_factors,
            ]
        )

    def with_numbers(self, numbers: tf.Tensor) -> LearningRateInExamples:
        """The same form with its numbers read from a tensor, bit for bit as from its own.

        Args:
            numbers: float32 [7], as `numbers` gives them.
        """
        same = copy.copy(self)
        same._given = numbers
        return same

    def _read(self) -> ScheduleNumbers:
        if self._given is not None:
            return ScheduleNumbers(*tf.unstack(self._given))
        # Not constants: TensorFlow's graph rewriter would divide by them, or join two of them, in
        # its own way, and the same schedule would come to other last bits where they are inputs.
        own = tf.compat.v1.placeholder_with_default(self.numbers, [len(ScheduleNumbers._fields)])
        return ScheduleNumbers(*tf.unstack(own))

    @property
    def sets_momentum(self) -> bool:
        """Whether the family has a momentum of its own."""
        return self._shape.sets_momentum()

    def momentum(self, step: keras.KerasTensor) -> keras.KerasTensor | None:
        """The momentum (float32 scalar) of the update number `step`, or None.

        None for a family that leaves the momentum to the optimizer. No optimizer of Keras asks for
        it: see `tfbatch.callbacks.ScheduledMomentum`.
        """
        with keras.name_scope(self.name):
            numbers = self._read()
            progress = progress_of(self._examples(step, numbers), numbers, keras.ops)
            return self._shape.momentum(progress, keras.ops)

    def _examples(self, step: Any, numbers: ScheduleNumbers) -> Any:
        step = keras.ops.cast(step, "float32")
        joints = self.batch_sizes.joints
        if len(joints) == 1:
            return step * numbers.batch_size
        firsts, examples, sizes = np.array(joints, "float32").T
        piece = _piece(step, firsts)
        return _of(piece, examples) + (step - _of(piece, firsts)) * _of(piece, sizes)

    def _factor(self, step: Any) -> Any:
        # Per joint, not per piece: a piece without an update of its own is no joint.
        by_start = dict(zip(self.batch_sizes.pieces, self.piece_factors or (), strict=True))
        factors = [by_start[piece] for piece in self.batch_sizes.begun]
        firsts = np.array([joint[0] for joint in self.batch_sizes.joints], "float32")
        piece = _piece(keras.ops.cast(step, "float32"), firsts)
        return _of(piece, np.array(factors, "float32"))

    def get_config(self) -> dict[str, Any]:
        """Exactly the constructor's arguments."""
        return {
            "family": self.family,
            "learning_rate": self.learning_rate,
            "batch_size": self._written_batch_size(),
            "total_examples": self.total_examples,
            "warmup_examples": self.warmup_examples,
            "warmup_start": self.warmup_start,
            "parameters": dict(self.parameters),
            "piece_factors": list(self.piece_factors) if self.piece_factors else None,
            "name": self.name,
        }

    def _written_batch_size(self) -> int | list[list[int]]:
        pieces = self.batch_sizes.pieces
        return self.batch_size if len(pieces) == 1 else [list(piece) for piece in pieces]


def _piece(step: Any, firsts: Any) -> Any:
    """Which piece a step belongs to; `step` may be a scalar or an array."""
    begun = keras.ops.expand_dims(step, -1) >= firsts
    return keras.ops.sum(keras.ops.cast(begun, "int32"), axis=-1) - 1


def _of(piece: Any, values: Any) -> Any:
    return keras.ops.take(keras.ops.convert_to_tensor(values), piece)


def _checked_factors(
    factors: Sequence[float] | None, batch_sizes: BatchSizes
) -> tuple[float, ...] | None:
    if factors is None:
        return None
    _require(
        len(factors) == len(batch_sizes.pieces) and min(factors) > 0,
        "`piece_factors` must have one number > 0 for each piece of `batch_size`",
        piece_factors=factors,
        batch_size=list(batch_sizes.pieces),
    )
    return tuple(map(float, factors))


def _require(holds: bool, rule: str, **received: Any) -> None:
    if not holds:
        shown = ", ".join(f"{key}={value!r}" for key, value in received.items())
        raise InputError(f"{rule}. Received: {shown}.")
