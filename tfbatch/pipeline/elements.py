"""What one element of a user's data is: its structure and shapes, an example or a batch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import keras
import numpy.typing as npt
import tensorflow as tf
from typing_extensions import TypeAliasType

from tfbatch.dataset_info.content import Part
from tfbatch.errors import InputError

Template = TypeAliasType("Template", "int | list[Template] | dict[str, Template]")
"""A structure with the number of each leaf in its place: `[{"a": 0, "b": 1}, 2]`; plain JSON."""
Nest: TypeAlias = object
"""Arrays or tensors in dicts, tuples and lists, as tf.nest takes them."""
Chunk: TypeAlias = "list[tf.types.experimental.TensorLike]"
"""Each leaf of some examples: an array, or a list of arrays that may differ in length."""
InputShape = TypeAliasType(
    "InputShape", "tuple[int | None, ...] | tuple[InputShape, ...] | dict[str, InputShape]"
)
"""Shape of one input; for several inputs, the same structure of shapes."""

_PARTS: tuple[Part, ...] = ("inputs", "targets", "sample_weight")
_NONE = type(tf.type_spec_from_value(None))
"""What a Dataset says of a part that is None."""

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
_ASK = (
    "Give batched=True if each element is a batch, batched=False if it is one example (--batched "
    "or --nobatched on the command line)."
)


@dataclasses.dataclass(frozen=True)
class ElementForm:
    """What a split gives at a time, an example or a batch, before any of it is read.

    Attributes:
        where: What the split is called in messages.
        template: The structure of an element.
        shapes: Shape of each leaf as it comes; None stands for an open dimension.
        dtypes: Keras's name of each leaf's type.
        batched: Whether an element is a batch, as far as the data itself shows it; None if not.
        certain: Whether nothing else is possible, such as a batch of scalars.
        declared: What the user states, or None.
    """

    where: str
    template: list[Template]
    shapes: tuple[tuple[int | None, ...], ...]
    dtypes: tuple[str, ...]
    batched: bool | None
    certain: bool = False
    declared: bool | None = None

    def example_shapes(self, *, batched: bool) -> tuple[tuple[int | None, ...], ...] | None:
        """Shapes of one example if elements are batches, or if they are not; None: impossible."""
        if not batched:
            return self.shapes
        return tuple(s[1:] for s in self.shapes) if all(self.shapes) else None

    def shown(self) -> str:
        """The shapes in their structure, for a message."""
        texts = [
            "(" + ", ".join(map(str, s)) + ("," if len(s) == 1 else "") + ")" for s in self.shapes
        ]
        return str(packed(self.template, texts)).replace("'", "")


def as_structure(value: Nest) -> Nest:
    """Several arrays in a list become a tuple of them, as Keras takes `[a, b]` for two inputs.

    A list of numbers, of texts or of lists of numbers stays one array.
    """
    if isinstance(value, Mapping):
        return {key: as_structure(part) for key, part in value.items()}
    if isinstance(value, tuple) or (isinstance(value, list) and any(map(_has_arrays, value))):
        return tuple(as_structure(part) for part in value)
    return value


def _has_arrays(part: Any) -> bool:
    if isinstance(part, list):
        return any(map(_has_arrays, part))
    shape = getattr(part, "shape", None)  # NumPy, TensorFlow, pandas, SciPy
    return isinstance(part, Mapping) or (shape is not None and len(shape) > 0)


def template_of(element: Nest) -> list[Template]:
    """The structure of an element, such as `(x, y)` or `({"a": a, "b": b}, y, sample_weight)`.

    Lists and tuples are alike. A mapping's keys are kept in their order.
    """
    numbers = iter(range(10**6))

    def visit(value: Any) -> Any:
        if isinstance(value, dict):
            return {str(key): visit(part) for key, part in value.items()}
        if isinstance(value, tuple):
            return [visit(part) for part in value if part is not None]
        return next(numbers)

    template: list[Template] = visit(element)
    return template


def leaves_of(element: Nest) -> Chunk:
    """The leaves in the order of `template_of`."""
    return list(_leaves(element))


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        for part in value.values():
            yield from _leaves(part)
    elif isinstance(value, tuple):
        for part in value:
            if part is not None:
                yield from _leaves(part)
    else:
        yield value


def packed(template: Template, leaves: Sequence[object]) -> Nest:
    """The inverse of `leaves_of`: lists become tuples, as Keras expects of `(x, y)`."""
    if isinstance(template, dict):
        return {key: packed(part, leaves) for key, part in template.items()}
    if isinstance(template, list):
        return tuple(packed(part, leaves) for part in template)
    return leaves[template]


def numbers_of(template: Template) -> list[int]:
    """The numbers of a structure's leaves, in its order."""
    if isinstance(template, int):
        return [template]
    parts = template.values() if isinstance(template, dict) else template
    return [number for part in parts for number in numbers_of(part)]


