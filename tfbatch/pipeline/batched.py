"""Whether a user's tf.data.Dataset gives examples or batches: nothing public says it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.pipeline.element import Form, check_element, leaves_of, template_of

_BATCHES = (
    "_BatchDataset",
    "_ParallelBatchDataset",
    "_PaddedBatchDataset",
    "_RebatchDataset",
    "_MapAndBatchDataset",
)
_EXAMPLES = ("_UnbatchDataset", "_TensorSliceDataset", "_RangeDataset")
_UNCHANGED = (
    "_AssertCardinalityDataset",
    "_ConcatenateDataset",
    "_DenseToRaggedDataset",
    "_DirectedInterleaveDataset",
    "_FilterDataset",
    "_IgnoreErrorsDataset",
    "_OptionsDataset",
    "_PrefetchDataset",
    "_RepeatDataset",
    "_RestructuredDataset",
    "_ShardDataset",
    "_ShuffleDataset",
    "_SkipDataset",
    "_SnapshotDataset",
    "_TakeDataset",
    "_TakeWhileDataset",
    "_UniqueDataset",
    "_ZipDataset",
    "CacheDataset",
)
_ELEMENTWISE = ("_MapDataset", "_ParallelMapDataset", "_ScanDataset")


def form_of(dataset: tf.data.Dataset, *, where: str, declared: bool | None = None) -> Form:
    """What a Dataset gives.

    Args:
        dataset: A Dataset that `check_dataset` accepts.
        where: What it is called in messages.
        declared: What the user says of its batches.

    Raises:
        InputError: No (inputs, targets), parts of unknown rank, or a declaration that its shapes
            exclude.
    """
    spec = dataset.element_spec
    check_element(spec, where=where)
    specs = leaves_of(spec)
    if any(part.shape.rank is None for part in specs):
        raise InputError(
            f"{where} does not define how many dimensions its components have. Give "
            "from_generator `output_signature=(tf.TensorSpec(...), ...)` in place of "
            "`output_types`, or set the shapes in a `map` with `tf.ensure_shape`."
        )
    certain = _have_no_common_size(specs)
    form = Form(
        where=where,
        template=template_of(spec),
        shapes=tuple(tuple(part.shape.as_list()) for part in specs),
        dtypes=tuple("string" if s.dtype == tf.string else s.dtype.name for s in specs),
        batched=False if certain else _made_as(dataset),
        certain=certain,
        declared=declared,
    )
    if certain and declared:
        raise InputError(
            f"{where} cannot give batches: the components of an element have the shapes "
            f"{form.shown()}, without a common first dimension. Received: batched=True."
        )
    return form


def known_batching(dataset: tf.data.Dataset) -> bool | None:
    """Whether the elements of a Dataset are batches; None if that cannot be determined."""
    specs = tf.nest.flatten(dataset.element_spec)
    return False if _have_no_common_size(specs) else _made_as(dataset)


def _have_no_common_size(specs: list[Any]) -> bool:
    """Whether the parts have no first dimension in common, and are no batch for that reason."""
    shapes = [part.shape for part in specs if part.shape.rank is not None]
    sizes = {shape[0] if shape.rank else -1 for shape in shapes}
    return -1 in sizes or len(sizes - {None}) > 1


def _made_as(dataset: Any) -> bool | None:
    """Whether a Dataset's transformations make batches; None where that cannot be told.

    Walks from the last transformation to the first that batches, takes apart or slices. A function
    of the user's own (a generator, `flat_map`, `interleave`, `group_by_window`, a `map` that
    changes the first dimension) may do either.
    """
    name = type(dataset).__name__
    if name in _BATCHES or name in _EXAMPLES:
        return name in _BATCHES
    inputs = dataset._inputs()
    if name in _ELEMENTWISE:
        same = _first_sizes(dataset) == _first_sizes(inputs[0])
        return _made_as(inputs[0]) if same else None
    if name not in _UNCHANGED:
        return None
    several = [part for part in inputs if not _is_index(part)] or inputs
    found = {_made_as(part) for part in several}
    return found.pop() if len(found) == 1 else None


def _first_sizes(dataset: tf.data.Dataset) -> set[int | None]:
    shapes = [spec.shape for spec in tf.nest.flatten(dataset.element_spec)]
    return {shape[0] if shape.rank else -1 for shape in shapes}


def _is_index(dataset: tf.data.Dataset) -> bool:
    """Whether it is the count of `enumerate`, or the choice between several Datasets."""
    spec = dataset.element_spec
    return isinstance(spec, tf.TensorSpec) and spec.shape.rank == 0


_ASK = (
    "Give batched=True if each element is a batch, batched=False if it is one example (--batched "
    "or --nobatched on the command line)."
)


def decide_batched(form: Form) -> bool:
    """Whether elements are batches, where no model can be asked.

    Raises:
        InputError: Neither the data nor the user says it.
    """
    found = form.batched if form.declared is None else form.declared
    if found is None:
        raise InputError(
            f"{form.where} gives elements of the shapes {form.shown()}, and neither its "
            "transformations nor a model's input show whether such an element is one example or a "
            f"batch. {_ASK}"
        )
    return found


def batched_like(form: Form, train: Form, *, train_batched: bool) -> bool:
    """Whether another split's elements are batches: by their ranks, beside the training examples'.

    Raises:
        InputError: They have neither the ranks of the examples nor one more.
    """
    examples = train.example_shapes(batched=train_batched) or ()
    found = {len(shape) - len(other) for shape, other in zip(form.shapes, examples, strict=False)}
    if len(form.shapes) != len(examples) or len(found) != 1 or not found <= {0, 1}:
        raise InputError(
            f"{form.where} differs in structure from `train`: its elements have the shapes "
            f"{form.shown()}, those of `train` {train.shown()}. Give all splits the same "
            "structure."
        )
    return found == {1}


def check_dataset(dataset: Any, *, where: str) -> tf.data.Dataset:
    """Refuses what cannot be trained on.

    Args:
        dataset: What a user gave.
        where: What it is called in messages.

    Raises:
        InputError: It is not a Dataset, it never ends, or it holds sparse tensors or Datasets.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise InputError(
            f"{where} must be a tf.data.Dataset. Received: {type(dataset).__name__}."
            f"{_remedy(dataset)}"
        )
    if _never_ends(dataset):
        raise InputError(
            f"{where} never ends. It must give each example once: remove `repeat()`, which tfbatch "
            "does itself."
        )
    specs = tf.nest.flatten(dataset.element_spec)
    if any(isinstance(spec, tf.SparseTensorSpec) for spec in specs):
        raise InputError(
            f"{where} holds sparse tensors, which cannot be batched anew. Make them dense with "
            "`tf.sparse.to_dense` in a `map`."
        )
    if any(isinstance(spec, tf.data.DatasetSpec) for spec in specs):
        raise InputError(
            f"{where} gives Datasets (from `window`), not tensors. Convert them to tensors, for "
            "example with .flat_map(lambda x, y: tf.data.Dataset.zip(x.batch(N), y.batch(N)))."
        )
    return dataset


def _remedy(received: Any) -> str:
    if isinstance(received, keras.utils.PyDataset):
        return (
            " Give a PyDataset as the data itself, alone or in a dict of splits, or return it "
            "from a function without arguments."
        )
    if isinstance(received, Iterator):
        return (
            " Give tf.data.Dataset.from_generator(function, output_signature=...), with a "
            "function that makes a new generator."
        )
    return ""


def _never_ends(dataset: Any) -> bool:
    """Whether it is endless, also where a later `filter` or `flat_map` hides it from TensorFlow."""
    while True:
        cardinality = int(dataset.cardinality())
        if cardinality != tf.data.UNKNOWN_CARDINALITY:
            return cardinality == int(tf.data.INFINITE_CARDINALITY)
        inputs = dataset._inputs()
        if len(inputs) != 1 or "Take" in type(dataset).__name__:
            return False
        dataset = inputs[0]


def values_in(spec: Any, *, batched: bool) -> int:
    """Values in one example, open dimensions taken for 64: how large a chunk of batches may be."""
    total = 0
    for part in tf.nest.flatten(spec):
        shape = (part.shape[1:] if batched else part.shape).as_list() if part.shape.rank else []
        total += math.prod(size or 64 for size in shape)
    return max(total, 1)
