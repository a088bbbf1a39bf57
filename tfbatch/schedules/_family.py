"""What every schedule family is: parameters and one pure function."""

from __future__ import annotations

from abc import abstractmethod
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from tfbatch.schema import Strict

if TYPE_CHECKING:
    import keras

Values: TypeAlias = "float | npt.NDArray[np.float64] | keras.KerasTensor"
"""A number, or an array or a tensor of them."""
ROUNDING = 1e-6
"""How far before a joint of a schedule `progress` counts as having reached it.

Progress is computed in float32: at the very update that a joint falls on, it may come out a
rounding too small, and a drop or a restart would be one update late for some batch sizes only.
"""


class ScheduleFamily(Strict):
    """The shape of a learning-rate schedule, without its peak, its length and its warm-up.

    A family knows neither TensorFlow nor the batch size: `ops` is the array namespace that
    computes it, `numpy` in closed-form tests and plots, `keras.ops` inside a training step.

    Attributes:
        rises: Whether the factor rises anywhere.
        own_warmup: Whether it begins below the peak. Such a family refuses a warm-up in front of
            it, which would climb to the peak, fall, and climb again.
    """

    rises: ClassVar[bool] = False
    own_warmup: ClassVar[bool] = False

    @abstractmethod
    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """Fraction of the peak learning rate.

        Args:
            progress: Share of the training after the warm-up that is done, in [0, 1]; a scalar or
                an array.
            ops: `numpy` or `keras.ops`.

        Returns:
            Numbers of the shape of `progress`.
        """

    def momentum(self, progress: Values, ops: ModuleType) -> Values | None:
        """Momentum (Adam's beta_1) that goes with the learning rate; None leaves the optimizer's.

        Args:
            progress: As for `factor`; 0 during a warm-up.
            ops: `numpy` or `keras.ops`.

        Returns:
            Numbers in (0, 1) of the shape of `progress`, or None for every progress alike.
        """
        del progress, ops
        return None

    def sets_momentum(self) -> bool:
        """Whether `momentum` gives one."""
        return self.momentum(np.zeros(()), np) is not None


def value(
    family: ScheduleFamily,
    examples: Values,
    *,
    learning_rate: float,
    batch_size: int,
    total_examples: int,
    warmup_examples: int = 0,
    warmup_start: float = 0.0,
    ops: ModuleType,
) -> Values:
    """The learning rate for an update before which `examples` examples were seen.

        def value(x):                                        # p peak, W warm-up, X total
            if x < W:
                if x == 0 and warmup_start == 0:
                    return p * min(B, W) / W                 # step 0 is not wasted
                return p * (warmup_start + (1 - warmup_start) * x / W)
            return p * factor(min((x - W) / (X - W), 1))

    Args:
        family: The shape after the warm-up.
        examples: Number of examples seen before the update; a scalar or an array.
        learning_rate: The peak p.
        batch_size: B, used only for the very first update of a warm-up from zero.
        total_examples: X, the length of the whole training.
        warmup_examples: W.
        warmup_start: First factor of the warm-up, in [0, 1].
        ops: `numpy` or `keras.ops`.
    """
    numbers = ScheduleNumbers.of(
        learning_rate=learning_rate,
        batch_size=batch_size,
        total_examples=total_examples,
        warmup_examples=warmup_examples,
        warmup_start=warmup_start,
    )
    warmup = warmup_kind(warmup_examples, warmup_start)
    return rate(family, examples, numbers, warmup=warmup, ops=ops)


Warmup = Literal["none", "from zero", "from above"]


def warmup_kind(warmup_examples: int, warmup_start: float) -> Warmup:
    """What of a warm-up is no number: it decides which operations there are."""
    if warmup_examples == 0:
        return "none"
    return "from zero" if warmup_start == 0.0 else "from above"


class ScheduleNumbers(NamedTuple):
    """All that two schedules of one family, parameters and kind of warm-up can differ in.

    Python's numbers, or scalars that a graph reads.

    Attributes:
        learning_rate: The peak.
        batch_size: Examples in an update.
        warmup_examples: Length of the warm-up.
        decay_examples: Length of what comes after it, at least 1.
        warmup_start: First factor of the warm-up.
        warmup_rise: 1 - `warmup_start`.
        first_factor: That of the very first update of a warm-up from zero.
    """

    learning_rate: Values
    batch_size: Values
    warmup_examples: Values
    decay_examples: Values
    warmup_start: Values
    warmup_rise: Values
    first_factor: Values

    @classmethod
    def of(
        cls,
        *,
        learning_rate: float,
        batch_size: int,
        total_examples: int,
        warmup_examples: int,
        warmup_start: float,
    ) -> ScheduleNumbers:
        """From the arguments of `value`."""
        return cls(
            learning_rate,
            batch_size,
            warmup_examples,
            max(total_examples - warmup_examples, 1),
            warmup_start,
            1.0 - warmup_start,
            min(batch_size, warmup_examples) / warmup_examples if warmup_examples else 1.0,
        )


def rate(
    family: ScheduleFamily,
    examples: Values,
    numbers: ScheduleNumbers,
    *,
    warmup: Warmup,
    ops: ModuleType,
) -> Values:
    """The learning rate of `value`, from numbers that need not be known yet."""
    decayed = numbers.learning_rate * family.factor(progress_of(examples, numbers, ops), ops)
    if warmup == "none":
        return decayed
    factor = numbers.warmup_start + numbers.warmup_rise * examples / numbers.warmup_examples
    if warmup == "from zero":
        factor = ops.where(examples == 0, numbers.first_factor, factor)
    return ops.where(examples < numbers.warmup_examples, numbers.learning_rate * factor, decayed)


def progress_of(examples: Values, numbers: ScheduleNumbers, ops: ModuleType) -> Values:
    """Share of the training after the warm-up that is done, in [0, 1]."""
    return ops.clip((examples - numbers.warmup_examples) / numbers.decay_examples, 0.0, 1.0)
