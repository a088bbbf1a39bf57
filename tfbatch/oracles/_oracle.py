"""What an oracle is: it proposes trials and is told what they came to."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Protocol, runtime_checkable

from pydantic import Field

from tfbatch.metric_direction import Direction
from tfbatch.oracles._prices import NO_PRICES, Prices
from tfbatch.schema import Named, Strict
from tfbatch.trial_status import Status

if TYPE_CHECKING:  # it takes seconds to import
    import keras_tuner

BATCH_SIZE = "batch_size"
"""The name of the batch size among the hyperparameters."""
MOST_SEEDS = 99
"""Seeds that an oracle may ask for are numbered from 1 to this."""
Values = Mapping[str, int | float | str | bool]
"""Of active hyperparameters, by their names."""


@dataclasses.dataclass(frozen=True)
class Part:
    """A part of a training, or one of another length than the run's trials.

    Positions are counted in examples from the beginning of the training. A part ends with the
    update that reaches its end. Only trainings of the run's length, in however many parts, are
    compared with one another for the answer: what a part has learned is for the oracle alone.

    Example:
        ```python
        stop = Part(to_examples=10_000)  # the first of 40,000, if that is the run's length
        go_on = Part(to_examples=20_000, parent="search-0001")
        cool_down = Part(  # the learning rate of the values falls to 0 from there on
            total_examples=24_000, parent="search-0002", schedule=Named(name="linear")
        )
        ```

    Attributes:
        to_examples: Where it stops, for others to go on from; None at the end of its schedule.
        total_examples: Where its schedule ends; None at the run's length.
        parent: The completed trial whose end state it goes on from, with the same seed, model
            arguments and optimizer; None for one that begins anew.
        schedule: A schedule that begins where the parent ended, without a warm-up: with it a trial
            branches off, and may have another batch size or learning rate. None: the parent's goes
            on, and so must batch size, learning rate and all else. In place of the one that the
            proposal's values name, which must say what the first ancestor has.
    """

    to_examples: int | None = None
    total_examples: int | None = None
    parent: str | None = None
    schedule: Named | None = None


@dataclasses.dataclass(frozen=True)
class Stop:
    """What an oracle says in place of a proposal where the search is to end.

    Attributes:
        reason: Why, in a sentence for the user.
    """

    reason: str


@dataclasses.dataclass(frozen=True)
class Proposal:
    """A trial that an oracle asks for.

    Attributes:
        values: Of the active hyperparameters, by their names.
        part: None for a whole training of the run's length.
        seed: Number of the seed, from 1 to 99: trials of equal number have the same initial
            weights, order of examples and augmentation, so that their scores are paired. None for
            a seed that no other trial has. With a parent it must be None: the seed is the parent's.
    """

    values: Values
    part: Part | None = None
    seed: int | None = None

    def fits(self, bound: float) -> bool:
        """Whether the batch size is below a bound; without a searched one nothing is too large."""
        size = self.values.get(BATCH_SIZE)
        return size is None or float(size) < bound


@dataclasses.dataclass(frozen=True)
class Told:
    """What a trial came to.

    Attributes:
        score: The objective's value, finite. Of a trial that did not complete, no better than that
            of the untrained model and of any trial before it.
        status: How it ended; nothing can go on from one that is not "completed".
    """

    score: float
    status: Status = "completed"

    @property
    def completed(self) -> bool:
        """Whether the score is measured."""
        return self.status == "completed"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a proposal's values mean, as far as an oracle may need it.

    Attributes:
        batch_size: Examples in an update.
        learning_rate: The peak rate at that batch size, by the scaling rule.
        schedule: With its parameters.
        warmup_fraction: Share of the training that is warm-up.
    """

    batch_size: int
    learning_rate: float
    schedule: Named
    warmup_fraction: float = 0.0


def _unknown_setting(values: Values) -> Setting | None:
    del values
    return None


@dataclasses.dataclass(frozen=True)
class Premises:
    """What is known before the first trial of a search.

    Attributes:
        prices: What training costs.
        baseline: What the user trains with today; it need not lie in the space.
        setting: What a proposal's values mean: hyperparameters with one value are not among them.
            None where it is not known.
        baseline_told: Says what the baseline's training has come to, None until it has; absent
            where nobody trains it.
        margin: Differences of the objective up to this do not matter.
        max_trials: How many configurations the run may try.
    """

    prices: Prices = NO_PRICES
    baseline: Setting | None = None
    setting: Callable[[Values], Setting | None] = _unknown_setting
    baseline_told: Callable[[], Told | None] | None = None
    margin: float = 0.0
    max_trials: int | None = None


