"""A learning-rate range test in anybody's `fit`, which leaves the model as it was."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from tfbatch.callbacks._sweep import Sweep, SweptLosses
from tfbatch.errors import InputError
from tfbatch.estimators.range_test import (
    FEWEST_STEPS,
    RangeTest,
    divergence_bar,
    read_range_test,
)
from tfbatch.loss_scaling import unwrapped


class LearningRateRangeTest(SweptLosses):
    """Raises the learning rate from update to update, reads the losses, and restores everything.

    After Smith 2015 (arXiv 1506.01186). `fit` ends when the loss has diverged or the sweep is
    done. Then weights, optimizer (its learning rate or schedule, its moments, its iterations),
    moving statistics and random generators are what they were before. The optimizer's schedule is
    out of effect meanwhile. The losses are those of single executions; `History` and the progress
    bar show the last one's instead of the epoch's mean.

    A test of one seed is a hint: `doubts` says why not to trust it, and `result.suggestions` what
    each rule (tfbatch.estimators.range_test) suggests. `fit` is traced anew when it begins and
    once more in the next `fit`.

    If `fit` itself raises (an interrupt, memory that runs out, data that breaks off), Keras tells
    no callback. So use it in a `with` statement, which restores then too, or call `restore`; the
    next `fit` with the same callback restores first.

    Example:
        ```python
        with tfbatch.callbacks.LearningRateRangeTest() as test:
            model.fit(data, epochs=3, callbacks=[test])
        print(test.suggestion, test.doubts)
        ```

    Args:
        lowest: Learning rate of the first update, > 0.
        highest: Learning rate of the last one, > `lowest`.
        steps: Updates of the sweep; None for all that `fit` was asked for. A model compiled with
            `steps_per_execution=k` gives a loss for every k of them: at least 20 are needed.

    Attributes:
        suggestion: Learning rate, the geometric median of the rules; None if nothing was found.
        doubts: Why not to trust it.
        result: The RangeTest; None if `fit` ended too soon.
        learning_rates: [executions] what was tried.
        losses: [executions] the loss of each, not finite at the end of one that overflowed.

    Raises:
        InputError: Rates out of order, fewer than 20 steps. At the beginning of `fit`: the number
            of its steps is unknown, or too small.
    """

    def __init__(self, lowest: float = 1e-6, highest: float = 10.0, *, steps: int | None = None):
        super().__init__()
        if not 0 < lowest < highest < math.inf:
            raise InputError(
                f"`lowest` must be > 0 and less than `highest`. Received: {lowest=}, {highest=}."
            )
        if steps is not None and steps < FEWEST_STEPS:
            raise InputError(f"`steps` must be >= {FEWEST_STEPS}. Received: {steps=}.")
        self.lowest, self.highest, self.steps = lowest, highest, steps
        self._sweep: Sweep | None = None
        self._swept: Any = None
        self._forget()

    def _forget(self) -> None:
        self.suggestion: float | None = None
        self.doubts: tuple[str, ...] = ()
        self.result: RangeTest | None = None
        self.learning_rates: list[float] = []
        self.losses: list[float] = []
        self.diverged = False
        self._before: list[Any] = []
        self._own: Any = None
        self._done = self._steps_before = 0

    def __enter__(self) -> LearningRateRangeTest:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Restores what a `fit` that raised has left."""
        self.restore()

    def restore(self) -> None:
        """Puts the model back to what it was before a `fit` that raised; else does nothing.

        Training after that `fit` is undone too. Not to be called while `fit` runs.
        """
        if self._swept is None:
            return
        model, self._swept, self._sweep = self._swept, None, None
        _inner(model)._learning_rate = self._own
        for variable, value in zip(_variables(model), self._before, strict=True):
            variable.assign(value)
        model.train_function = None
        model.reset_metrics()
        self._before, self._own = [], None

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes everything and puts the sweep in place of the learning rate."""
        self.restore()
        self._forget()
        steps = self._number_of_steps()
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._before = [_copied(variable) for variable in _variables(self.model)]
        begin = int(_copied(optimizer.iterations))
        self._sweep = Sweep(self.lowest, self.highest, steps=steps, begin=begin)
        inner = _inner(self.model)
        self._own = inner._learning_rate
        self._swept = self.model
        inner._learning_rate = self._sweep
        self.model.make_train_function(force=True)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the epoch starts."""
        self._steps_before = self._done

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the loss; the rate of an execution is the geometric mean over its updates."""
        if self._sweep is None or self._done >= self._sweep.steps:
            return
        first, self._done = self._done, self._steps_before + batch + 1
        self.learning_rates.append(self._sweep.rate((first + self._done - 1) / 2))
        super().on_train_batch_end(batch, logs)
        if self._done >= self._sweep.steps:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        """Puts everything back and reads the curve."""
        sweep = self._sweep
        if sweep is not None:
            self.restore()
            self._read(sweep)

    def _number_of_steps(self) -> int:
        an_epoch = self.params.get("steps")
        asked = an_epoch * self.params["epochs"] if an_epoch else None
        steps = self.steps or asked
        if steps is None:
            raise InputError(
                "LearningRateRangeTest must know the number of steps, and the data's length is "
                "unknown. Give `steps`, or `steps_per_epoch` to fit."
            )
        points = min(steps, asked or steps) // self.model.steps_per_execution
        if points < FEWEST_STEPS:
            raise InputError(
                f"LearningRateRangeTest needs at least {FEWEST_STEPS} losses. Received: a fit of "
                f"{asked} steps, steps_per_execution={self.model.steps_per_execution}, "
                f"steps={self.steps}. Train for more epochs or with smaller batches."
            )
        return int(steps)

    def _read(self, sweep: Sweep) -> None:
        rates, losses = list(self.learning_rates), list(self.losses)
        if self.diverged:  # so do the last losses, and what the sweep would have tried next
            bar = divergence_bar(losses)
            for index in reversed(range(1, len(losses))):
                if losses[index] <= bar:
                    break
                losses[index] = math.nan
            factor = (sweep.highest / sweep.lowest) ** (1 / (sweep.steps - 1))
            for _ in range(max(1, FEWEST_STEPS - len(rates))):
                rates.append(rates[-1] * factor)
                losses.append(math.nan)
        if len(rates) < FEWEST_STEPS or not math.isfinite(losses[0]):
            self.doubts = (f"fit ended after {self._done} of {sweep.steps} steps",)
            return
        self.result = read_range_test(rates, [losses])
        self.suggestion, self.doubts = self.result.learning_rate, self.result.doubts
        if not self.diverged and self._done < sweep.steps:
            self.doubts += (f"fit ended after {self._done} of {sweep.steps} steps",)


def _variables(model: keras.Model) -> list[Any]:
    found = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def _inner(model: keras.Model) -> Any:
    """The optimizer itself, where another wraps it to scale the loss."""
    return unwrapped(model.optimizer)


def _copied(variable: Any) -> Any:
    """As numpy, also of a variable that is mirrored over devices."""
    return np.array(keras.ops.convert_to_numpy(variable))
