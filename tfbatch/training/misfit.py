"""Why data, loss and metrics do not fit a model, in one sentence: asked after Keras has failed."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfbatch.errors import InputError, did_you_mean
from tfbatch.pipeline.elements import Nest, fits

_COLORS = re.compile(r"\x1b\[[0-9;]*m")


def refusal(
    error: Exception,
    what: str,
    model: keras.Model | None = None,
    spec: Sequence[Nest] | None = None,
) -> InputError:
    """The error for a user: one sentence where data and model do not fit, else all of it.

    Args:
        error: What Keras or the user's own code raised, while it is handled.
        what: What could not be done, such as "The model cannot be built".
        model: The model as far as it was built and compiled, or None.
        spec: The element spec of its data, or None.
    """
    if model is not None and spec is not None and (found := misfit(model, spec)):
        return InputError(f"{found} (The error: {in_one_line(error)})")
    trace = "".join(traceback.format_exception(error))
    return InputError(f"{what}:\n{trace}")


def in_one_line(error: Exception) -> str:
    """An error's type and what it says, without what AutoGraph and Keras put around it."""
    lines = [line.strip() for line in _COLORS.sub("", str(error)).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Exception encountered when calling")]
    kind = type(error).__name__
    if not lines:
        return kind
    text = lines[-1] if lines[0] == "in user code:" else lines[0]
    return text if text.startswith(kind) else f"{kind}: {text}"


def misfit(model: keras.Model, spec: Sequence[Nest]) -> str | None:
    """What does not fit: numbers, names or shapes of inputs, targets, losses or metrics.

    Args:
        model: The model, compiled or not.
        spec: Of what `fit` is given: inputs, targets, perhaps sample weights.

    Returns:
        A sentence with what each gives and what to change; None where nothing is found.
    """
    outputs = _output_names(model)
    found = _of_inputs(model, spec[0])
    if _is_deep(getattr(model, "_outputs_struct", None)):
        return found
    if found is None and len(spec) > 1 and outputs and not _is_deep(spec[1]):
        found = _of_parts("target", spec[1], outputs, _with_a_loss(model, outputs))
    if found is None and outputs:
        found = _of_argument("loss", getattr(model, "loss", None), outputs)
    if found is None and not outputs and isinstance(getattr(model, "loss", None), Mapping):
        return (
            f"`loss` must be a single loss: the output of this {type(model).__name__} has no name. "
            f"Received: a dict of {_quoted(model.loss)}."
        )
    if found is None and outputs:
        metrics = getattr(getattr(model, "_compile_metrics", None), "_user_metrics", None)
        found = _of_argument("metrics", metrics if isinstance(metrics, Mapping) else None, outputs)
    return found


def _of_inputs(model: Any, inputs: Any) -> str | None:
    try:
        tensors = list(model.inputs or [])
    except (AttributeError, ValueError):  # a subclass, or a Sequential that is not built
        return None
    if not tensors:
        return None
    structure = getattr(model, "_inputs_struct", None)
    names = [tensor.name for tensor in tensors]
    if isinstance(structure, dict):
        names = sorted(structure)  # as Keras flattens it
    if len(names) != len(tensors) or _is_deep(structure) or _is_deep(inputs):
        return None
    given = keras.tree.flatten(inputs)
    if isinstance(inputs, Mapping):
        missing = [name for name in names if name not in inputs]
        if missing:
            return (
                f"The model takes {_listed('input', names)}, and the data gives "
                f"{_listed('input', list(inputs))}: {_quoted(missing)} {_is(missing)} missing."
                f"{_close(missing, inputs)} Name the data's inputs as the model's: "
                f"({_as_dict(names)}, targets)."
            )
        given = [inputs[name] for name in names]
    elif len(given) != len(tensors):
        remedy = "(inputs, targets)" if len(names) == 1 else f"({_as_dict(names)}, targets)"
        return (
            f"The model takes {_listed('input', names)}, and the data gives {len(given)}. Give "
            f"{remedy}, or build a model that takes what the data gives."
        )
    for name, tensor, part in zip(names, tensors, given, strict=True):
        taken, shape = tuple(tensor.shape[1:]), tuple(part.shape[1:])
        if not fits(taken, shape):
            return (
                f"The model's input `{name}` takes examples of shape {taken}, and the data gives "
                f"{shape}. Build the model for the data's shape (a builder that asks for "
                "`input_shape` gets it), or change the data."
            )
    return None


def _of_parts(kind: str, targets: Any, outputs: Sequence[str], needed: Sequence[str]) -> str | None:
    if isinstance(targets, Mapping):
        missing = [name for name in needed if name not in targets]
        if missing and len(outputs) > 1:
            return (
                f"The model has {_listed('output', outputs)}, and the data gives "
                f"{_listed(kind, list(targets))}: {_quoted(missing)} {_is(missing)} missing."
                f"{_close(missing, targets)} Name the {kind}s as the outputs: (inputs, "
                f"{_as_dict(outputs)})."
            )
        return None
    count = len(keras.tree.flatten(targets))
    if count in (len(outputs), len(needed)):
        return None
    remedy = f"(inputs, {_as_dict(outputs)})" if len(outputs) > 1 else "(inputs, targets)"
    return (
        f"The model has {_listed('output', outputs)}, and the data gives {count} {kind}"
        f"{'s' * (count > 1)}. Give {remedy}, or build a model with an output for each {kind}."
    )


def _of_argument(argument: str, given: Any, outputs: Sequence[str]) -> str | None:
    """A dict or list of losses or metrics against the outputs."""
    if isinstance(given, Mapping):
        unknown = [str(name) for name in given if name not in outputs]
        if not unknown:
            return None
        return (
            f"`{argument}` must name outputs of the model: {_quoted(outputs)}. Received: "
            f"{_quoted(unknown)}.{_close(unknown, outputs)} "
            + (f"Give a single {argument}, " if len(outputs) == 1 else "Correct the names, ")
            + f"or name the output layers so: keras.layers.Dense(..., name={unknown[0]!r})."
        )
    if isinstance(given, list | tuple) and len(given) != len(outputs):
        return (
            f"`{argument}` must have one entry for each of the model's {len(outputs)} outputs, "
            f"{_quoted(outputs)}. Received: {len(given)}."
        )
    return None


def _output_names(model: Any) -> list[str]:
    structure = getattr(model, "_outputs_struct", None)
    if isinstance(structure, dict):
        return sorted(structure)  # as Keras flattens it
    try:
        if not getattr(model, "outputs", None):
            return []
        return [str(name) for name in model.output_names or []]
    except (AttributeError, ValueError):
        return []


def _with_a_loss(model: Any, outputs: list[str]) -> list[str]:
    """The outputs that need targets: a loss may be None for one, or a dict leave it out."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, Mapping):
        return [name for name in outputs if loss.get(name) is not None] or outputs
    if isinstance(loss, list | tuple) and len(loss) == len(outputs):
        return [name for name, one in zip(outputs, loss, strict=True) if one is not None] or outputs
    return outputs


def _is_deep(structure: Any) -> bool:
    """Whether structures lie within a structure: those have no names of their own."""
    parts = structure.values() if isinstance(structure, Mapping) else structure
    nested = isinstance(structure, Mapping | list | tuple)
    return nested and any(isinstance(part, Mapping | list | tuple) for part in parts)


def _listed(kind: str, names: Sequence[str]) -> str:
    return f"{len(names)} {kind}{'s' * (len(names) != 1)} ({_quoted(names)})"


def _quoted(names: Iterable[object]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _as_dict(names: Sequence[str]) -> str:
    return "{" + ", ".join(f'"{name}": ...' for name in names) + "}"


def _close(names: Sequence[str], known: Iterable[str]) -> str:
    return did_you_mean(names[0], known) if len(names) == 1 else ""


def _is(names: Sequence[str]) -> str:
    return "is" if len(names) == 1 else "are"
