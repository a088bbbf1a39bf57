"""Linear decay to a fraction of the peak, by default to zero."""

from __future__ import annotations

from types import ModuleType

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Decays in a straight line.

        def factor(u):
            return final_fraction + (1 - final_fraction) * (1 - u)

    Attributes:
        final_fraction: The last factor, in [0, 1). Zero did best in Bergsma et al. 2025
            (arXiv 2502.15938).
    """

    final_fraction: float = Field(default=0.0, ge=0, lt=1)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        return self.final_fraction + (1.0 - self.final_fraction) * (1.0 - progress)
