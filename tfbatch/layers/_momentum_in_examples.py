"""The momentum of batch normalization, counted in examples."""

from __future__ import annotations

import keras

from tfbatch.errors import InputError
from tfbatch.layers._ghost_batch_normalization import GhostBatchNormalization


def set_batch_normalization_momentum(
    model: keras.Model, *, batch_size: int, momentum: float = 0.99, reference_batch_size: int = 32
) -> int:
    """Sets the momentum of every batch normalization so that it means the same in examples.

    Keras counts it in updates: with 0.99 the moving statistics still hold 60 % of their initial
    values after 50 updates, which makes a large batch, that has few, look bad at inference.

    Example:
        ```python
        model = keras.applications.MobileNetV2(weights=None, classes=10, input_shape=(32, 32, 3))
        tfbatch.layers.set_batch_normalization_momentum(model, batch_size=1024)
        model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
        ```

    ```python
    momentum ** (batch_size / reference_batch_size)
    ```

    so that the statistics of an example have the same weight after the same number of later
    examples. A `GhostBatchNormalization` updates once for each ghost batch: the smaller of its
    `ghost_size` and the batch size stands for the batch size. With accumulation the batch size is
    that of the micro-batch. The momentum is a constant of a traced program, which is traced anew.
    Calling it again with another batch size sets, and does not multiply.

    Args:
        model: A model or layer; layers at any depth are found.
        batch_size: Examples that one call of the layer sees, on one replica.
        momentum: What is meant at the reference batch size, in [0, 1).
        reference_batch_size: The batch size that it is meant for.

    Returns:
        The number of layers set; 0 for a model without batch normalization.

    Raises:
        InputError: A number out of its range.
    """
    if not 0 <= momentum < 1:
        raise InputError(f"`momentum` must be in [0, 1). Received: {momentum=}.")
    if batch_size < 1 or reference_batch_size < 1:
        raise InputError(
            "`batch_size` and `reference_batch_size` must be >= 1. Received: "
            f"{batch_size=}, {reference_batch_size=}."
        )
    layers = batch_normalizations(model)
    for layer in layers:
        seen = batch_size
        if isinstance(layer, GhostBatchNormalization):
            seen = min(batch_size, layer.ghost_size)
        layer.momentum = float(momentum ** (seen / reference_batch_size))
    if layers and hasattr(model, "train_function"):
        model.train_function = None
    return len(layers)


def batch_normalizations(model: keras.Model) -> list[keras.layers.BatchNormalization]:
    """Every batch normalization of a model, at any depth."""
    return [
        layer
        for layer in model._flatten_layers(include_self=True, recursive=True)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
