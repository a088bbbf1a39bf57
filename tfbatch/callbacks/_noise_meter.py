"""When the gradient noise is measured during `fit`, and what that costs."""

from __future__ import annotations

import time
from typing import Any

from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.noise_scale_stream import NoiseScaleStream
from tfbatch.gradients import SquaredNorms


class NoiseMeter:
    """Measures pairs of squared norms within a share of the training's time.

    A measurement that traces is left out of the cost; the next one tells what one costs.
    From then on there is one whenever all together stay within the share.

    A batch of another size than the last one may be an epoch's short last one. It is measured when
    the next that is looked at has its size too: then the size has changed.

    Args:
        norms: Computes the pair of a batch.
        decay: Of the stream.
        interval: Steps between two measurements; None: as `max_share` allows.
        max_share: Largest share of the training's time.

    Attributes:
        stream: The pairs so far; None before the first.
        seconds: Spent on measuring, tracing apart.
        tracing_seconds: Spent on the measurements that traced.
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
        self.measurements = self.last_step = 0
        self._untraced = 0
        self._last = 0.0
        self._seen_size = 0

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
        if not self._untraced:
            return True
        expected = self.seconds * (self._untraced + 1) / self._untraced
        return expected <= self._max_share * self.training_seconds

    def measure(self, batch: Any, *, step: int) -> None:
        """Adds the pair of a batch, unless its size is one that may not come again."""
        size = self._norms.micro_batch_size(batch)
        last, self._seen_size = self._seen_size, size
        if not size:
            return
        if self.stream is None:
            self.stream = NoiseScaleStream(decay=self._decay, **self._sizes(size))
        elif size != self.stream.small_batch_size:
            if size != last:
                return
            self.stream = self._resized(self.stream, size)
        started, traces = time.perf_counter(), self._norms.traces
        self.stream = self.stream.updated(*self._norms(batch))
        self._last = time.perf_counter()
        if self._norms.traces == traces:
            self.seconds += self._last - started
            self.training_seconds += self._last - started
            self._untraced += 1
        else:
            self.tracing_seconds += self._last - started
        self.measurements += 1
        self.last_step = step

    def _resized(self, stream: NoiseScaleStream, size: int) -> NoiseScaleStream:
        """Begins anew where a micro-batch's size changes the gradient that is measured."""
        if self._norms.training:
            return NoiseScaleStream(decay=self._decay, **self._sizes(size))
        return stream.resized(**self._sizes(size))

    def _sizes(self, small: int) -> dict[str, int]:
        return {
            "small_batch_size": small,
            "large_batch_size": small * self._norms.micro_batches,
        }

    def estimate(self) -> NoiseScale | None:
        """The noise scale now; None before the first pair."""
        return self.stream.estimate() if self.stream is not None and self.stream.pairs else None
