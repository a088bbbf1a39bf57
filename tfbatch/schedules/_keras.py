"""The one native Keras class of all schedule families: it turns steps into examples."""

from __future__ import annotations

from typing import Any

import keras

from tfbatch.errors import InputError
from tfbatch.schedules import make_family
from tfbatch.schedules._family import progress_at, value


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

    An optimizer made with a schedule refuses `optimizer.learning_rate = x`, so Keras's
    ReduceLROnPlateau and LearningRateScheduler cannot be combined with this class.

    Args:
        family: A file name in tfbatch/schedules, e.g. "cosine".
        learning_rate: The peak, after any scaling by the batch size. Positive.
        batch_size: Examples in one update (over all replicas). Positive integer.
        total_examples: Length of the whole training. Positive integer.
        warmup_examples: Length of the linear warm-up, in [0, total_examples]; 0 for a family that
            has its own ("one_cycle").
        warmup_start: The warm-up's first factor in [0, 1]; with 0 the first update uses
            `min(batch_size, warmup_examples) / warmup_examples`, so that it is not wasted.
        parameters: The family's parameters.
        name: Name of the schedule.

    Raises:
        InputError: An unknown family or parameter, or a value out of its range.
    """

    def __init__(
        self,
        family: str,
        *,
        learning_rate: float,
        batch_size: int,
        total_examples: int,
        warmup_examples: int = 0,
        warmup_start: float = 0.0,
        parameters: dict[str, Any] | None = None,
        name: str = "LearningRateInExamples",
    ):
        _require(learning_rate > 0, "`learning_rate` must be > 0", learning_rate=learning_rate)
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
        super().__init__()
        self.family = family
        self.learning_rate = float(learning_rate)
        self.batch_size = int(batch_size)
        self.total_examples = int(total_examples)
        self.warmup_examples = int(warmup_examples)
        self.warmup_start = float(warmup_start)
        self.parameters = dict(parameters or {})
        self.name = name
        self._shape = make_family(family, **self.parameters)
        _require(
            self.warmup_examples == 0 or not self._shape.own_warmup,
            f"The schedule {family} begins with a warm-up of its own: `warmup_examples` must be 0",
            warmup_examples=warmup_examples,
        )

    def __call__(self, step: Any) -> Any:
        """The learning rate (float32 scalar) of the update number `step`, counted from 0."""
        with keras.name_scope(self.name):
            return value(
                self._shape,
                self._examples(step),
                learning_rate=self.learning_rate,
                batch_size=self.batch_size,
                total_examples=self.total_examples,
                warmup_examples=self.warmup_examples,
                warmup_start=self.warmup_start,
                ops=keras.ops,
            )

    @property
    def sets_momentum(self) -> bool:
        """Whether the family has a momentum of its own."""
        return self._shape.sets_momentum()

    def momentum(self, step: Any) -> Any:
        """The momentum (float32 scalar) of the update number `step`, or None.

        None for a family that leaves the momentum to the optimizer. No optimizer of Keras asks for
        it: see `tfbatch.callbacks.ScheduledMomentum`.
        """
        with keras.name_scope(self.name):
            progress = progress_at(
                self._examples(step),
                total_examples=self.total_examples,
                warmup_examples=self.warmup_examples,
                ops=keras.ops,
            )
            return self._shape.momentum(progress, keras.ops)

    def _examples(self, step: Any) -> Any:
        return keras.ops.cast(step, "float32") * self.batch_size

    def get_config(self) -> dict[str, Any]:
        """Exactly the constructor's arguments."""
        return {
            "family": self.family,
            "learning_rate": self.learning_rate,
            "batch_size": self.batch_size,
            "total_examples": self.total_examples,
            "warmup_examples": self.warmup_examples,
            "warmup_start": self.warmup_start,
            "parameters": dict(self.parameters),
            "name": self.name,
        }


def _require(holds: bool, rule: str, **received: Any) -> None:
    if not holds:
        shown = ", ".join(f"{key}={value!r}" for key, value in received.items())
        raise InputError(f"{rule}. Received: {shown}.")
