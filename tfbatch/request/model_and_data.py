"""Which model on which data: what a search searches for and what an instrument measures."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Required, TypedDict

from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import OwnData
from tfbatch.dataset_info.recipe import RECIPES, Baseline, Recipe, load_recipe
from tfbatch.errors import ConfigurationError, DataError, InputError
from tfbatch.models import check_model_name
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.pipeline.dataset_names import (
    check_no_size,
    check_own,
    derive_recipe,
    find_dataset,
    is_derived,
)
from tfbatch.plug_ins import is_importable
from tfbatch.request.backend import check_backend
from tfbatch.request.task import IN_PYTHON, Task
from tfbatch.schema import Named, as_plain, expanded, validate
from tfbatch.workers import ProcessEndedError, warm_slot

_OF_PATHS = ("images", "npz")
"""Sources whose data set is a path."""


@dataclasses.dataclass(frozen=True)
class ModelAndData:
    """A model, its data, and what it is trained with now, resolved: every default filled in.

    Attributes:
        data: The data set.
        dataset: What finds it again: a name, the path of a recipe or of a folder, or a function;
            "(given in Python)" for a recipe that no file holds.
        model: The model's name, or `package.module:function`.
        baseline: The user's own batch size and learning rate.
        optimizer: The optimizer, if it was asked for by name.
        compiled: The optimizer that the model is compiled with, if it is and that is known by now.
        model_arguments: Arguments of the model's builder, the same for all trials.
        task: Loss, metrics and class weights, for people and for files.
        data_dir: The source's data folder, or None.
        records_dir: Folder for records, or None.
    """

    data: Recipe | OwnData
    dataset: str
    model: str
    baseline: Baseline
    optimizer: str | None = None
    compiled: Named | None = None
    model_arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    task: Task = dataclasses.field(default_factory=Task)
    data_dir: Path | None = None
    records_dir: Path | None = None

    @property
    def batched(self) -> bool | None:
        """Whether the user's own Dataset gives batches, if the user states it."""
        return self.data.batched if isinstance(self.data, OwnData) else None

    @property
    def is_importable(self) -> bool:
        """Whether a command can train it: it has a name for all that is given."""
        data = self.data
        names = [self.model] if ":" in self.model else []
        names += [data.where] if isinstance(data, OwnData) and data.kind == "function" else []
        parts = (self.task.loss, *(self.task.metrics or ()))
        return all(map(is_importable, names)) and IN_PYTHON not in (*parts, self.dataset)

    @property
    def name(self) -> str:
        """Such as "digits-small_cnn", for a folder's name."""
        model = self.model.split(":")[-1].split(".")[-1]
        # What a lambda's folder was always called stays; no other has to be quoted in a shell.
        return f"{self.data.name}-{model if model == '<lambda>' else model.strip('<>')}"


class ModelAndDataOptions(TypedDict, total=False):
    """What `resolve_model_and_data` takes of a user."""

    dataset: Required[str | Recipe | OwnData]
    batched: bool | None
    image_size: int | None
    model: Required[str]
    check_model: bool
    model_arguments: Mapping[str, object] | None
    baseline: str
    optimizer: str | None
    data_dir: Path | None
    records_dir: Path | None
    task: Task | None


def resolve_model_and_data(
    *,
    apart: bool,
    dataset: str | Recipe | OwnData,
    model: str,
    batched: bool | None = None,
    image_size: int | None = None,
    check_model: bool = True,
    model_arguments: Mapping[str, object] | None = None,
    baseline: str = "",
    optimizer: str | None = None,
    data_dir: Path | None = None,
    records_dir: Path | None = None,
    task: Task | None = None,
) -> ModelAndData:
    """Checks what a user says of model and data, importing no TensorFlow.

    Args:
        apart: Whether data without a recipe is looked at in a process of its own: this one must
            then open no device.
        dataset: The data set.
        model: The model's name.
        batched: What the user says of the batches of a Dataset.
        image_size: Height and width of the images of a data set without a recipe, in pixels.
        check_model: Whether the model must be one that is known by name.
        model_arguments: Arguments of the model's builder.
        baseline: Such as "batch_size=128,learning_rate=0.05"; the data's recipe has the rest.
        optimizer: Name of the optimizer, or None.
        data_dir: The source's data folder.
        records_dir: Folder for records.
        task: Loss, metrics and class weights.

    Raises:
        InputError: The first thing that cannot be used.
    """
    check_backend()
    batched, image_size, model_arguments = as_plain((batched, image_size, model_arguments))
    if check_model:
        check_model_name(model)
    if optimizer is not None:
        OPTIMIZERS.check(optimizer)
    folder = expanded(data_dir).resolve() if data_dir else None
    data = _found(dataset, data_dir=folder, image_size=image_size, apart=apart)
    check_own(data, batched=batched)
    if batched is not None:
        data = data.model_copy(update={"batched": batched})
    return ModelAndData(
        data=data,
        dataset=_dataset_text(dataset, data, image_size, folder),
        model=model,
        baseline=parse_baseline(baseline, data.baseline),
        optimizer=optimizer,
        model_arguments=dict(model_arguments or {}),
        task=task or Task(),
        data_dir=folder,
        records_dir=_writable(records_dir) if records_dir else None,
    )


