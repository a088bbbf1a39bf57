"""A user's function `make_dataset(split, batch_size, seed)` as a data set, made in each process."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, cast

import tensorflow as tf

from tfbatch.dataset_info.content import DataContent, may_drop_note
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.dataset_info.recipe import SPLITS
from tfbatch.errors import DataError, InputError
from tfbatch.pipeline.classes import ClassIndices, ClassReader, Expect, expect_without_model
from tfbatch.pipeline.content_scan import Contents, Scan
from tfbatch.pipeline.elements import (
    ElementForm,
    InputShape,
    Nest,
    batched_like,
    check_dataset,
    fits,
    form_of,
    leaf_names,
    leaf_order,
    leaves_of,
    packed,
    values_in,
)
from tfbatch.pipeline.endless import READ_BYTES, EndWatch
from tfbatch.pipeline.streams import fixed_options, prefetched
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE, check_stream
from tfbatch.pipeline.user_data import rows_of
from tfbatch.run_folder.durable import cannot_be_written, write_whole
from tfbatch.schema import JsonObject, Strict, content_hash

MakeDataset: TypeAlias = "Callable[..., Nest]"
FILE_NAME = "function.json"
_BATCH_SIZE = 32
SEED = 1


_REBATCHED = (
    "`{name}` gives batches that tfbatch cuts anew, so that no batch is short at the end of an "
    "epoch: what it does to whole batches (mixing, bucketing by length) may reach over two."
)
_DROPPED = (
    "`{name}` drops the last partial batch (drop_remainder=True). For validation and test it is "
    "called with batch sizes that divide the split, so that every example counts; in training, "
    "each pass loses up to one batch. Remove `drop_remainder`: the examples are rebatched anyway."
)


class Counted(Strict):
    """What one look at a function's data sets has shown.

    Attributes:
        identity: A hash of the function's text and of what follows.
        splits: Number of examples of each split.
        input_shape: Shapes of the inputs; a tuple of several is {"": [...]}.
        num_classes: Number of classes, or None.
        class_counts: Training examples of each class.
        one_hot: Whether targets are one-hot rows of those classes.
        batched: Whether the elements of each split are batches.
        drops_remainder: Splits whose last batch is left out where it is short.
        may_drop: Notes on splits whose batches have a size of their own, and may be among these.
        content: The findings of a look at the examples.
    """

    identity: str
    splits: dict[str, int]
    input_shape: list[int | None] | JsonObject
    num_classes: int | None
    class_counts: tuple[int, ...]
    one_hot: bool
    batched: dict[str, bool]
    drops_remainder: tuple[str, ...]
    may_drop: tuple[str, ...] = ()
    content: DataContent = DataContent()


class FunctionData:
    """What a user's function makes, made anew for each stream.

    Args:
        make_dataset: `make_dataset(split, batch_size, seed)` returns a tf.data.Dataset with one
            pass over the split, batched or not; None for a validation or test split that there is
            not.
        folder: Folder of its description, which `count_examples` wrote.
        name: What the data is called in messages.

    Raises:
        DataError: There is no description.
    """

    resident = False

    def __init__(self, make_dataset: MakeDataset, folder: Path, *, name: str):
        self._make_dataset = make_dataset
        self.folder = folder
        self.name = name
        try:
            text = (folder / FILE_NAME).read_text(encoding="utf-8")
            self._counted = Counted.model_validate_json(text)
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / FILE_NAME} cannot be read: {error}") from error
        self._evaluations: dict[tuple[str, int], tf.data.Dataset] = {}

    @property
    def content(self) -> DataContent:
        """The findings of a look at the examples."""
        return self._counted.content

    @property
    def input_shape(self) -> InputShape:
        """Shape of one input; for several inputs, the same structure of shapes."""
        return cast(InputShape, _as_shapes(self._counted.input_shape))

    @property
    def num_classes(self) -> int | None:
        """Number of classes, or None if the targets are not classes."""
        return self._counted.num_classes

    @property
    def soft_labels(self) -> bool:
        """Whether targets are one-hot rows, not class indices."""
        return self._counted.one_hot

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits that there are."""
        return tuple(self._counted.splits)

    def describe(self) -> DataDescription:
        """What a process without the data must know."""
        notes = [*self.content.sentences()]
        if self._counted.batched["train"]:
            notes.append(_REBATCHED.format(name=self.name))
        if self._counted.drops_remainder:
            notes.append(_DROPPED.format(name=self.name))
        notes += self._counted.may_drop
        return DataDescription(
            identity=self._counted.identity,
            splits=dict(self._counted.splits),
            where=f"made by {self.name} in each process",
            num_classes=self.num_classes,
            class_counts=self._counted.class_counts,
            soft_labels=self.soft_labels,
            weighted_classes=self.content.weighted_classes(self.num_classes),
            notes=tuple(notes),
            findings=self._counted.content.sentences(),
        )

    def num_examples(self, split: str = "train") -> int:
        """Number of examples in a split."""
        return self._counted.splits[split]

    def training(
        self, *, batch_size: int, seed: int, num_examples: int, start: int = 0
    ) -> tf.data.Dataset:
        """The function's training data, again and again, in batches that reach over its ends.

        The order is the function's: it gets the seed. Only the very last batch can be short.
        """
        check_stream(self, batch_size=batch_size, seed=seed, num_examples=num_examples, start=start)
        made = self._made("train", batch_size, seed)
        steps = -((start - num_examples) // batch_size)
        batched = self._counted.batched["train"]
        batches = _rebatched(made.repeat(), batched, batch_size, start=start).take(steps)
        short = (num_examples - start) % batch_size
        if short:
            batches = batches.enumerate().map(_cut_last(steps - 1, short))
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
        return self._prefetched(batches, batch_size)

    def evaluation(self, split: str, *, batch_size: int = EVALUATION_BATCH_SIZE) -> tf.data.Dataset:
        """Every example of a split once."""
        if (split, batch_size) not in self._evaluations:
            made = self._made(split, batch_size)
            batches = _rebatched(made, self._counted.batched[split], batch_size)
            steps = -(-self.num_examples(split) // batch_size)
            batches = batches.apply(tf.data.experimental.assert_cardinality(steps))
            self._evaluations[split, batch_size] = self._prefetched(batches, batch_size)
        return self._evaluations[split, batch_size]

    def raise_damage(self, split: str) -> None:
        """Nothing is known of where a user's function reads."""

    def _made(self, split: str, batch_size: int, seed: int = SEED) -> tf.data.Dataset:
        """The function's data; for evaluation in a batch size with which it gives every example."""
        if split in self._counted.drops_remainder and split != "train":
            batch_size = largest_divisor(self.num_examples(split), at_most=batch_size)
        return make_split(self._make_dataset, split, batch_size, seed)

    def _prefetched(self, batches: tf.data.Dataset, batch_size: int) -> tf.data.Dataset:
        values = values_in(batches.element_spec, batched=True)
        return prefetched(batches, batch_bytes=4 * values * batch_size)


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
    forms: dict[str, ElementForm] = {}
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
    content["may_drop"] = [
        may_drop_note(forms[split].where, most=counted.most_dropped)
        for split, counted in passes.items()
        if counted.most_dropped
    ]
    folder = root / identity
    try:
        folder.mkdir(parents=True, exist_ok=True)
        counted = Counted(identity=identity, **content, content=found_content)
        write_whole(folder / FILE_NAME, counted.model_dump_json(indent=1))
    except OSError as error:
        raise cannot_be_written(folder, error) from error
    return folder, True


def _check_like(form: ElementForm, train: ElementForm, batched: bool, train_batched: bool) -> None:
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


def make_split(
    make_dataset: MakeDataset, split: str, batch_size: int, seed: int = SEED
) -> tf.data.Dataset:
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
        most_dropped: Examples that may be missing where batches have a size of the function's own.
    """

    def __init__(
        self,
        make_dataset: MakeDataset,
        split: str,
        form: ElementForm,
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
        self.most_dropped = self._most_dropped()

    def classes(self) -> ClassIndices | None:
        """The classes of the examples, or None if targets are not classes."""
        return None if self._reader is None else self._reader.found()

    def again(self) -> Iterator[list[Any]]:
        """A second pass: of the training data with another seed, since trials have several."""
        seed = SEED + (self._split == "train")
        return self._chunks(make_split(self._make_dataset, self._split, _BATCH_SIZE, seed))

    def _most_dropped(self) -> int:
        sizes = [shape[0] or 1 for shape in self._form.shapes if self.batched and shape[0]]
        if not sizes or len(sizes) < len(self._form.shapes):
            return 0
        made = make_split(self._make_dataset, self._split, 1)
        again = form_of(made, where=self._form.where).shapes
        has_its_own = [shape[0] for shape in again] == sizes
        return max(sizes) - 1 if has_its_own else 0

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
        names = leaf_names(self._form.template)
        if not self.batched:
            template = self._form.template
            dataset = dataset.map(lambda *parts: packed(template, leaves_of(parts)))
            dataset = dataset.ragged_batch(_BATCH_SIZE)
        for element in dataset.with_options(fixed_options()):
            chunk = [
                rows_of(leaf, f"{self._form.where}: {name}", variable=None in shape)
                for leaf, name, shape in zip(leaves_of(element), names, shapes, strict=True)
            ]
            if len(chunk[0]):  # a `filter` may leave a batch empty
                yield chunk


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


def _rebatched(
    dataset: tf.data.Dataset, batched: bool, batch_size: int, *, start: int = 0
) -> tf.data.Dataset:
    """Batches of exactly `batch_size` examples, but for the last, from example `start` on."""
    dataset = dataset.with_options(fixed_options())
    shapes = [spec.shape for spec in tf.nest.flatten(dataset.element_spec)]
    variable = any(None in shape.as_list()[batched:] for shape in shapes)
    if batched and not variable:
        # Smaller batches first, of which `start` is a whole number: it may lie within a batch.
        size = math.gcd(start, batch_size)
        dataset = dataset.rebatch(size).skip(start // size)
        return dataset if size == batch_size else dataset.rebatch(batch_size)
    dataset = (dataset.unbatch() if batched else dataset).skip(start)
    if not variable:
        return dataset.batch(batch_size)
    if any(isinstance(spec, tf.RaggedTensorSpec) for spec in tf.nest.flatten(dataset.element_spec)):
        dataset = dataset.map(lambda *parts: tf.nest.map_structure(_dense, parts))
    return dataset.padded_batch(batch_size)


def _dense(part: tf.Tensor | tf.RaggedTensor) -> tf.Tensor:
    """`padded_batch` takes no ragged tensors, not even those of one example."""
    return part.to_tensor() if isinstance(part, tf.RaggedTensor) else part


def _cut_last(last: int, size: int) -> Callable[..., Any]:
    def cut(step: tf.Tensor, element: Any) -> Any:
        most = tf.where(step == last, tf.constant(size, tf.int64), tf.int64.max)
        return tf.nest.map_structure(lambda part: part[:most], element)

    return cut


def _as_shapes(kept: Any) -> Any:
    if isinstance(kept, list):
        return tuple(kept)
    if set(kept) == {""}:
        return tuple(_as_shapes(part) for part in kept[""])
    return {key: _as_shapes(part) for key, part in kept.items()}
