"""The top of the report: the answer, beside the user's own setting, and what it cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from tfbatch.answer.answer import Contender, Measured
from tfbatch.answer.summary import words_of
from tfbatch.charts.page import PageSection
from tfbatch.quantities import plain_digits
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.trial.finished_trial import BASELINE

Row = tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        trials: Number of its trials.
        completed: How many completed.
        examples: Examples that all trials trained on, each part of a training once.
        trainings: The same in trainings of the run's length; None where that is not known.
        trial_seconds: Seconds of all trials whose seconds are known, each on its worker.
        seconds: Wall-clock seconds of all sessions; None where they are not known.
        untimed: Number of trials whose seconds are not finite.
    """

    trials: int
    completed: int
    examples: int
    trainings: float | None
    trial_seconds: float
    seconds: float | None
    untimed: int = 0

    def __str__(self) -> str:
        """One sentence."""
        failed = self.trials - self.completed
        without = f", {failed} of them without a score" if failed else ""
        wall = "" if self.seconds is None else f"{duration(self.seconds)} in all: "
        count = f"{self.trainings or 0:,.{0 if (self.trainings or 0) >= 100 else 1}f}"
        like = "" if self.trainings is None else f", like {count} whole trainings"
        at_least = "at least " if self.untimed else ""
        return (
            f"It cost {wall}{self.trials} trial{'' if self.trials == 1 else 's'}{without}, "
            f"{at_least}{duration(self.trial_seconds)} on their workers, {self.examples:,} "
            f"examples{like}."
        )


def cost_of(run: RecordedRun) -> Cost:
    """What a run took."""
    did = [run.trials.own(trial) for trial in run.trials]
    examples, whole = sum(one.examples for one in did), run.trials.total_examples
    timed = [one.seconds for one in did if math.isfinite(one.seconds)]
    return Cost(
        trials=len(run.trials),
        completed=len(run.trials.completed()),
        examples=examples,
        trainings=examples / whole if whole else None,
        trial_seconds=sum(timed),
        seconds=run.seconds,
        untimed=len(did) - len(timed),
    )


def duration(seconds: float) -> str:
    """Such as "42 s", "12.5 min", "3.4 h"."""
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{plain_digits(seconds / 3600)} h"


def two_sentences(run: RecordedRun) -> list[str]:
    """The answer, as the terminal gives it too; or why there is none."""
    if run.answer is None:
        return ["There is no answer.", run.reason]
    words = words_of(run.answer)
    ended = " The run was interrupted, or still goes on: this is the answer so far."
    recommendation = f"{words.recommendation}."
    if run.answer.status == "interrupted":
        recommendation += ended
    if 0 < run.answer.trials < len(run.trials):
        recommendation += (
            f" It rests on the first {run.answer.trials} of {len(run.trials)} trials: the "
            "later ones have not been judged yet."
        )
    return [recommendation, words.better]


def answer_section(run: RecordedRun, *, level: int) -> PageSection:
    """The table, how sure it is, what would change it, and the cost."""
    words = words_of(run.answer) if run.answer else None
    reasons = words.reasons if words else ()
    changes = (*words.changes, *failed_checks(run)) if words else ()
    nothing = "What would change it: nothing that the run itself points to."
    return PageSection(
        "Beside your own setting" if words else "What it cost",
        (),
        columns=_columns(run),
        rows=_rows(run),
        notes=(
            *([f"How sure: {' '.join(reasons)}"] if reasons else []),
            *([f"What would change it: {' '.join(changes)}"] if changes else []),
            *([nothing] if run.answer and run.answer.verified and not changes else []),
            *([_SIGNS] if run.answer and run.answer.verified else []),
            *(words.memory if words else ()),
            *(words.longer if words else ()),
            str(cost_of(run)),
        ),
        level=level,
    )


_SIGNS = (
    "In the table ± is the standard deviation between n seeds, of seconds between n rounds; in the "
    "sentences [ ] holds an interval of 95 %."
)


