"""A learning-rate range test in anybody's `fit`, which leaves the model as it was."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from tfbatch.callbacks._learning_rate import check_one_rate
from tfbatch.callbacks._steps import CountsSteps, schedule_step
from tfbatch.callbacks._sweep import Sweep, SweptLosses, loss_in
from tfbatch.callbacks._watched_input import make_train_function_anew
from tfbatch.errors import InputError
from tfbatch.estimators.range_test import (
    FEWEST_STEPS,
    ConstantRate,
    ConstantRates,
    RangeTest,
    best_rate,
    divergence_bar,
    doubts_of_constant_rates,
    has_diverged,
    largest_held_rate,
    read_range_test,
)
from tfbatch.loss_scaling import unwrapped


class LearningRateRangeTest(CountsSteps, SweptLosses):
    """Raises the learning rate from update to update, reads the losses, and restores everything.

    After Smith 2015 (arXiv 1506.01186). `fit` ends when the loss has diverged or the sweep is
    done. Then weights, optimizer (its learning rate or schedule, its moments, its iterations),
    moving statistics and random generators are what they were before. The optimizer's schedule is
    out of effect meanwhile. The losses are those of single executions; `History` and the progress
    bar show the last one's instead of the epoch's mean.

    A sweep is soon past each rate, and a training diverges at smaller ones. So where the sweep has
    diverged or climbed and `fit` was asked for more updates than `steps`, trainings of `steps`
    updates at constant rates follow on the next batches, each from the same weights and half the
    rate of the one before, until one holds and a smaller one ends no lower. The suggestion is then
    the one that ended lowest: give `steps` a fifth of what `fit` is asked for.

    A test of one seed is a hint: `doubts` says why not to trust it, and `result.suggestions` what
    each rule (tfbatch.estimators.range_test) suggests. `fit` is traced anew when it begins and
    once more in the next `fit`.

    If `fit` itself raises (an interrupt, memory that runs out, data that breaks off), Keras tells
    no callback. So use it in a `with` statement, which restores then too, or call `restore`; the
    next `fit` with the same callback restores first. A callback that stands behind it in `fit` and
    sets weights at the end, as EarlyStopping(restore_best_weights=True) does, has the last word:
    the end of the `with` statement puts the weights back once more, where nothing was trained
    since: weights that are set after `fit` inside the `with` statement are taken back too. Without
    `with`, list this callback last.

    Example:
        ```python
        with tfbatch.callbacks.LearningRateRangeTest() as test:
            model.fit(data, epochs=3, callbacks=[test])
        print(test.suggestion, test.limit, test.doubts)
        ```

    Args:
        lowest: Learning rate of the first update, > 0.
        highest: Learning rate of the last one, > `lowest`.
        steps: Updates of the sweep; None for all that `fit` was asked for. A model compiled with
            `steps_per_execution=k` gives a loss for every k of them: at least 20 are needed.

    Attributes:
        suggestion: Learning rate: the constant one that ended lowest, else the geometric median of
            the rules; None if nothing was found, or only what is no smaller than a constant rate
            that did not hold.
        limit: The largest rate that held for `steps` updates; None if none was tried or held.
        constant: The trainings at constant rates, descending.
        doubts: Why not to trust it.
        result: The RangeTest; None if `fit` ended too soon.
        learning_rates: [executions] what was tried.
        losses: [executions] the loss of each, not finite at the end of one that overflowed.

    Raises:
        InputError: Rates out of order, fewer than 20 steps. At the beginning of `fit`: the number
            of its steps is unknown, or too small; a model without weights, as one is that `fit`
            itself would build; several optimizers, which have several learning rates. After the
            first execution: a `train_step` that logs no `loss`.
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
        self._is_entered = False
        self._ended: _Ended | None = None
        self._forget()

    def _forget(self) -> None:
        self.suggestion: float | None = None
        self.limit: float | None = None
        self.constant: tuple[ConstantRate, ...] = ()
        self.doubts: tuple[str, ...] = ()
        self.result: RangeTest | None = None
        self.learning_rates: list[float] = []
        self.losses: list[float] = []
        self.diverged = False
        self._before: list[Any] = []
        self._own: Any = None
        self._done = self._steps_before = self._begin_of_hold = self._at = 0
        self._is_over = False
        self._asked: int | None = None
        self._rates: ConstantRates | None = None
        self._held_losses: list[float] = []

    def __enter__(self) -> LearningRateRangeTest:
        """Itself."""
        self._is_entered = True
        return self

    def __exit__(self, *_: object) -> None:
        """Restores what a `fit` that raised has left, or a callback that stood behind this one."""
        self.restore()
        if self._ended is not None:
            self._ended.put_back()
        self._is_entered, self._ended = False, None

    def restore(self) -> None:
        """Puts the model back to what it was before a `fit` that raised; else does nothing.

        Training after that `fit` is undone too. Not to be called while `fit` runs.
        """
        if self._swept is None:
            return
        model, self._swept, self._sweep = self._swept, None, None
        _inner(model)._learning_rate = self._own
        _assign(model, self._before)
        model.train_function = None
        model.reset_metrics()
        self._before, self._own = [], None

    def on_train_begin(self, logs: Any = None) -> None:
        """Notes everything and puts the sweep in place of the learning rate."""
        watched = self.model.train_function
        self.restore()
        self._forget()
        self._ended = None
        optimizer = self.model.optimizer
        check_one_rate(optimizer, caller="LearningRateRangeTest")
        steps = self._number_of_steps()
        self._check_weights()
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        self._before = [_copied(variable) for variable in _variables(self.model)]
        begin = schedule_step(optimizer)
        self._sweep = Sweep(self.lowest, self.highest, steps=steps, begin=begin)
        inner = _inner(self.model)
        self._own = inner._learning_rate
        self._swept = self.model
        inner._learning_rate = self._sweep
        self.model.train_function = watched  # `restore` takes it from a model that was swept
        make_train_function_anew(self.model)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Notes where the epoch starts; the first one tells how many are left."""
        self._steps_before = self._done
        self._begin_steps()
        if self._sweep is None or self._done or not epoch:
            return
        try:
            self._sweep.steps = self._number_of_steps(initial_epoch=epoch)
        except InputError:
            self.restore()
            raise

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Notes where the sweep is."""
        super().on_train_batch_begin(batch, logs)
        self._at = schedule_step(self.model.optimizer)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Notes the loss; the rate of an execution is the geometric mean over its updates."""
        if self._sweep is None or self._is_over:
            return
        try:
            loss = loss_in(logs)
        except InputError:
            self.restore()
            raise
        self._done = self._steps_before + self._steps_of_epoch(batch)
        if self._rates is not None:
            self._note_held(loss)
            return
        self._note_swept(self._sweep, loss)
        if self.diverged or self._done >= self._sweep.steps:
            self._read(self._sweep)
            self._hold_the_next_rate(self._sweep)

    def on_train_end(self, logs: Any = None) -> None:
        """Puts everything back, and reads the curve of a sweep that was cut short."""
        sweep = self._sweep
        if sweep is not None:
            before = self._before
            self.restore()
            if self._is_entered:
                self._ended = _Ended.of(self.model, before)
            if self._rates is None:
                self._read(sweep)

    def _note_swept(self, sweep: Sweep, loss: float) -> None:
        made = schedule_step(self.model.optimizer) - self._at
        if not made and math.isfinite(loss):
            return  # loss scaling has skipped the update: the rate is tried again
        index = self._at - sweep.begin + (max(made, 1) - 1) / 2
        self.learning_rates.append(sweep.rate(index))
        self.note(loss)

    def _note_held(self, loss: float) -> None:
        """One more loss at a constant rate; the last of them decides about it."""
        sweep, rates = self._sweep, self._rates
        if sweep is None or rates is None:
            return
        self._held_losses.append(loss)
        ended = has_diverged(self._held_losses)
        if ended or self._done - self._begin_of_hold >= sweep.steps:
            rates.add([*self._held_losses, *([math.nan] if ended else [])])
            self.constant, self._held_losses = rates.found, []
            self.limit = largest_held_rate(self.constant)
            if self.result is not None:
                self.suggestion = best_rate(self.result, self.constant)
                self.doubts = (*self.result.doubts, *doubts_of_constant_rates(self.constant))
            self._hold_the_next_rate(sweep)

    def _hold_the_next_rate(self, sweep: Sweep) -> None:
        """From the weights before the test, if a whole training at it fits into this `fit`."""
        result = self.result
        if self._rates is None and result and result.learning_rate and result.ends_at:
            first_loss = float(np.median(self.losses[:5]))
            self._rates = ConstantRates(above=result.ends_at, first_loss=first_loss)
        rate = self._rates.next_rate() if self._rates else None
        if rate is None or (self._asked or 0) - self._done < sweep.steps:
            self._is_over = self.model.stop_training = True
            return
        self._begin_of_hold = self._done
        _assign(self.model, self._before)
        self._begin_steps()
        sweep.hold(rate)

    def _check_weights(self) -> None:
        model = self.model
        if not model.built or not model.trainable_variables:
            raise InputError(
                "LearningRateRangeTest notes the weights before `fit` changes them, so the model "
                f"must have some. Received: {type(model).__name__} `{model.name}`, "
                f"{'without trainable weights' if model.built else 'not built yet'}. Give it a "
                "`keras.Input`, or call it on a batch before `fit`: `model(x[:1])`."
            )

    def _number_of_steps(self, *, initial_epoch: int = 0) -> int:
        an_epoch = self.params.get("steps")
        asked = an_epoch * (self.params["epochs"] - initial_epoch) if an_epoch else None
        steps, self._asked = self.steps or asked, asked
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


@dataclasses.dataclass(frozen=True)
class _Ended:
    """A model whose test has ended: what it was before, and by what it is known as untrained."""

    model: keras.Model
    optimizer: Any
    step: int
    before: list[Any]

    @classmethod
    def of(cls, model: keras.Model, before: list[Any]) -> _Ended:
        """Of a model that has been restored."""
        return cls(model, model.optimizer, schedule_step(model.optimizer), before)

    def put_back(self) -> None:
        """Puts it back once more, unless it was compiled anew, trained or changed in form since."""
        model = self.model
        if model.optimizer is not self.optimizer or len(_variables(model)) != len(self.before):
            return
        if schedule_step(self.optimizer) == self.step:
            _assign(model, self.before)


def _assign(model: keras.Model, values: list[Any]) -> None:
    for variable, value in zip(_variables(model), values, strict=True):
        variable.assign(value)


def _variables(model: keras.Model) -> list[Any]:
    found = [*model.variables, *model.optimizer.variables]
    return list({id(variable): variable for variable in found}.values())


def _inner(model: keras.Model) -> Any:
    """The optimizer itself, where another wraps it to scale the loss."""
    return unwrapped(model.optimizer)


def _copied(variable: Any) -> Any:
    """As numpy, also of a variable that is mirrored over devices."""
    return np.array(keras.ops.convert_to_numpy(variable))
