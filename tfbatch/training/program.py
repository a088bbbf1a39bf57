"""A compiled model whose traced functions serve every trial of the same structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfbatch.accumulation import checked
from tfbatch.loss_scaling import unwrapped
from tfbatch.pipeline.device_data import Block, Chosen, HeldData, gives_chosen
from tfbatch.schedules import MomentumInExamples, momentum_attribute
from tfbatch.training.in_graph import (
    InGraphMomentum,
    InGraphNumber,
    LearningRateTable,
    can_vary,
    tabulate,
    tabulate_momentum,
)

if TYPE_CHECKING:
    import keras


class Program:
    """One compiled `keras.Model`, reused: tracing is most of what a short trial costs.

    Everything that differs between two trials of one program is a variable of its graph: weights,
    optimizer slots, metrics, random generators, the learning rate (a table over steps), the
    momentum (a table too where the schedule sets it), and the optimizer's other numbers. The batch
    dimension is free. `fit` and `evaluate` are Keras's own; only the functions that run several
    steps at once take their number as an argument: Keras's own keep the `steps_per_execution` that
    they were traced with, and would evaluate a part of a split.

    Args:
        model: A built, uncompiled model; it becomes the program's.
        optimizer: An optimizer like those of all its trials but for its numbers.
        numbers: Names of the optimizer's attributes that may differ between trials.
        compile_model: `compile_model(model, optimizer)`.
        held: Data in the device's memory, which the program's functions make their batches of; or
            None. They take batches of the host's too.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        numbers: Sequence[str],
        compile_model: Callable[[keras.Model, keras.optimizers.Optimizer], None],
        held: HeldData | None = None,
    ):
        self.model = model
        momentum = momentum_attribute(optimizer)
        self._numbers = {
            name: self._number(value, is_momentum=name == momentum)
            for name in dict.fromkeys([*numbers, *([momentum] if momentum else [])])
            if can_vary(value := _number_of(optimizer, name))
        }
        self._variables = weights_of(model)
        self._table = LearningRateTable()
        compile_model(model, optimizer)
        # A loss-scaling optimizer wraps the one that has the numbers.
        self._optimizer = unwrapped(model.optimizer)
        for name, number in self._numbers.items():
            setattr(self._optimizer, name, number)
        self._optimizer._learning_rate = self._table  # its setter refuses a change of kind
        model.optimizer.build(model.trainable_variables)
        # One that scales the loss makes new variables when it is built again, as is done before
        # weights are loaded; the traced functions know the first ones.
        model.optimizer.build = _already_built
        self._slots = [(v, v.numpy()) for v in model.optimizer.variables]
        self._own_functions = not tf.distribute.has_strategy() and not model.run_eagerly
        if self._own_functions:
            own = self._make_train_function(held)
            model.train_function = checked(model, own)
            # What measures the first batch must see it.
            held = held if model.train_function is own else None
            model.test_function = _TestFunction(self._make_test_function(held), held)

    def begin(
        self,
        fresh: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        steps: int,
        steps_per_execution: int,
        first_step: int = 0,
        last_step: int | None = None,
    ) -> keras.Model:
        """Makes the program's model what a fresh build would be, and returns it.

        Args:
            fresh: The trial's own build, of the same structure; only its values are used.
            optimizer: The trial's own optimizer; only its numbers and schedule are used.
            steps: Number of updates of the trial's schedule.
            steps_per_execution: Updates between two calls of the callbacks.
            first_step: Updates of it that were made before, of a training that is continued.
            last_step: Updates of it after which the trial ends. Default: all.
        """
        if fresh is not self.model:
            for own, value in zip(self._variables, weights_of(fresh), strict=True):
                own.assign(value)
        for variable, value in self._slots:
            variable.assign(value)
        for name, number in self._numbers.items():
            value = getattr(optimizer, name)
            if isinstance(number, InGraphMomentum) and isinstance(value, MomentumInExamples):
                number.assign_table(tabulate_momentum(value.schedule, steps))
            else:
                number.assign(value)
        self._table.assign(tabulate(optimizer._learning_rate, steps))
        self._optimizer.get_config = optimizer.get_config  # a user's callback may save the model
        self.model.reset_metrics()
        self.model.predict_function = None  # the number of steps at once is part of Keras's own
        if not self._own_functions and self.model.steps_per_execution != steps_per_execution:
            self.model.train_function = self.model.test_function = None
        self.model.steps_per_execution = steps_per_execution
        self.model.stop_training = False
        self._left = (steps if last_step is None else last_step) - first_step
        return self.model

    def _number(self, value: float, *, is_momentum: bool) -> InGraphNumber | InGraphMomentum:
        if is_momentum:
            return InGraphMomentum(
                value, step=lambda: self._table.update_of(self._optimizer._iterations)
            )
        return InGraphNumber(value)

    def _make_train_function(self, held: HeldData | None) -> Any:
        model = self.model
        one_step = tf.function(
            model.train_step, reduce_retracing=True, jit_compile=model.jit_compile, autograph=False
        )

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def several_steps(iterator: Any, count: tf.Tensor) -> Any:
            logs = one_step(next(iterator))
            for _ in tf.range(count - 1):
                logs = one_step(next(iterator))
            return logs

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def steps_of_one_element(iterator: Any) -> Any:
            block = _block(held, next(iterator))
            logs = one_step(block.batch(0))
            for step in tf.range(1, block.steps):
                logs = one_step(block.batch(step))
            return logs

        def train_function(iterator: Any) -> Any:
            if gives_chosen(iterator):
                return steps_of_one_element(iterator)
            count = min(model.steps_per_execution, self._left)
            self._left -= count
            return several_steps(iterator, tf.constant(count))

        return train_function

    def _make_test_function(self, held: HeldData | None) -> Any:
        model = self.model
        one_step = tf.function(
            model.test_step, reduce_retracing=True, jit_compile=model.jit_compile, autograph=False
        )

        def batch_of(element: Any) -> Any:
            return _block(held, element).batch(0) if isinstance(element, Chosen) else element

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def several_steps(iterator: Any, count: tf.Tensor) -> Any:
            logs = one_step(batch_of(next(iterator)))
            for _ in tf.range(count - 1):
                batch = iterator.get_next_as_optional()
                if batch.has_value():  # a split is rarely a whole number of executions
                    logs = one_step(batch_of(batch.get_value()))
            return logs

        def test_function(iterator: Any) -> Any:
            try:
                return several_steps(iterator, tf.constant(model.steps_per_execution))
            except tf.errors.OutOfRangeError as error:  # a data set that does not say its length
                raise StopIteration from error

        return test_function


