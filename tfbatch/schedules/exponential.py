"""Exponential decay to a fraction of the peak.

Compared with others by Li, Zhuang & Orabona 2021 (arXiv 2002.05273).
"""

from __future__ import annotations

from types import ModuleType

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Loses the same share of the learning rate in equal parts of the training.

        def factor(u):
            return final_fraction**u

    Attributes:
        final_fraction: The last factor, in (0, 1].
    """

    final_fraction: float = Field(default=0.01, gt=0, le=1)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        return self.final_fraction**progress
