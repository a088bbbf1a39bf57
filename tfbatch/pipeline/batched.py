"""Whether a user's tf.data.Dataset gives examples or batches: nothing public says it."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from tfbatch.errors import InputError

_ENDS = {
    "_UnbatchDataset": False,
    "_BatchDataset": True,
    "_ParallelBatchDataset": True,
    "_PaddedBatchDataset": True,
    "_RebatchDataset": True,
    "_DenseToRaggedDataset": True,
    "_MapAndBatchDataset": True,
}


def is_batched(dataset: tf.data.Dataset) -> bool:
    """Whether the elements of a data set are batches.

    The last `batch` or `unbatch` of its transformations says it. Where there is none (a generator,
    a function of another library), a scalar among the parts of an element means examples, and an
    open first dimension of all parts means batches.
    """
    found = _last_of(dataset)
    if found is not None:
        return found
    shapes = [spec.shape for spec in tf.nest.flatten(dataset.element_spec)]
    return all(shape.rank is None or (shape.rank and shape[0] is None) for shape in shapes)


def _last_of(dataset: Any) -> bool | None:
    """Walks from the last transformation to the source."""
    while True:
        name = type(dataset).__name__
        if name in _ENDS:
            return _ENDS[name]
        if "Batch" in name:  # of another version, or of an extension
            return "Unbatch" not in name
        inputs = dataset._inputs()
        if not inputs:
            return False if name in ("_TensorSliceDataset", "_RangeDataset") else None
        dataset = inputs[0]


def check_dataset(dataset: Any, *, where: str) -> tf.data.Dataset:
    """Refuses what cannot be trained on.

    Args:
        dataset: What a user gave.
        where: What it is called in messages.

    Raises:
        InputError: It is no Dataset, it never ends, or it holds sparse tensors.
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise InputError(f"{where} must be a tf.data.Dataset. Received: {type(dataset).__name__}.")
    if dataset.cardinality() == tf.data.INFINITE_CARDINALITY:
        raise InputError(
            f"{where} never ends. It must give each example once: remove `repeat()`, which tfbatch "
            "does itself."
        )
    if any(isinstance(spec, tf.SparseTensorSpec) for spec in tf.nest.flatten(dataset.element_spec)):
        raise InputError(
            f"{where} holds sparse tensors, which cannot be batched anew. Make them dense with "
            "`tf.sparse.to_dense` in a `map`."
        )
    return dataset


def values_in(spec: Any, *, batched: bool) -> int:
    """Values in one example, open dimensions taken for 64: how large a chunk of batches may be."""
    total = 0
    for part in tf.nest.flatten(spec):
        shape = (part.shape[1:] if batched else part.shape).as_list() if part.shape.rank else []
        total += math.prod(size or 64 for size in shape)
    return max(total, 1)
