"""What a user asks of a search; checked as far as possible without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

from tfbatch.backend import check_backend
from tfbatch.configuration import Configuration
from tfbatch.durations import TrainingLength
from tfbatch.errors import InputError
from tfbatch.models import check_model_name
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.own_data import OwnData
from tfbatch.pipeline.dataset_names import find_dataset, is_derived
from tfbatch.recipes import Baseline, Recipe
from tfbatch.request.execution import Execution
from tfbatch.request.recipe_apart import derive_apart
from tfbatch.request.search_config import SearchConfig, Space, load_search
from tfbatch.request.task import Task
from tfbatch.schema import Named, as_plain, validate
from tfbatch.seeds import derive_seed
from tfbatch.trial.objective import Objective

DEFAULT_RUNS = "tfbatch_runs"
"""Folder, in the current one, of all run folders that are not named."""


@dataclasses.dataclass(frozen=True)
class Request:
    """One search, resolved: every default filled in.

    Attributes:
        data: The data set.
        dataset: What finds it again: a name, the path of a recipe or of a folder, or a function.
        model: The model's name, or `package.module:function`.
        search: The search with all overrides.
        objective: What is compared.
        trial_length: Length of each trial.
        baseline: The user's own batch size and learning rate.
        seed: The run's seed.
        max_minutes: Time limit, or None.
        data_dir: The source's data folder, or None.
        records_dir: Folder for records, or None.
        run_dir: The run folder.
        overwrite: Start anew.
        optimizer: The optimizer, if it was asked for by name.
        model_arguments: Arguments of the model's builder, the same for all trials.
        task: Loss, metrics and class weights, for people and for files.
        execution: How trials are run.
    """

    data: Recipe | OwnData
    dataset: str
    model: str
    search: SearchConfig
    objective: Objective
    trial_length: TrainingLength
    baseline: Baseline
    seed: int
    max_minutes: float | None
    data_dir: Path | None
    records_dir: Path | None
    run_dir: Path
    overwrite: bool
    optimizer: str | None = None
    model_arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    task: Task = dataclasses.field(default_factory=Task)
    execution: Execution = dataclasses.field(default_factory=Execution)

    def __post_init__(self) -> None:
        if self.max_minutes is not None and not (
            self.max_minutes > 0 and math.isfinite(self.max_minutes)
        ):
            raise InputError(f"`max_minutes` must be > 0. Received: {self.max_minutes}.")
        derive_seed(self.seed)

    def baseline_configuration(self, scaling_rule: Named) -> Configuration:
        """The baseline as a configuration: constant learning rate, no warm-up."""
        module = OPTIMIZERS.load(self.search.space.optimizer.name)
        fixed = {
            key: value
            for key, value in self.search.space.optimizer.arguments.items()
            if not isinstance(value, list | dict)
        }
        return Configuration(
            batch_size=self.baseline.batch_size,
            base_learning_rate=self.baseline.learning_rate or module.DEFAULT_LEARNING_RATE,
            base_batch_size=self.baseline.batch_size,
            scaling_rule=scaling_rule,
            schedule=Named(name="constant"),
            optimizer=Named(name=self.search.space.optimizer.name, **fixed),
            model=self.model_arguments,
        )

    def identity(self, **more: Any) -> dict[str, Any]:
        """Everything that makes two runs comparable."""
        data = self.data.model_dump(mode="json", by_alias=True)
        if data.get("batched") is None:  # as runs have it that began before there was the question
            data.pop("batched", None)
        return {
            "dataset": data,
            "model": self.model,
            "search": self.search.model_dump(
                mode="json", exclude={"max_trials", "description", "confirmation"}
            ),
            "objective": str(self.objective),
            "trial_length": str(self.trial_length),
            "baseline": self.baseline.model_dump(mode="json"),
            "seed": self.seed,
            **({"model_arguments": self.model_arguments} if self.model_arguments else {}),
            **self.task.identity(),
            "precision": self.execution.precision,
            "jit_compile": self.execution.jit_compile,
            "strategy": self.execution.strategy,
            **more,
        }

    def budget(self) -> dict[str, Any]:
        """What may change when a run is continued."""
        return {
            "max_trials": self.search.max_trials,
            "max_minutes": self.max_minutes,
            "confirmation": self.search.confirmation.model_dump(mode="json"),
        }


def resolve_search(
    search: SearchConfig,
    *,
    batch_sizes: list[int] | None = None,
    optimizer: str | None = None,
    max_trials: int | None = None,
) -> SearchConfig:
    """A search with a user's overrides, checked like a file.

    Args:
        search: The search of the YAML.
        batch_sizes: Replaces the grid.
        optimizer: Replaces the optimizer, its parameters, range and scaling rule by its defaults.
        max_trials: Replaces the number of trials.

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
    return validate(SearchConfig, changed, where="--max_trials")