def parse_baseline(text: str, default: Baseline) -> Baseline:
    """Reads "batch_size=128,learning_rate=0.05"; what is left out keeps its default.

    Raises:
        InputError: Another form, a name that is there twice, or a value out of range.
    """
    if not isinstance(text, str):
        raise InputError(
            '`baseline` must be a text, written as "batch_size=128,learning_rate=0.05". Received: '
            f"{type(text).__name__}."
        )
    data: dict[str, Any] = default.model_dump()
    given: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        key, equals, value = part.partition("=")
        if not equals or key.strip() not in data:
            raise InputError(
                '`--baseline` must be written as "batch_size=128,learning_rate=0.05". '
                f"Received: {text!r}."
            )
        if key.strip() in given:
            raise InputError(
                f"`--baseline` must name each once: it names `{key.strip()}` twice. Received: "
                f"{text!r}. Leave out one of them."
            )
        given[key.strip()] = value.strip()
    return validate(Baseline, data | given, where="--baseline")


def baseline_configuration(
    subject: ModelAndData, *, optimizer: Named, scaling_rule: Named
) -> Configuration:
    """The baseline as a configuration: constant learning rate, no warm-up.

    Args:
        subject: The model, with its baseline.
        optimizer: The search's; of its arguments those that have one value. A compiled model's own
            takes its place: what the user trains with now has no number of a search.
        scaling_rule: How the learning rate follows the batch size.
    """
    optimizer = subject.compiled or optimizer
    fixed = {k: v for k, v in optimizer.arguments.items() if not isinstance(v, list | dict)}
    own = OPTIMIZERS.load(optimizer.name).DEFAULT_LEARNING_RATE
    return Configuration(
        batch_size=subject.baseline.batch_size,
        base_learning_rate=subject.baseline.learning_rate or own,
        base_batch_size=subject.baseline.batch_size,
        scaling_rule=scaling_rule,
        schedule=Named(name="constant"),
        optimizer=Named(name=optimizer.name, **fixed),
        model=subject.model_arguments,
    )


def _found(
    dataset: str | Recipe | OwnData, *, data_dir: Path | None, image_size: int | None, apart: bool
) -> Recipe | OwnData:
    if not isinstance(dataset, str):
        check_no_size(dataset, image_size)
        return dataset
    if apart and is_derived(dataset):
        return derive_apart(dataset, data_dir=data_dir, image_size=image_size)
    return find_dataset(dataset, data_dir=data_dir, image_size=image_size)


def _writable(folder: Path) -> Path:
    """Makes a folder for records, and refuses it before any work if that fails."""
    folder = expanded(folder).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        raise InputError(
            f"The records folder {folder} cannot be written: {error}. "
            "Choose another one with --records_dir=DIR or TFBATCH_RECORDS_DIR."
        ) from error


def _dataset_text(
    dataset: str | Recipe | OwnData,
    data: Recipe | OwnData,
    image_size: int | None,
    data_dir: Path | None,
) -> str:
    """What finds the data again, from any folder."""
    if isinstance(dataset, OwnData):
        return dataset.where
    if isinstance(dataset, Recipe):
        return dataset.name if _has_file(dataset) else IN_PYTHON
    if isinstance(data, OwnData) and data.kind == "stored":
        return str(expanded(dataset).resolve())
    if dataset.endswith((".yaml", ".yml")):
        return str(RECIPES.find(dataset).resolve())
    size = "" if image_size is None else f"@{image_size}"
    return f"{_from_anywhere(dataset, data_dir)}{size}"


def _has_file(recipe: Recipe) -> bool:
    """Whether a recipe's name finds just this one: an object may be changed, or have any name."""
    try:
        return load_recipe(recipe.name) == recipe
    except ConfigurationError:
        return False


def _from_anywhere(dataset: str, data_dir: Path | None) -> str:
    """`images:DIR` and `npz:PATH` with the whole path, unless it is beneath the data folder."""
    source, _, path = dataset.partition(":")
    if source not in _OF_PATHS:
        return dataset
    ends = [*(k for k, letter in enumerate(path) if letter in ",@"), len(path)]
    beneath = data_dir and any((data_dir / path[:end]).exists() for end in ends if end)
    here = any(Path(path[:end]).exists() for end in ends if end)
    return f"{source}:{Path.cwd() / path}" if here and not beneath else dataset


def derive_apart(text: str, *, data_dir: Path | None, image_size: int | None) -> Recipe:
    """See tfbatch.pipeline.dataset_names.derive_recipe.

    The process that directs a search runs no TensorFlow operation: on a GPU it would take the
    memory that its workers need.

    Raises:
        InputError: The data set cannot be described.
        DataError: It is absent, or the process that looked at it ended.
    """
    with tempfile.TemporaryDirectory(prefix="tfbatch-") as folder:
        slot = warm_slot(Path(folder) / "deriving.log", None, "tfbatch.pipeline.dataset_names")
        try:
            slot.result()
            slot.submit(_derive, text, data_dir, image_size)
            recipe: Recipe = slot.result()
            return recipe
        except ProcessEndedError as error:
            raise DataError(f"The process that looked at {text} ended: {error.message}") from error
        finally:
            slot.close()


def _derive(text: str, data_dir: Path | None, image_size: int | None) -> Recipe:
    return derive_recipe(text, data_dir=data_dir, image_size=image_size)
