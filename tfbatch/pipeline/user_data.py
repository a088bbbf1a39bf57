"""A user's own data: arrays, Datasets and PyDatasets, checked before any of it is read."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from keras.src.trainers.data_adapters.py_dataset_adapter import PyDatasetAdapter  # its workers

from tfbatch.dataset_info.own_data import check_splits
from tfbatch.errors import InputError
from tfbatch.pipeline.elements import (
    Chunk,
    ElementForm,
    Nest,
    as_structure,
    check_dataset,
    check_element,
    check_texts,
    form_of,
    leaf_names,
    leaves_of,
    template_of,
)

_CHUNK_EXAMPLES = 256
_WIDEST = {"f": 8, "c": 16}
"""Bytes of TensorFlow's widest types of a kind."""
_OF_ANOTHER_LIBRARY = 2
"""NumPy's `isbuiltin` of a type that is not its own, such as bfloat16."""


@dataclasses.dataclass(frozen=True)
class OwnSplit:
    """One split as the user gave it.

    Attributes:
        form: What it gives at a time.
        chunks: Reads it from its beginning: `chunks(batched)`.
        fixed: Whether every pass gives the same examples.
        length_unknown: Whether the number of examples is unknown: it may never end.
        notes: Notes for the user, beside those on storing batches.
    """

    form: ElementForm
    chunks: Callable[[bool], Iterator[Chunk]]
    fixed: bool = False
    length_unknown: bool = False
    notes: tuple[str, ...] = ()


def read_splits(data: Nest, *, declared: bool | None = None) -> dict[str, OwnSplit]:
    """Checks a user's own data; does not read Datasets.

    Args:
        data: `(inputs, targets)` or `(inputs, targets, sample_weight)` of arrays with the examples
            along the first dimension, inputs and targets perhaps a dict, a tuple or a list of
            arrays; a tf.data.Dataset; a keras.utils.PyDataset; or a mapping of "train",
            "validation" and "test" to such.
        declared: Whether the elements of Datasets are batches, if the user states it.

    Returns:
        The splits, "train" first.

    Raises:
        InputError: The data cannot be used.
    """
    splits = data if isinstance(data, Mapping) else {"train": data}
    if not isinstance(data, Mapping) and not _is_a_split(data):
        raise InputError(
            "The data must be a data set's name, a function `make_dataset(split, batch_size, "
            "seed)`, arrays `(inputs, targets)`, a tf.data.Dataset, a keras.utils.PyDataset, or a "
            "mapping of `train`, `validation` and `test` to any of these. Received: "
            f"{type(data).__name__}.{_hint(data)}"
        )
    check_splits(dict(splits))
    found = {split: part for split, part in splits.items() if part is not None}
    first = {"train": found.pop("train"), **found}
    return {split: _read(part, f"Your `{split}` data", declared) for split, part in first.items()}


def _is_a_split(data: Any) -> bool:
    if isinstance(data, list):
        return isinstance(as_structure(data), tuple)
    return isinstance(data, tuple | tf.data.Dataset | keras.utils.PyDataset)


def _hint(data: Any) -> str:
    if isinstance(data, Iterator):
        return (
            " Give tf.data.Dataset.from_generator(function, output_signature=...), with a "
            "function that makes a new generator."
        )
    if hasattr(data, "columns") and hasattr(data, "iloc"):  # a DataFrame, without importing pandas
        return " Give a DataFrame as (frame.drop(columns=TARGET).to_numpy(), frame[TARGET])."
    return ""


def _read(data: Any, where: str, declared: bool | None) -> OwnSplit:
    if isinstance(data, tf.data.Dataset):
        return _of_dataset(data, where, declared)
    if isinstance(data, keras.utils.PyDataset):
        return _of_py_dataset(data, where)
    return _of_arrays(data, where)


def _of_arrays(data: Any, where: str) -> OwnSplit:
    data = as_structure(data)
    check_element(data, where=where)
    template = template_of(data)
    names = leaf_names(template)
    arrays = [as_array(*pair, where=where) for pair in zip(leaves_of(data), names, strict=True)]
    counts = {len(array) for array in arrays}
    if len(counts) > 1:
        raise InputError(
            f"{where} must have the same number of examples, the first dimension, in all arrays. "
            f"Received: {', '.join(str(len(array)) for array in arrays)}."
            f"{_hint_of_parts(data, arrays)}"
        )
    if not counts.copy().pop():
        raise InputError(f"{where} is empty.")
    steps = range(0, counts.pop(), _CHUNK_EXAMPLES)

    def chunks(batched: bool) -> Iterator[Chunk]:
        del batched
        for low in steps:
            yield [array[low : low + _CHUNK_EXAMPLES] for array in arrays]

    return OwnSplit(_form_of_arrays(template, arrays, where, batch=False), chunks, fixed=True)


