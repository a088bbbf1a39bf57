"""What goes into a trial and what comes out: values that can be pickled and written down."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from pathlib import Path
from typing import Literal

import numpy as np

from tfbatch.configuration import Configuration
from tfbatch.metric_direction import Direction
from tfbatch.schedules import make_family
from tfbatch.schedules._family import value
from tfbatch.schema import content_hash
from tfbatch.trial.derived import Derived, derive

Status = Literal["completed", "diverged", "oom", "error", "killed", "timeout", "interrupted"]
Phase = str
"""What a trial is for: "baseline", "search" or "confirmation"; a stage names its own."""
JUDGED_EXAMPLES = 64
"""A loss is called diverged on the mean of this many examples: one batch of two is noise."""


@dataclasses.dataclass(frozen=True)
class TrainingLoss:
    """The training loss of an untrained model, its weights included.

    Attributes:
        value: The loss.
        judged_examples: Examples whose mean is as certain as that of 64 without weights.
    """

    value: float
    judged_examples: int = JUDGED_EXAMPLES


@dataclasses.dataclass(frozen=True)
class BetterThan:
    """A metric that must be better than a value.

    Attributes:
        metric: Its name.
        direction: "min" or "max".
        value: What to be better than.
    """

    metric: str
    direction: Direction
    value: float

    def holds(self, metrics: dict[str, float]) -> bool:
        """Whether the metric is better; equal is not."""
        found = metrics.get(self.metric, math.nan)
        return found > self.value if self.direction == "max" else found < self.value


@dataclasses.dataclass(frozen=True)
class TrialSpec:
    """One trial to run: what is asked for, and everything that follows from it.

    Attributes:
        trial: Its name, unique within a run.
        phase: What it is for.
        seed: Seed of weights, order and augmentation; positive.
        configuration: What to train with.
        total_examples: Length of the training.
        num_examples: Size of the training split.
        replicas: Devices that share every batch.
        keep_if: Weights are kept only if this holds; None: they always are.
        untrained_loss: The training loss before any training, if known: the reference for
            divergence.
        judged_examples: Examples whose mean loss is compared with it.
        log_dir: Folder for TensorBoard, or None.
        weights_file: Where to save the final weights (`.weights.h5`), or None.
        checkpoint_file: Where a long training keeps its last epoch (`.npz`), or None.
    """

    trial: str
    phase: Phase
    seed: int
    configuration: Configuration
    total_examples: int
    num_examples: int
    replicas: int = 1
    log_dir: Path | None = None
    weights_file: Path | None = None
    checkpoint_file: Path | None = None
    untrained_loss: float | None = None
    judged_examples: int = JUDGED_EXAMPLES
    keep_if: BetterThan | None = None

    @functools.cached_property
    def derived(self) -> Derived:
        """Batch size, steps, learning rate and all else that follows; it travels with the trial.

        Raises:
            InputError: See tfbatch.trial.derived.derive.
        """
        return derive(
            self.configuration,
            num_examples=self.num_examples,
            total_examples=self.total_examples,
            replicas=self.replicas,
        )

    def identity(self) -> str:
        """Equal for trainings that are the same from beginning to end."""
        return f"{self.configuration.identity()}-{self.seed}-{self.total_examples}"

    def course(self, steps: int) -> str:
        """Equal for trainings that are the same in their first `steps` updates, of any length.

        The length counts only in what it changes up to there: learning rates, derived numbers of
        the optimizer, updates between two evaluations. So what was trained at a constant rate, or
        in the stable phase of `wsd` after a warm-up of equal length, may go on in a longer
        training; a cosine depends on its length from the first update on. The update after them is
        compared too, so that no rounding at a joint of the schedule decides.

        Args:
            steps: Updates that were made.
        """
        family = make_family(
            self.configuration.schedule.name, **self.configuration.schedule.arguments
        )
        derived = self.derived
        rates = value(
            family,
            np.arange(steps + 1, dtype=np.float64) * derived.batch_size,
            learning_rate=derived.learning_rate,
            batch_size=derived.batch_size,
            total_examples=derived.total_examples,
            warmup_examples=derived.warmup_examples,
            ops=np,
        )
        return content_hash(
            [
                self.configuration.model_dump(mode="json"),
                self.seed,
                derived.optimizer,
                derived.steps_per_epoch,
                hashlib.sha256(np.broadcast_to(rates, (steps + 1,)).tobytes()).hexdigest(),
                # Where a schedule sets the momentum too, no other length is taken for the same.
                derived.total_examples if family.sets_momentum() else None,
            ]
        )


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one trial came to.

    Attributes:
        status: "completed"; "diverged" (loss not finite, or over three times the first);
            "oom" (out of memory, shown by an error, an allocator's last output or the kernel);
            "error" (an exception); "killed" (its process ended for an unknown reason); "timeout"
            (no heartbeat for too long); "interrupted" (asked to stop: never written to the
            journal).
        metrics: Final value of every metric, validation ones with `val_`; may be non-finite for a
            diverged trial; empty for "oom" and "error".
        examples: Examples trained on.
        steps: Updates made.
        seconds: Wall-clock seconds of the whole trial, building and tracing included.
        training_seconds: Seconds of training steps alone.
        message: Why it diverged, or the traceback.
        device: Kind of device that trained, such as "CPU".
    """

    status: Status
    metrics: dict[str, float]
    examples: int
    steps: int
    seconds: float
    training_seconds: float
    message: str = ""
    device: str = ""
