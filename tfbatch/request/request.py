"""What a user asks of a search; checked as far as possible without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Unpack

from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import OwnData
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.quantities import TrainingLength
from tfbatch.request.execution import Execution
from tfbatch.request.model_and_data import (
    ModelAndData,
    ModelAndDataOptions,
    baseline_configuration,
    resolve_model_and_data,
)
from tfbatch.request.search_config import SearchConfig, Space, VerificationConfig, load_search
from tfbatch.schema import JsonObject, Named, as_plain, check_numbers, expanded, validate
from tfbatch.seeds import derive_seed
from tfbatch.trial.objective import Objective

DEFAULT_RUNS = "tfbatch_runs"
"""Folder, in the current one, of all run folders that are not named."""

CHOSEN_LENGTH = "trial_length_chosen"
"""Says in config.json that the length of a trial was chosen to fit the time."""


def data_identity(data: Recipe | OwnData) -> JsonObject:
    """What a run says of its data in its settings, beside the hash of the records.

    The place of stored arrays is no part of it: they lie in the run folder, which may be moved.
    """
    found: JsonObject = data.model_dump(mode="json", by_alias=True)
    if found.get("kind") == "stored":
        del found["where"]
    if found.get("batched") is None:  # as runs have it that began before there was the question
        found.pop("batched", None)
    return found


@dataclasses.dataclass(frozen=True)
class Request:
    """One search, resolved: every default filled in.

    Attributes:
        subject: What is searched for: model and data.
        search: The search with all overrides.
        objective: What is compared.
        trial_length: Length of each trial.
        seed: The run's seed.
        max_minutes: Time limit, or None.
        execution: How trials are run.
        run_dir: The run folder.
        overwrite: Start anew.
        max_trainings: What all trials may cost, in full trainings of the baseline; or None.
        has_default_length: Whether nobody said how long a trial is.
        has_chosen_length: Whether its length was then chosen to fit the time.
        only_times: Whether nothing is trained: what is in the folder stands, and step times are
            measured.
        for_length: The length of the training that the answer is for, where that is longer than a
            trial; or None.
    """

    subject: ModelAndData
    search: SearchConfig
    objective: Objective
    trial_length: TrainingLength
    seed: int
    max_minutes: float | None
    execution: Execution
    run_dir: Path
    overwrite: bool
    max_trainings: float | None = None
    has_default_length: bool = False
    has_chosen_length: bool = False
    only_times: bool = False
    for_length: TrainingLength | None = None

    def __post_init__(self) -> None:
        limits = {"max_minutes": self.max_minutes, "max_trainings": self.max_trainings}
        given = {name: value for name, value in limits.items() if value is not None}
        check_numbers(**given, seed=self.seed)
        if self.max_minutes is not None and not (
            self.max_minutes > 0 and math.isfinite(self.max_minutes)
        ):
            raise InputError(f"`max_minutes` must be > 0. Received: {self.max_minutes}.")
        if self.max_trainings is not None and not (
            self.max_trainings >= 1 and math.isfinite(self.max_trainings)
        ):
            raise InputError(
                "`max_trainings` must be >= 1: the baseline's own training is one. Received: "
                f"{self.max_trainings}."
            )
        if self.execution.memory_seconds is not None and self.execution.memory_budget is None:
            raise InputError(
                "`memory_seconds` limits the search for the largest batch, which `memory_budget` "
                f"asks for. Received: memory_seconds={self.execution.memory_seconds:g} and no "
                "memory_budget. Leave it out, or give --memory_budget=auto too."
            )
        derive_seed(self.seed)

    def baseline_configuration(self, scaling_rule: Named) -> Configuration:
        """The baseline, with the search's optimizer."""
        return baseline_configuration(
            self.subject, optimizer=self.search.space.optimizer, scaling_rule=scaling_rule
        )

    def identity(self, **more: object) -> dict[str, object]:
        """Everything that makes two runs comparable."""
        subject = self.subject
        return {
            "dataset": data_identity(subject.data),
            "model": subject.model,
            "search": self.search.model_dump(
                mode="json", exclude={"max_trials", "description", "confirmation"}
            ),
            "objective": str(self.objective),
            "trial_length": str(self.trial_length),
            "baseline": subject.baseline.model_dump(mode="json"),
            "seed": self.seed,
            **({"model_arguments": subject.model_arguments} if subject.model_arguments else {}),
            **subject.task.identity(),
            "precision": self.execution.precision,
            "jit_compile": self.execution.jit_compile,
            "strategy": self.execution.strategy,
            **more,
        }

    def budget(self) -> dict[str, object]:
        """What may change when a run is continued."""
        return {
            "max_trials": self.search.max_trials,
            "max_minutes": self.max_minutes,
            "max_trainings": self.max_trainings,
            **({CHOSEN_LENGTH: True} if self.has_chosen_length else {}),
            "confirmation": self.search.confirmation.model_dump(mode="json"),
        }


