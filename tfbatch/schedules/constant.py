"""The peak learning rate throughout."""

from __future__ import annotations

from typing import Any

from tfbatch.schedules._family import ScheduleFamily


class Family(ScheduleFamily):
    """factor(u) = 1."""

    def factor(self, progress: Any, ops: Any) -> Any:
        """See ScheduleFamily."""
        return ops.ones_like(progress)