def leaf_paths(template: list[Template]) -> list[tuple[Part, tuple[str | int, ...]]]:
    """The part of an element that each leaf belongs to, and its keys and numbers within it."""
    found: list[tuple[Part, tuple[str | int, ...]]] = []

    def visit(structure: Any, part: Part, path: tuple[str | int, ...]) -> None:
        if isinstance(structure, int):
            found.append((part, path))
            return
        inner = structure.items() if isinstance(structure, dict) else enumerate(structure)
        for key, value in inner:
            visit(value, part, (*path, key))

    for part, structure in zip(_PARTS, template, strict=False):
        visit(structure, part, ())
    return found


def leaf_names(template: list[Template]) -> list[str]:
    """What each leaf is called in messages: `targets`, `inputs["text"]`, `inputs[1]`."""

    def index(key: str | int) -> str:
        return f'["{key}"]' if isinstance(key, str) else f"[{key}]"

    return [f"`{part}{''.join(map(index, path))}`" for part, path in leaf_paths(template)]


def leaf_order(template: Template, like: Template) -> list[int] | None:
    """The numbers of a structure's leaves in the order of another, equal but for its keys' order.

    Returns:
        None if the structures differ.
    """
    found: list[int] = []

    def visit(part: Any, other: Any) -> bool:
        if isinstance(other, dict):
            same = isinstance(part, dict) and part.keys() == other.keys()
            return same and all(visit(part[key], other[key]) for key in other)
        if isinstance(other, list):
            same = isinstance(part, list) and len(part) == len(other)
            return same and all(map(visit, part, other))
        found.append(part)
        return isinstance(part, int)

    return found if visit(template, like) else None


def fits(shape: Sequence[int | None], other: Sequence[int | None]) -> bool:
    """Whether Keras takes one shape for another: equal, or with a last dimension of 1 more."""
    if len(shape) != len(other):
        longer, shorter = (shape, other) if len(shape) > len(other) else (other, shape)
        return len(longer) == len(shorter) + 1 and longer[-1] == 1 and fits(longer[:-1], shorter)
    return all(None in pair or pair[0] == pair[1] for pair in zip(shape, other, strict=True))


def check_element(element: Nest, *, where: str) -> None:
    """Refuses an element that Keras's `fit` could not take: `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        InputError: It is not a tuple of two or three parts, or has no inputs or no targets.
    """
    if isinstance(element, tuple) and len(element) > 1:
        for part, name in zip(element, _PARTS[:2], strict=False):
            if part is None:
                raise InputError(
                    f"{where} must give (inputs, targets) or (inputs, targets, sample_weight). "
                    f"Received: {name} that are None. If the model computes its loss without "
                    "targets, give the inputs as targets too."
                )
    if not isinstance(element, tuple) or len(
        [part for part in element if part is not None]
    ) not in (
        2,
        3,
    ):
        kind = (
            f"a tuple of {len(element)}" if isinstance(element, tuple) else type(element).__name__
        )
        raise InputError(
            f"{where} must give (inputs, targets) or (inputs, targets, sample_weight). "
            f"Received: {kind}."
        )


