"""When the gradient noise is measured during `fit`, and at which batch sizes."""

from __future__ import annotations

from tfbatch.callbacks._measuring_time import MeasuringTime
from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.noise_scale_stream import NoiseScaleStream
from tfbatch.gradients import SquaredNorms


class NoiseMeter:
    """Measures pairs of squared norms within a share of the training's time.

    A new size is rehearsed with two micro-batches: the first one traces, the second one tells
    what a measurement costs. From then on there is one whenever it can be afforded.

    A batch of another size than the last one may be an epoch's short last one. It is measured when
    the next that is looked at has its size too: then the size has changed.

    Args:
        norms: Computes the pair of a batch.
        decay: Of the stream.
        interval: Steps between two measurements; None: as `max_share` allows.
        max_share: Largest share of the training's time.
        num_examples: Number of examples that the batches are taken from; None if unknown.
        steps_per_pass: Batches of a pass over the data, where that is what is known.

    Attributes:
        stream: The pairs so far; None before the first.
        time: What they took.
        measurements: Number of them.
        refused: Why the first batch cannot be measured; empty where it can.
    """

    def __init__(
        self,
        norms: SquaredNorms,
        *,
        decay: float,
        interval: int | None,
        max_share: float,
        num_examples: int | None = None,
        steps_per_pass: int | None = None,
    ):
        self._num_examples, self._steps_per_pass = num_examples, steps_per_pass
        self._norms, self._decay, self._interval = norms, decay, interval
        self.stream: NoiseScaleStream | None = None
        self.time = MeasuringTime(max_share=max_share)
        self.measurements = self._last_step = 0
        self._seen_size = self._size = 0
        self._costs: dict[int, float] = {}
        self._is_running = False
        self.refused = ""

    def begin_epoch(self) -> None:
        """What lay between two epochs is no training."""
        self.time.begin()

    def due(self, step: int) -> bool:
        """Whether to measure before the update with this index, counted over all epochs."""
        if not step or self.refused:  # the first execution traces the training
            return False
        if self._is_running:
            self.time.arrive()
        else:
            self.time.begin()
            self._is_running = True
        if self._interval is not None:
            return not self.measurements or step - self._last_step >= self._interval
        return not self._size or self.time.affords(self._costs[self._size])

    def measure(self, batch: object, *, step: int, waited: float = 0.0) -> None:
        """Adds the pair of a batch, unless its size is one that may not come again.

        Args:
            batch: As `fit` takes it.
            step: Index of the update that follows.
            waited: Seconds since `due` that were spent waiting for the batch.
        """
        self.time.wait(waited)
        if self._num_examples is None and self._steps_per_pass:
            self._num_examples = self._steps_per_pass * self._norms.examples(batch)
        size = self._norms.micro_batch_size(batch)
        if self._is_to_stay(size):
            self._size = size
            if size not in self._costs:
                try:
                    self._costs[size] = self._rehearsed(batch)
                except InputError as error:
                    self.refused = str(error)
                    return
            if self._interval is not None or self.time.affords(self._costs[size]):
                self._add(batch)
                self.measurements += 1
                self._last_step = step
        self.time.spend()

    def _is_to_stay(self, size: int) -> bool:
        """Whether batches of this micro-batch size are those of the training from now on."""
        last, self._seen_size = self._seen_size, size
        return size > 0 and (size in (last, self._size) or not self._size)

    def _rehearsed(self, batch: object) -> float:
        """Seconds that a measurement is expected to take."""
        traces = self._norms.traces
        self._norms.rehearse(batch)
        self.time.spend(traced=self._norms.traces > traces)
        self._norms.rehearse(batch)
        return self.time.spend() * (self._norms.micro_batches + 1)  # fetching the batch costs too

    def _add(self, batch: object) -> None:
        """Measures a pair, and what it costs: a rise is believed at once, a fall by and by."""
        traces = self._norms.traces
        pair = self._norms(batch)
        self.stream = self._stream().updated(*pair)
        traced = self._norms.traces > traces
        cost = self.time.spend(traced=traced)
        if not traced:
            self._costs[self._size] = max(cost, (cost + self._costs[self._size]) / 2)

    def _stream(self) -> NoiseScaleStream:
        """That of the size now; a new one where a micro-batch's size changes what is measured."""
        sizes = {
            "small_batch_size": self._size,
            "large_batch_size": self._size * self._norms.micro_batches,
        }
        stream = self.stream
        if stream is None or (self._norms.training and stream.small_batch_size != self._size):
            return NoiseScaleStream(decay=self._decay, **sizes)
        return stream.resized(**sizes)

    def estimate(self) -> NoiseScale | None:
        """The noise scale now; None before the first pair."""
        if self.stream is None or not self.stream.pairs:
            return None
        return self.stream.estimate(num_examples=self._num_examples)
