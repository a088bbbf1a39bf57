"""An oracle that proposes the trainings of a table's plan, each as soon as its trunk is there."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, ClassVar

from replay.plan import TablePlan, Training
from tfbatch.metric_direction import Direction
from tfbatch.oracles import NOTHING_KNOWN, OracleSettings, Premises, Proposal, Stop, Told

if TYPE_CHECKING:
    import keras_tuner


class Settings(OracleSettings):
    """What the oracle needs.

    Attributes:
        name: Of no file: these settings are given to a search in Python.
        plan: What is proposed.
    """

    in_parts: ClassVar[bool] = True
    name: str = "replay"
    plan: TablePlan

    def make(
        self,
        hyperparameters: keras_tuner.HyperParameters,
        *,
        direction: Direction,
        seed: int,
        total_examples: int,
        premises: Premises = NOTHING_KNOWN,
    ) -> PlanOracle:
        """See OracleSettings.

        Raises:
            ValueError: The run's length is not the plan's.
        """
        if total_examples != self.plan.total_examples:
            raise ValueError(
                f"A trial must have the {self.plan.total_examples} examples of the plan. "
                f"Received: {total_examples}."
            )
        active = {hyperparameter.name for hyperparameter in hyperparameters.space}
        return PlanOracle(self.plan, active=active)


class PlanOracle:
    """Proposes every training of a plan once, in the plan's order where their trunks allow it.

    What would go on from a trunk that diverged is left out; a training whose process was killed is
    proposed again, and one that ran out of time too, once: a busy machine is no result.

    Args:
        plan: The plan.
        active: The names of the hyperparameters that are searched.
    """

    def __init__(self, plan: TablePlan, *, active: Collection[str]):
        self._plan, self._active = plan, active
        self._waiting = plan.trainings()
        self._out_of_time: set[Training] = set()
        self._training_of: dict[str, Training] = {}
        self._trunks: dict[Training, str] = {}

    @property
    def size(self) -> int:
        """See Oracle."""
        return len(self._plan.trainings())

    def propose(
        self, trial: str, *, known: Proposal | None, bound: float
    ) -> Proposal | Stop | None:
        """See Oracle."""
        if known is not None:
            part = known.part
            parent = self._training_of[part.parent] if part and part.parent else None
            training = self._plan.training(known.values, part, parent)
            proposal = known
        else:
            fitting = [t for t in self._waiting if t.batch_size < bound]
            if not fitting:
                return Stop("Every training of the plan has been made.")
            ready = (t for t in fitting if self._ready(t))
            found = next(ready, None)
            if found is None:
                return None
            training, proposal = found, self._proposal(found)
        if training in self._waiting:
            self._waiting.remove(training)
        self._training_of[trial] = training
        return proposal

    def tell(self, trial: str, proposal: Proposal, told: Told) -> None:
        """See Oracle."""
        training = self._training_of[trial]
        if told.status == "timeout" and training not in self._out_of_time:
            self._out_of_time.add(training)
            self._waiting.insert(0, training)
            return
        if training.kind != "trunk":
            return
        if told.completed:
            self._trunks[training] = trial
        else:
            self._waiting = [t for t in self._waiting if training not in self._ancestors(t)]

    def forget(self, trial: str) -> None:
        """See Oracle."""
        self._waiting.insert(0, self._training_of[trial])

    def _ready(self, training: Training) -> bool:
        parent = self._plan.parent(training)
        return parent is None or parent in self._trunks

    def _ancestors(self, training: Training) -> list[Training]:
        found = []
        parent = self._plan.parent(training)
        while parent is not None:
            found.append(parent)
            parent = self._plan.parent(parent)
        return found

    def _proposal(self, training: Training) -> Proposal:
        parent = self._plan.parent(training)
        values = self._plan.values(training)
        return Proposal(
            {name: value for name, value in values.items() if name in self._active},
            self._plan.part(training, self._trunks[parent] if parent else None),
        )
