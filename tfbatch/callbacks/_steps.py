"""What a callback counts by: the steps of an epoch, and the step that a schedule is at."""

from __future__ import annotations

import keras

from tfbatch.loss_scaling import unwrapped


def schedule_step(optimizer: keras.optimizers.Optimizer) -> int:
    """The step at which a learning-rate schedule is read next.

    Where the optimizer has `gradient_accumulation_steps`, its `iterations` are divided by them, and
    no variable; Keras reads schedules at the undivided count.

    Args:
        optimizer: A Keras optimizer, or one that wraps another for loss scaling.
    """
    # As an array: under a strategy it is no number of Python's.
    return int(keras.ops.convert_to_numpy(unwrapped(optimizer)._iterations))


class CountsSteps(keras.callbacks.Callback):  # type: ignore[misc]
    """What a callback is too that counts the steps of an epoch.

    Keras tells the index of an execution's last step as if every execution had
    `steps_per_execution`. Where data ends before, the last one has fewer: of 10 batches, 4 at a
    time, the last index is 11. With `steps_per_epoch=10` and endless data there are 12 steps
    indeed. Keras tells which only by the optimizer's count.
    """

    _updates = 0  # plain, as all that a callback keeps from one part of a training to the next

    def _begin_steps(self) -> None:
        """At the beginning of an epoch."""
        if self._may_end_early():
            self._updates = schedule_step(self.model.optimizer)

    def _steps_of_epoch(self, batch: int) -> int:
        """Steps of the epoch so far, once at the end of each execution.

        Args:
            batch: What Keras tells.
        """
        if not self._may_end_early():
            return batch + 1
        before, self._updates = self._updates, schedule_step(self.model.optimizer)
        at_once: int = self.model.steps_per_execution
        steps: int | None = (self.params or {}).get("steps")
        if steps and batch + 1 <= steps:
            return batch + 1
        first, made = batch + 1 - at_once, self._updates - before
        # An update can be skipped (loss scaling), or be another optimizer's.
        fewest = steps - first if steps else 1 if made else at_once
        return first + min(max(made, fewest), at_once)

    def _may_end_early(self) -> bool:
        """Whether an epoch can end within an execution."""
        at_once = getattr(self.model, "steps_per_execution", 1)
        steps = (self.params or {}).get("steps")
        has_optimizer = getattr(self.model, "optimizer", None) is not None
        return at_once > 1 and has_optimizer and not (steps and steps % at_once == 0)
