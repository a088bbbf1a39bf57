"""When the gradient noise is measured during `fit`, and what that costs."""

from __future__ import annotations

import time
from typing import Any

from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.noise_scale_stream import NoiseScaleStream
from tfbatch.gradients import SquaredNorms


class NoiseMeter:
    """Measures pairs of squared norms within a share of the training's time.

    The first measurement is traced and left out of the cost; the second one tells what one costs.
    From then on there is one whenever all together stay within the share.

    Args:
        norms: Computes the pair of a batch.
        decay: Of the stream.
        interval: Steps between two measurements; None: as `max_share` allows.
        max_share: Largest share of the training's time.

    Attributes:
        stream: The pairs so far; None before the first.
        seconds: Spent on measuring, the first time apart.
        tracing_seconds: Spent on the first time.
        training_seconds: Of the training meanwhile, measuring included.
        measurements: Number of them.
    """

    def __init__(
        self, norms: SquaredNorms, *, decay: float, interval: int | None, max_share: float
    ):
        self._norms, self._decay = norms, decay
        self._interval, self._max_share = interval, max_share
        self.stream: NoiseScaleStream | None = None
        self.seconds = self.tracing_seconds = self.training_seconds = 0.0
        self.measurements = 0
        self.last_step = 0
        self._last = 0.0

    def begin_epoch(self) -> None:
        """What lay between two epochs is no training."""
        self._last = time.perf_counter()

    def due(self, step: int) -> bool:
        """Whether to measure before the update with this index, counted over all epochs."""
        now = time.perf_counter()
        if step:  # the first execution traces the training
            self.training_seconds += now - self._last
        self._last = now
        if not step:
            return False
        if self._interval is not None:
            return not self.measurements or step - self.last_step >= self._interval
        if self.measurements < 2:
            return True
        expected = self.seconds * self.measurements / (self.measurements - 1)
        return expected <= self._max_share * self.training_seconds

    def measure(self, batch: Any, *, step: int) -> None:
        """Adds the pair of a batch; one of another size than the first one is passed over."""
        size = self._norms.micro_batch_size(batch)
        if not size:
            return
        if self.stream is None:
            self.stream = NoiseScaleStream(
                decay=self._decay,
                small_batch_size=size,
                large_batch_size=size * self._norms.micro_batches,
            )
        if size != self.stream.small_batch_size:
            return
        started = time.perf_counter()
        self.stream = self.stream.updated(*self._norms(batch))
        self._last = time.perf_counter()
        if self.measurements:
            self.seconds += self._last - started
            self.training_seconds += self._last - started
        else:
            self.tracing_seconds = self._last - started
        self.measurements += 1
        self.last_step = step

    def estimate(self) -> NoiseScale | None:
        """The noise scale now; None before the first pair."""
        return self.stream.estimate() if self.stream is not None and self.stream.pairs else None
