"""One cycle: up to the peak and down again (Smith & Topin 2017, arXiv 1708.07120).

The cosine form, with the momentum mirrored, is that of fastai and PyTorch, whose `div_factor` is
1 / initial_fraction and whose `final_div_factor` is initial_fraction / final_fraction.
"""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any, ClassVar

from pydantic import Field

from tfbatch.schedules._family import ScheduleFamily, Values


class Family(ScheduleFamily):
    """Rises along half a cosine to the peak, then falls along another; the momentum mirrors it.

        def factor(u):
            if u < peak_at:
                return between(initial_fraction, 1, u / peak_at)
            return between(1, final_fraction, (u - peak_at) / (1 - peak_at))

        def momentum(u):
            if u < peak_at:
                return between(momentum_at_ends, momentum_at_peak, u / peak_at)
            return between(momentum_at_peak, momentum_at_ends, (u - peak_at) / (1 - peak_at))

        def between(first, last, v):
            return first + (last - first) * (1 - cos(pi * v)) / 2

    It has its own warm-up, and refuses another in front of it.

    Attributes:
        peak_at: Share of the training at which the peak is reached, in (0, 1).
        initial_fraction: The first factor, in (0, 1).
        final_fraction: The last factor, in [0, 1).
        cycle_momentum: Whether the momentum (Adam's beta_1) mirrors the learning rate; the
            optimizer's own is then not used.
        momentum_at_peak: Momentum at the peak, in (0, 1).
        momentum_at_ends: Momentum at the beginning and at the end, in (0, 1).
    """

    rises: ClassVar[bool] = True
    own_warmup: ClassVar[bool] = True

    peak_at: float = Field(default=0.3, gt=0, lt=1)
    initial_fraction: float = Field(default=0.04, gt=0, lt=1)
    final_fraction: float = Field(default=0.0, ge=0, lt=1)
    cycle_momentum: bool = True
    momentum_at_peak: float = Field(default=0.85, gt=0, lt=1)
    momentum_at_ends: float = Field(default=0.95, gt=0, lt=1)

    def factor(self, progress: Values, ops: ModuleType) -> Values:
        """See ScheduleFamily."""
        return self._cycle(progress, self.initial_fraction, 1.0, self.final_fraction, ops)

    def momentum(self, progress: Values, ops: ModuleType) -> Values | None:
        """See ScheduleFamily."""
        if not self.cycle_momentum:
            return None
        ends, peak = self.momentum_at_ends, self.momentum_at_peak
        return self._cycle(progress, ends, peak, ends, ops)

    def _cycle(self, progress: Any, first: float, peak: float, last: float, ops: Any) -> Any:
        rise = (1.0 - ops.cos(math.pi * progress / self.peak_at)) / 2.0
        # Of what is left: it is 0 at the end also where 1 - peak_at is rounded.
        left = (1.0 - ops.cos(math.pi * (1.0 - progress) / (1.0 - self.peak_at))) / 2.0
        rising = first + (peak - first) * rise
        falling = last + (peak - last) * left
        return ops.where(progress < self.peak_at, rising, falling)
