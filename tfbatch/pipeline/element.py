"""What one example of a user's data is: nested dicts and tuples of arrays, flattened and back."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfbatch.errors import InputError

Template = Any
"""A structure with the number of each leaf in its place: `[{"a": 0, "b": 1}, 2]`; plain JSON."""

_PARTS = ("inputs", "targets", "sample_weight")


@dataclasses.dataclass(frozen=True)
class Form:
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
    template: Template
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


def as_structure(value: Any) -> Any:
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


def template_of(element: Any) -> Template:
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

    return visit(element)


def leaves_of(element: Any) -> list[Any]:
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


def packed(template: Template, leaves: Sequence[Any]) -> Any:
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


def leaf_names(template: Template) -> list[str]:
    """What each leaf is called in messages: `targets`, `inputs["text"]`, `inputs[1]`."""
    names: list[str] = []

    def visit(part: Any, name: str) -> None:
        if isinstance(part, dict):
            for key, inner in part.items():
                visit(inner, f'{name}["{key}"]')
        elif isinstance(part, list):
            for number, inner in enumerate(part):
                visit(inner, f"{name}[{number}]")
        else:
            names.append(f"`{name}`")

    for part, name in zip(template, _PARTS, strict=False):
        visit(part, name)
    return names


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


def check_element(element: Any, *, where: str) -> None:
    """Refuses an element that Keras's `fit` could not take: `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        InputError: It is not a tuple of two or three parts.
    """
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


def inputs_and_targets(template: Template) -> tuple[Template, Template]:
    """The first two parts of an element."""
    return template[0], template[1]
