"""Half a cosine from the peak to a fraction of it (Loshchilov & Hutter 2017, arXiv 1608.03983)."""

from __future__ import annotations

import math
from types import ModuleType

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Decays along half a cosine.

        def factor(u):
            return final_fraction + (1 - final_fraction) * (1 + cos(pi * u)) / 2

    Attributes:
        final_fraction: The last factor, in [0, 1).
    """

    final_fraction: float = Field(default=0.0, ge=0, lt=1)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        half = (1.0 + ops.cos(math.pi * progress)) / 2.0
        return self.final_fraction + (1.0 - self.final_fraction) * half
