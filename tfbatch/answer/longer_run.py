"""What a longer training is predicted to need, and how often that was right where it was measured.

Nothing about the longer run is measured in a search: what is told is what was measured once, on
other data (benchmarks/longer_runs.py): keeping the learning rate did at least as well as every
prediction that was tried.
"""

from __future__ import annotations

import dataclasses
import math
import shlex
import sys
from pathlib import Path
from typing import Literal

import pydantic

from tfbatch.metric_direction import is_accuracy
from tfbatch.quantities import TrainingLength, TrainingLengthText
from tfbatch.run_folder.files import BEST_CONFIGURATION
from tfbatch.schema import Strict
from tfbatch.trial.derived import Derived


@dataclasses.dataclass(frozen=True)
class KeptRate:
    """How often a kept learning rate was right, in `cases` of a batch size and a group of seeds.

    Right is within one octave of the rate that is best at the longer length for other seeds.

    Attributes:
        times: The longer length, in shorter ones.
        metric: What the rates were compared by.
        right: Of the rate that was best at the shorter length.
        in_full: Of the rate that was best for the same seeds at the longer length itself.
        cases: Number of cases.
    """

    times: int
    metric: Literal["loss", "accuracy"]
    right: int
    in_full: int
    cases: int


KEPT_RATES = (
    KeptRate(2, "loss", right=45, in_full=46, cases=72),
    KeptRate(2, "accuracy", right=54, in_full=56, cases=72),
    KeptRate(4, "loss", right=35, in_full=46, cases=72),
    KeptRate(4, "accuracy", right=59, in_full=56, cases=72),
    KeptRate(10, "loss", right=3, in_full=6, cases=9),
    KeptRate(10, "accuracy", right=5, in_full=4, cases=9),
)
"""Of one seed each, both tables of digits together: benchmarks/results/longer_runs.md."""


class LongerRun(Strict):
    """The prediction for a longer training: batch size and learning rate are kept.

    Attributes:
        length: The longer length.
        times: The same in trainings of the run's length.
        batch_size: The recommended one.
        learning_rate: The recommended one.
        learning_rate_range: One octave on both sides of it.
        measured_times: At which of the measured lengths the following was counted.
        measured_by: By which metric.
        right: In how many cases the kept rate was within one octave of the best.
        in_full: In how many the best rate of the same seeds at the longer length was.
        cases: Number of cases.
        check_with: The longer run that checks it: a command, or what to do where none can.
    """

    length: TrainingLengthText
    times: float
    batch_size: int
    learning_rate: float
    learning_rate_range: tuple[float, float]
    measured_times: int
    measured_by: Literal["loss", "accuracy"]
    right: int
    in_full: int
    cases: int
    check_with: str

    @classmethod
    def predict(
        cls,
        length: TrainingLength,
        *,
        times: float,
        batch_size: int,
        learning_rate: float,
        metric: str,
        run_dir: Path,
        records_dir: Path | None = None,
        in_script: tuple[Derived, Derived] | None = None,
    ) -> LongerRun:
        """The prediction for a run's answer.

        Args:
            length: The longer length.
            times: The same in trainings of the run's length, above 1.
            batch_size: The recommended batch size.
            learning_rate: The recommended learning rate.
            metric: The run's objective; one that is no accuracy is taken for a loss.
            run_dir: The run folder.
            records_dir: The folder for records that the run was given, or None.
            in_script: What follows from the run's length and from the longer one, where no command
                can train the answer and the printed script must; else None.
        """
        by = "accuracy" if is_accuracy(metric) else "loss"
        known = min(
            (one for one in KEPT_RATES if one.metric == by),
            key=lambda one: abs(math.log(times / one.times)),
        )
        return cls(
            length=length,
            times=times,
            batch_size=batch_size,
            learning_rate=learning_rate,
            learning_rate_range=(learning_rate / 2, learning_rate * 2),
            measured_times=known.times,
            measured_by=known.metric,
            right=known.right,
            in_full=known.in_full,
            cases=known.cases,
            check_with=(
                _command(length, run_dir, records_dir) if in_script is None else _script(*in_script)
            ),
        )

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def prediction(self) -> str:
        """In one sentence, with what it rests on."""
        low, high = self.learning_rate_range
        longest = max(one.times for one in KEPT_RATES)
        beyond = f"; nothing longer than {longest} x was measured" if self.times > longest else ""
        return (
            f"For {self.length} ({self.times:.3g} x this length) keep batch size "
            f"{self.batch_size} and learning rate {self.learning_rate:.4g}: a prediction, since "
            "nothing so long was trained here. Measured on digits, at "
            f"{self.measured_times} x the length: a kept rate was within an octave (a factor of "
            f"two: here {low:.4g} to {high:.4g}) of the best one in {self.right} of {self.cases} "
            f"cases by {self.measured_by}, and the best of the same seeds trained at the full "
            f"length in {self.in_full}; no other prediction that was tried did better{beyond}."
        )

    def lines(self) -> tuple[str, str]:
        """The prediction, and what checks it."""
        return self.prediction, f"The longer run that checks it: {self.check_with}"


def _command(length: TrainingLength, run_dir: Path, records_dir: Path | None) -> str:
    python = sys.executable  # the environment need not be activated
    best = f"--config={run_dir / BEST_CONFIGURATION}"
    records = [f"--records_dir={records_dir}"] if records_dir else []
    return shlex.join([python, "-m", "tfbatch.train", best, f"--length={length}", *records])


def _script(now: Derived, then: Derived) -> str:
    """What to change in the printed script: every number in it that follows from the length."""
    before, after = _numbers(now), _numbers(then)
    changed = [f"{name}={value}" for name, value in after.items() if value != before[name]]
    return (
        f"the script in plain Keras with {', '.join(changed)} and StopAfterSteps({then.steps}) "
        "(no command can import what was given in Python)"
    )


def _numbers(derived: Derived) -> dict[str, float | bool | None]:
    return {
        "total_examples": derived.total_examples,
        "num_examples": derived.total_examples,
        "warmup_examples": derived.warmup_examples,
        "epochs": derived.epochs,
        "steps_per_epoch": derived.steps_per_epoch,
        "steps_per_execution": derived.steps_per_execution,
        **derived.optimizer,
    }