def failed_checks(run: RecordedRun) -> list[str]:
    """What the run does not support, in one sentence; nothing where no check fails."""
    failed = [c.name for c in run.checks if c.verdict == "FAIL"]
    claims = "; ".join(f"{name[0].lower()}{name[1:]}" for name in failed)
    return [f"This run does not support (see Checks): {claims}."] if failed else []


def _columns(run: RecordedRun) -> Row:
    if run.answer is None:
        return ()
    own_name = "your own setting, kept" if run.answer.keeps_baseline else "your own setting"
    names = {run.answer.recommended_trial: "recommended", BASELINE: own_name}
    return ("", *(names.get(one.key, "the nearest, not recommended") for one in shown_of(run)))


def shown_of(run: RecordedRun) -> list[Contender]:
    """Recommendation and baseline; beside a baseline that is kept, the best of the others."""
    answer = run.answer
    if answer is None:
        return []
    shown = answer.shown()
    if answer.keeps_baseline and answer.verification:
        others = (answer.find(c.key) for c in answer.verification.comparisons if c.key != BASELINE)
        shown += [one for one in others if one is not None][:1]
    return shown


def _rows(run: RecordedRun) -> list[Row]:
    shown = shown_of(run)
    if not shown:
        return []
    rows = [
        ("batch size", *(str(one.batch_size) for one in shown)),
        ("peak learning rate", *(f"{one.learning_rate:.4g}" for one in shown)),
        ("schedule", *map(_schedule, shown)),
        ("optimizer", *map(_optimizer, shown)),
        *([("model", *map(_model, shown))] if any(c.configuration.model for c in shown) else []),
        ("length", *(f"{one.total_examples:,} examples" for one in shown)),
    ]
    for split in ("validation", "test"):
        names = sorted({name for one in shown for name in _metrics(one, split)})
        rows += [
            (f"{split} {name}", *(_measured(_metrics(one, split).get(name)) for one in shown))
            for name in names
        ]
    rows.append(("seconds of training steps", *map(_seconds, shown)))
    return rows


def _metrics(one: Contender, split: str) -> dict[str, Measured]:
    return one.metrics.validation if split == "validation" else one.metrics.test or {}


def _measured(value: Measured | None) -> str:
    return "not measured" if value is None else str(value)


def _schedule(one: Contender) -> str:
    schedule = one.configuration.schedule
    parts = [schedule.name, *(f"{k} {v}" for k, v in schedule.arguments.items())]
    if one.configuration.warmup_fraction:
        parts.append(f"warm-up {one.configuration.warmup_fraction:.0%}")
    return ", ".join(parts)


def _optimizer(one: Contender) -> str:
    return " ".join([one.optimizer.name, *(f"{k} {v}" for k, v in one.optimizer.arguments.items())])


def _model(one: Contender) -> str:
    arguments = one.configuration.model
    return ", ".join(f"{k} {v}" for k, v in arguments.items()) or "its defaults"


def _seconds(one: Contender) -> str:
    seconds = one.training_seconds
    where = "alone" if seconds.alone_on_the_device else "beside others"
    spread = seconds.standard_deviation
    noise = "" if spread is None else f" ± {plain_digits(spread, 2)}"
    return f"{plain_digits(seconds.mean)}{noise} ({where}, n={seconds.measurements})"


def overview(runs: Sequence[RecordedRun]) -> PageSection:
    """Several runs beside one another, a row each."""
    rows = []
    for run in runs:
        one = run.answer.recommended if run.answer else None
        rows.append(
            (
                run.name,
                f"{run.dataset}, {run.model}",
                str(one.batch_size) if one else "no answer",
                f"{one.learning_rate:.4g}" if one else "",
                f"{run.objective_name} {one.objective()}" if one else "",
                _seconds(one) if one else "",
                str(len(run.trials)),
            )
        )
    columns = ("run", "of", "batch size", "learning rate", "metric", "seconds of steps", "trials")
    return PageSection("The runs", (), columns=columns, rows=rows)
