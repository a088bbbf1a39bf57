"""Lets the momentum follow the schedule of the learning rate."""

from __future__ import annotations

from typing import Any

import keras

from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.callbacks._watched_input import make_train_function_anew
from tfbatch.errors import InputError
from tfbatch.loss_scaling import unwrapped
from tfbatch.schedules import MomentumInExamples, follow_momentum, momentum_attribute


class ScheduledMomentum(keras.callbacks.Callback):  # type: ignore[misc]
    """Sets the optimizer's momentum at every update as its learning-rate schedule says.

    The "one_cycle" schedule mirrors the learning rate in the momentum: .95 at the beginning, .85
    at the peak, .95 at the end. A schedule alone cannot do that in Keras, where a momentum is a
    constant of the traced training. During `fit` the optimizer's `momentum` (SGD) or `beta_1`
    (Adam) is read from the schedule inside the graph, update by update, also with
    `steps_per_execution` > 1; after it, and in a saved model, it is the number that the optimizer
    was made with.

    Example:
        ```python
        rate = tfbatch.schedules.LearningRateInExamples(
            "one_cycle", learning_rate=0.1, batch_size=32, total_examples=450_000
        )
        model.compile(optimizer=keras.optimizers.SGD(rate, momentum=0.9), loss="mse")
        model.fit(data, callbacks=[tfbatch.callbacks.ScheduledMomentum()])
        ```

    `fit` is traced anew when it begins and once more in the next `fit` without the callback. In a
    search of tfbatch the momentum follows by itself.

    If `fit` itself raises (an interrupt, memory that runs out), Keras tells no callback, and the
    momentum goes on following the schedule. Use the callback in a `with` statement, which gives the
    optimizer its own back then too, or call `restore`.

    Raises:
        InputError: At the beginning of `fit`: the optimizer's learning rate is no
            LearningRateInExamples of a family that sets the momentum, or the optimizer has none.
    """

    def __enter__(self) -> ScheduledMomentum:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Restores what a `fit` that raised has left."""
        self.restore()

    def restore(self) -> None:
        """Gives the optimizer its own momentum back after a `fit` that raised; else does nothing.

        Not to be called while `fit` runs.
        """
        if self._model is None:  # it was in no `fit`
            return
        inner = unwrapped(self.model.optimizer)
        name = momentum_attribute(inner) or "momentum"
        number = getattr(inner, name, None)
        if isinstance(number, MomentumInExamples):
            setattr(inner, name, float(number))
            self.model.train_function = None

    def on_train_begin(self, logs: Any = None) -> None:
        """Puts the schedule's momentum in place of the optimizer's."""
        if follow_momentum(self.model.optimizer) is None:
            rate = unwrapped(self.model.optimizer)._learning_rate
            raise InputError(
                "ScheduledMomentum needs an optimizer whose learning rate is a "
                'LearningRateInExamples of a family that sets the momentum, such as "one_cycle". '
                f"Received: {getattr(rate, 'family', type(rate).__name__)}."
            )
        warn_of_early_end(self.model, self.params)
        make_train_function_anew(self.model)

    def on_train_end(self, logs: Any = None) -> None:
        """Gives the optimizer its own momentum back."""
        self.restore()
