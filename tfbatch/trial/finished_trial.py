"""A finished trial: what the journal keeps, one flat row each."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.errors import RunFolderError
from tfbatch.run_folder.files import curves_of
from tfbatch.run_folder.journal import Row
from tfbatch.schema import JsonObject
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec
from tfbatch.trial_status import Status

BASELINE = "baseline"
"""Name of the baseline's trial."""


@dataclasses.dataclass(frozen=True)
class FinishedTrial:
    """One finished trial.

    Attributes:
        trial: Its name.
        phase: What it was for.
        status: How it ended.
        seed: Its seed.
        configuration: What it trained with.
        learning_rate: The peak learning rate at its batch size (derived).
        score: The objective's final value; None unless the status is "completed".
        metrics: Final metrics.
        examples: Examples trained on; as updates and seconds, with those of its ancestors.
        total_examples: Length of the training that was asked for: the end of its schedule.
        warmup_examples: Length of the warm-up.
        steps: Updates made.
        steps_per_epoch: Updates between two evaluations.
        seconds: Wall-clock seconds of the whole trial.
        training_seconds: Seconds of training steps alone.
        message: Why it diverged, or the traceback.
        device: Kind of device that trained.
        row: The journal's row.
        parent: The trial whose end state it went on from, or None.
        from_examples: Where that was; 0 for one that began anew.
        to_examples: Where it stopped, as was asked for; None at `total_examples`.
        course_from: Where its schedule began: 0, or where it branched off from its parent.
    """

    trial: str
    phase: Phase
    status: Status
    seed: int
    configuration: Configuration
    learning_rate: float
    score: float | None
    metrics: dict[str, float]
    examples: int
    total_examples: int
    warmup_examples: int
    steps: int
    steps_per_epoch: int
    seconds: float
    training_seconds: float
    message: str
    device: str
    row: Row
    parent: str | None = None
    from_examples: int = 0
    to_examples: int | None = None
    course_from: int = 0

    @property
    def length(self) -> int:
        """Where it ended, as was asked for: only scores of one length can be compared.

        One whose last update reaches the end of its schedule ended there.
        """
        if self.to_examples is None:
            return self.total_examples
        batch_size = self.configuration.batch_size
        updates = -(-(self.to_examples - self.course_from) // batch_size)
        at_end = self.course_from + updates * batch_size >= self.total_examples
        return self.total_examples if at_end else self.to_examples

    @property
    def is_whole(self) -> bool:
        """Whether its configuration led from the beginning to its end, in however many parts."""
        return self.course_from == 0 and self.length == self.total_examples

    @functools.cached_property
    def identity(self) -> str:
        """That of its configuration; of thousands of trials it is asked for again and again."""
        return self.configuration.identity()

    @property
    def curves(self) -> str:
        """The folder of its curves below that of TensorBoard; parts of a training share one."""
        return curves_of(self.trial, self.row.get("curves"))

    @property
    def derived_numbers(self) -> JsonObject:
        """The optimizer's numbers that follow from the batch size; see `Derived.numbers`."""
        return {
            key: value
            for key, value in self.row.items()
            if key.startswith("derived_") or key == "held_numbers"
        }


_METRIC = "metric_"
_NOT_IN_ROW = ("configuration", "metrics", "row")


def score_of(outcome_status: str, value: float | None) -> float | None:
    """The objective's value of a completed trial, None for every other one."""
    if outcome_status != "completed" or value is None or not math.isfinite(value):
        return None
    return value


def final_status(outcome: Outcome, objective: Objective) -> Outcome:
    """A trial that completed with a non-finite objective has diverged."""
    if outcome.status == "completed" and not math.isfinite(
        outcome.metrics.get(objective.name, math.nan)
    ):
        reason = f"the final {objective.name} is {outcome.metrics.get(objective.name)}"
        return dataclasses.replace(outcome, status="diverged", message=reason)
    return outcome


def make_row(spec: TrialSpec, outcome: Outcome, *, score: float | None, finished_at: str) -> Row:
    """The journal's row of a trial; every metric's key begins with `metric_`."""
    derived = spec.derived
    return {
        "trial": spec.trial,
        "phase": spec.phase,
        "status": outcome.status,
        "score": score,
        "learning_rate": derived.learning_rate,
        **spec.configuration.flat(),
        **{_METRIC + name: value for name, value in outcome.metrics.items()},
        "seconds": round(outcome.seconds, 3),
        "training_seconds": round(outcome.training_seconds, 3),
        "examples": outcome.examples,
        "total_examples": spec.total_examples,
        **_part(spec),
        "steps": outcome.steps,
        "steps_per_epoch": derived.steps_per_epoch,
        "warmup_examples": derived.warmup_examples,
        **derived.numbers(),
        "seed": spec.seed,
        "device": outcome.device,
        **({"curves": spec.log_dir.name} if spec.log_dir else {}),
        "finished_at": finished_at,
        "message": outcome.message,
    }


def _part(spec: TrialSpec) -> dict[str, Any]:
    """What the row of a part of a training has beside the others."""
    if spec.parent is None and spec.to_examples is None:
        return {}
    length = spec.total_examples if spec.to_examples is None else spec.to_examples
    return {
        "parent": spec.parent.trial if spec.parent else None,
        "from_examples": spec.from_examples,
        "to_examples": length,
        "course_from": spec.course_from,
    }


def read_row(row: Row) -> FinishedTrial:
    """The finished trial of a journal's row.

    Raises:
        ConfigurationError: Its configuration cannot be read.
        RunFolderError: It lacks a key.
    """
    absent = [
        field.name
        for field in dataclasses.fields(FinishedTrial)
        if field.name not in (*row, *_NOT_IN_ROW) and field.default is dataclasses.MISSING
    ]
    if absent:
        raise RunFolderError(
            f"The trial {row['trial']} in the journal has no `{absent[0]}`: the file was changed "
            "by hand. Remove its line (the trial runs again), or start anew with --overwrite."
        )
    metrics = {
        key.removeprefix(_METRIC): float(value)
        for key, value in row.items()
        if key.startswith(_METRIC)
    }
    return FinishedTrial(
        configuration=Configuration.from_flat(row),
        metrics=metrics,
        row=row,
        **{
            field.name: row[field.name]
            for field in dataclasses.fields(FinishedTrial)
            if field.name in row and field.name not in _NOT_IN_ROW
        },
    )
