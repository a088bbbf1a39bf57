"""Decay with the inverse square root of time.

Vaswani et al. 2017 (arXiv 1706.03762); with a timescale of its own in Zhai et al. 2021
(arXiv 2106.04560).

Vaswani's form is sqrt(W / x) after x examples, W of them warm-up: without a warm-up it has no
scale, and implementations that fall back on the first update's number of examples depend on the
batch size. Here the scale is a share of the training. With `timescale` = W / (X - W), X examples
in all, the two are the same function.
"""

from __future__ import annotations

from types import ModuleType

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Falls to 1 / sqrt(2) within the timescale, to a half within three of them.

        def factor(u):
            return sqrt(timescale / (timescale + u))

    Attributes:
        timescale: Share of the training after the warm-up, > 0; the last factor is
            sqrt(timescale / (timescale + 1)).
    """

    timescale: float = Field(default=0.03, gt=0)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        return ops.sqrt(self.timescale / (self.timescale + progress))
