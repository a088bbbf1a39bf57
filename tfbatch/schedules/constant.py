"""The peak learning rate throughout."""

from __future__ import annotations

from types import ModuleType

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """factor(u) = 1."""

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        return ops.ones_like(progress)
