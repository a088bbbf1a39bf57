"""Numbers that a traced program reads from variables, so that a trial changes them untraced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.schedules import LearningRateInExamples

_ONE_BY_ONE = 100_000
_LEAST = 4096
"""Entries of the shortest table: XLA compiles a training step anew for every other length."""


class InGraphNumber:
    """A number of an optimizer, such as its beta_2, held in a variable.

    It does what the update steps of Keras's optimizers do with one: conversion to a tensor, a
    difference from 1, a product, a quotient, and the question whether it is above zero. The
    difference is kept as a second variable: computed in float32 inside the graph it would differ
    from Keras's own, which is computed in float64, in the last bits.

    Args:
        value: The first value, > 0, as all later ones: whether there is a momentum, a weight decay
            or a bound on the gradient is part of the graph; see `can_vary`.
    """

    def __init__(self, value: float):
        self._value = tf.Variable(value, trainable=False, dtype=tf.float32)
        self._complement = tf.Variable(1.0 - value, trainable=False, dtype=tf.float32)

    def assign(self, value: float) -> None:
        """Gives it another value."""
        self._value.assign(value)
        self._complement.assign(1.0 - value)

    def _read(self, variable: tf.Variable) -> tf.Tensor:
        return tf.convert_to_tensor(variable)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        """TensorFlow's protocol: what `tf.convert_to_tensor` returns for it."""
        return tf.convert_to_tensor(self._read(self._value), dtype=dtype, name=name)

    def __rsub__(self, other: float) -> tf.Tensor:
        """`1 - number`."""
        if other != 1:
            return other - self._read(self._value)
        return self._read(self._complement)

    def __sub__(self, other: float) -> tf.Tensor:
        """`number - 1`."""
        return -self.__rsub__(other)

    def __mul__(self, other: Any) -> tf.Tensor:
        """`number * x`."""
        return self._read(self._value) * other

    __rmul__ = __mul__

    def __rtruediv__(self, other: float) -> tf.Tensor:
        """`1 / number`."""
        return other / self._read(self._value)

    def __gt__(self, other: float) -> bool:
        """`number > 0`: it is, as long as the program lives."""
        if other != 0:
            raise NotImplementedError(f"a graph cannot depend on whether a number is above {other}")
        return True

    def __float__(self) -> float:
        """The value now."""
        return float(self._read(self._value).numpy())


class InGraphMomentum(InGraphNumber):
    """A momentum in variables: one number, or one for every step.

    Args:
        value: The first value.
        step: Gives the number of the update that is computed.
    """

    def __init__(self, value: float, *, step: Callable[[], keras.KerasTensor]):
        self._step = step
        self._value = _variable_table(value)
        self._complement = _variable_table(1.0 - value)

    def assign(self, value: float) -> None:
        """Gives it another value for all steps."""
        self._value.assign([value] * _LEAST)
        self._complement.assign([1.0 - value] * _LEAST)

    def assign_table(self, values: tf.Tensor) -> None:
        """Gives it a value for each step, float32 [steps]."""
        self._value.assign(_padded(values))
        # in float32, as a momentum in a graph does
        self._complement.assign(_padded(1.0 - values))

    def _read(self, variable: tf.Variable) -> tf.Tensor:
        return _at(variable, self._step())


def can_vary(value: object) -> bool:
    """Whether a number may be a variable of a graph; what is zero, None or a choice is part of it.

    (A momentum of zero has no slots.)
    """
    return isinstance(value, float) and value > 0


