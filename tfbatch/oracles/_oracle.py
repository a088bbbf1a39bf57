"""What an oracle is: it proposes trials and is told what they came to."""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Protocol

from pydantic import Field

from tfbatch.metric_direction import Direction
from tfbatch.schema import Named, Strict

if TYPE_CHECKING:  # it takes seconds to import
    import keras_tuner

BATCH_SIZE = "batch_size"
"""The name of the batch size among the hyperparameters."""


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
    """

    values: Mapping[str, int | float | str | bool]
    part: Part | None = None

    def fits(self, bound: float) -> bool:
        """Whether the batch size is below a bound; without a searched one nothing is too large."""
        size = self.values.get(BATCH_SIZE)
        return size is None or float(size) < bound


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

    def tell(self, trial: str, proposal: Proposal, score: float) -> None:
        """Tells the finite score of an open trial, which is what `proposal` says."""

    def forget(self, trial: str) -> None:
        """Says that an open trial ended in a way that teaches nothing."""


class OracleSettings(Strict):
    """What the `oracle:` of a search's YAML may hold.

    Attributes:
        in_parts: Whether it proposes parts of trainings. Machines that join a search train none.
        name: The oracle's file.
    """

    in_parts: ClassVar[bool] = False
    name: str

    @abstractmethod
    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
    ) -> Oracle:
        """Makes the oracle.

        Args:
            hyperparameters: The space.
            direction: Whether a good score is small ("min") or large ("max").
            seed: Positive (KerasTuner takes 0 for "random").
            total_examples: Length of the run's trials.

        Raises:
            InputError: The oracle cannot search the space.
        """


class InterchangeableSettings(OracleSettings):
    """The parameters of `bayesian`, `random` and `grid`.

    Each takes those of the others, so that one name can be put for another in a YAML. All of them
    belong to what identifies a run.

    Attributes:
        initial_trials: Of `bayesian`: trials before its first model of the space.
        values_of_range: Of `grid`: how many values of a range are tried, both ends among them.
    """

    initial_trials: int = Field(default=8, ge=1)
    values_of_range: int = Field(default=5, ge=2)
