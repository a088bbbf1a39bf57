"""Warmup-stable-decay: the peak for most of training, then a cool-down.

Hu et al. 2024 (arXiv 2404.06395); the 1 - square root cool-down is from Haegele et al. 2024
(arXiv 2405.18392).
"""

from __future__ import annotations

from types import ModuleType
from typing import Literal

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Stays at the peak, then cools down over the last share of training.

        def factor(u):
            if u <= 1 - cooldown:
                return 1
            v = (u - 1 + cooldown) / cooldown
            fallen = v if shape == "linear" else sqrt(v)
            return 1 - (1 - final_fraction) * fallen

    Attributes:
        cooldown: Share of the training after the warm-up that cools down, in (0, 1].
        shape: "linear" or "one_minus_sqrt".
        final_fraction: The last factor, in [0, 1).
    """

    cooldown: float = Field(default=0.2, gt=0, le=1)
    shape: Literal["linear", "one_minus_sqrt"] = "one_minus_sqrt"
    final_fraction: float = Field(default=0.0, ge=0, lt=1)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        done = ops.clip((progress - (1.0 - self.cooldown)) / self.cooldown, 0.0, 1.0)
        fallen = done if self.shape == "linear" else ops.sqrt(done)
        return 1.0 - (1.0 - self.final_fraction) * fallen
