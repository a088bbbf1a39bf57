"""Polynomial decay to a fraction of the peak.

Power 0.9 in Chen et al. 2016 (arXiv 1606.00915), 2 in You et al. 2017 (arXiv 1708.03888).
"""

from __future__ import annotations

from types import ModuleType

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Decays with a power of what is left of the training; power 1 is `linear`.

        def factor(u):
            return final_fraction + (1 - final_fraction) * (1 - u) ** power

    Attributes:
        power: The exponent, > 0; above 1 it falls fast at first and slowly at the end.
        final_fraction: The last factor, in [0, 1).
    """

    power: float = Field(default=2.0, gt=0)
    final_fraction: float = Field(default=0.0, ge=0, lt=1)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        return self.final_fraction + (1.0 - self.final_fraction) * (1.0 - progress) ** self.power
