"""Cosine cycles with warm restarts, SGDR (Loshchilov & Hutter 2017, arXiv 1608.03983)."""

from __future__ import annotations

import math
from types import ModuleType
from typing import ClassVar

from pydantic import Field, model_validator

from tfbatch.schedules._family import ROUNDING, ScheduleFamily, Values

_SHORTEST = 1e-3
"""Share of the training; shorter cycles would be of the size of float32's rounding of progress."""


class Family(ScheduleFamily):
    """Decays along half a cosine in each cycle; each is longer than the last and has its own peak.

        def factor(u):
            first = 1 / sum(length_factor**i for i in range(cycles))        # SGDR's T_0
            start, i = 0, 0
            while i < cycles - 1 and u >= start + first * length_factor**i:
                start, i = start + first * length_factor**i, i + 1
            v = (u - start) / (first * length_factor**i)
            return (
                final_fraction
                + (1 - final_fraction) * peak_factor**i * (1 + cos(pi * v)) / 2
            )

    The number of cycles is given, and SGDR's T_0 follows: a T_0 written to three digits would
    restart just before the end as often as not.

    Attributes:
        cycles: Number of cycles, 1 to 50; the last one ends with the training.
        length_factor: SGDR's T_mult: length of a cycle over that of the one before, >= 1.
        peak_factor: Peak of a cycle over that of the one before, in (0, 1].
        final_fraction: The factor at the end of every cycle, in [0, 1).
    """

    rises: ClassVar[bool] = True

    cycles: int = Field(default=3, ge=1, le=50)
    length_factor: float = Field(default=2.0, ge=1)
    peak_factor: float = Field(default=1.0, gt=0, le=1)
    final_fraction: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _not_too_short(self) -> Family:
        if self._first() < _SHORTEST:
            raise ValueError(
                f"the first cycle must be at least {_SHORTEST:g} of the training. Received: "
                f"cycles={self.cycles}, length_factor={self.length_factor}, "
                f"with a first cycle of {self._first():.2g}"
            )
        return self

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        first = next_start = self._first()
        start, length, peak = (ops.ones_like(progress) * number for number in (0.0, first, 1.0))
        for cycle in range(1, self.cycles):
            begun = progress >= next_start - ROUNDING
            start = ops.where(begun, next_start, start)
            length = ops.where(begun, first * self.length_factor**cycle, length)
            peak = ops.where(begun, self.peak_factor**cycle, peak)
            next_start += first * self.length_factor**cycle
        done = ops.clip((progress - start) / length, 0.0, 1.0)
        half = peak * (1.0 + ops.cos(math.pi * done)) / 2.0
        return self.final_fraction + (1.0 - self.final_fraction) * half

    def _first(self) -> float:
        """Share of the training that the first cycle takes."""
        try:
            return 1.0 / sum(self.length_factor**cycle for cycle in range(self.cycles))
        except OverflowError:
            return 0.0