@dataclasses.dataclass(frozen=True, eq=False)
class _TestFunction:
    """A program's test function, and the data that it and the train function make batches of."""

    run: Callable[[Any], Any]
    held: HeldData | None

    def __call__(self, iterator: Any) -> Any:
        return self.run(iterator)


def held_by(model: keras.Model) -> HeldData | None:
    """The data in the device's memory that a program makes its batches of, or None.

    Args:
        model: A compiled model, a program's or another.
    """
    function = model.test_function
    return function.held if isinstance(function, _TestFunction) else None


def _block(held: HeldData | None, chosen: Chosen) -> Block:
    if held is None:
        raise RuntimeError("the data is on the host, and so must be the batches that are given")
    return held.block(chosen)


def weights_of(model: keras.Model) -> list[keras.Variable]:
    """Every variable of a model but those of its metrics, which a compiled build has already."""
    metrics = {id(variable) for variable in model.metrics_variables} if model.compiled else set()
    return [variable for variable in model.variables if id(variable) not in metrics]


def _number_of(optimizer: Any, name: str) -> Any:
    """An optimizer's number; the first one of a momentum that a schedule sets."""
    value = getattr(optimizer, name)
    return float(value) if isinstance(value, MomentumInExamples) else value


def _already_built(variables: Any) -> None:
    del variables
