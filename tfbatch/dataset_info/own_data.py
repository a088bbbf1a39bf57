"""A user's own data, that no recipe describes: a function of theirs, or arrays. No TensorFlow."""

from __future__ import annotations

import dataclasses
import os
from typing import Literal

from tfbatch.dataset_info.recipe import SPLITS, Baseline
from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLength, TrainingLengthText
from tfbatch.schema import Strict, expanded

STORED = "stored.json"
"""The description in a folder of stored arrays."""


class OwnData(Strict):
    """Where a user's own data comes from; what a `Recipe` is for a data set with a name.

    Attributes:
        name: What the data is called in messages and in the run folder's name.
        kind: "function": it is made again in each process, for each stream; "stored": arrays in a
            folder, mapped by every process.
        where: `package.module:function`, or the folder.
        batched: Whether the elements of Datasets are batches, where the user says it.
        trial_length: Default length of a trial.
        objective: Default objective.
        baseline: The default baseline.
    """

    name: str
    kind: Literal["function", "stored"]
    where: str
    batched: bool | None = None
    trial_length: TrainingLengthText = TrainingLength(amount=5, unit="epochs")
    objective: str = "val_loss:min"
    baseline: Baseline = Baseline()


@dataclasses.dataclass(frozen=True)
class DataDescription:
    """What a process that holds the data tells one that does not.

    Attributes:
        identity: Differs for data that differs.
        splits: Number of examples of each split; "train" and "validation" at least.
        where: One clause for people, such as "resident in memory".
        num_classes: Number of classes, or None if the targets are not classes.
        class_counts: Training examples of each class; empty where there are none.
        soft_labels: Whether targets are a probability for each class, not a class index.
        weighted_classes: Classes that `class_weight` tells apart, if other than `num_classes`.
        notes: What a user should know, a sentence each.
        findings: Those of them that tell of the examples themselves, such as NaN among them.
        data_on: Where batches are made of the examples while a model trains: "host" or "device".
    """

    identity: str
    splits: dict[str, int]
    where: str
    num_classes: int | None = None
    class_counts: tuple[int, ...] = ()
    soft_labels: bool = False
    weighted_classes: int | None = None
    notes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()
    data_on: str = "host"


def own_data_of(text: str) -> OwnData | None:
    """The own data that a text means: `package.module:function`, or a folder of stored arrays.

    Returns:
        None for anything else, such as a recipe's name.

    Raises:
        InputError: A colon, but neither a module nor a function beside it.
    """
    folder = expanded(text)
    if os.path.isfile(folder / STORED):  # noqa: PTH113 - Path's own raises for a name too long
        return OwnData(name=folder.resolve().parent.parent.name, kind="stored", where=text)
    if ":" not in text:
        return None
    module, function = text.split(":", 1)
    if not module.replace(".", "_").isidentifier() or not function.isidentifier():
        raise InputError(
            "Data of your own must be given as package.module:function, the name of a function "
            f"`make_dataset(split, batch_size, seed)`. Received: {text!r}."
        )
    return OwnData(name=function, kind="function", where=text)


def check_splits(names: object) -> None:
    """Refuses splits of other names, and data without a training split.

    Raises:
        InputError: A name other than `train`, `validation` and `test`, or no `train`.
    """
    found = sorted(names) if isinstance(names, dict | set | list | tuple) else []
    unknown = [name for name in found if name not in SPLITS]
    if unknown or "train" not in found:
        raise InputError(
            "The splits of your data must be `train` and, where you have them, `validation` and "
            f"`test`. Received: {', '.join(map(str, found)) or 'none'}."
        )