def _hint_of_parts(data: Any, arrays: list[Any]) -> str:
    if len(arrays) <= 3:
        return ""
    if len(data) == 2 and all(isinstance(part, tuple) and len(part) == 2 for part in data):
        return (
            " Parts of a pair are several inputs and several targets. If these are two splits, as "
            'keras.datasets gives them, name them: {"train": (x, y), "validation": (x, y)}.'
        )
    return (
        " A list of arrays means several inputs, as in Keras; to make one array from its rows, "
        "use numpy.stack."
    )


def _form_of_arrays(template: Any, arrays: list[Any], where: str, *, batch: bool) -> ElementForm:
    """The form of arrays whose first dimension has the examples.

    Args:
        template: Their structure.
        arrays: Arrays, or lists of arrays that may differ in length.
        where: What they are called in messages.
        batch: Whether they are a batch of a stream, whose other open dimensions are unknown.
    """
    shapes = []
    for array in arrays:
        if isinstance(array, list):
            inner: tuple[int | None, ...] = (None, *array[0].shape[1:]) if array else (None,)
        else:
            inner = array.shape[1:]
        shapes.append((None, *inner) if batch else inner)
    kinds = [np.asarray(array[0]).dtype if len(array) else np.dtype("float32") for array in arrays]
    return ElementForm(
        where=where,
        template=template,
        shapes=tuple(shapes),
        dtypes=tuple("string" if kind.kind in "OSU" else kind.name for kind in kinds),
        batched=batch,
        certain=True,
    )


def as_array(leaf: object, name: str, *, where: str) -> npt.NDArray[Any] | tf.Tensor:
    """One leaf as an array that can be stored, or a list of arrays that differ in length.

    Raises:
        InputError: It holds what TensorFlow has no type for, or nothing that can be cut into
            examples.
    """
    if isinstance(leaf, tf.RaggedTensor):
        return _rows_of_ragged(leaf, f"{where}: {name}")
    _refuse_sparse(leaf, f"{where}: {name}")
    try:
        array = _as_numpy(leaf)
    except ValueError as error:
        raise InputError(
            f"{where}: {name} is a list of parts that differ in length. Give it as a "
            "tf.RaggedTensor, such as tf.ragged.constant(...), or as a tf.data.Dataset."
        ) from error
    if array.dtype.kind == "T":  # NumPy's StringDType
        array = array.astype(object)
    if array.dtype == object:
        check_texts(array, f"{where}: {name}")
    _refuse_type(array.dtype, name, where=where)
    if array.ndim == 0:
        raise InputError(f"{where} holds a single number instead of an array of examples ({name}).")
    # Files of other machines (IDX, FITS) are often big-endian; the same name is another order.
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _refuse_type(dtype: np.dtype[Any], name: str, *, where: str) -> None:
    """Refuses types that TensorFlow does not have, and those that files cannot hold."""
    if dtype.kind in "mM":
        raise InputError(
            f"{where} holds dates or durations ({name}: {dtype}), which TensorFlow has no "
            "type for. Convert them to numbers, for example (dates - dates.min()) / "
            'np.timedelta64(1, "D").'
        )
    if dtype.names is not None:
        raise InputError(
            f"{where} holds a structured array ({name}: {dtype}). Give its fields as a dict, "
            "{field: x[field] for field in x.dtype.names}."
        )
    if dtype.kind == "V" or dtype.isbuiltin == _OF_ANOTHER_LIBRARY:
        raise InputError(
            f"{where} holds {dtype.name} ({name}), which cannot be stored. Cast it to float16 or "
            "float32; the precision of the model's computation is `precision` (--precision on the "
            "command line)."
        )
    if dtype.kind in "fc" and dtype.itemsize > _WIDEST[dtype.kind]:
        raise InputError(
            f"{where} holds numbers of a type that TensorFlow does not have ({name}: "
            f'{dtype}). Convert them, such as x.astype("float32").'
        )


def _as_numpy(leaf: object) -> npt.NDArray[Any]:
    """A leaf as NumPy takes it, but for a list of texts, which stays one of objects.

    NumPy would make texts of the numbers and missing values among them too, drop zero bytes at
    their ends, and take as much memory for each as for the longest.
    """
    if isinstance(leaf, list) and any(isinstance(value, str | bytes) for value in leaf):
        return np.fromiter(leaf, dtype=object, count=len(leaf))
    return np.asarray(leaf)


def _refuse_sparse(leaf: Any, where: str) -> None:
    """Refuses what NumPy would take for an object, or whose mask it would drop."""
    if isinstance(leaf, tf.SparseTensor):
        raise InputError(
            f"{where} is a sparse tf.SparseTensor, which cannot be cut into batches. Make it dense "
            "with tf.sparse.to_dense(x)."
        )
    if type(leaf).__module__.startswith(("scipy.sparse", "sparse.")):
        raise InputError(
            f"{where} is a sparse matrix ({type(leaf).__name__}), which cannot be cut into "
            'batches. Make it dense with x.toarray(), perhaps x.astype("float32").toarray().'
        )
    if isinstance(leaf, np.ma.MaskedArray) and np.ma.is_masked(leaf):
        raise InputError(
            f"{where} is a masked array, whose masked values would be trained on. Fill them with "
            "x.filled(VALUE), or leave their examples out."
        )


