"""A constant learning rate that drops at fixed points (He et al. 2015, arXiv 1512.03385)."""

from __future__ import annotations

import itertools
from types import ModuleType
from typing import Annotated

from pydantic import BeforeValidator, Field, field_validator

from tfbatch.schedules._family import ROUNDING, ScheduleFamily, Values


def _fractions(value: object) -> object:
    """The parts of a text; a lone number is refused, and with it a list of alternatives in YAML."""
    if isinstance(value, str):
        return value.split("/")
    if isinstance(value, int | float):
        raise ValueError(
            'must be fractions with "/" between them, such as "0.5/0.75", or "0.5" in quotes: '
            "a list in a search's space holds alternatives"
        )
    return value


class Family(ScheduleFamily):
    """Multiplies the learning rate by `gamma` at each boundary.

        def factor(u):
            return gamma ** sum(u >= boundary for boundary in boundaries)

    An update that falls on a boundary has the lower learning rate already. (Keras's
    PiecewiseConstantDecay lowers it one update later.)

    Attributes:
        boundaries: Shares of the training after the warm-up, in (0, 1) and rising, as a text such
            as "0.5/0.75" (alternatives in a search: `["0.5", "0.5/0.75"]`) or as a sequence.
        gamma: What the learning rate is multiplied by, in (0, 1).
    """

    boundaries: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...],
        BeforeValidator(_fractions),
        Field(min_length=1),
    ] = (0.5, 0.75)
    gamma: float = Field(default=0.1, gt=0, lt=1)

    @field_validator("boundaries")
    @classmethod
    def _rising(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not all(before < after for before, after in itertools.pairwise(value)):
            raise ValueError("boundaries must rise")
        return value

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        factor = ops.ones_like(progress)
        for drops, boundary in enumerate(self.boundaries, start=1):
            factor = ops.where(progress >= boundary - ROUNDING, self.gamma**drops, factor)
        return factor