def parse_baseline(text: str, default: Baseline) -> Baseline:
    """Reads "batch_size=128,learning_rate=0.05"; what is left out keeps its default.

    Raises:
        InputError: Another form, or a value out of range.
    """
    data: dict[str, Any] = default.model_dump()
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in data:
            raise InputError(
                '`--baseline` must be written as "batch_size=128,learning_rate=0.05". '
                f"Received: {text!r}."
            )
        data[key.strip()] = value.strip()
    return validate(Baseline, data, where="--baseline")


def make_request(
    *,
    dataset: str | Recipe | OwnData,
    batched: bool | None = None,
    image_size: int | None = None,
    model: str,
    search: str,
    objective: str | None,
    trial_length: str | None,
    baseline: str,
    batch_sizes: list[int] | None,
    optimizer: str | None,
    max_trials: int | None,
    max_minutes: float | None,
    seed: int,
    run_dir: Path | None,
    data_dir: Path | None,
    records_dir: Path | None,
    overwrite: bool,
    check_model: bool = True,
    model_arguments: dict[str, Any] | None = None,
    task: Task | None = None,
    execution: Execution | None = None,
) -> Request:
    """Resolves everything that a user can ask, importing no TensorFlow.

    Raises:
        InputError: The first thing that cannot be used.
    """
    check_backend()
    batch_sizes, max_trials, max_minutes = as_plain((batch_sizes, max_trials, max_minutes))
    seed, image_size, model_arguments = as_plain((seed, image_size, model_arguments))
    batched = as_plain(batched)
    if check_model:
        check_model_name(model)
    chosen = load_search(search)
    resolved = resolve_search(
        chosen, batch_sizes=batch_sizes, optimizer=optimizer, max_trials=max_trials
    )
    folder = data_dir.expanduser().resolve() if data_dir else None
    execution = execution or Execution()
    if not isinstance(dataset, str):
        data = dataset
    elif is_derived(dataset) and execution.workers != 0:
        data = derive_apart(dataset, data_dir=folder, image_size=image_size)
    else:
        data = find_dataset(dataset, data_dir=folder, image_size=image_size)
    if batched is not None:
        if not isinstance(data, OwnData):
            raise InputError(
                "`batched` is for your own Datasets only: named data states its own form. "
                f"Received: {batched=} for {data.name}."
            )
        data = data.model_copy(update={"batched": batched})
    name = "-".join((data.name, model.split(":")[-1].split(".")[-1], Path(search).stem))
    return Request(
        data=data,
        dataset=_dataset_text(dataset, image_size),
        model=model,
        search=resolved,
        objective=Objective.parse(objective or data.objective),
        trial_length=TrainingLength.parse(trial_length) if trial_length else data.trial_length,
        baseline=parse_baseline(baseline, data.baseline),
        seed=seed,
        max_minutes=max_minutes,
        data_dir=folder,
        records_dir=_writable(records_dir) if records_dir else None,
        run_dir=run_dir or Path(DEFAULT_RUNS) / name,
        overwrite=overwrite,
        optimizer=optimizer,
        model_arguments=model_arguments or {},
        task=task or Task(),
        execution=execution,
    )


def _writable(folder: Path) -> Path:
    """Makes a folder for records, and refuses it before any work if that fails."""
    folder = folder.expanduser().resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(
            f"The records folder {folder} cannot be written: {error}. "
            "Choose another one with --records_dir=DIR or TFBATCH_RECORDS_DIR."
        ) from error


def _dataset_text(dataset: str | Recipe | OwnData, image_size: int | None) -> str:
    """What finds the data again, from any folder."""
    if isinstance(dataset, OwnData):
        return dataset.where
    if isinstance(dataset, Recipe):
        return dataset.name
    if image_size is not None:
        return f"{dataset}@{image_size}"
    return str(Path(dataset).resolve()) if dataset.endswith((".yaml", ".yml")) else dataset