def check_for_length(
    wanted: TrainingLength | None, trial_length: TrainingLength, num_examples: int | None = None
) -> None:
    """Refuses an answer for a training that is no longer than a trial.

    Args:
        wanted: The length of the training, or None.
        trial_length: The length of a trial.
        num_examples: Size of the training split; None where only lengths of one unit can be
            compared yet.

    Raises:
        InputError: It is no longer.
    """
    if wanted is None or (num_examples is None and wanted.unit != trial_length.unit):
        return
    if wanted.examples(num_examples or 1) <= trial_length.examples(num_examples or 1):
        raise InputError(
            f"`--for_length` must be longer than a trial, which takes {trial_length}. Received: "
            f"{wanted}. Leave it out, or shorten the trials with --trial_length."
        )


def resolve_search(
    search: SearchConfig,
    *,
    batch_sizes: list[int] | None = None,
    optimizer: str | None = None,
    max_trials: int | None = None,
    verification_seeds: int | None = None,
    tolerance: float | None = None,
    goal: str | None = None,
) -> SearchConfig:
    """A search with a user's overrides, checked like a file.

    Args:
        search: The search of the YAML.
        batch_sizes: Replaces the grid.
        optimizer: Replaces the optimizer, its parameters, range and scaling rule by its defaults.
        max_trials: Replaces the number of trials.
        verification_seeds: Replaces the fresh seeds of the verification.
        tolerance: Replaces the band within which configurations are as good.
        goal: Replaces what decides among those.

    Raises:
        InputError: A value out of range, an unknown optimizer.
    """
    space = search.space.model_dump(mode="json")
    if batch_sizes is not None:
        space["batch_size"] = batch_sizes
    if optimizer is not None and optimizer != search.space.optimizer.name:
        OPTIMIZERS.check(optimizer)
        space["optimizer"] = {"name": optimizer}
        space["base_learning_rate"] = space["scaling_rule"] = None  # meant for the other one
    changed = search.model_dump(mode="json")
    changed["space"] = validate(Space, space, where="--batch_sizes, --optimizer").model_dump(
        mode="json"
    )
    if max_trials is not None:
        changed["max_trials"] = max_trials
    terms = {"seeds": verification_seeds, "tolerance": tolerance, "goal": goal}
    given = {key: value for key, value in terms.items() if value is not None}
    changed["confirmation"] = validate(
        VerificationConfig,
        changed["confirmation"] | given,
        where="--verification_seeds, --tolerance, --goal",
    ).model_dump(mode="json")
    return validate(SearchConfig, changed, where="--max_trials")


def make_request(
    *,
    search: str | Path,
    objective: str | None = None,
    trial_length: str | None = None,
    for_length: str | None = None,
    batch_sizes: list[int] | None = None,
    max_trials: int | None = None,
    max_minutes: float | None = None,
    max_trainings: float | None = None,
    verification_seeds: int | None = None,
    tolerance: float | None = None,
    goal: str | None = None,
    seed: int = 1,
    run_dir: Path | None = None,
    overwrite: bool = False,
    execution: Execution | None = None,
    **subject: Unpack[ModelAndDataOptions],
) -> Request:
    """Resolves everything that a user can ask, importing no TensorFlow.

    Args:
        search: Name of a search, or a path of one.
        objective: METRIC, METRIC:min or METRIC:max. Default: the data's.
        trial_length: Length of each trial. Default: the data's.
        for_length: Length of the training that the answer is for, if that is longer.
        batch_sizes: Replaces the search's.
        max_trials: Replaces the search's.
        max_minutes: Time limit.
        max_trainings: What all trials may cost, in full trainings of the baseline.
        verification_seeds: Replaces the search's.
        tolerance: Replaces the search's.
        goal: Replaces the search's.
        seed: The run's seed.
        run_dir: The run folder. Default: one below `DEFAULT_RUNS`.
        overwrite: Start anew.
        execution: How trials are run.
        **subject: See resolve_model_and_data.

    Raises:
        InputError: The first thing that cannot be used.
    """
    search = str(search)
    batch_sizes, max_trials = as_plain((batch_sizes, max_trials))
    max_minutes, max_trainings, seed = as_plain((max_minutes, max_trainings, seed))
    verification_seeds, tolerance = as_plain((verification_seeds, tolerance))
    chosen = resolve_search(
        load_search(search),
        batch_sizes=batch_sizes,
        optimizer=subject.get("optimizer"),
        max_trials=max_trials,
        verification_seeds=verification_seeds,
        tolerance=tolerance,
        goal=goal,
    )
    execution = execution or Execution()
    resolved = resolve_model_and_data(apart=execution.workers != 0, **subject)
    length = TrainingLength.parse(trial_length) if trial_length else resolved.data.trial_length
    longer = TrainingLength.parse(for_length) if for_length else None
    folder = run_dir or Path(DEFAULT_RUNS) / f"{resolved.name}-{Path(search).stem}"
    folder = expanded(folder)
    # A limit of time may shorten the default length, or has in an earlier session.
    if trial_length or (max_minutes is None and not folder.exists()):
        check_for_length(longer, length)
    return Request(
        subject=resolved,
        search=chosen,
        objective=Objective.parse(objective or resolved.data.objective),
        trial_length=length,
        for_length=longer,
        seed=seed,
        max_minutes=max_minutes,
        max_trainings=max_trainings,
        has_default_length=not trial_length,
        execution=execution,
        run_dir=folder,
        overwrite=overwrite,
    )