def _of_dataset(dataset: tf.data.Dataset, where: str, declared: bool | None) -> OwnSplit:
    dataset = check_dataset(dataset, where=where)
    form = form_of(dataset, where=where, declared=declared)
    names = leaf_names(form.template)
    for spec, name in zip(leaves_of(dataset.element_spec), names, strict=True):
        _refuse_type(np.dtype(spec.dtype.as_numpy_dtype), name, where=where)

    def chunks(batched: bool) -> Iterator[Chunk]:
        source = dataset if batched else dataset.ragged_batch(_CHUNK_EXAMPLES)
        specs = leaves_of(source.element_spec)
        variable = [spec.shape.rank > 1 and spec.shape[1] is None for spec in specs]
        for element in source.prefetch(2):
            chunk = [
                rows_of(leaf, f"{where}: {name}", variable=differs)
                for leaf, name, differs in zip(leaves_of(element), names, variable, strict=True)
            ]
            if len({len(rows) for rows in chunk}) > 1:
                sizes = " and ".join(str(len(rows)) for rows in chunk)
                raise InputError(
                    f"{where} has a batch whose parts differ in their number of examples: "
                    f"{sizes}. If each element is one example, give batched=False."
                )
            if len(chunk[0]):  # a `filter` may leave a batch empty
                yield chunk

    unknown = int(dataset.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    return OwnSplit(form, chunks, length_unknown=unknown)


def rows_of(
    leaf: tf.types.experimental.TensorLike, where: str, *, variable: bool
) -> tf.types.experimental.TensorLike:
    """A chunk of one leaf: an array, or a list of arrays that may differ in length.

    Raises:
        InputError: Examples that differ in length in a second dimension; `where` names the leaf.
    """
    if isinstance(leaf, tf.RaggedTensor):
        return _rows_of_ragged(leaf, where)
    return list(leaf.numpy()) if variable else leaf.numpy()


def _rows_of_ragged(leaf: tf.RaggedTensor, where: str) -> list[npt.NDArray[Any]]:
    rows = [row.numpy() for row in leaf]
    if leaf.dtype != tf.string and any(row.dtype == object for row in rows):
        raise InputError(
            f"{where} has examples whose parts differ in length: only the first dimension of an "
            "example may differ. Pad the inner ones, such as x.with_values(x.values.to_tensor()), "
            "or all of them with x.to_tensor()."
        )
    return rows


_READ_ONCE = (
    "Your PyDataset was read once, batch by batch in its order, and its examples are stored: its "
    "random values are drawn only once. For new draws in each epoch, give a function "
    "`make_dataset(split, batch_size, seed)`."
)


def _of_py_dataset(dataset: keras.utils.PyDataset, where: str) -> OwnSplit:
    """A PyDataset's batches, read in order by as many workers as it asks for."""
    if dataset.num_batches is None:
        raise InputError(
            f"{where} is an infinite PyDataset: its `num_batches` is None. It must give each "
            "example once: let `__len__` return the number of batches of one pass."
        )
    if not dataset.num_batches:
        raise InputError(f"{where} is empty: the length of the PyDataset is 0.")
    template, first = _batch_of(dataset[0], where)

    def chunks(batched: bool) -> Iterator[Chunk]:
        del batched
        dataset.on_epoch_begin()
        adapter = PyDatasetAdapter(dataset, shuffle=False)
        try:
            for batch in adapter._get_iterator():
                found, arrays = _batch_of(batch, where)
                if found != template:
                    raise InputError(f"{where} gives batches of different structures.")
                if len(arrays[0]):  # `n // batch_size + 1` batches may be one too many
                    yield arrays
        finally:
            if adapter.enqueuer is not None and adapter.enqueuer.is_running():
                adapter.enqueuer.stop()

    form = _form_of_arrays(template, first, where, batch=True)
    return OwnSplit(form, chunks, notes=(_READ_ONCE,))


def _batch_of(batch: Any, where: str) -> tuple[Any, Chunk]:
    element = as_structure(tuple(batch) if isinstance(batch, list) else batch)
    check_element(element, where=f"Each batch of {where[0].lower()}{where[1:]}")
    template = template_of(element)
    pairs = zip(leaves_of(element), leaf_names(template), strict=True)
    arrays: list[npt.NDArray[Any]] = [as_array(*pair, where=where) for pair in pairs]
    if len({len(array) for array in arrays}) > 1:
        sizes = ", ".join(str(len(array)) for array in arrays)
        raise InputError(
            f"{where} has a batch whose parts differ in their number of examples: {sizes}."
        )
    return template, arrays