class LearningRateTable(keras.optimizers.schedules.LearningRateSchedule):  # type: ignore[misc]
    """A learning rate for every step, read in-graph from a variable of any length."""

    def __init__(self) -> None:
        super().__init__()
        self._table = _variable_table(0.0)
        self._first = tf.Variable(0, trainable=False, dtype=tf.int64)

    def assign(self, learning_rates: tf.Tensor) -> None:
        """Replaces the table by float32 [steps]; it begins with the optimizer's first update."""
        self._table.assign(_padded(learning_rates))
        self.begin_at(0)

    def begin_at(self, iterations: int) -> None:
        """Sets which of the optimizer's updates the table begins with: a branch's are not new."""
        self._first.assign(iterations)

    def update_of(self, iterations: keras.Variable) -> tf.Tensor:
        """The number of an optimizer's update in the table, int64."""
        return tf.cast(iterations, tf.int64) - self._first

    def __call__(self, step: keras.KerasTensor) -> tf.Tensor:
        """The learning rate of an update; before and past the table, its first and last one."""
        return _at(self._table, self.update_of(step))

    def get_config(self) -> dict[str, Any]:
        """Nothing: a program's optimizer reports the trial's own schedule instead."""
        return {}


def _variable_table(value: float) -> tf.Variable:
    """A table that may get any length."""
    shape = tf.TensorShape([None])
    return tf.Variable([value] * _LEAST, trainable=False, shape=shape, dtype=tf.float32)


def _padded(values: tf.Tensor) -> np.ndarray:
    """Float32 [steps >= 1] with its last entry repeated, so that few lengths occur.

    The length of a variable's value is part of the key of what XLA has compiled.
    """
    steps = len(values)
    length = max(_LEAST, 1 << (steps - 1).bit_length())
    return np.pad(np.asarray(values), (0, length - steps), mode="edge")


def _at(table: tf.Variable, step: Any) -> tf.Tensor:
    """The entry of a step; before and past the table, its first and last one."""
    values = tf.convert_to_tensor(table)
    last = tf.shape(values, tf.int64)[0] - 1
    return tf.gather(values, tf.clip_by_value(tf.cast(step, tf.int64), 0, last))


def tabulate(schedule: LearningRateInExamples, steps: int) -> tf.Tensor:
    """The learning rate of every step, float32 [steps], by calling the schedule.

    Called step by step inside a graph the values are bit for bit those that an optimizer would
    compute in its own graph; called on all steps at once, cosines differ in the last bit. That is
    accepted only for very long trainings. One trace serves all schedules of a form.

    Args:
        schedule: The schedule.
        steps: Number of steps.
    """
    return _tabulate(schedule, "__call__", steps)


def tabulate_momentum(schedule: LearningRateInExamples, steps: int) -> tf.Tensor:
    """The momentum of every step, float32 [steps]; see `tabulate`."""
    return _tabulate(schedule, "momentum", steps)


def _tabulate(schedule: LearningRateInExamples, method: str, steps: int) -> tf.Tensor:
    at_once = steps > _ONE_BY_ONE
    key = (schedule.form, method, at_once)
    if key not in _TABLES:
        _TABLES[key] = _traced(schedule, method, at_once=at_once)
        while len(_TABLES) > _MOST_TABLES:
            _TABLES.pop(next(iter(_TABLES)))
    with tf.device("CPU:0"):
        return _TABLES[key](tf.constant(steps, tf.int64), tf.constant(schedule.numbers))


_TABLES: dict[tuple[str, str, bool], Callable[[tf.Tensor, tf.Tensor], tf.Tensor]] = {}
_MOST_TABLES = 64


def _traced(
    schedule: LearningRateInExamples, method: str, *, at_once: bool
) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    numbers = tf.TensorSpec(schedule.numbers.shape, tf.float32)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([], tf.int64), numbers])  # type: ignore[untyped-decorator]
    def table(steps: tf.Tensor, numbers: tf.Tensor) -> tf.Tensor:
        compute = getattr(schedule.with_numbers(numbers), method)

        def at(step: tf.Tensor) -> tf.Tensor:
            return tf.cast(compute(step), tf.float32)

        every = tf.range(steps, dtype=tf.int64)
        return at(every) if at_once else tf.map_fn(at, every, fn_output_signature=tf.float32)

    traced: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] = table
    return traced
