"""Says after an epoch of anybody's `fit` what limits it and what another batch size would do."""

from __future__ import annotations

import shlex
from typing import Any

import keras
import tensorflow as tf

from tfbatch.callbacks._advice import Advice, TrainingMeasurements, advise
from tfbatch.callbacks._learning_rate import highest_rate
from tfbatch.callbacks._noise_meter import short
from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.callbacks._step_clock import TimedSteps, examples_in, time_steps
from tfbatch.callbacks._watched_input import WatchedInput, check_single_device
from tfbatch.callbacks.gradient_noise_scale import GradientNoiseScale
from tfbatch.callbacks.peak_memory import PeakMemory
from tfbatch.callbacks.throughput import Throughput
from tfbatch.device_memory import device_budget, memory_use
from tfbatch.gradients import why_not

_FACTORS = (0.5, 1, 2, 4)


class _QuietNoiseScale(GradientNoiseScale):
    """Where the loss cannot be measured, the training goes on, and the advice gives the reason."""

    _ends_training = False


class Advisor(keras.callbacks.Callback):  # type: ignore[misc]
    """Prints measurements of the training and a PREDICTION of the fastest batch size.

    After every epoch: the share of time spent waiting for input and the examples per second
    (Throughput), the gradient noise scale (GradientNoiseScale), the peak of memory (PeakMemory),
    and one sentence with the batch size that is predicted to reach the same loss soonest, with the
    command that would verify it. After the first epoch, and after the first of another batch size,
    it times real training steps at half, twice and four times the batch size on a batch of the
    training, outside the epoch's time, and puts everything back: the final weights are the same
    bits with and without it. Weights and optimizer exist twice in memory meanwhile. A larger batch
    size is timed only where the system tells how much memory is used: not on macOS without a GPU.
    The batch size is that of the first batch. A larger one counts at once, a smaller one where two
    batches at the beginning of epochs have it in a row: it may be a short last batch. A model with
    a `train_step` of its own is not timed: what its step changes, such as other optimizers, is not
    all known. Where anything cannot be measured, be it for lack of memory, the training goes on,
    and the advice gives the reason.

    The prediction takes the noise scale for the critical batch size (McCandlish et al. 2018, arXiv
    1812.06162), which can be wrong several times over, and learning rates tuned at both sizes. It
    goes no further than the sizes that were timed.

    Example:
        ```python
        advisor = tfbatch.callbacks.Advisor()
        model.fit(data, callbacks=[advisor])
        print(advisor.advice)
        ```

    Args:
        model: "package.module:function" that builds your model, for the printed command.
        data: "package.module:function" that makes your data, likewise.
        time_steps: Whether to time steps; without, nothing is predicted.
        verbose: 0 prints nothing.

    Attributes:
        advice: The last Advice; None before the first epoch has ended.

    Raises:
        InputError: At the beginning of `fit`: the model was made under a `tf.distribute` strategy.
    """

    only_looks = True
    reads_batches = True

    def __init__(
        self,
        model: str = "your_module:build_model",
        data: str = "your_module:make_dataset",
        *,
        time_steps: bool = True,
        verbose: int = 1,
    ):
        super().__init__()
        self.model_reference, self.data_reference = model, data
        self.time_steps = time_steps
        self.verbose = verbose
        self.throughput, self.memory = Throughput(), PeakMemory()
        self.noise = _QuietNoiseScale()
        self._watched: WatchedInput | None = None
        self._forget()

    def _forget(self) -> None:
        self.advice: Advice | None = None
        self._parts: list[Any] = []
        self._batch: Any = None
        self._looks = self._seen_size = 0
        self._timed: dict[int, tuple[TimedSteps | None, str]] = {}
        self._no_noise = ""
        self._rate: float | None = None
        self._has_begun = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts anew."""
        warn_of_early_end(self.model, self.params)
        self._stop_watching()
        self._forget()
        check_single_device(self.model, caller="Advisor")
        reason = why_not(self.model)
        self._no_noise = reason or "the training was too short to measure it in passing"
        memory = [self.memory] if memory_use() else []  # not on every system
        self._watched = WatchedInput(
            self.model,
            caller="Advisor",
            wants_batch=lambda: self._looks > 0,
            look=self._keep,
            counts=False,
        )
        # Throughput begins last: it then stands outside the others, and waiting for a batch that
        # one of them looks at goes through it too.
        self._parts = [*memory, *([] if reason else [self.noise]), self.throughput]
        for part in self._parts:
            part.set_params(self.params)
            part.set_model(self.model)
            part.on_train_begin()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Passes it on; the first batch is to be looked at, and the second one if need be."""
        self._looks = 2
        if not self._has_begun:  # before the first one nobody knows how many are left
            self._has_begun = True
            left, steps = self.params.get("epochs", 0) - epoch, self.params.get("steps")
            self._rate = highest_rate(
                self.model.optimizer, so_far=None, updates=left * (steps or 0)
            )
        for part in self._parts:
            part.on_epoch_begin(epoch)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Passes it on."""
        self.throughput.on_train_batch_begin(batch)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Passes it on."""
        for part in self._parts:
            part.on_train_batch_end(batch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Measures what is left to measure, and prints."""
        for part in self._parts:
            part.on_epoch_end(epoch)
        if self._batch is None:
            return
        self._rate = highest_rate(self.model.optimizer, so_far=self._rate)
        size = examples_in(self._batch)
        if self.time_steps and size not in self._timed:
            sizes = sorted({max(1, int(factor * size)) for factor in _FACTORS})
            self._timed[size] = self._time_steps(sizes)
        steps, no_steps = self._timed.get(size, (None, ""))
        measured = TrainingMeasurements(
            batch_size=size,
            examples_per_second=self.throughput.examples_per_second,
            input_wait=self.throughput.input_wait,
            peak_memory_mb=self.memory.peak_memory_mb,
            noise=self.noise.estimate,
            no_noise=self.noise.refused or self._no_noise,
            steps=steps,
            no_steps=no_steps,
            budget_bytes=device_budget(),
        )
        self.advice = advise(measured, command=self._command(size))
        if self.verbose:
            print(f"\nAfter epoch {epoch + 1}:", *self.advice.lines, sep="\n  ")

    def on_train_end(self, logs: Any = None) -> None:
        """Stops watching."""
        self._stop_watching()

    def _time_steps(self, sizes: list[int]) -> tuple[TimedSteps | None, str]:
        """Times the sizes where the model takes them and all that a step changes is put back.

        Returns:
            What was timed, or None and the reason.
        """
        kind = type(self.model)
        if kind.train_step is not keras.Model.train_step:
            return None, (
                f"{kind.__name__} has a train_step of its own, which may change more than could "
                "be put back"
            )
        for leaf in keras.tree.flatten(self._batch):
            if isinstance(leaf, tf.SparseTensor | tf.RaggedTensor):
                return None, (
                    f"the batches hold a {type(leaf).__name__}, whose examples are not repeated or "
                    "dropped to make other batch sizes"
                )
        try:
            return time_steps(self.model, self._batch, sizes), ""
        except (ValueError, tf.errors.InvalidArgumentError) as error:
            return None, f"the model does not take batches of {sizes} ({short(error)})"
        except Exception as error:
            # Of copying, tracing or running, in the user's code or for lack of memory: the state is
            # as before, and no training is to end for advice.
            said = f"{type(error).__name__}: {short(error)}"
            return None, f"steps of {sizes} examples cannot be timed ({said})"

    def _command(self, batch_size: int) -> str:
        """The learning rate is the one at the beginning of `fit`, or a schedule's highest.

        Where there is none, such as that of a schedule which has not left 0 yet, `tune` takes its
        own.
        """
        rate = f",learning_rate={self._rate:.4g}" if self._rate else ""
        arguments = [
            *("python", "-m", "tfbatch.tune"),
            f"--model={self.model_reference}",
            f"--data={self.data_reference}",
            f"--baseline=batch_size={batch_size}{rate}",
        ]
        return f"{shlex.join(arguments)} --batch_sizes={{batch_sizes}}"

    def _keep(self, batch: Any) -> None:
        """Keeps a batch of another size where the next one looked at has it too.

        A single smaller one may be the short last one of a pass over the data, which ends within
        an epoch.
        """
        size = examples_in(batch)
        last, self._seen_size = self._seen_size, size
        self._looks -= 1
        if self._batch is not None and size == examples_in(self._batch):
            self._looks = 0
        elif self._batch is None or size == last or size > examples_in(self._batch):
            self._batch, self._looks = batch, 0

    def _stop_watching(self) -> None:
        for part in reversed(self._parts):
            part.on_train_end()
        if self._watched is not None:
            self._watched.remove()
        self._watched = self._batch = None
