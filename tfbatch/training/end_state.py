"""The end state of a trial, and how another trial goes on from it."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.callbacks import DivergenceGuard, TrainingClock
from tfbatch.errors import SearchError
from tfbatch.loss_scaling import unwrapped
from tfbatch.optimizers import slots_of
from tfbatch.schedules import MomentumInExamples
from tfbatch.training.callback_state import CarryOn
from tfbatch.training.checkpoint import Position, read_state, restore_state, write_state
from tfbatch.training.structure import unknown_variables
from tfbatch.trial.outcome import TrialSpec

_FORGOTTEN = 1e-7
"""A learning rate whose share in a velocity is smaller is not looked at."""


@dataclasses.dataclass(frozen=True)
class Pace:
    """What an optimizer's slots depend on, beside the gradients.

    Attributes:
        learning_rate: Of the next update; of a state, the mean of those that are in the velocity.
        numbers: The decays of the slots by the names of the optimizer's parameters.
    """

    learning_rate: float
    numbers: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class EndState:
    """What is known of a state beside its variables.

    Attributes:
        seconds: Wall-clock seconds that led to it, those of its ancestors too.
        training_seconds: Seconds of training steps alone.
        first_loss: The loss of the whole training's first batch.
        pace: Of its last updates.
        first_update: See Position.
    """

    seconds: float
    training_seconds: float
    first_loss: float | None
    pace: Pace
    first_update: int

    @property
    def position(self) -> Position:
        """Where a trial begins that goes on from it."""
        return Position(
            seconds=self.seconds,
            training_seconds=self.training_seconds,
            first_loss=self.first_loss,
            first_update=self.first_update,
        )


class KeepEndState(keras.callbacks.Callback):  # type: ignore[misc]
    """Writes the end state of a trial that has not diverged.

    At the end of its last epoch: afterwards Keras puts the average of the weights in their place.

    Args:
        spec: The trial.
        before: How far it was when `fit` began.
        clock: Counts updates.
        guard: Knows the first batch's loss, and whether the training diverged.
        carry_on: Says what the user's callbacks have kept; it comes before this one.
    """

    def __init__(
        self,
        spec: TrialSpec,
        before: Position,
        *,
        clock: TrainingClock,
        guard: DivergenceGuard,
        carry_on: CarryOn | None = None,
    ):
        super().__init__()
        self._carry_on = carry_on
        self._spec, self._before = spec, before
        self._clock, self._guard = clock, guard
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Writes, if every update is made."""
        if self._before.steps + self._clock.steps < self._spec.steps or self._guard.diverged:
            return
        state = EndState(
            seconds=self._before.seconds + time.perf_counter() - self._started,
            training_seconds=self._before.training_seconds + self._clock.seconds,
            first_loss=self._guard.first_loss,
            pace=last_pace(
                unwrapped(self.model.optimizer), self._spec.configuration.optimizer.name
            ),
            first_update=self._before.first_update,
        )
        kept = self._carry_on.kept() if self._carry_on else b""
        write_end_state(self._spec, self.model, state, kept)


def check_state(model: keras.Model) -> None:
    """Refuses a model whose state would not be whole.

    Raises:
        SearchError: A layer has variables that are none of Keras's.
    """
    if unknown := unknown_variables(model):
        raise SearchError(
            "A trial that others go on from must have its whole state in Keras's variables. "
            f"Received: {', '.join(unknown)}, which TensorFlow alone knows. Make it with "
            "`add_weight` or keras.Variable, or choose a search whose trials are whole."
        )


def write_end_state(
    spec: TrialSpec, model: keras.Model, state: EndState, callbacks: bytes = b""
) -> None:
    """Writes a trial's end state, and what a user's callbacks have kept: whole or not at all.

    Raises:
        RunFolderError: It cannot be written.
    """
    if spec.state_file is None:
        return
    # Two processes may train a parent again at a time.
    partial = spec.state_file.with_name(f"partial-{os.getpid()}-{spec.state_file.name}")
    kept = {"identity": spec.identity(), **dataclasses.asdict(state)}
    write_state(spec.state_file, model, kept, partial=partial, callbacks=callbacks)


def read_end_state(spec: TrialSpec) -> EndState | None:
    """What is known of a trial's end state; None if it is not kept, or is damaged."""
    kept = read_state(spec.state_file) if spec.state_file else None
    if kept is None or kept.pop("identity", None) != spec.identity():
        return None
    try:
        return EndState(**{**kept, "pace": Pace(**kept["pace"])})
    except (KeyError, TypeError):  # another version's
        return None


def go_on(model: keras.Model, spec: TrialSpec, state: EndState) -> int:
    """Gives a trial's model, which `begin` has made ready, its parent's end state.

    Args:
        model: The compiled model.
        spec: The trial.
        state: What is known of its parent's state.

    Returns:
        The optimizer's update with which the trial's schedule begins.

    Raises:
        InputError: The state is that of another model or optimizer.
    """
    if spec.parent is None or spec.parent.state_file is None:
        return 0
    restore_state(spec.parent.state_file, model)
    optimizer = unwrapped(model.optimizer)
    if spec.first_step == 0:  # it branches off
        carry_over(optimizer, spec.configuration.optimizer.name, state.pace)
        return _updates(optimizer)
    optimizer._learning_rate.begin_at(state.first_update)
    return state.first_update


