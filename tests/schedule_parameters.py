"""What the fields of a schedule family say of its numeric parameters."""

from __future__ import annotations

import dataclasses

import annotated_types

from tfbatch.schedules import SCHEDULES


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A number of a family: `bounds` by operator, such as {"ge": 0, "lt": 1}."""

    name: str
    whole: bool
    default: float
    bounds: dict[str, float]

    @property
    def span(self):
        """Both ends well inside; a number without an upper bound is tried up to 50."""
        low = self.bounds.get("ge", self.bounds.get("gt", 0) + 0.01)
        high = self.bounds.get("le", self.bounds.get("lt", 50.01) - 0.01)
        return low, high

    @property
    def beyond(self):
        """What lies just outside of each bound."""
        off = 1 if self.whole else 1e-6
        out = {"ge": -off, "gt": 0, "le": off, "lt": 0}
        return [bound + out[name] for name, bound in self.bounds.items()]


def numeric_parameters(family):
    """The numbers among a family's parameters, read from its fields."""
    found = []
    for name, field in SCHEDULES.load(family).Family.model_fields.items():
        if field.annotation in (int, float):
            bounds = {
                kind: getattr(item, kind)
                for item in field.metadata
                for kind in ("ge", "gt", "le", "lt")
                if isinstance(item, getattr(annotated_types, kind.title()))
            }
            found.append(Parameter(name, field.annotation is int, field.default, bounds))
    return found
