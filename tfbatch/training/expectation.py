"""What a model expects of data before it is read: examples or batches, classes or quantities."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias, cast

import keras

from tfbatch.errors import InputError
from tfbatch.pipeline.classes import Expected
from tfbatch.pipeline.elements import ElementForm, InputShape, decide_batched, numbers_of, packed
from tfbatch.training.compilation import Compilation
from tfbatch.training.model_builder import BuildModel, asks_for_classes

Shape = tuple[int | None, ...]
Build: TypeAlias = "Callable[[InputShape], keras.Model]"
"""Shapes of the inputs to a new model."""
Kind = Literal["default", "index", "one_hot", "binary", "amounts"]
"""What a loss takes targets for; "default" is the cross-entropy of a model without a loss."""

_KINDS: dict[str, Kind] = {
    "SparseCategoricalCrossentropy": "index",
    "CategoricalGeneralizedCrossEntropy": "index",
    "Circle": "index",
    "CategoricalCrossentropy": "one_hot",
    "CategoricalFocalCrossentropy": "one_hot",
    "CategoricalHinge": "one_hot",
    "BinaryCrossentropy": "binary",
    "BinaryFocalCrossentropy": "binary",
    "Hinge": "binary",
    "SquaredHinge": "binary",
    "CosineSimilarity": "amounts",
    "Huber": "amounts",
    "LogCosh": "amounts",
    "MeanAbsoluteError": "amounts",
    "MeanAbsolutePercentageError": "amounts",
    "MeanSquaredError": "amounts",
    "MeanSquaredLogarithmicError": "amounts",
    "Poisson": "amounts",
}
"""Keras's losses whose targets are one thing. Not Dice, KLDivergence and others: either."""


@dataclasses.dataclass(frozen=True)
class _Fit:
    """How well a model takes data that is read in one of the two ways.

    Attributes:
        adjustments: Dimensions of size 1 that Keras would add or drop; None if it cannot be.
        classes: Whether the loss makes the targets classes; None if it does not say.
        outputs: Number of output values for an example, or None.
        reason: Why it cannot be.
        trace: The traceback of a builder that raised.
    """

    adjustments: int | None
    classes: bool | None = None
    outputs: int | None = None
    reason: str = ""
    trace: str = ""


def expect(
    form: ElementForm, build_model: BuildModel, compilation: Compilation, *, build: Build
) -> Expected:
    """Infers the form of the training data from the model, before any of it is read.

    The user's statement takes precedence over the Dataset's own transformations, and both must be
    possible for the model. Where neither decides, the model decides if it takes the elements in one
    of the two ways only, or in the other only with dimensions of 1 added or dropped.

    Args:
        form: What the training split gives.
        build_model: The model's builder.
        compilation: Loss of a model that is not compiled, and class weights.
        build: Builds a model for inputs of some shapes.

    Raises:
        InputError: Examples cannot be told from batches, or their declared form contradicts the
            model.
    """
    asked = asks_for_classes(build_model) or compilation.class_weight is not None
    if form.certain and asked:
        return Expected(bool(form.batched), classes=True)
    said = form.batched if form.declared is None else form.declared
    if form.certain or said is not None:
        fit, batched = _fit(form, bool(said), compilation, build), bool(said)
        if fit.adjustments is None and not form.certain:
            _refuse_contradiction(form, batched, fit, _fit(form, not batched, compilation, build))
    else:
        fit, batched = _decide(form, compilation, build)
    return Expected(batched, True if asked else fit.classes, fit.outputs)


def _refuse_contradiction(form: ElementForm, batched: bool, fit: _Fit, other: _Fit) -> None:
    if other.adjustments is None:  # what is wrong is something else, and is reported later
        return
    taken, not_taken = ("a batch", "one example") if batched else ("one example", "a batch")
    why = f"as batched={batched} says" if form.declared is not None else "as the Dataset was built"
    raise InputError(
        f"{form.where} gives elements of the shapes {form.shown()}. Treated as {taken}, {why}, "
        f"they do not fit the model ({fit.reason}); treated as {not_taken}, they do. Give "
        f"batched={not batched}, or correct the data or the model."
    )


def _decide(form: ElementForm, compilation: Compilation, build: Build) -> tuple[_Fit, bool]:
    fits = {batched: _fit(form, batched, compilation, build) for batched in (False, True)}
    possible = {b: fit for b, fit in fits.items() if fit.adjustments is not None}
    if not possible and all(fit.trace for fit in fits.values()):
        raise InputError(f"The model cannot be built:\n{fits[False].trace}")
    fewest = min((fit.adjustments or 0 for fit in possible.values()), default=0)
    best = [b for b, fit in possible.items() if fit.adjustments == fewest]
    if len(best) == 1:
        return fits[best[0]], best[0]
    batched = decide_batched(form)  # it asks the user
    return fits[batched], batched


