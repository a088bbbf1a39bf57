"""When the gradient noise is measured during `fit`, at which batch sizes, and at what cost."""

from __future__ import annotations

import time
import traceback

import tensorflow as tf

from tfbatch.errors import InputError
from tfbatch.estimators.noise_scale import NoiseScale
from tfbatch.estimators.noise_scale_stream import NoiseScaleStream
from tfbatch.gradients import SquaredNorms
from tfbatch.process.out_of_memory import is_out_of_memory

AIM = 0.75
"""Part of the largest share that is planned with."""
LONGER = 3
"""Times its expected cost that a measurement may take without breaking the share itself."""


class MeasuringTime:
    """An account of the time of a training: what measuring took of it, tracing apart.

    Everything from `arrive` to the last `spend` after it counts as measuring, the fetching of the
    batch included, but for the time that was waited for it: training would have waited as well.

    Args:
        max_share: Largest share of the training's time.

    Attributes:
        seconds: Spent on measuring, tracing apart.
        tracing_seconds: Spent on what is done once: the program is traced.
        training_seconds: Of the training meanwhile, measuring included, tracing not.
    """

    def __init__(self, *, max_share: float):
        self._max_share = max_share
        self.seconds = self.tracing_seconds = self.training_seconds = 0.0
        self._last = 0.0

    @property
    def share(self) -> float:
        """Of the training's time."""
        return self.seconds / self.training_seconds if self.training_seconds else 0.0

    def begin(self) -> None:
        """What lay before is no training."""
        self._last = time.perf_counter()

    def arrive(self) -> None:
        """Since the last call of anything here there was training."""
        now = time.perf_counter()
        self.training_seconds += now - self._last
        self._last = now

    def wait(self, seconds: float) -> None:
        """So much of the time since `arrive` was waiting for a batch."""
        self.training_seconds += seconds
        self._last += seconds

    def spend(self, *, traced: bool = False) -> float:
        """Seconds since the last call of anything here, all of them measuring."""
        now = time.perf_counter()
        spent, self._last = now - self._last, now
        if traced:
            self.tracing_seconds += spent
        else:
            self.seconds += spent
            self.training_seconds += spent
        return spent

    def affords(self, cost: float) -> bool:
        """Whether the share would hold, with a margin, after one more measurement.

        Args:
            cost: Seconds that it is expected to take.
        """
        return self._holds(AIM * self._max_share, cost) and self._holds(
            self._max_share, LONGER * cost
        )

    def _holds(self, share: float, cost: float) -> bool:
        return self.seconds + cost <= share * (self.training_seconds + cost)


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
        refused: Why a batch cannot be measured; empty where all could. No further one is then.
        remedy: What mends that, in a sentence for who has called for the measurement.
        raised: The traceback of what was raised then; empty where `refused` says it all.
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
        self.refused = self.remedy = self.raised = ""

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
            try:
                self._measure(batch, size, step)
            except Exception as error:
                # Also what the user's code or a lack of memory raises: whether the training is to
                # end for it, the callback decides.
                self.refused, self.remedy = _why_refused(error, size)
                if not isinstance(error, InputError):
                    self.raised = traceback.format_exc()
                return
        self.time.spend()

    def _measure(self, batch: object, size: int, step: int) -> None:
        """Rehearses a new size, and adds a pair if it can be afforded."""
        if size not in self._costs:
            self._costs[size] = self._rehearsed(batch)
        if self._interval is not None or self.time.affords(self._costs[size]):
            self._add(batch)
            self.measurements += 1
            self._last_step = step

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


def _why_refused(error: Exception, size: int) -> tuple[str, str]:
    """Why a micro-batch of so many examples was not measured, and what mends it."""
    if isinstance(error, InputError):
        return str(error), ""
    said, mend = f"{type(error).__name__}: {short(error)}", "Leave the callback out."
    if is_out_of_memory(error):
        mend = "Memory has run out: leave the callback out, or give it more `micro_batches`."
    elif isinstance(error, ValueError | tf.errors.InvalidArgumentError):
        said, mend = short(error), "A model of a fixed batch size takes no others."
    return f"The gradient of a micro-batch of {size} examples cannot be measured: {said}", mend


def short(error: Exception) -> str:
    """What an error of Keras or TensorFlow says, in a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[0].rstrip(".:") if lines else type(error).__name__
    return said if len(said) <= 160 else f"{said[:157]}..."
