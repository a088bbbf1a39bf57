"""What goes into a trial and what comes out: values that can be pickled and written down."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import math
from pathlib import Path

import numpy as np

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.metric_direction import Direction
from tfbatch.optimizers import OPTIMIZERS, OWN, roles_of
from tfbatch.schedules import make_family
from tfbatch.schedules._family import value
from tfbatch.schema import content_hash
from tfbatch.trial.derived import Derived, derive
from tfbatch.trial_status import Status

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

    A trial may be a part of a training: it stops at `to_examples`, and a later one, whose `parent`
    it is, goes on from its end state. Positions are counted in examples from the beginning of the
    training, ancestors included. The child either goes on with its parent's schedule, and then the
    parts are together what the whole would be, or it branches off: its schedule begins anew where
    its parent ended (`course_from`), with any other batch size or learning rate.

    Attributes:
        trial: Its name, unique within a run.
        phase: What it is for.
        seed: Seed of weights, order and augmentation; positive.
        configuration: What to train with.
        total_examples: The end of its schedule: the length of the whole training.
        num_examples: Size of the training split.
        replicas: Devices that share every batch.
        evaluated_every: Examples between two evaluations; None for a pass over the training split.
        keep_if: Weights are kept only if this holds; None: they always are.
        untrained_loss: The training loss before any training, if known: the reference for
            divergence.
        judged_examples: Examples whose mean loss is compared with it.
        log_dir: Folder for TensorBoard, or None.
        weights_file: Where to save the final weights (`.weights.h5`), or None.
        checkpoint_file: Where a long training keeps its last epoch (`.npz`), or None.
        to_examples: Where it stops, with the update that reaches it; None at `total_examples`.
        parent: The trial whose end state it goes on from; None for one that begins anew.
        course_from: Where its schedule begins: 0, or the end of the parent that it branched from.
        state_file: Where its end state is kept for those that go on from it (`.npz`), or None.
    """

    trial: str
    phase: Phase
    seed: int
    configuration: Configuration
    total_examples: int
    num_examples: int
    replicas: int = 1
    evaluated_every: int | None = None
    log_dir: Path | None = None
    weights_file: Path | None = None
    checkpoint_file: Path | None = None
    untrained_loss: float | None = None
    judged_examples: int = JUDGED_EXAMPLES
    keep_if: BetterThan | None = None
    to_examples: int | None = None
    parent: TrialSpec | None = None
    course_from: int = 0
    state_file: Path | None = None

    @functools.cached_property
    def derived(self) -> Derived:
        """Batch size, learning rate and all else that follows for its schedule, from its beginning.

        It travels with the trial. Of the updates of that schedule this trial makes `steps`.

        Raises:
            InputError: See tfbatch.trial.derived.derive.
        """
        return derive(
            self.configuration,
            num_examples=self.num_examples,
            total_examples=self.total_examples - self.course_from,
            replicas=self.replicas,
            examples_before=self.course_from,
            evaluated_every=self.evaluated_every,
        )

    def with_curves_in(self, folder: Path) -> TrialSpec:
        """The same trial with another folder for its curves."""
        found = dataclasses.replace(self, log_dir=folder)
        # It does not depend on the folder, whose name may come from it.
        found.__dict__["derived"] = self.derived
        return found

    @property
    def parents_checkpoint_file(self) -> Path | None:
        """The checkpoint of its parent, where it trains that one again for its state.

        It is the child's own: another child may train the same parent again at the same time.
        """
        if self.parent is None or self.checkpoint_file is None:
            return None
        own = self.checkpoint_file
        return own.with_name(f"{own.stem}-{self.parent.trial}{own.suffix}")

    @property
    def from_examples(self) -> int:
        """Where it begins: where its parent ended."""
        return self.parent.end_examples if self.parent else 0

    @property
    def end_examples(self) -> int:
        """Where it really ends: only the last update of a schedule has fewer examples."""
        done = min(self._last_step * self.derived.batch_size, self.derived.total_examples)
        return self.course_from + done

    @property
    def first_step(self) -> int:
        """Updates of its schedule that its ancestors made."""
        return (self.from_examples - self.course_from) // self.derived.batch_size

    @property
    def steps(self) -> int:
        """Updates that it makes itself."""
        return self._last_step - self.first_step

    @property
    def steps_before(self) -> int:
        """Updates of all its ancestors."""
        return self.parent.steps_before + self.parent.steps if self.parent else 0

    @property
    def epochs_before(self) -> int:
        """Epochs of all its ancestors; one that a part ends in counts, and the next begins anew."""
        if self.parent is None:
            return 0
        own = -(-self.parent.steps // self.parent.derived.steps_per_epoch)
        return self.parent.epochs_before + own

    @property
    def is_whole(self) -> bool:
        """Whether one schedule leads from the beginning to its end, in however many parts."""
        if self.course_from:
            return False
        return self.to_examples is None or self.end_examples == self.derived.total_examples

    @property
    def tries_another(self) -> bool:
        """Whether it tries a configuration that its parent does not.

        A trial that goes on from another one, or cools it down at its batch size and learning rate,
        is part of that one.
        """
        return self.parent is None or self._pace != self.parent._pace

    @property
    def _pace(self) -> tuple[int, float]:
        return self.derived.batch_size, self.derived.learning_rate

    @property
    def _last_step(self) -> int:
        if self.to_examples is None:
            return self.derived.steps
        wanted = -(-(self.to_examples - self.course_from) // self.derived.batch_size)
        return min(wanted, self.derived.steps)

    def ancestors(self) -> list[str]:
        """Names of its parent, of that one's parent, and so on."""
        return [self.parent.trial, *self.parent.ancestors()] if self.parent else []

    def check(self) -> None:
        """Refuses a part of a training that cannot be.

        Raises:
            InputError: It ends before it begins or after its schedule; it changes what a state
                depends on; it goes on from a short last batch; or it says that it goes on with its
                parent's schedule and has another.
        """
        end = self.total_examples if self.to_examples is None else self.to_examples
        if not self.from_examples < min(end, self.total_examples) or self.steps < 1:
            raise InputError(
                f"{self.trial} must end after it begins, by one update at least. Received: from "
                f"example {self.from_examples} to {end} of a schedule of {self.total_examples}, at "
                f"batch size {self.configuration.batch_size}."
            )
        if self.to_examples is not None and self.to_examples > self.total_examples:
            raise InputError(
                f"{self.trial} must not end after its schedule. Received: to_examples="
                f"{self.to_examples}, total_examples={self.total_examples}."
            )
        if self.parent is None:
            return
        for what, own, parents in (
            ("seed", self.seed, self.parent.seed),
            ("optimizer", self.configuration.optimizer.name, self._parents.optimizer.name),
            ("model arguments", self.configuration.model, self._parents.model),
        ):
            if own != parents:
                raise InputError(
                    f"{self.trial} must have the {what} of its parent {self.parent.trial}, whose "
                    f"state it goes on from. Received: {own!r} and {parents!r}."
                )
        if self.course_from not in (self.parent.course_from, self.from_examples):
            raise InputError(
                f"The schedule of {self.trial} must begin where its parent's does "
                f"({self.parent.course_from}), or where that one ended ({self.from_examples}). "
                f"Received: {self.course_from}."
            )
        branched = self.course_from == self.from_examples
        short = (self.from_examples - self.course_from) % self.configuration.batch_size
        if short and not branched:
            raise InputError(
                f"{self.trial} cannot go on with the schedule of {self.parent.trial}, whose last "
                f"batch has {short} examples: in one training every batch before another has "
                f"{self.configuration.batch_size}. Let it branch off, or stop the parent earlier, "
                f"at to_examples={self.from_examples - short}."
            )
        if branched and self.configuration.optimizer.name == OWN:
            raise InputError(
                f"{self.trial} cannot branch off: what the optimizer of the compiled model keeps "
                "between updates is not known, so that it cannot be carried over to another "
                "learning rate. Compile the model with an optimizer that tfbatch has a file for: "
                f"{', '.join(OPTIMIZERS.names())}."
            )
        self._check_slots(self.parent)
        if not branched and self.course(self.first_step) != self.parent.course(self.first_step):
            raise InputError(
                f"{self.trial} can only go on from {self.parent.trial} with what that one would "
                "have done next: its configuration and, for a schedule that depends on its length, "
                "its total_examples. Let it branch off to change them."
            )

    def _check_slots(self, parent: TrialSpec) -> None:
        """Refuses an optimizer that has other variables than the parent's.

        Raises:
            InputError: It has a momentum or an average of the weights where the other has none, or
                another choice, such as `amsgrad`.
        """
        roles = roles_of(self.configuration.optimizer.name)
        for name, own in self.derived.optimizer.items():
            parents = parent.derived.optimizer[name]
            there_or_not = roles.get(name) in ("momentum", "weight_average")
            is_choice = isinstance(own, bool) or isinstance(parents, bool)
            if (there_or_not or is_choice) and bool(own) != bool(parents):
                raise InputError(
                    f"{self.trial} must have a state of the form that {parent.trial} left: what an "
                    "optimizer remembers cannot begin or end at a branch. Received: "
                    f"{name}={own!r} and {parents!r}."
                )

    @property
    def _parents(self) -> Configuration:
        return self.parent.configuration if self.parent else self.configuration

    def identity(self) -> str:
        """Equal for trainings that are the same from beginning to end."""
        whole = f"{self.configuration.identity()}-{self.seed}-{self.total_examples}"
        if self.parent is None and self.is_whole:
            return whole
        parent = self.parent.identity() if self.parent else None
        return content_hash([whole, parent, self.course_from, self.end_examples])

    def course(self, steps: int) -> str:
        """Equal for trainings whose schedules are the same in their first `steps` updates.

        The length counts only in what it changes up to there: learning rates, derived numbers of
        the optimizer, updates between two evaluations. So what was trained at a constant rate, or
        in the stable phase of `wsd` after a warm-up of equal length, may go on in a longer
        training; a cosine depends on its length from the first update on. The update after them is
        compared too, so that no rounding at a joint of the schedule decides.

        Args:
            steps: Updates of its schedule that were made.
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
                *self._branched_from(),
            ]
        )

    def _branched_from(self) -> list[str]:
        """What its schedule began from, if that was the state of another."""
        first = self
        while first.parent and first.parent.course_from == self.course_from:
            first = first.parent
        return [first.parent.identity()] if first.parent and self.course_from else []


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
        examples: Examples trained on; as all that follows, with those of its ancestors.
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
