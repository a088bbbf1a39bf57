"""Reads a user's `make_dataset(split, batch_size, seed)` once: what its data sets hold."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from tfbatch.data_content import DataContent
from tfbatch.errors import InputError, RunFolderError
from tfbatch.pipeline.batched import batched_like, check_dataset, form_of
from tfbatch.pipeline.batches import fixed_options
from tfbatch.pipeline.classes import ClassIndices, ClassReader, Expect, expect_without_model
from tfbatch.pipeline.element import Form, fits, leaf_order, leaves_of, packed
from tfbatch.pipeline.endless import READ_BYTES, EndWatch
from tfbatch.pipeline.own_splits import rows_of
from tfbatch.pipeline.scanning import Contents, Scan
from tfbatch.recipes import SPLITS
from tfbatch.run_folder.durable import FREE_SPACE, write_whole
from tfbatch.schema import Strict, content_hash

MakeDataset = Callable[..., Any]
FILE_NAME = "function.json"
_BATCH_SIZE = 32
SEED = 1


class Counted(Strict):
    """What one look at a function's data sets has shown.

    Attributes:
        identity: A hash of the function's text and of what follows.
        splits: Number of examples of each split.
        input_shape: Shapes of the inputs.
        num_classes: Number of classes, or None.
        class_counts: Training examples of each class.
        one_hot: Whether targets are one-hot rows of those classes.
        batched: Whether the elements of each split are batches.
        drops_remainder: Splits whose last batch is left out where it is short.
        content: The findings of a look at the examples.
    """

    identity: str
    splits: dict[str, int]
    input_shape: Any
    num_classes: int | None
    class_counts: tuple[int, ...]
    one_hot: bool
    batched: dict[str, bool]
    drops_remainder: tuple[str, ...]
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
    make_dataset: MakeDataset,
    root: Path,
    *,
    name: str,
    batched: bool | None = None,
    expect: Expect = expect_without_model,
    heartbeat: Callable[[int], None],
) -> tuple[Path, bool]:
    """Reads each split once, and writes down how many examples it has.

    Args:
        make_dataset: The user's function.
        root: Folder in which a folder for the description is made.
        name: What the data is called in messages.
        batched: Whether the elements are batches, if the user states it.
        expect: Asks the model.
        heartbeat: Called at intervals with the number of examples.

    Returns:
        The folder, and True: it was read.

    Raises:
        InputError: The function's result cannot be used, or there is no validation split.
        RunFolderError: The description cannot be written.
    """
    forms: dict[str, Form] = {}
    for split in SPLITS:
        made = make_split(make_dataset, split, _BATCH_SIZE)
        if made is not None:
            where = f"`{name}` for the split {split!r}"
            forms[split] = form_of(made, where=where, declared=batched)
    for split in ("train", "validation"):
        if split not in forms:
            raise InputError(
                f"`{name}` gives no `{split}` data: it must return a tf.data.Dataset for "
                'split="train" and split="validation". It may return None for "test".'
            )
    train = forms["train"]
    expected = expect(train)
    passes: dict[str, _Pass] = {}
    contents = Contents()
    for split, form in forms.items():
        batches = expected.batched
        if split != "train" and not form.certain:
            batches = batched_like(form, train, train_batched=expected.batched)
        elif split != "train":
            batches = False
        if split != "train":
            _check_like(form, train, batches, expected.batched)
        reader = ClassReader(expected) if split == "train" else None
        begin = functools.partial(contents.begin, split, form.template)
        passes[split] = _Pass(make_dataset, split, form, batches, reader, begin, heartbeat)
        if not passes[split].examples:
            raise InputError(f"`{name}` gives no example for the split {split!r}.")
    found_content = contents.found(
        {split: counted.again for split, counted in passes.items()}, function=name
    )
    found = passes["train"].classes()
    shapes = list(map(list, train.example_shapes(batched=expected.batched) or ()))
    content = {
        "splits": {split: counted.examples for split, counted in passes.items()},
        "input_shape": _with_lists(train.template[0], shapes),
        "num_classes": None if found is None else found.num_classes,
        "class_counts": () if found is None else found.counts(),
    }
    identity = content_hash([_source(make_dataset), content])
    content["one_hot"] = found is not None and found.one_hot
    content["batched"] = {split: counted.batched for split, counted in passes.items()}
    content["drops_remainder"] = [split for split, counted in passes.items() if counted.drops]
    folder = root / identity
    try:
        folder.mkdir(parents=True, exist_ok=True)
        counted = Counted(identity=identity, **content, content=found_content)
        write_whole(folder / FILE_NAME, counted.model_dump_json(indent=1))
    except OSError as error:
        raise RunFolderError(f"{folder} cannot be written: {error}. {FREE_SPACE}") from error
    return folder, True


def _check_like(form: Form, train: Form, batched: bool, train_batched: bool) -> None:
    """Refuses a split whose inputs and targets are others than the training split's.

    Raises:
        InputError: Other names, numbers, kinds or shapes.
    """
    order = leaf_order(form.template[:2], train.template[:2])
    if order is not None:
        shapes = form.example_shapes(batched=batched) or ()
        expected = train.example_shapes(batched=train_batched) or ()
        pairs = [(number, known) for known, number in enumerate(order)]
        if all(
            fits(expected[known], shapes[number])
            and (form.dtypes[number] == "string") == (train.dtypes[known] == "string")
            for number, known in pairs
        ):
            return
    raise InputError(
        f"{form.where} differs in structure from `train`: {form.shown()} and {train.shown()}. Give "
        "all splits the same structure."
    )


def make_split(make_dataset: MakeDataset, split: str, batch_size: int, seed: int = SEED) -> Any:
    """The function's own result, checked; None where there is no such split."""
    name = getattr(make_dataset, "__name__", "make_dataset")
    made = make_dataset(split=split, batch_size=batch_size, seed=seed)
    if made is None and split != "train":
        return None
    return check_dataset(made, where=f"What `{name}` returns for the split {split!r}")