def align(model: keras.Model, first_update: int) -> None:
    """Sets where its schedule begins, for a model that was given a checkpoint.

    Args:
        model: The compiled model.
        first_update: The optimizer's update with which it began.
    """
    unwrapped(model.optimizer)._learning_rate.begin_at(first_update)


def carry_over(optimizer: keras.optimizers.Optimizer, name: str, before: Pace) -> None:
    """Makes the state of an optimizer fit its own learning rate and decays.

    What is kept is what the slots say of the gradient (tfbatch.optimizers.SLOT_KINDS):

        def velocity(v):  # = learning rate * gradient / (1 - momentum), where the gradient is so
            return v * (rate / (1 - momentum)) / (rate_before / (1 - momentum_before))

        def corrected_average(a):  # a / (1 - decay ** updates) stands for the gradient
            return a * (1 - decay ** updates) / (1 - decay_before ** updates_before)

        updates = round(updates_before * log(decay_before) / log(decay))  # of the slowest average

    The first is Goyal et al.'s momentum correction (2017, arXiv 1706.02677, section 3), for a
    momentum that changes too. By the last a new gradient weighs as much against the old ones as if
    all had been averaged with the new decay: with decays that are counted in examples it is the
    number of updates that the new batch size would have made. All else stays as it is: sums of
    squared gradients, averages without a correction, and the average of the weights.

    Args:
        optimizer: A built optimizer of a program, with the slots and iterations of the state.
        name: Its file in tfbatch/optimizers.
        before: The state's pace.
    """
    slots = slots_of(name)
    numbers = _numbers(optimizer, name, update=0)
    made = _updates(optimizer)
    averages = [slot.decay for slot in slots.values() if slot.kind == "corrected_average"]
    updates = made
    if averages and made:
        slowest = max(averages, key=lambda parameter: before.numbers[parameter])
        updates = _equivalent(made, before.numbers[slowest], numbers[slowest])
    optimizer.iterations.assign(updates)
    optimizer._learning_rate.begin_at(updates)
    rate = float(optimizer._learning_rate(updates))
    for attribute, slot in slots.items():
        old, new = before.numbers[slot.decay], numbers[slot.decay]
        if slot.kind == "velocity":
            past = before.learning_rate / (1.0 - old)
            factor = rate / (1.0 - new) / past if past else 0.0
        else:
            past = 1.0 - old**made
            factor = (1.0 - new**updates) / past if past else 1.0
        if factor == 1.0:
            continue
        for variable in getattr(optimizer, attribute):
            if variable is not None:
                variable.assign(variable * factor)


def _equivalent(updates: int, before: float, now: float) -> int:
    """How many updates with another decay forget as much."""
    if before == now or not (0.0 < before < 1.0 and 0.0 < now < 1.0):
        return updates
    return max(round(updates * math.log(before) / math.log(now)), 1)


def last_pace(optimizer: keras.optimizers.Optimizer, name: str) -> Pace:
    """The decays of an optimizer's slots, and the mean learning rate that a velocity contains.

    Args:
        optimizer: A built optimizer of a program.
        name: Its file in tfbatch/optimizers.
    """
    made = _updates(optimizer)
    update = int(optimizer._learning_rate.update_of(optimizer.iterations))
    numbers = _numbers(optimizer, name, update=update)
    momentum = next(
        (numbers[s.decay] for s in slots_of(name).values() if s.kind == "velocity"), 0.0
    )
    looked_at = 1 + (math.ceil(math.log(_FORGOTTEN) / math.log(momentum)) if momentum > 0 else 0)
    rates = optimizer._learning_rate(tf.range(max(made - looked_at, 0), made, dtype=tf.int64))
    rates = np.asarray(rates, np.float64)
    if rates.size == 0 or (rates == rates[0]).all():
        return Pace(float(rates[0]) if rates.size else 0.0, numbers)
    shares = momentum ** np.arange(rates.size)[::-1]
    return Pace(float(np.average(rates, weights=shares)), numbers)


def _numbers(optimizer: Any, name: str, *, update: int) -> dict[str, float]:
    """The decays of the slots, as exactly as they are written.

    Args:
        optimizer: A built optimizer of a program.
        name: Its file in tfbatch/optimizers.
        update: The next one of its schedule, which may set the momentum.
    """
    config = optimizer.get_config()
    found = {}
    for slot in slots_of(name).values():
        written = config.get(slot.decay)
        if isinstance(written, MomentumInExamples):  # as a float it is the one at the peak
            written = written.at(update)
        elif not isinstance(written, int | float):
            written = getattr(optimizer, slot.decay)
        found[slot.decay] = float(written)
    return found


def _updates(optimizer: Any) -> int:
    return int(optimizer.iterations.numpy())