def _fit(form: ElementForm, batched: bool, compilation: Compilation, build: Build) -> _Fit:
    shapes = form.example_shapes(batched=batched)
    if shapes is None:
        return _Fit(None, reason="a scalar is not a batch")
    inputs, target = form.template[0], form.template[1]
    try:
        model = build(cast(InputShape, packed(inputs, shapes)))
        outputs = _output_shapes(model, form, shapes)
    except InputError:
        raise
    except Exception as error:  # of the user's code, or of a layer that such inputs do not fit
        reason = str(error).strip().splitlines() or [type(error).__name__]
        return _Fit(None, reason=reason[0], trace=traceback.format_exc())
    kind = _kind_of(model.loss if model.compiled else compilation.loss, compiled=model.compiled)
    single = outputs[0] if len(outputs) == 1 else None
    needed = [_of_inputs(model, inputs, shapes)]
    if single is not None and isinstance(target, int):
        needed.append(_of_target(kind, (None, *shapes[target]), single))
    values = None if single is None else (single[-1] if len(single) > 1 else 1)
    return _Fit(
        None if None in needed else sum(filter(None, needed)),
        _classes(kind, values),
        values,
        reason=(
            f"its inputs have the shapes {[tuple(t.shape) for t in _input_tensors(model)]}"
            if needed[0] is None
            else f"its output then has the shape {single}"
        ),
    )


def _kind_of(loss: Any, *, compiled: bool) -> Kind | None:
    """What a loss takes targets for; None where it does not show."""
    if loss is None:
        return None if compiled else "default"
    if isinstance(loss, dict | list | tuple):
        parts = list(loss.values() if isinstance(loss, dict) else loss)
        return _kind_of(parts[0], compiled=True) if len(parts) == 1 else None
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # refused later, with the close names
            return None
    if isinstance(loss, keras.losses.Loss):
        names = [c.__name__ for c in type(loss).__mro__ if c.__module__.startswith("keras.")]
    elif str(getattr(loss, "__module__", "")).startswith("keras."):
        names = [loss.__name__.title().replace("_", "")]
    else:
        return None
    return next((_KINDS[name] for name in names if name in _KINDS), None)


def _classes(kind: Kind | None, outputs: int | None) -> bool | None:
    if kind == "binary":  # more than one output: several labels of an example
        return None if outputs is None else outputs == 1
    return None if kind is None else kind != "amounts"


def _output_shapes(model: Any, form: ElementForm, shapes: Sequence[Shape]) -> list[Shape]:
    """Shapes of the outputs: a functional model's own, or those of a call without values."""
    if _input_tensors(model):
        return [tuple(tensor.shape) for tensor in keras.tree.flatten(model.outputs)]
    tensors = [
        keras.KerasTensor((None, *shape), dtype=dtype)
        for shape, dtype in zip(shapes, form.dtypes, strict=True)
    ]
    return [tuple(t.shape) for t in keras.tree.flatten(model(packed(form.template[0], tensors)))]


def _input_tensors(model: Any) -> list[Any]:
    """The inputs of a functional model; none of a subclass, or of one that is not built."""
    try:
        return list(model.inputs or [])
    except (AttributeError, ValueError):  # a Sequential that is not built
        return []


def _of_inputs(model: Any, template: Any, shapes: Sequence[Shape]) -> int | None:
    """Dimensions of 1 that Keras would add to inputs or drop; None where they do not fit."""
    tensors = _input_tensors(model)
    parts: list[Shape | None] = [shapes[number] for number in numbers_of(template)]
    if isinstance(template, dict):
        named = {name: shapes[n] for name, n in template.items() if isinstance(n, int)}
        parts = [named.get(tensor.name) for tensor in tensors]
    if not tensors or len(parts) != len(tensors):
        return 0
    needed = [
        0 if part is None else _adjustments((None, *part), tuple(tensor.shape))
        for part, tensor in zip(parts, tensors, strict=True)  # None: Keras will say it
    ]
    return None if None in needed else sum(filter(None, needed))


def _of_target(kind: Kind | None, target: Shape, output: Shape) -> int | None:
    """The same for a target beside the output that the loss compares it with."""
    if kind is None:
        return 0
    index = 0 if len(target) == len(output) - 1 else None
    if len(target) == len(output) and target[-1] == 1:
        index = 1
    if kind == "index" or (kind == "default" and index is not None):
        return index
    return _adjustments(target, output)


def _adjustments(shape: Shape, other: Shape) -> int | None:
    """0 if two shapes can be equal, 1 if one has a last dimension of 1 more, else None."""
    if len(shape) == len(other):
        pairs = zip(shape, other, strict=True)
        return 0 if all(None in pair or pair[0] == pair[1] for pair in pairs) else None
    longer, shorter = (shape, other) if len(shape) > len(other) else (other, shape)
    if len(longer) != len(shorter) + 1 or longer[-1] != 1:
        return None
    return None if _adjustments(longer[:-1], shorter) is None else 1