def inputs_and_targets(template: list[Template]) -> tuple[Template, Template]:
    """The first two parts of an element."""
    return template[0], template[1]


def form_of(dataset: tf.data.Dataset, *, where: str, declared: bool | None = None) -> ElementForm:
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
    form = ElementForm(
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
    specs = tf.nest.flatten(dataset.element_spec)
    shapes = [spec.shape for spec in specs if not isinstance(spec, _NONE)]
    return {shape[0] if shape.rank else -1 for shape in shapes}


def _is_index(dataset: tf.data.Dataset) -> bool:
    """Whether it is the count of `enumerate`, or the choice between several Datasets."""
    spec = dataset.element_spec
    return isinstance(spec, tf.TensorSpec) and spec.shape.rank == 0


def decide_batched(form: ElementForm) -> bool:
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


def batched_like(form: ElementForm, train: ElementForm, *, train_batched: bool) -> bool:
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


def check_dataset(dataset: Nest, *, where: str) -> tf.data.Dataset:
    """Refuses what cannot be trained on.

    Args:
        dataset: What a user gave.
        where: What it is called in messages.

    Returns:
        The Dataset; without the last parts of an element that are None, as Keras takes them.

    Raises:
        InputError: It is not a Dataset, it never ends, or it holds sparse tensors, Datasets, or
            None in place of anything but the last parts.
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
    return _without_none(dataset, where=where)


def _without_none(dataset: tf.data.Dataset, *, where: str) -> tf.data.Dataset:
    spec = dataset.element_spec
    if not any(isinstance(part, _NONE) for part in tf.nest.flatten(spec)):
        return dataset
    parts = list(spec) if isinstance(spec, tuple) else [spec]
    while parts and isinstance(parts[-1], _NONE):
        parts.pop()
    if not parts or any(isinstance(part, _NONE) for part in tf.nest.flatten(tuple(parts))):
        raise InputError(
            f"{where} gives None in place of a tensor: its elements are {spec}. Only the last "
            "parts of an element may be None. Leave the others out in a `map`; if the model "
            "computes its loss without targets, give the inputs as targets too."
        )
    return dataset.map(lambda *given: given[: len(parts)])


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


def values_in(spec: tf.TensorSpec, *, batched: bool) -> int:
    """Values in one example, open dimensions taken for 64: how large a chunk of batches may be."""
    total = 0
    for part in tf.nest.flatten(spec):
        shape = (part.shape[1:] if batched else part.shape).as_list() if part.shape.rank else []
        total += math.prod(size or 64 for size in shape)
    return max(total, 1)


def check_texts(array: npt.NDArray[Any], where: str, *, first: int = 0) -> None:
    """Refuses an array of Python objects that are not all strings.

    Args:
        array: The objects, with the examples in the first dimension.
        where: What it is called in messages.
        first: Number of the first example.

    Raises:
        InputError: Names the first example that holds another object.
    """
    if all(isinstance(value, str | bytes) for value in array.ravel()):
        return
    for row, value in enumerate(array if array.ndim == 1 else array.reshape(len(array), -1)):
        values = [value] if array.ndim == 1 else list(value)
        odd = [v for v in values if not isinstance(v, str | bytes)]
        if not odd:
            continue
        if row == 0 and not any(isinstance(v, str | bytes) for v in array.ravel()[:1000]):
            raise InputError(
                f"{where} is an array of Python objects ({type(odd[0]).__name__}), which "
                "TensorFlow has no type for. Give an array of numbers, such as "
                'x.astype("float32"), or of text; for a DataFrame with several types, give a dict '
                "of its columns, dict(frame)."
            )
        columns = (
            "" if array.ndim == 1 else " Give columns of several types as a dict, dict(frame)."
        )
        raise InputError(
            f"{where} holds {odd[0]!r} ({type(odd[0]).__name__}) among texts, in example "
            f"{first + row} counted from 0. Texts must be str or bytes: fill missing values, for "
            f'example with column.fillna(""), and make numbers text with .astype(str).{columns}'
        )
