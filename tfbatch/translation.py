"""What changes in a training when its batch size changes: predictions by rules, without training.

Every number is kept meaning the same in examples, and the learning rate follows a rule or, where
a run has measured one, a slope. The formulas are those that a search derives its trials with
(tfbatch.scaling_rules, tfbatch.trial.optimizer_numbers).
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfbatch.answer.best_learning_rates import brackets_of, exponent_of
from tfbatch.answer.stored import read_answer
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.learning_rate_exponent import LearningRateCurve, LearningRateExponent
from tfbatch.notebook import preformatted
from tfbatch.optimizers import OPTIMIZERS, parameters_of, roles_of
from tfbatch.scaling_rules import SCALING_RULES, scaled
from tfbatch.schema import Named, Strict, as_plain, check_numbers, expanded
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.optimizer_numbers import OptimizerNumbers, find_option, numbers_at
from tfbatch.trial.trials import Trials

_PREDICTS = "square_root"
"""For SGD too, whose own linear rule was further from tuned rates: docs/large_batches.md."""
_ENDS = {"linear": ("none", "linear"), "square_root": ("none", "square_root")}
"""The range, by the rule of an optimizer."""
_LINEAR = (
    "The {} end of the learning rate is SGD's linear rule (Goyal et al. 2017, arXiv "
    "1706.02677). Tuned rates of two small networks on two data sets lay nearer to the square "
    "root, up to 32 times the batch size."
)
_DECAYS = ("momentum", "first_moment", "second_moment", "weight_average")
_EXAMPLES = 1_000_000_000
"""Stands for the size of a training split, which cancels."""


class Devices(Strict):
    """How a batch is divided.

    Attributes:
        batch_size: Examples in one update, of all devices together.
        gpus: Devices that share it.
        accumulation: Micro-batches that each device adds up for one update.
    """

    batch_size: int
    gpus: int = 1
    accumulation: int = 1

    @property
    def micro_batch(self) -> float:
        """Examples that one device sees at once: what has to fit, and what is normalized."""
        return self.batch_size / (self.gpus * self.accumulation)


class Change(Strict):
    """One number, before and after.

    Attributes:
        name: Such as "learning_rate".
        before: Its value; None where it was not given and only the factor is known.
        after: What becomes of it; None likewise.
        factor: `after` as a multiple of `before`; None where `before` is 0.
        low: The lower end of what is plausible for `after`; None where there is one value only.
        high: The upper end; None likewise.
        rule: The name of the rule that it follows.
        formula: The rule.
        source: Who proposed it, or where it was measured.
    """

    name: str
    before: float | None
    after: float | None
    factor: float | None
    low: float | None = None
    high: float | None = None
    rule: str
    formula: str
    source: str


class Translation(Strict):
    """What changes, as predicted.

    Attributes:
        before: The batch as it is now.
        after: The batch as it is asked for.
        optimizer: A file of tfbatch/optimizers.
        changes: Every number that follows the batch size.
        notes: What else to know.
        measured: Whether the learning rate follows a slope that a run has measured.
    """

    before: Devices
    after: Devices
    optimizer: str
    changes: tuple[Change, ...]
    notes: tuple[str, ...]
    measured: bool = False

    @property
    def ratio(self) -> float:
        """Batch size after / before."""
        return self.after.batch_size / self.before.batch_size

    def find(self, name: str) -> Change | None:
        """A change by its name, or None."""
        return next((one for one in self.changes if one.name == name), None)

    @property
    def learning_rate(self) -> Change:
        """The change of the learning rate."""
        return next(one for one in self.changes if one.name == "learning_rate")

    def _repr_html_(self) -> str:
        """For a notebook."""
        return preformatted(str(self))

    def __str__(self) -> str:
        """For a terminal: at most 80 columns, a table and the formula of each line."""
        head = (
            f"Batch size {self.before.batch_size:,} -> {self.after.batch_size:,} "
            f"(x {self.ratio:.4g}), {self.optimizer}."
        )
        of = "its slope was measured by the run" if self.measured else "nothing was trained"
        lines = [f"{head} A prediction: {of}.", ""]
        lines.append(f"{'':<29}{'before':>12}{'after':>12}  range")
        for one in self.changes:
            span = "" if one.low is None else f"{_shown(one.low)} to {_shown(one.high)}"
            after = f"x {one.factor:.4g}" if one.after is None else _shown(one.after)
            name = one.name.replace("_", " ")
            lines.append(f"{name:<29} {_shown(one.before):>11} {after:>11}  {span}".rstrip())
        lines.append("")
        for one in self.changes:
            lines += _wrapped(
                f"{one.name.replace('_', ' ')}: {one.formula} ({one.rule}; {one.source})"
            )
        return "\n".join([*lines, *(line for note in self.notes for line in _wrapped(note))])


@dataclasses.dataclass(frozen=True)
class _Training:
    """What is translated: the optimizer with its numbers at the present batch size."""

    optimizer: str
    learning_rate: float
    numbers: Mapping[str, float | bool | None]
    slope: LearningRateExponent | None = None
    notes: tuple[str, ...] = ()


def translate_batch_size(
    batch_size: int | None = None,
    to: int | None = None,
    *,
    optimizer: str | None = None,
    learning_rate: float | None = None,
    optimizer_arguments: Mapping[str, float | bool | None] | None = None,
    gpus: int = 1,
    to_gpus: int | None = None,
    accumulation: int = 1,
    to_accumulation: int | None = None,
    critical_batch_size: float | None = None,
    steps: int | None = None,
    warmup_steps: int | None = None,
    batch_normalization_momentum: float = 0.99,
    run_dir: str | Path | None = None,
) -> Translation:
    """What changes when the batch size, the number of GPUs or the accumulation changes.

    Nothing is trained and no TensorFlow imported. A batch size is that of one update: of all GPUs
    and all micro-batches together.

    Example:
        ```python
        found = tfbatch.translate_batch_size(256, 1024, optimizer="adamw", learning_rate=3e-4)
        print(found)
        print(found.learning_rate.low, found.learning_rate.after, found.learning_rate.high)
        ```

    Args:
        batch_size: What you train with. Default: the one that the run recommends.
        to: What you want to train with. Default: what `to_gpus` and `to_accumulation` make of
            `batch_size` where each GPU keeps its micro-batch.
        optimizer: A file of tfbatch/optimizers. Default: the run's, else "sgd".
        learning_rate: Your peak learning rate. Default: the run's best one at `batch_size`, else
            Keras's own.
        optimizer_arguments: Numbers that are not the run's or Keras's own, such as
            `{"beta_2": 0.95}`.
        gpus: Devices that share a batch now.
        to_gpus: Devices then. Default: as many.
        accumulation: Micro-batches that are added up for one update now.
        to_accumulation: Micro-batches then. Default: as many.
        critical_batch_size: The gradient noise scale in examples, such as `tfbatch probe`
            measures: the learning rate then bends there.
        steps: Updates of the training now.
        warmup_steps: Those of its warm-up.
        batch_normalization_momentum: That of the model's batch normalizations now.
        run_dir: A run folder whose trials measured how the best learning rate follows the batch
            size.

    Returns:
        Every number before and after, with its rule, formula and source.

    Raises:
        InputError: Nothing changes, a value is out of its range, a batch cannot be divided among
            its devices, or the run has no trial at `batch_size`.
        RunFolderError: A file of the run folder is damaged.
    """
    folder = None if run_dir is None else expanded(run_dir)
    trials = None if folder is None else Trials.read(folder)
    if batch_size is None:
        batch_size = _recommended_size(folder)
    before, after = _divided(
        Devices(batch_size=batch_size, gpus=gpus, accumulation=accumulation),
        to=to,
        gpus=gpus if to_gpus is None else to_gpus,
        accumulation=accumulation if to_accumulation is None else to_accumulation,
    )
    _check_positive(
        learning_rate=learning_rate,
        critical_batch_size=critical_batch_size,
        steps=steps,
        warmup_steps=warmup_steps,
    )
    if not 0 <= batch_normalization_momentum < 1:
        raise InputError(
            "`batch_normalization_momentum` must be in [0, 1). Received: "
            f"{batch_normalization_momentum}."
        )
    training = _training(batch_size, optimizer, learning_rate, optimizer_arguments or {}, trials)
    if trials is not None:
        training = _with_slope(training, trials, after.batch_size)
    rate = _learning_rate(training, before, after, critical_batch_size)
    held = _by_sde(training, before, after).held
    notes = [*training.notes, *_notes(before, after), *map(_note_of_held, held)]
    notes += _notes_of_limits(training, before, after)
    linear = OPTIMIZERS.load(training.optimizer).SCALING_RULE == "linear"
    if rate.rule == _PREDICTS and linear and rate.low is not None:
        notes.append(_LINEAR.format("upper" if after.batch_size > before.batch_size else "lower"))
    if critical_batch_size and rate.rule == "measured":
        notes.append("The run's measured slope is used, and `critical_batch_size` is not.")
    changes = (
        rate,
        *_lengths(steps, warmup_steps, before, after),
        *_least_warmup(training, before, after),
        *_numbers(training, rate, before, after),
        _normalization(batch_normalization_momentum, before, after),
        _micro_batch(before, after),
    )
    return Translation(
        before=before,
        after=after,
        optimizer=training.optimizer,
        changes=changes,
        notes=tuple(notes),
        measured=rate.rule == "measured",
    )


def _recommended_size(run_dir: Path | None) -> int:
    answer = None if run_dir is None else read_answer(run_dir)
    if answer is None:
        raise InputError(
            "`batch_size` must be given where no run has an answer. Add --batch_size=256."
        )
    return answer.recommended.batch_size


def _divided(
    before: Devices, *, to: int | None, gpus: int, accumulation: int
) -> tuple[Devices, Devices]:
    for name, value in (
        ("batch_size", before.batch_size),
        ("to", 1 if to is None else to),
        ("gpus", before.gpus),
        ("to_gpus", gpus),
        ("accumulation", before.accumulation),
        ("to_accumulation", accumulation),
    ):
        check_numbers(**{name: value})
        if value < 1:
            raise InputError(f"`{name}` must be >= 1. Received: {value}.")
    if to is None:
        to = before.batch_size * gpus * accumulation // (before.gpus * before.accumulation)
    after = Devices(batch_size=to, gpus=gpus, accumulation=accumulation)
    if after == before:
        raise InputError(
            "Nothing changes. Give another batch size (--to=1024), number of GPUs (--to_gpus=4) or "
            f"accumulation (--to_accumulation=4). Received: {before.batch_size} before and after."
        )
    for one, prefix in ((before, ""), (after, "to_")):
        parts = one.gpus * one.accumulation
        if one.batch_size % parts:
            below = one.batch_size // parts * parts
            raise InputError(
                f"A batch must divide evenly among `{prefix}gpus` * `{prefix}accumulation` = "
                f"{parts} micro-batches: take {below or parts} or {below + parts}. "
                f"Received: {one.batch_size}."
            )
    return before, after


def _check_positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None:
            check_numbers(**{name: value})
        if value is not None and not (math.isfinite(value) and value > 0):
            raise InputError(f"`{name}` must be > 0. Received: {value}.")


def _training(
    batch_size: int,
    optimizer: str | None,
    learning_rate: float | None,
    arguments: Mapping[str, float | bool | None],
    trials: Trials | None,
) -> _Training:
    trial = None if trials is None else _trial_at(batch_size, trials)
    own = trial.configuration.optimizer.name if trial else None
    if own and optimizer not in (None, own):
        raise InputError(
            f"The run trained with {own}. Leave out --optimizer. Received: {optimizer!r}."
        )
    name = OPTIMIZERS.check(optimizer or own or "sgd")
    numbers = dict(parameters_of(name))
    arguments = as_plain(dict(arguments))
    for key, value in arguments.items():
        # `ema_momentum` is a number of the optimizer here, though no key of a configuration.
        if key not in numbers and find_option(name, key).form != "number":
            raise InputError(
                f"`{key}` is a timescale, which does not change with the batch size. Give the "
                "numbers of the present batch size only."
            )
        _check_number(name, key, value)
    notes = []
    if trial:
        numbers |= _numbers_of(trial)
        of_trial = f"those of {trial.trial}, the run's best trial at batch size {batch_size:,}"
        notes.append(
            f"The values before are {of_trial}."
            if learning_rate is None and not arguments
            else f"The values before that are not given are {of_trial}."
        )
    elif learning_rate is None:
        notes.append("The learning rate before is Keras's own: give yours with --learning_rate.")
    rate = learning_rate or (
        trial.learning_rate if trial else OPTIMIZERS.load(name).DEFAULT_LEARNING_RATE
    )
    return _Training(name, rate, {**numbers, **arguments}, notes=tuple(notes))


def _check_number(optimizer: str, parameter: str, value: object) -> None:
    """Refuses what the optimizer cannot be trained with.

    Raises:
        InputError: A decay outside of [0, 1), or another value of the wrong kind.
    """
    default = parameters_of(optimizer)[parameter]
    if default is None and value is None:
        return
    decays = roles_of(optimizer).get(parameter) in _DECAYS
    rule, end = ("in [0, 1)", 1.0) if decays else (">= 0 and finite", math.inf)
    holds = not isinstance(value, bool) and isinstance(value, int | float) and 0 <= value < end
    if isinstance(default, bool):
        rule, holds = "true or false", isinstance(value, bool)
    if not holds:
        raise InputError(f"`{parameter}` of {optimizer} must be {rule}. Received: {value!r}.")


def _trial_at(batch_size: int, trials: Trials) -> FinishedTrial:
    best = trials.searched().of_batch_size(batch_size).best()
    if best is None:
        sizes = trials.searched().completed().batch_sizes()
        known = ", ".join(map(str, sizes)) or "none"
        raise InputError(
            f"The run has no completed trial at batch size {batch_size}. It has: {known}. Give one "
            f"of these with --batch_size. Received: {batch_size}."
        )
    return best


def _numbers_of(trial: FinishedTrial) -> dict[str, float | bool | None]:
    """The optimizer's numbers that a trial trained with, where they are not Keras's own."""
    optimizer = trial.configuration.optimizer
    given = {
        key: value
        for key, value in optimizer.arguments.items()
        if find_option(optimizer.name, key).form == "number"
    }
    derived = {
        key.removeprefix("derived_"): value
        for key, value in trial.derived_numbers.items()
        if key.startswith("derived_")
    }
    return {**given, **derived}


def _with_slope(training: _Training, trials: Trials, to: int) -> _Training:
    brackets = brackets_of(trials)
    slope = exponent_of(brackets)
    sizes = [one.batch_size for one in brackets if one.closed]
    notes = list(training.notes)
    if slope is None:
        notes.append(
            f"A slope needs a bracketed best learning rate at 3 batch sizes; the run has "
            f"{len(sizes)}. The rule is used instead."
        )
    else:
        notes += [f"About the slope: {doubt}." for doubt in slope.doubts]
        lengths = sorted({one.trial.length for one in brackets if one.closed and one.trial})
        if len(lengths) > 1:
            notes.append(
                "The slope joins best rates of trainings of different lengths, from "
                f"{lengths[0]:,} to {lengths[-1]:,} examples."
            )
        if not min(sizes) <= to <= max(sizes):
            notes.append(
                f"The slope was measured from {min(sizes):,} to {max(sizes):,}; beyond, it is "
                "extrapolated."
            )
    there = next((one for one in brackets if one.batch_size == to), None)
    if there and there.trial:
        how = "bracketed" if there.closed else "not bracketed: a bound"
        notes.append(
            f"At batch size {to:,} the run's best learning rate is {there.best:.4g} "
            f"({there.trial.trial} of {there.trial.length:,} examples, {there.rates} rates tried, "
            f"{how})."
        )
    return dataclasses.replace(training, slope=slope, notes=tuple(notes))


def _learning_rate(
    training: _Training, before: Devices, after: Devices, critical: float | None
) -> Change:
    rate, ratio = training.learning_rate, after.batch_size / before.batch_size
    if slope := training.slope:
        return _change(
            "learning_rate",
            rate,
            rate * ratio**slope.exponent,
            ends=[rate * ratio**exponent for exponent in (slope.interval.low, slope.interval.high)],
            rule="measured",
            formula=f"learning_rate * ratio**{slope.exponent:.3g}",
            source=f"this run: {slope}",
        )
    own = OPTIMIZERS.load(training.optimizer).SCALING_RULE
    ends = [_by_rule(one, rate, before, after) for one in _ENDS[own]]
    if critical and own != "linear":
        curve = LearningRateCurve("surge", 1.0, critical, 0.0)
        bent = rate * curve.learning_rate(after.batch_size)
        bent /= curve.learning_rate(before.batch_size)
        return _change(
            "learning_rate",
            rate,
            bent,
            ends=[bent, *ends],
            rule="surge",
            formula="learning_rate * surge(batch_size) / surge(base_batch_size), "
            f"surge(B) = 2 / (sqrt({critical:.4g} / B) + sqrt(B / {critical:.4g}))",
            source="Li et al. 2024, arXiv 2405.14578",
        )
    rule = "saturating" if critical else _PREDICTS
    parameters = {"critical_batch_size": critical} if critical else {}
    module = SCALING_RULES.load(rule)
    return _change(
        "learning_rate",
        rate,
        _by_rule(rule, rate, before, after, **parameters),
        ends=ends,
        rule=rule,
        formula=module.FORMULA,
        source=module.SOURCE,
    )


def _by_rule(rule: str, rate: float, before: Devices, after: Devices, **parameters: float) -> float:
    return scaled(
        rule,
        rate,
        batch_size=after.batch_size,
        base_batch_size=before.batch_size,
        parameters=parameters,
    )


def _lengths(
    steps: int | None, warmup_steps: int | None, before: Devices, after: Devices
) -> list[Change]:
    """Everything that is counted in updates, also a schedule's own lengths."""
    factor = before.batch_size / after.batch_size
    return [
        Change(
            name=name,
            before=value,
            after=None if value is None else -(-value * before.batch_size // after.batch_size),
            factor=factor,
            rule="same examples",
            formula=f"{name} / ratio, rounded up",
            source=source,
        )
        for name, value, source in (
            ("steps", steps, "the same number of epochs"),
            ("warmup_steps", warmup_steps, "Goyal et al. 2017, arXiv 1706.02677"),
        )
    ]


def _least_warmup(training: _Training, before: Devices, after: Devices) -> list[Change]:
    """Updates until a second moment is known, at least."""
    roles = roles_of(training.optimizer)
    then = _by_timescales(training, training.learning_rate, before, after)
    return [
        _change(
            "least_warmup_steps",
            _updates(decay),
            _updates(float(then.values[parameter] or 0.0)),
            rule="untuned warm-up",
            formula=f"2 / (1 - {parameter})",
            source="Ma & Yarats 2019, arXiv 1910.04209",
        )
        for parameter, decay in training.numbers.items()
        if roles.get(parameter) == "second_moment" and decay and decay < 1
    ]


def _updates(decay: float) -> int:
    return math.ceil(round(2 / (1 - decay), 6))


def _numbers(training: _Training, rate: Change, before: Devices, after: Devices) -> list[Change]:
    """The optimizer's numbers: kept in examples, with the other rule's as the range's other end."""
    found = []
    then = _by_timescales(training, rate.after or training.learning_rate, before, after).values
    of_sde = _by_sde(training, before, after)
    slow, fast = (
        _by_timescales(training, end or training.learning_rate, before, after).values
        for end in (rate.low, rate.high)
    )
    for parameter, role in roles_of(training.optimizer).items():
        value = training.numbers[parameter]
        if not value or role not in _ABOUT:
            continue
        ends = [slow[parameter], fast[parameter]]
        rule, formula, source = _ABOUT[role]
        if of_sde.values and role in _BY_SDE:  # other numbers it leaves alone
            formula = f"{formula}; or {_BY_SDE[role]} by adam_sde"
            source = "; ".join(filter(None, (source, SCALING_RULES.load("adam_sde").SOURCE)))
            ends += [] if parameter in of_sde.held else [of_sde.values[parameter]]
        found.append(
            _change(
                parameter,
                value,
                float(then[parameter] or 0.0),
                ends=[float(end) for end in ends if end is not None],
                rule=rule,
                formula=formula.format(parameter),
                source=source or _OF_NO_RULE,
            )
        )
    return found


_ABOUT = {
    "momentum": ("unchanged", "{0}", "Goyal et al. 2017, arXiv 1706.02677"),
    "first_moment": ("unchanged", "{0}", SCALING_RULES.load("half_life").SOURCE),
    "second_moment": ("half_life", "{0}**ratio", SCALING_RULES.load("half_life").SOURCE),
    "epsilon": ("unchanged", "{0}", ""),
    "squared_epsilon": ("unchanged", "{0}", ""),
    "weight_decay": (
        "same epochs",
        "{0} * ratio * learning_rate before / after",
        "Wang & Aitchison 2024, arXiv 2405.13698",
    ),
    "l2": ("unchanged", "{0}", "Goyal et al. 2017, arXiv 1706.02677"),
    "weight_average": ("same examples", "{0}**ratio", "Busbridge et al. 2023, arXiv 2307.13813"),
}
"""What is said of a number by its role: rule, formula and source."""
_BY_SDE = {
    "first_moment": "1 - ratio * (1 - {0})",
    "second_moment": "1 - ratio * (1 - {0})",
    "epsilon": "{0} / sqrt(ratio)",
    "squared_epsilon": "{0} / ratio",
}
"""The range's other end by a number's role, where the optimizer has a second moment."""
_OF_NO_RULE = "no scaling rule here is about it"
_TIMESCALE = {
    "second_moment": "{}_half_life",
    "weight_decay": "{}_epochs",
    "weight_average": "ema_half_life_fraction",
}


def _by_timescales(
    training: _Training, rate_after: float, before: Devices, after: Devices
) -> OptimizerNumbers:
    """The numbers after, where those before are written as timescales in examples.

    Raises:
        InputError: One step takes away the whole weights.
    """
    roles = roles_of(training.optimizer)
    written: dict[str, float | bool | None] = {}
    for parameter, value in training.numbers.items():
        role = roles.get(parameter, "")
        decays = role in ("second_moment", "weight_average") and value and 0 < value < 1
        if decays:
            half_life = -before.batch_size / math.log2(float(value or 0.0))
            share = 1 if role == "second_moment" else 1 / _EXAMPLES
            written[_TIMESCALE[role].format(parameter)] = half_life * share
        elif role == "weight_decay" and value:
            _check_decay(training, parameter, before, after)
            taken = training.learning_rate * value * _EXAMPLES
            written[_TIMESCALE[role].format(parameter)] = before.batch_size / taken
        elif role != "weight_average":
            written[parameter] = value
    found = _numbers_at(training, "none", rate_after, after, written, base=after)
    exact = {name: _exact(training, name, before, after) for name in found.held}
    ends = {name: _end(training, name, found, exact[name]) for name in found.held}
    return dataclasses.replace(
        found,
        values={**found.values, **ends},
        held=tuple(name for name in found.held if ends[name] != exact[name]),
    )


def _exact(training: _Training, decay: str, before: Devices, after: Devices) -> float:
    """What the formula of a half-life gives, also where nothing is trained with it."""
    return math.pow(training.numbers[decay] or 0.0, after.batch_size / before.batch_size)


def _end(training: _Training, decay: str, found: OptimizerNumbers, exact: float) -> float:
    """The end of a decay's range that is next to it, in a range that holds the one before too."""
    before, end = float(training.numbers[decay] or 0.0), float(found.values[decay] or 0.0)
    return max(exact, min(end, before)) if exact < end else min(exact, max(end, before))


def _check_decay(training: _Training, parameter: str, before: Devices, after: Devices) -> None:
    """Refuses a weight decay that would leave nothing of the weights.

    Raises:
        InputError: One step at the batch size after takes away the whole weights.
    """
    value, ratio = float(training.numbers[parameter] or 0.0), after.batch_size / before.batch_size
    below = 1 / (training.learning_rate * ratio)
    if value >= below:
        raise InputError(
            f"`{parameter}` must be < 1 / (ratio * learning_rate) = {below:.4g}, or one step at "
            f"batch size {after.batch_size} takes away the whole weights. Received: {value:g}, "
            f"with a learning rate of {training.learning_rate:.4g} at batch size "
            f"{before.batch_size}. Give a smaller one (--optimizer_arguments={parameter}=...), or "
            "a smaller batch size."
        )


def _by_sde(training: _Training, before: Devices, after: Devices) -> OptimizerNumbers:
    """The numbers after, by the stochastic differential equation; none where it has none."""
    if "second_moment" not in roles_of(training.optimizer).values():
        return OptimizerNumbers(values={}, derived=(), held=())
    written = {p: v for p, v in training.numbers.items() if p != "ema_momentum"}
    return _numbers_at(training, "adam_sde", training.learning_rate, after, written, base=before)


def _numbers_at(
    training: _Training,
    rule: str,
    rate: float,
    after: Devices,
    written: Mapping[str, float | bool | None],
    *,
    base: Devices,
) -> OptimizerNumbers:
    configuration = Configuration(
        batch_size=after.batch_size,
        base_learning_rate=rate,
        base_batch_size=base.batch_size,
        scaling_rule=Named(name=rule),
        optimizer=Named(name=training.optimizer, **written),
    )
    return numbers_at(
        configuration, learning_rate=rate, num_examples=_EXAMPLES, total_examples=_EXAMPLES
    )


def _note_of_held(parameter: str) -> str:
    return (
        f"What adam_sde gives for `{parameter}` at this batch size is out of the range that an "
        "optimizer trains with, so it is no end of the range here."
    )


def _notes_of_limits(training: _Training, before: Devices, after: Devices) -> list[str]:
    found = _by_timescales(training, training.learning_rate, before, after)
    notes = []
    for name in found.held:
        exact, value = _exact(training, name, before, after), found.values[name]
        stays = value == training.numbers[name]
        notes.append(
            f"`{name}`: the formula gives {exact:.7g} at this batch size, outside of the range "
            "that a search trains with; "
            + ("it stays as it is." if stays else f"{value:.7g} is the end of that range.")
        )
    return notes


def _normalization(momentum: float, before: Devices, after: Devices) -> Change:
    """See tfbatch.layers.set_batch_normalization_momentum, which sets it."""
    return _change(
        "batch_normalization_momentum",
        momentum,
        momentum ** (after.micro_batch / before.micro_batch),
        rule="same examples",
        formula="momentum**(micro-batch after / before)",
        source="tfbatch.layers.set_batch_normalization_momentum",
    )


def _micro_batch(before: Devices, after: Devices) -> Change:
    return _change(
        "micro_batch",
        before.micro_batch,
        after.micro_batch,
        rule="by definition",
        formula="batch_size / (gpus * accumulation)",
        source="what one device sees at once: it has to fit",
    )


def _change(
    name: str,
    before: float,
    after: float,
    *,
    ends: Sequence[float] = (),
    rule: str,
    formula: str,
    source: str,
) -> Change:
    low, high = min([after, *ends]), max([after, *ends])
    return Change(
        name=name,
        before=before,
        after=after,
        factor=after / before if before else None,
        low=low if low < high else None,
        high=high if low < high else None,
        rule=rule,
        formula=formula,
        source=source,
    )


def _notes(before: Devices, after: Devices) -> list[str]:
    notes = ["Lengths of a schedule that are counted in steps follow `steps`."]
    if after.batch_size > before.batch_size:
        notes.append(
            "Above the critical batch size the same epochs train less, and no learning rate makes "
            "up for it (Shallue et al. 2019, JMLR 20(112)): `tfbatch probe` measures it."
        )
    if after.accumulation != before.accumulation and after.accumulation > 1:
        notes.append(
            "Keras's `gradient_accumulation_steps` evaluates a schedule at every micro-batch: "
            "tfbatch.accumulated makes one step of it."
        )
    if after.micro_batch != before.micro_batch:
        notes.append(
            "Batch normalization sees the micro-batch: its noise changes with it, unless "
            "tfbatch.layers.GhostBatchNormalization keeps the number of examples."
        )
    return notes


def _shown(value: float | None) -> str:
    """A number of the table: six digits, but every digit of a count such as steps."""
    if value is None:
        return ""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.6g}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, subsequent_indent="  ", break_on_hyphens=False)
