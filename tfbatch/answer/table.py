"""The table that a run ends with: by batch size, what was found and what was verified."""

from __future__ import annotations

from rich.table import Table

from tfbatch.answer.answer import Answer
from tfbatch.quantities import four_decimals, plain_digits
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.trials import Trials


def table_by_batch_size(trials: Trials, answer: Answer) -> Table:
    """A row for each batch size, for each further trial of it that was verified, the baseline's."""
    objective = trials.objective
    table = Table(title=f"By batch size ({objective.name}, {_better(objective)})")
    for column in ("batch size", "trials", "best of search", "learning rate", "schedule"):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    table.add_column("fresh seeds", justify="right")
    table.add_column("train s", justify="right")
    table.add_column("")
    first, searched = trials.of_phase("baseline"), trials.searched().of_phase("search")
    groups = [(f"{t.configuration.batch_size} (baseline)", first) for t in first]
    groups += [(str(b), searched.of_batch_size(b)) for b in searched.batch_sizes()]
    rows = [row for name, group in groups for row in _rows(name, group, answer)]
    for row in rows:
        table.add_row(*row)
    if any(row[_SECONDS].endswith(_AS_IN_TRIAL) for row in rows):
        table.caption = (
            f"train s: seconds of training steps, alone on the device;{_AS_IN_TRIAL} as they were "
            "in the trial, beside others"
        )
    return table


_SECONDS = 6
_AS_IN_TRIAL = " *"
"""Marks seconds that other trials slowed down."""


def _rows(name: str, group: Trials, answer: Answer) -> list[list[str]]:
    """The best trial of a batch size, then those that were verified though they were not it.

    A longer search finds a better one after another was verified, which may stay the recommended.
    """
    scored = group.ranked()
    if not scored:
        ends = ", ".join(sorted({t.status for t in group}))
        return [[name, str(len(group)), f"none ({ends})", "", "", "", "", ""]]
    best, *others = scored
    verified = [_row(name, "", other, answer) for other in others if answer.find(other.trial)]
    return [_row(name, str(len(group)), best, answer), *verified]


def _row(name: str, count: str, trial: FinishedTrial, answer: Answer) -> list[str]:
    contender = answer.find(trial.trial)
    fresh, seconds = "", f"{plain_digits(trial.training_seconds)}{_AS_IN_TRIAL}"
    if contender and contender.on_fresh_seeds:
        parts = [contender.failures] if contender.failures else []
        if not parts or (answer.verification and answer.verification.of_key(trial.trial)):
            parts.insert(0, str(contender.objective()))
        fresh = "; ".join(parts)
        mark = "" if contender.training_seconds.alone_on_the_device else _AS_IN_TRIAL
        seconds = f"{plain_digits(contender.training_seconds.mean)}{mark}"
    return [
        name,
        count,
        four_decimals(trial.score),  # type: ignore[arg-type]
        f"{trial.learning_rate:.3g}",
        describe_schedule(trial),
        fresh,
        seconds,
        _mark(trial.trial, answer),
    ]


def describe_schedule(trial: FinishedTrial) -> str:
    """Such as "cosine, final_fraction 0.01, 3 % warm-up"."""
    c = trial.configuration
    parts = [c.schedule.name, *(f"{k} {v}" for k, v in c.schedule.arguments.items())]
    if c.warmup_fraction:
        parts.append(f"{c.warmup_fraction:.0%} warm-up")
    return ", ".join(parts)


def _mark(key: str, answer: Answer) -> str:
    marks = []
    if key == answer.recommended_trial:
        marks.append("recommended")
    if answer.verification:
        marks += ["best mean"] if key == answer.verification.best else []
        compared = answer.verification.of_key(key)
        if compared and compared.better:
            marks.append("better")
        elif compared and compared.tied:
            marks.append("as good")
        elif compared and key != answer.verification.best:
            marks.append(f"behind by {four_decimals(compared.deficit)}")
        if any(one.key == key for one in answer.undecided):
            marks.append("undecided")
    return ", ".join(marks)


def _better(objective: Objective) -> str:
    return "higher is better" if objective.direction == "max" else "lower is better"
