"""Ends training when somebody asks for it: a signal, a time limit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras


class StopOnRequest(keras.callbacks.Callback):  # type: ignore[misc]
    """Stops `fit` after the batch in which `requested()` became true.

    Example:
        ```python
        model.fit(data, callbacks=[StopOnRequest(pathlib.Path("stop").exists)])
        ```

    Args:
        requested: Cheap; called after every batch.
    """

    def __init__(self, requested: Callable[[], bool]):
        super().__init__()
        self.requested = requested
        self.stopped = False

    def on_train_begin(self, logs: Any = None) -> None:
        """Forgets the last training."""
        self.stopped = False

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Asks."""
        if self.requested():
            self.stopped = True
            self.model.stop_training = True
