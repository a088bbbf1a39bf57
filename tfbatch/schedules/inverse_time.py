"""Decay with the inverse of time (Robbins & Monro 1951; Darken & Moody 1990)."""

from __future__ import annotations

from types import ModuleType

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Halves the learning rate after 1 / decay_rate of the training, then ever more slowly.

        def factor(u):
            return 1 / (1 + decay_rate * u)

    Attributes:
        decay_rate: How fast it falls, > 0; the last factor is 1 / (1 + decay_rate).
    """

    decay_rate: float = Field(default=9.0, gt=0)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        return 1.0 / (1.0 + self.decay_rate * progress)
