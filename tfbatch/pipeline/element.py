"""What one example of a user's data is: nested dicts and tuples of arrays, flattened and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tfbatch.errors import InputError

Template = Any
"""A structure with the number of each leaf in its place: `[{"a": 0, "b": 1}, 2]`; plain JSON."""


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


def check_element(element: Any, *, where: str) -> None:
    """Refuses an element that Keras's `fit` could not take: `(x, y)` or `(x, y, sample_weight)`.

    Raises:
        InputError: It is no tuple, or its parts that are not None are not two or three.
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
