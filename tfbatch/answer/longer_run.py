"""What is kept for a longer training, and how it is checked: people tune short and train long."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tfbatch.answer.answer import Answer, Number
from tfbatch.quantities import TrainingLength, TrainingLengthText
from tfbatch.run_folder.files import BEST_CONFIGURATION
from tfbatch.schema import Strict

_OCTAVE = 2.0
_BASIS = (
    "on two small networks on digits, 2 and 4 times the length, the rate that was kept lay within "
    "one octave of the best one in 44 to 100 % of the cases, and in all 16 comparisons at least as "
    "often as one that was predicted from shorter lengths"
)
"""benchmarks/results/longer_runs.md"""


class LongerRun(Strict):
    """A prediction: batch size and learning rate stay what they are.

    Attributes:
        length: The longer training's.
        batch_size: Examples in an update.
        learning_rate: At the peak.
        learning_rate_range: One octave on both sides, in which the best rate may be.
        basis: What was measured about that.
        check_with: The command of the one longer training that checks it.
    """

    length: TrainingLengthText
    batch_size: int
    learning_rate: Number
    learning_rate_range: tuple[Number, Number]
    basis: str
    check_with: str

    def sentence(self) -> str:
        """For people."""
        low, high = self.learning_rate_range
        return (
            f"For {self.length}, a prediction: keep batch size {self.batch_size} and learning rate "
            f"{self.learning_rate:.4g}; the best one may be anywhere from {low:.4g} to {high:.4g} "
            f"({self.basis}). This training checks it:\n  {self.check_with}"
        )


def longer_run(answer: Answer, length: TrainingLength, run_dir: Path) -> LongerRun:
    """What the recommendation means for a longer training.

    Args:
        answer: The recommendation.
        length: The longer training's.
        run_dir: The run folder.
    """
    recommended = answer.recommended
    rate = float(recommended.learning_rate)
    command = [
        *(sys.executable, "-m", "tfbatch.train"),
        f"--config={run_dir / BEST_CONFIGURATION}",
        f"--trial_length={length}",
    ]
    return LongerRun(
        length=length,
        batch_size=recommended.configuration.batch_size,
        learning_rate=rate,
        learning_rate_range=(rate / _OCTAVE, rate * _OCTAVE),
        basis=_BASIS,
        check_with=shlex.join(command),
    )
