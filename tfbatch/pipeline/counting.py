"""Reads a user's `make_dataset(split, batch_size, seed)` once: what its data sets hold."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tfbatch.data_content import DataContent
from tfbatch.errors import InputError, RunFolderError
from tfbatch.pipeline.batched import check_dataset, is_batched
from tfbatch.pipeline.batches import fixed_options
from tfbatch.pipeline.element import check_element, leaves_of, packed, template_of
from tfbatch.pipeline.scanning import Contents, Scan
from tfbatch.recipes import SPLITS
from tfbatch.run_folder.durable import FREE_SPACE, write_whole
from tfbatch.schema import Strict, content_hash

MakeDataset = Callable[..., Any]
FILE_NAME = "function.json"
_BATCH_SIZE = 32
_SEED = 1


class Counted(Strict):
    """What one look at a function's data sets has shown.

    Attributes:
        identity: A hash of the function's text and of what follows.
        splits: Number of examples of each split.
        input_shape: Shapes of the inputs.
        num_classes: Number of classes, or None.
        class_counts: Training examples of each class.
        content: What the look has shown beside that.
    """

    identity: str
    splits: dict[str, int]
    input_shape: Any
    num_classes: int | None
    class_counts: tuple[int, ...]
    content: DataContent = DataContent()


def takes_a_split(function: MakeDataset) -> bool:
    """Whether a function is a `make_dataset(split, batch_size, seed)`.

    One without arguments gives the data itself.

    Raises:
        InputError: It takes other arguments.
    """
    signature = inspect.signature(function)
    if not signature.parameters:
        return False
    try:
        signature.bind(split="train", batch_size=32, seed=1)
    except TypeError as error:
        name = getattr(function, "__name__", function)
        raise InputError(
            "A function that gives data must take (split, batch_size, seed), or nothing. "
            f"Received: {name}{signature}."
        ) from error
    return True


def count_examples(
    make_dataset: MakeDataset, root: Path, *, name: str, heartbeat: Callable[[int], None]
) -> tuple[Path, bool]:
    """Reads each split once, and writes down how many examples it has.

    Args:
        make_dataset: The user's function.
        root: Folder in which a folder for the description is made.
        name: What the data is called in messages.
        heartbeat: Told the number of examples now and then.

    Returns:
        The folder, and True: it was read.

    Raises:
        InputError: The function's result cannot be used, or there is no validation split.
        RunFolderError: The description cannot be written.
    """
    splits: dict[str, int] = {}
    contents = Contents()
    targets: list[Any] = []
    template: Any = None
    for split in SPLITS:
        made = make_split(make_dataset, split, _BATCH_SIZE)
        if made is None:
            continue
        check_element(made.element_spec, where=f"`{name}` for the split {split!r}")
        if split == "train":
            template = made.element_spec
        found = targets if split == "train" else []
        scan = contents.begin(split, template_of(made.element_spec))
        splits[split] = _count(made, found, scan, heartbeat)
        if not splits[split]:
            raise InputError(f"`{name}` gives no example for the split {split!r}.")
    for split in ("train", "validation"):
        if split not in splits:
            raise InputError(
                f"`{name}` gives no `{split}` data: it must return a tf.data.Dataset for "
                'split="train" and split="validation". It may return None for "test".'
            )
    found_content = contents.found(
        {split: functools.partial(_read_again, make_dataset, split) for split in splits},
        function=name,
    )
    counts = _class_counts(targets)
    shapes = _input_shapes(template, make_split(make_dataset, "train", _BATCH_SIZE))
    content = {
        "splits": splits,
        "input_shape": shapes,
        "num_classes": max(len(counts), 2) if counts else None,
        "class_counts": counts,
    }
    identity = content_hash([_source(make_dataset), content])
    folder = root / identity
    try:
        folder.mkdir(parents=True, exist_ok=True)
        counted = Counted(identity=identity, **content, content=found_content)
        write_whole(folder / FILE_NAME, counted.model_dump_json(indent=1))
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error}. {FREE_SPACE}") from error
    return folder, True


def make_split(make_dataset: MakeDataset, split: str, batch_size: int, seed: int = _SEED) -> Any:
    """The function's own result, checked; None where there is no such split."""
    name = getattr(make_dataset, "__name__", "make_dataset")
    made = make_dataset(split=split, batch_size=batch_size, seed=seed)
    if made is None and split != "train":
        return None
    return check_dataset(made, where=f"What `{name}` returns for the split {split!r}")


def _count(
    dataset: tf.data.Dataset,
    targets: list[Any],
    scan: Scan,
    heartbeat: Callable[[int], None],
) -> int:
    """Number of examples; the targets are collected where they are whole numbers."""
    template = template_of(dataset.element_spec)
    specs = leaves_of(dataset.element_spec)
    single = isinstance(template[1], int)  # one target, not several
    number = template[1] if single else 0
    classes = single and specs[number].dtype.is_integer
    for leaves in scan.watch(_chunks(dataset)):
        target = leaves[number]
        if classes and not isinstance(target, list) and _one_each(target):
            targets.append(target.reshape(-1))
        heartbeat(scan.count)
    return scan.count


def _chunks(dataset: tf.data.Dataset) -> Iterator[list[Any]]:
    """Some examples at a time: for each leaf an array, or a list of arrays that may differ."""
    batched = is_batched(dataset)
    specs = leaves_of(dataset.element_spec)
    variable = [None in spec.shape.as_list()[batched:] for spec in specs]
    if not batched:
        template = template_of(dataset.element_spec)
        dataset = dataset.map(lambda *parts: packed(template, leaves_of(parts)))
        dataset = dataset.ragged_batch(_BATCH_SIZE)
    for element in dataset.with_options(fixed_options()):
        yield [
            [row.numpy() for row in leaf]
            if isinstance(leaf, tf.RaggedTensor)
            else list(leaf.numpy())
            if differs
            else leaf.numpy()
            for leaf, differs in zip(leaves_of(element), variable, strict=True)
        ]


def _read_again(make_dataset: MakeDataset, split: str) -> Iterator[list[Any]]:
    """A second pass: of the training data with another seed, since trials have several."""
    made = make_split(make_dataset, split, _BATCH_SIZE, _SEED + (split == "train"))
    return _chunks(made)


def _one_each(target: npt.NDArray[Any]) -> bool:
    return target.ndim == 1 or target.shape[1:] == (1,)


def _class_counts(targets: list[Any]) -> tuple[int, ...]:
    if not targets:
        return ()
    found = np.concatenate(targets)
    return tuple(map(int, np.bincount(found))) if found.min() >= 0 else ()


def _input_shapes(spec: Any, dataset: tf.data.Dataset) -> Any:
    batched = is_batched(dataset)
    template = template_of(spec)
    shapes = [list(leaf.shape)[batched:] for leaf in leaves_of(spec)]
    return _with_lists(template[0], shapes)


def _with_lists(template: Any, shapes: list[Any]) -> Any:
    """The structure as JSON keeps it: a tuple as {"tuple": [...]}."""
    if isinstance(template, dict):
        return {key: _with_lists(part, shapes) for key, part in template.items()}
    if isinstance(template, list):
        return {"": [_with_lists(part, shapes) for part in template]}
    return shapes[template]


def _source(function: MakeDataset) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):  # typed at a prompt, or no function
        return getattr(function, "__qualname__", type(function).__qualname__)
