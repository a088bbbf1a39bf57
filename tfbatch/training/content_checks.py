"""Whether a user's data suits the model: ranges of labels, missing values, scales."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras

from tfbatch.dataset_info.class_balance import balance_warnings
from tfbatch.dataset_info.content import TargetContent, scale_hints
from tfbatch.errors import InputError
from tfbatch.pipeline.elements import Nest
from tfbatch.pipeline.trainable_data import Data

_SPARSE = ("sparsecategoricalcrossentropy",)
_ONE_HOT = ("categoricalcrossentropy", "categoricalfocalcrossentropy")
_BINARY = ("binarycrossentropy", "binaryfocalcrossentropy")
_OVERSHOOT = 0.01
"""How far outside [0, 1] a soft target may lie: resized masks overshoot a little."""
_RESCALING = (
    keras.layers.Rescaling,
    keras.layers.Normalization,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.GroupNormalization,
    keras.layers.UnitNormalization,
)
_OPERATIONS = ("TrueDivide", "Divide", "Multiply", "Subtract", "Normalize", "Lambda")


def text_targets(data: Data) -> str | None:
    """What is received where targets are text, and what mends it; None where all are numbers."""
    for split, targets in data.content.targets.items():
        for target in targets:
            if target.minimum is None:
                return _no_numbers(target, split)
    return None


def _no_numbers(target: TargetContent, split: str) -> str:
    return (
        f"Received: {target.name} that are not numbers in your `{split}` data. Number classes from "
        "0, such as by np.unique(labels, return_inverse=True)[1]; convert amounts written as text, "
        "such as by np.asarray(texts).astype(float)."
    )


def check_targets(model: keras.Model, data: Data, loss: object, *, outputs: object) -> None:
    """Refuses targets that the model's loss is not defined for.

    Labels without an output fail on a CPU in the middle of an epoch and become NaN on a
    GPU. A NaN among the targets makes each of Keras's own losses NaN; a loss or a model of a
    user's own may leave such targets out, so that those are reported only (by the data's notes).

    Args:
        model: A built model.
        data: Its data.
        loss: The loss that it is or will be compiled with.
        outputs: Its outputs, symbolic or of a few examples; None where they are not known.

    Raises:
        InputError: A label outside the range of the model's outputs or of a binary loss; a target
            that is NaN or infinite under a loss of Keras; one-hot rows for a loss that takes
            indices, indices for one that takes rows; text under any loss of Keras.
    """
    losses = keras.tree.flatten(loss)
    if losses and all(map(_is_of_keras, losses)) and _trains_as_keras_does(model):
        for found in data.content.non_finite:
            if found.part == "targets":
                raise InputError(
                    f"{found} The loss of such an example is NaN and makes every weight NaN. "
                    "Leave the examples out, or give a loss function that ignores them."
                )
    for split, targets in data.content.targets.items():
        for target, one, shape in _matched(targets, loss, model, outputs):
            if _is_of_keras(one) and _trains_as_keras_does(model):
                _check_form(target, one, shape, split)
            _check_range(target, one, shape, split)


def check_real(model: keras.Model, spec: Sequence[Nest]) -> None:
    """Refuses complex numbers, of which Keras drops the imaginary parts with a mere warning.

    Args:
        model: A built model; inputs that it declares as complex are allowed, and those of a model
            that declares none. Targets and weights are a matter of a model's own `train_step` or
            `compute_loss`.
        spec: The element spec of its data.

    Raises:
        InputError: Complex inputs to real ones, complex targets or sample weights.
    """
    declared = [str(keras.backend.standardize_dtype(t.dtype)) for t in _declared_inputs(model)]
    for part, structure in zip(("inputs", "targets", "sample weights"), spec, strict=False):
        found = {s.dtype.name for s in keras.tree.flatten(structure) if s.dtype.is_complex}
        if part == "inputs":
            handled = not declared or any(name.startswith("complex") for name in declared)
        else:
            handled = not _trains_as_keras_does(model)
        if found and not handled:
            raise InputError(
                f"The {part} are complex numbers ({', '.join(sorted(found))}), of which Keras "
                "would drop the imaginary parts. Give real and imaginary parts as two features, "
                "np.stack([x.real, x.imag], axis=-1), or the absolute values np.abs(x)"
                + (
                    "; a model that takes complex numbers declares keras.Input(..., "
                    'dtype="complex64").'
                    if part == "inputs"
                    else "."
                )
            )


def _declared_inputs(model: Any) -> list[Any]:
    try:
        return list(model.inputs or [])
    except (AttributeError, ValueError):  # a subclass, or a Sequential that is not built
        return []


def _check_form(
    target: TargetContent, loss: Any, shape: tuple[int | None, ...] | None, split: str
) -> None:
    """Refuses text, and targets in another form than a loss of classes takes them."""
    name = _name(loss)
    if target.minimum is None:
        given = loss if isinstance(loss, str) else name
        raise InputError(f"The loss {given} takes numbers. {_no_numbers(target, split)}")
    if name not in (*_SPARSE, *_ONE_HOT, *_BINARY):
        return
    found = f"Received: {target.name} of shape {list(target.shape)} for each example in your "
    found += f"`{split}` data."
    units = shape[-1] if shape and len(shape) > 1 else None
    if units is None or units < 2 or getattr(loss, "axis", -1) != -1:
        return
    one_column = len(target.shape) == len(shape or ()) - 1 and target.shape[-1] == 1
    if name in _SPARSE and len(target.shape) == len(shape or ()) - 1 and not one_column:
        raise InputError(
            f"SparseCategoricalCrossentropy takes class indices, not a value for each of the "
            f"{units} outputs. {found} Compile the model with CategoricalCrossentropy, or give "
            "np.argmax(targets, axis=-1)."
        )
    if name in _ONE_HOT and (len(target.shape) == len(shape or ()) - 2 or one_column):
        raise InputError(
            f"The loss {name} takes a value for each of the {units} outputs, such as one-hot rows. "
            f"{found} Compile the model with SparseCategoricalCrossentropy for class indices, or "
            f"give keras.utils.to_categorical(targets, {units})."
        )


def _check_range(target: TargetContent, loss: Any, shape: Any, split: str) -> None:
    low, high = target.minimum, target.maximum
    if low is None or high is None:
        return
    ignored = getattr(loss, "ignore_class", None)
    name = _name(loss)
    if name in _SPARSE:
        axis = getattr(loss, "axis", -1)
        units = shape[axis] if isinstance(shape, tuple) and len(shape) > 1 else None
        too_low = low < 0 and low != ignored
        too_high = units is not None and high >= units and high != ignored
        if too_low or too_high:
            rule = "from 0" if units is None else f"from 0 to {units - 1}"
            outputs = "" if units is None else f", since the model has {units} outputs"
            hint = " If the labels start at 1, subtract 1." if low == 1 else ""
            raise InputError(
                f"Class indices must be {rule}{outputs}. Received: {target.name} from {low:g} to "
                f"{high:g} in your `{split}` data.{hint} (A label that stands for no class is "
                "given as ignore_class of keras.losses.SparseCategoricalCrossentropy.)"
            )
    elif name in _BINARY and (low < -_OVERSHOOT or high > 1 + _OVERSHOOT):
        raise InputError(
            f"The loss {loss if isinstance(loss, str) else name} takes targets from 0 to 1. "
            f"Received: {target.name} from {low:g} to {high:g} in your `{split}` data. "
            "Map the two classes to 0 and 1."
        )


def content_notes(model: keras.Model, data: Data, loss: object) -> tuple[str, ...]:
    """Notes for the user on the data and this model; a sentence each.

    Classes that are missing, rare or alone, where the targets are class indices or one-hot rows;
    else targets that are all equal; a hint for inputs far from 1, where no layer rescales.
    """
    counts = data.content.class_counts()
    notes = tuple(data.content.constant_targets())
    if counts and _are_classes(data, loss):
        notes = balance_warnings(padded_counts(counts, data.num_classes or 0))
    return notes if _rescales(model) else (*notes, *scale_hints(data.content.scales))


def padded_counts(
    counts: Mapping[str, tuple[int, ...]], num_classes: int
) -> dict[str, tuple[int, ...]]:
    """The same counts, with a 0 for each class that a split lacks."""
    length = max(num_classes, *map(len, counts.values()))
    return {split: (*found, *[0] * (length - len(found))) for split, found in counts.items()}


def check_finite_loss(metrics: Mapping[str, float], data: Data) -> None:
    """Refuses inputs that are NaN or infinite where an untrained model's loss shows it.

    Whether a model handles such values cannot be seen from outside: one with a layer of its own
    may. So they are reported, and refused only if the loss is not finite before any training.

    Raises:
        InputError: The loss is not finite, and inputs are not.
    """
    inputs = [found for found in data.content.non_finite if found.part == "inputs"]
    if inputs and not math.isfinite(metrics.get("loss", 0.0)):
        raise InputError(
            f"{inputs[0]} The untrained model's loss is {metrics['loss']} on the validation data: "
            "the model does not handle such values. Fill them, for example with np.nan_to_num, or "
            "leave the examples out."
        )


def _are_classes(data: Data, loss: Any) -> bool:
    """Whether targets are classes: by the loss if that says it, else as the data was read."""
    losses = keras.tree.flatten(loss)
    known = len(losses) == 1 and _is_of_keras(losses[0])
    if not known:
        return data.num_classes is not None
    return "crossentropy" in _name(losses[0]) or "hinge" in _name(losses[0])


def _matched(
    targets: tuple[TargetContent, ...], loss: Any, model: Any, outputs: Any
) -> Iterator[tuple[TargetContent, Any, tuple[int | None, ...] | None]]:
    """Each target with its loss and the shape of its output, or None where that is ambiguous."""
    shapes = [tuple(output.shape) for output in keras.tree.flatten(outputs) if output is not None]
    named = dict(zip(getattr(model, "output_names", None) or [], shapes, strict=False))
    for number, target in enumerate(targets):
        if isinstance(loss, Mapping):
            if target.key in loss:
                yield target, loss[target.key], named.get(target.key)
        elif isinstance(loss, list | tuple):
            if len(loss) == len(targets) == len(shapes) and target.key in ("", str(number)):
                yield target, loss[number], shapes[number]
        elif len(targets) == 1:
            yield target, loss, shapes[0] if len(shapes) == 1 else None


def _name(loss: Any) -> str:
    """A loss's name without case and underscores, whether it is a text, a function or an object."""
    if isinstance(loss, str):
        try:
            loss = keras.losses.get(loss)
        except ValueError:  # misspelt: refused elsewhere
            return str(loss)
    name = getattr(loss, "__name__", type(loss).__name__)
    return str(name).replace("_", "").lower()


def _is_of_keras(loss: Any) -> bool:
    """Whether a loss is one of Keras's, which propagates NaN."""
    if isinstance(loss, str):
        return True
    kinds = [loss if hasattr(loss, "__name__") else type(loss), getattr(loss, "fn", keras.Loss)]
    return all(str(getattr(kind, "__module__", "")).startswith("keras.") for kind in kinds)


def _trains_as_keras_does(model: Any) -> bool:
    """Whether no method that computes the loss is overridden."""
    return all(
        getattr(type(model), name) is getattr(keras.Model, name)
        for name in ("train_step", "compute_loss")
    )


def _rescales(model: Any) -> bool:
    """Whether a layer brings inputs of any scale near 1, or may do so by arithmetic."""
    return any(
        isinstance(layer, _RESCALING) or type(layer).__name__ in _OPERATIONS
        for layer in model._flatten_layers(include_self=False, recursive=True)
    )