NOTHING_KNOWN = Premises()
"""Of an oracle that is made by hand."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a search.

    Attributes:
        name: Such as "bracket of the learning rate".
        done: Trials of it that have ended.
        planned: Trials that it takes in all, as far as is known now.
        examples: What those still to come train on.
        cost: What they cost, in the unit of `Prices`.
    """

    name: str
    done: int
    planned: int
    examples: int
    cost: float


@dataclasses.dataclass(frozen=True)
class Belief:
    """What an oracle would answer now.

    Attributes:
        values: What it would train with; see Proposal.
        sentence: For the user, such as "now batch size 64; not yet told from 32 to 256".
    """

    values: Values
    sentence: str


class Oracle(Protocol):
    """Proposes the trials of a search.

    Proposals follow from the seed and the calls alone. A search that goes on is replayed: each
    trial of the journal is proposed as `known`, with the bound of its time, and told again.
    """

    @property
    def size(self) -> int | None:
        """Number of all proposals that there are, where it is known."""

    def propose(
        self, trial: str, *, known: Proposal | None, bound: float
    ) -> Proposal | Stop | None:
        """The next trial.

        Args:
            trial: Its name; several can be open at a time.
            known: What was run under this name in an earlier session. It is what is returned, and
                it counts, also where this oracle would propose something else by now.
            bound: The smallest batch size that is known not to fit in memory: only smaller ones
                may be proposed. Infinite where all fit.

        Returns:
            The proposal; None for nothing now. It is then asked again when an open trial has
            ended; where none is open, the search ends. Stop ends it when the open trials have
            ended, whatever is left of its budget.
        """

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """Tells what an open trial came to, which is what `proposal` says."""

    def forget(self, trial: str) -> None:
        """Says that an open trial ended in a way that teaches nothing."""


@runtime_checkable
class StagedOracle(Oracle, Protocol):
    """An oracle that knows its plan, and has an answer at any time."""

    def stages(self) -> Sequence[Stage]:
        """Its stages in their order, the current one being the first that is not complete."""

    def belief(self) -> Belief | None:
        """What it would answer now; None before anything is known."""


class OracleSettings(Strict):
    """What the `oracle:` of a search's YAML may hold.

    Attributes:
        in_parts: Whether it proposes parts of trainings, whose end states take room on the disk.
        prices: Whether it proposes by what training costs: step times are then measured before the
            first trial. Else `Premises.prices` counts examples.
        name: The oracle's file.
    """

    in_parts: ClassVar[bool] = False
    prices: ClassVar[bool] = False
    name: str

    def most_trainings(self) -> float | None:
        """What a search costs at most, in whole trainings; None where the limits alone end it."""
        return None

    def needed_trainings(self, max_trials: int) -> float | None:
        """What it needs for an answer, in whole trainings; None where each of them adds to it.

        Args:
            max_trials: How many configurations the run may try.
        """
        del max_trials
        return self.most_trainings()

    def branches(self, schedules: Collection[str]) -> bool:
        """Whether it lets a training go on with another schedule than the one it began with.

        Args:
            schedules: Names of the space's.
        """
        del schedules
        return False

    def in_whole_trainings(self) -> OracleSettings | None:
        """What searches in its place where no training can go on in parts; None for nothing."""
        return None if self.in_parts else self

    @abstractmethod
    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        premises: Premises = NOTHING_KNOWN,
    ) -> Oracle:
        """Makes the oracle.

        Args:
            hyperparameters: The space.
            direction: Whether a good score is small ("min") or large ("max").
            seed: Positive (KerasTuner takes 0 for "random").
            total_examples: Length of the run's trials.
            premises: What is known before the first trial. A search that goes on gets the same.

        Raises:
            InputError: The oracle cannot search the space.
        """


class InterchangeableSettings(OracleSettings):
    """The parameters of `bayesian`, `tpe`, `random` and `grid`.

    Each takes those of the others, so that one name can be put for another in a YAML. All of them
    belong to what identifies a run.

    Attributes:
        initial_trials: Of `bayesian` and `tpe`: trials before their first model of the space.
        values_of_range: Of `grid`: how many values of a range are tried, both ends among them.
    """

    initial_trials: int = Field(default=8, ge=1)
    values_of_range: int = Field(default=5, ge=2)
