"""Validation minus training metrics, both measured in the same mode at the same weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfbatch.callbacks._given_arrays import as_arrays
from tfbatch.callbacks._schedule_end import warn_of_early_end
from tfbatch.errors import InputError


class GeneralizationGap(keras.callbacks.Callback):  # type: ignore[misc]
    """Publishes `gap_loss` and a `gap_METRIC` for each metric at the end of each epoch.

    Keras's `val_loss - loss` compares two things: `loss` is a running mean over the epoch, of
    weights older than those that `val_loss` is measured at, with dropout and augmentation on.
    Here both sides are `model.evaluate` at the end of the epoch, on samples of equal size, the
    same in every epoch. A positive `gap_loss` is overfitting. `clean_loss` and `clean_METRIC` are
    the training side by itself.

    Example:
        ```python
        gap = tfbatch.callbacks.GeneralizationGap((x, y), (x_validation, y_validation))
        model.fit(data, callbacks=[gap])
        print(gap.gap)
        ```

    Args:
        training: (x, y) or (x, y, sample_weight) of arrays that are trained on, not augmented.
        validation: The same of held-out examples.
        num_examples: Size of both samples; the smaller split's, if that is less.
        batch_size: Of the evaluation; it has no influence on the result.
        seed: Of the draw.

    Attributes:
        gap: {metric: validation minus training} at the end of the last epoch.

    Raises:
        InputError: Data that are no tuples of arrays, an empty split, fewer than one example.
    """

    only_looks = True

    def __init__(
        self,
        training: object,
        validation: object,
        *,
        num_examples: int = 2_000,
        batch_size: int = 256,
        seed: int = 0,
    ):
        super().__init__()
        if num_examples < 1 or batch_size < 1:
            raise InputError(
                "`num_examples` and `batch_size` must be >= 1. "
                f"Received: {num_examples=}, {batch_size=}."
            )
        sides = _arrays(training, "training"), _arrays(validation, "validation")
        count = min(num_examples, *map(_count, sides))
        random = np.random.default_rng(seed)
        self.num_examples = count
        self.batch_size = batch_size
        self.gap: dict[str, float] = {}
        self._sides: list[tf.data.Dataset] = []
        self._training, self._validation = (_sample(side, count, random) for side in sides)

    def on_train_begin(self, logs: Any = None) -> None:
        """Starts anew."""
        warn_of_early_end(self.model, self.params)
        self.gap = {}
        size = min(self.batch_size, self.num_examples)
        self._sides = [_batches(side, size) for side in (self._training, self._validation)]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Evaluates both samples and publishes."""
        clean, held_out = (self._evaluated(side) for side in self._sides)
        self.gap = {name: held_out[name] - clean[name] for name in clean}
        if logs is not None:
            logs.update({f"clean_{name}": value for name, value in clean.items()})
            logs.update({f"gap_{name}": value for name, value in self.gap.items()})

    def on_train_end(self, logs: Any = None) -> None:
        """Lets go of the datasets, which cannot be copied."""
        self._sides = []

    def _evaluated(self, side: tf.data.Dataset) -> dict[str, float]:
        found = self.model.evaluate(side, verbose=0, return_dict=True)
        return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}


def _batches(sample: Any, size: int) -> tf.data.Dataset:
    # With tf.data's autotuning the end of an iterator can wait for seconds.
    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices(sample).batch(size).with_options(options)


def _arrays(data: Any, name: str) -> Any:
    if not isinstance(data, tuple) or not 2 <= len(data) <= 3:
        raise InputError(
            f"`{name}` must be a tuple (x, y) or (x, y, sample_weight) of arrays. "
            f"Received: {type(data).__name__}."
        )
    return as_arrays(data, what=f"`{name}`")


def _count(arrays: Any) -> int:
    return len(keras.tree.flatten(arrays)[0])


def _sample(arrays: Any, count: int, random: np.random.Generator) -> Any:
    rows = np.sort(random.choice(_count(arrays), size=count, replace=False))
    # tf.data makes one tensor of a list.
    return keras.tree.lists_to_tuples(keras.tree.map_structure(lambda array: array[rows], arrays))
