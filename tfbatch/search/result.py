"""What `find_batch_size` returns and `python -m tfbatch.tune` prints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.table import Table

from tfbatch.errors import NothingLearnedError
from tfbatch.exporters import Exported, export_run
from tfbatch.run_folder.table import to_frame
from tfbatch.search.answer import Answer
from tfbatch.search.edges import Edges

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trials:
    """The finished trials of a run.

    Attributes:
        run_dir: The run folder.
        rows: The journal's rows.
        interrupted: Whether the user ended the run early.
        failure: What else ended it early, such as damaged records; what was measured before stands.
            None if it came to its end.
    """

    run_dir: Path
    rows: list[dict[str, Any]]
    interrupted: bool
    failure: Exception | None = None

    def to_dataframe(self) -> pandas.DataFrame:
        """One row for each finished trial, in the order of their end.

        Returns:
            The columns of trials.csv, in its order: `trial`, `phase`, `status`, `score` (the
            objective's final value) and `learning_rate` (the peak), the configuration, `metric_X`
            for every metric X, then what was measured. `score`, `metric_X`, `seconds` and
            `training_seconds` are float64, counts int64, `finished_at` is datetime64 in UTC.
            What a trial does not have (a parameter of another schedule, a metric of a trial that
            ran out of memory) is missing. A diverged trial's metrics can be NaN or infinite, and
            NaN counts as missing in pandas: `status` tells the two apart.
        """
        return to_frame(self.rows)

    def export(self, to: str, *, destination: str | Path | None = None) -> Exported:
        """Writes the run out to another tool; a second time adds only what is new.

        Example:
            ```python
            result.export("mlflow", destination="sqlite:///mlflow.db")
            ```

        Args:
            to: A file of tfbatch/exporters: "csv", "mlflow" or "wandb".
            destination: Where to; what it means and its default are the exporter's own.

        Returns:
            Where it went and how many trials were written.

        Raises:
            InputError: An unknown exporter, a package that is not installed, or a destination that
                cannot be used.
            RunFolderError: The run folder is damaged.
        """
        return export_run(self.run_dir, to=to, destination=destination)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NothingLearned(_Trials):
    """The result of a run in which no trial is better than chance: its trials, and no answer.

    What only an answer has, such as `batch_size`, raises NothingLearnedError.

    Attributes:
        run_dir: The run folder.
        rows: The journal's rows.
        interrupted: Whether the user ended the run early.
        failure: None.
        reason: The measurements and the remedy.
    """

    reason: NothingLearnedError

    def summary(self) -> str:
        """What was measured, and what to change."""
        return str(self.reason)

    def __getattr__(self, name: str) -> NoReturn:
        """What only an answer has, such as `batch_size`, raises the reason why there is none."""
        if name in Result.__annotations__ or name in ("batch_size", "learning_rate"):
            raise self.reason
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(_Trials):
    """The result of a run.

    Attributes:
        run_dir: The run folder.
        rows: The journal's rows.
        recommendation: The content of recommendation.json: batch size, learning rate, schedule,
            optimizer, metrics on validation and test, the baseline's, number of trials, seconds.
        table: The table by batch size.
        snippet: The recommended training as a script in plain Keras.
        answer: The comparison that the recommendation rests on.
        interrupted: Whether the user ended the run early.
        failure: What else ended it early, such as damaged records; the answer then rests on what
            was measured before. None if it completed.
    """

    recommendation: dict[str, Any]
    table: Table
    snippet: str
    answer: Answer

    @property
    def batch_size(self) -> int:
        """The recommended batch size."""
        return self.answer.recommended.configuration.batch_size

    @property
    def learning_rate(self) -> float:
        """The recommended peak learning rate, at that batch size."""
        return self.answer.recommended.learning_rate

    def summary(self) -> str:
        """The recommendation beside the baseline, in a few lines."""
        content = self.recommendation
        what = (
            f"batch size {self.batch_size}, learning rate {self.learning_rate:.4g}, "
            f"{_schedule(content['schedule'])}, {_optimizer(content['optimizer'])}"
        )
        if self.answer.keeps_baseline:
            lines = [f"Keep your baseline: {what}", f"  {_figures(content)}"]
        else:
            lines = [f"Recommended: {what}", f"  {_figures(content)}", *self._baseline_lines()]
        at_edge = content["best_learning_rate_at_edge"]
        edges = Edges(low=tuple(at_edge["low"]), high=tuple(at_edge["high"]))
        lines += [self._certainty(), *self._memory_lines(), *edges.lines()]
        return "\n".join(lines)

    def _memory_lines(self) -> list[str]:
        limit, memory = (self.recommendation[x] for x in ("memory_limit", "memory_used_up"))
        measured = [limit["conclusion"]] if limit else []
        if not memory:
            return measured
        fits = memory["largest_that_fits"]
        return [
            *measured,
            f"Memory ({memory['device']}): used up at batch size "
            f"{memory['smallest_that_failed']}; the largest that was trained is "
            f"{'none' if fits is None else fits}.",
        ]

    def _baseline_lines(self) -> list[str]:
        base = self.recommendation["baseline"]
        if not base:
            return ["Baseline:    did not complete"]
        lines = [
            f"Baseline:    batch size {base['batch_size']}, learning rate "
            f"{base['learning_rate']:.4g}, constant",
            f"  {_figures(base)}",
        ]
        return [*lines, f"  {base['failures']}"] if base["failures"] else lines

    def _certainty(self) -> str:
        choice = self.answer.choice
        if choice is None:
            return (
                "Not verified on fresh seeds: the figures are of the search itself, whose best "
                "result is too good on average. More time or trials verify it."
            )
        recommended = next(c for c in choice.comparisons if c.key == choice.recommended)
        tied = [c for c in choice.comparisons if c.tied]
        count = len(self.answer.recommended.trials)
        seeds = (
            f"{count} fresh seeds"
            if count > 1
            else "one fresh seed (one seed gives no noise estimate)"
        )
        if len(tied) == 1:
            return f"It is the best on {seeds}, and no other one is tied with it."
        interval = (
            "" if recommended.half_width == float("inf") else f" ± {recommended.half_width:.4f}"
        )
        where = f"behind the best mean by {recommended.deficit:.4f}{interval}"
        if recommended.key == choice.best:
            where = "and has the best mean"
        return (
            f"{len(tied)} configurations are tied with the best on {seeds} (not shown to be "
            f"worse, and behind by at most {choice.margin:.4f}); this is the fastest of them, "
            f"{where}."
        )


def _schedule(schedule: dict[str, Any]) -> str:
    shown = {"name", "warmup_fraction", "warmup_examples", "total_examples"}
    parts = [schedule["name"], *(f"{k} {v}" for k, v in schedule.items() if k not in shown)]
    if schedule["warmup_fraction"]:
        parts.append(f"warm-up {schedule['warmup_examples']:,} examples")
    return f"{', '.join(parts)} over {schedule['total_examples']:,} examples"


def _optimizer(optimizer: dict[str, Any]) -> str:
    return " ".join([optimizer["name"], *(f"{k} {v}" for k, v in optimizer.items() if k != "name")])


def _figures(content: dict[str, Any]) -> str:
    parts = []
    for split in ("validation", "test"):
        metrics = content["metrics"][split]
        if not metrics:
            parts.append(f"{split} not measured")
            continue
        figures = ", ".join(f"{name} {_measured(value)}" for name, value in metrics.items())
        parts.append(f"{split} {figures}")
    return "; ".join([*parts, _duration(content)])


def _duration(content: dict[str, Any]) -> str:
    """What a training takes, and what that holds."""
    steps, validation = content["training_seconds"], content["validation_seconds"]
    if not steps["alone_on_the_device"]:
        return (
            f"{content['trial_seconds']:.3g} s beside other trials, of which "
            f"{steps['mean']:.3g} s are training steps"
        )
    where = f"alone on {steps['device'] or 'the device'}"
    count = validation["evaluations"]
    if validation["mean"] is None:
        return f"{steps['mean']:.3g} s of training steps {where}, validation not included"
    return (
        f"{steps['mean'] + validation['mean']:.3g} s {where}: {steps['mean']:.3g} s of training "
        f"steps, {validation['mean']:.3g} s of {count} validation{'' if count == 1 else 's'}"
    )


def _measured(value: dict[str, Any]) -> str:
    if value["standard_deviation"] is None:
        return f"{value['mean']:.4f} (n={value['seeds']})"
    return f"{value['mean']:.4f} ± {value['standard_deviation']:.4f} (n={value['seeds']})"
