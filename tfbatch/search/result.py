"""What `find_batch_size` returns and `python -m tfbatch.tune` prints."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from rich.table import Table

from tfbatch.answer.answer import Answer
from tfbatch.answer.summary import summary, words_of
from tfbatch.errors import NothingLearnedError
from tfbatch.exporters import Exported, export_run
from tfbatch.notebook import paragraphs, table
from tfbatch.run_folder.trials_table import to_frame
from tfbatch.schema import JsonObject

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
    rows: list[dict[str, Any]] = dataclasses.field(repr=False)
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
            to: A file of tfbatch/exporters: "csv", "mlflow", "optuna" or "wandb".
            destination: Where to; what it means and its default are the exporter's own.

        Returns:
            Where it went and how many trials were written.

        Raises:
            InputError: An unknown exporter, a package that is not installed, or a destination that
                cannot be used.
            RunFolderError: The run folder is damaged.
        """
        return export_run(self.run_dir, to=to, destination=destination)


_OF_AN_ANSWER = ("batch_size", "learning_rate", "recommendation")


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

    def __str__(self) -> str:
        """The same, and where the rest is."""
        return f"{self.summary()}\nEverything is in {self.run_dir}."

    def _repr_html_(self) -> str:
        """For a notebook."""
        return paragraphs(["Nothing was learned.", self.summary()], first_is_strong=True)

    def __getattr__(self, name: str) -> NoReturn:
        """What only an answer has, such as `batch_size`, raises the reason why there is none."""
        if name in Result.__annotations__ or name in _OF_AN_ANSWER:
            raise self.reason
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result(_Trials):
    """The result of a run.

    Attributes:
        run_dir: The run folder.
        rows: The journal's rows.
        answer: What was found: recommendation, baseline and contenders with their figures.
        table: The table by batch size.
        snippet: The recommended training as a script in plain Keras.
        interrupted: Whether the user ended the run early.
        failure: What else ended it early, such as damaged records; the answer then rests on what
            was measured before. None if it completed.
    """

    answer: Answer
    table: Table
    snippet: str

    @property
    def recommendation(self) -> JsonObject:
        """The content of recommendation.json.

        Batch size, learning rate, schedule, optimizer, metrics on validation and test, the
        baseline's and every contender's, number of trials, seconds.
        """
        return self.answer.content()

    @property
    def batch_size(self) -> int:
        """The recommended batch size."""
        return self.answer.recommended.batch_size

    @property
    def learning_rate(self) -> float:
        """The recommended peak learning rate, at that batch size."""
        return self.answer.recommended.learning_rate

    def summary(self) -> str:
        """The recommendation beside the baseline, in a few lines."""
        return summary(self.answer)

    def __str__(self) -> str:
        """The same, and where the rest is."""
        return f"{self.summary()}\nEverything is in {self.run_dir}."

    def _repr_html_(self) -> str:
        """For a notebook: the answer in two sentences, every contender, and where the rest is."""
        words, answer = words_of(self.answer), self.answer
        rows = []
        for one in answer.contenders:
            score = str(one.objective()) if one.completed else one.failures
            seconds = one.training_seconds
            alone = "" if seconds.alone_on_the_device else "*"
            rows.append(
                (
                    one.key,
                    str(one.batch_size),
                    f"{one.learning_rate:.4g}",
                    one.configuration.schedule.name,
                    score,
                    f"{seconds.mean:.3g}{alone}",
                )
            )
        columns = ("", "batch size", "learning rate", "schedule", answer.objective.name, "train s")
        beside = any(not one.training_seconds.alone_on_the_device for one in answer.contenders)
        notes = [
            *words.reasons,
            *words.changes,
            *words.longer,
            "* as they were in the trial, beside others" if beside else "",
            f"Everything is in {self.run_dir}.",
        ]
        return (
            paragraphs([f"{words.recommendation}.", words.better], first_is_strong=True)
            + table(columns, rows, strong=answer.recommended_trial)
            + paragraphs(notes)
        )
