"""An optimizer's momentum that follows the schedule of its learning rate, inside the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from tfbatch.errors import InputError
from tfbatch.loss_scaling import unwrapped
from tfbatch.schedules._keras import LearningRateInExamples


class MomentumInExamples(float):
    """A momentum that is computed anew from `optimizer.iterations` wherever it is used.

    To Keras's checks and to a saved model it is the optimizer's own momentum, a float; in every
    calculation and conversion it is the schedule's, at the step that the optimizer is at. So a
    traced training needs no other trace when it changes, also inside `steps_per_execution`.
    (Adam corrects its bias with the present beta_1, as PyTorch's does.)
    """

    def __new__(cls, own: float, schedule: LearningRateInExamples, optimizer: Any) -> Any:
        """`own` is what Keras's checks and a saved model see."""
        number = super().__new__(cls, own)
        number.schedule = schedule
        number._optimizer = optimizer
        return number

    dtype = "float32"  # Keras takes the class for the name of a dtype where there is none
    schedule: LearningRateInExamples
    _optimizer: keras.optimizers.Optimizer

    def at(self, step: keras.KerasTensor) -> keras.KerasTensor:
        """The momentum of an update, a float32 scalar."""
        return self.schedule.momentum(step)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Any:
        """TensorFlow's protocol: what `tf.convert_to_tensor` returns for it."""
        # Keras calls the learning rate's schedule with this one too, not with `iterations`.
        value = self.at(self._optimizer._iterations)
        return value if dtype is None else keras.ops.cast(value, dtype.name)

    def __reduce__(self) -> Any:
        """A copy belongs to no optimizer: it is the plain number."""
        return float, (float(self),)


def _computed(operator: str) -> Callable[..., Any]:
    """An operator of the number's tensor: float's own would take the optimizer's constant."""

    def method(self: MomentumInExamples, *others: Any) -> Any:
        return getattr(self.__tf_tensor__(), operator)(*others)

    return method


for _name in ("add", "sub", "mul", "truediv", "pow"):
    for _operator in (f"__{_name}__", f"__r{_name}__"):
        setattr(MomentumInExamples, _operator, _computed(_operator))
MomentumInExamples.__neg__ = _computed("__neg__")  # type: ignore[method-assign]


def momentum_attribute(optimizer: keras.optimizers.Optimizer) -> str | None:
    """Which attribute of a Keras optimizer is its momentum: "momentum", "beta_1", or none."""
    return next((name for name in ("momentum", "beta_1") if hasattr(optimizer, name)), None)


def follow_momentum(optimizer: keras.optimizers.Optimizer) -> MomentumInExamples | None:
    """Gives an optimizer the momentum of its learning rate's schedule, if that sets one.

    Call it before the training is traced. `optimizer.momentum` (or `beta_1`) is then a
    MomentumInExamples; assigning the float of it ends it.

    Args:
        optimizer: A Keras optimizer, or one that wraps another for loss scaling.

    Returns:
        What was put in place, or None for a schedule that leaves the momentum alone.

    Raises:
        InputError: The schedule sets the momentum, and the optimizer has none or was made without.
    """
    inner = unwrapped(optimizer)
    schedule = inner._learning_rate
    if not isinstance(schedule, LearningRateInExamples) or not schedule.sets_momentum:
        return None
    name = momentum_attribute(inner)
    own = getattr(inner, name) if name else 0.0
    if not own:
        received = f"{name}={own!r}" if name else "no `momentum` and no `beta_1`"
        raise InputError(
            f"The schedule {schedule.family} sets the momentum: the optimizer must be made with "
            "one that is not 0, or the schedule with `cycle_momentum` false. "
            f"Received: {type(inner).__name__} with {received}."
        )
    number: MomentumInExamples = MomentumInExamples(float(own), schedule, inner)
    setattr(inner, name, number)  # type: ignore[arg-type]
    return number