class _Pass:
    """One reading of a split.

    Attributes:
        examples: Number of examples.
        batched: Whether its elements are batches.
        drops: Whether a short last batch is left out.
    """

    def __init__(
        self,
        make_dataset: MakeDataset,
        split: str,
        form: Form,
        batched: bool,
        reader: ClassReader | None,
        begin_scan: Callable[[], Scan],
        heartbeat: Callable[[int], None],
    ):
        self.batched = batched
        self._make_dataset, self._split, self._form = make_dataset, split, form
        self._reader, self._begin_scan = reader, begin_scan
        self._heartbeat = heartbeat
        self.examples = self._count(_BATCH_SIZE)
        self.drops = False
        fixed = form.batched is None or all(shape and shape[0] for shape in form.shapes)
        if batched and fixed and self.examples % _BATCH_SIZE == 0:  # perhaps it drops a remainder
            self._reader = None if reader is None else reader.anew()
            again = self._count(1)
            self.drops, self.examples = again != self.examples, again

    def classes(self) -> ClassIndices | None:
        """The classes of the examples, or None if targets are not classes."""
        return None if self._reader is None else self._reader.found()

    def again(self) -> Iterator[list[Any]]:
        """A second pass: of the training data with another seed, since trials have several."""
        seed = SEED + (self._split == "train")
        return self._chunks(make_split(self._make_dataset, self._split, _BATCH_SIZE, seed))

    def _count(self, batch_size: int) -> int:
        dataset = make_split(self._make_dataset, self._split, batch_size)
        watch, scan = None, self._begin_scan()
        if int(dataset.cardinality()) == tf.data.UNKNOWN_CARDINALITY:
            watch = EndWatch(self._form.where, most_bytes=READ_BYTES)
        number = self._form.template[1]
        for leaves in scan.watch(self._chunks(dataset)):
            if watch is not None:
                watch.add(leaves)
            if self._reader is not None and isinstance(number, int):  # one target, not several
                target = leaves[number]
                self._reader.add(None if isinstance(target, list) else target)
            self._heartbeat(scan.count)
        return scan.count

    def _chunks(self, dataset: tf.data.Dataset) -> Iterator[list[Any]]:
        """Some examples at a time: for each leaf an array, or a list of arrays that may differ."""
        shapes = self._form.example_shapes(batched=self.batched) or ()
        if not self.batched:
            template = self._form.template
            dataset = dataset.map(lambda *parts: packed(template, leaves_of(parts)))
            dataset = dataset.ragged_batch(_BATCH_SIZE)
        for element in dataset.with_options(fixed_options()):
            yield [
                rows_of(leaf, variable=None in shape)
                for leaf, shape in zip(leaves_of(element), shapes, strict=True)
            ]


def largest_divisor(number: int, *, at_most: int) -> int:
    """The largest divisor of a number that is at most another."""
    return next(size for size in range(min(number, at_most), 0, -1) if number % size == 0)


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
