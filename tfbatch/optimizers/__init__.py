"""Optimizers a search can use, one file each.

A file holds `KERAS_NAME` (the class in keras.optimizers), `BASE_LEARNING_RATE` (lowest and
highest: the range searched at the base batch size), `DEFAULT_LEARNING_RATE` (Keras's own),
`SCALING_RULE` (its default rule), `PARAMETERS` (the names that `build` takes, with defaults) and
`build(learning_rate, **parameters)`, which returns a Keras optimizer.
"""

from __future__ import annotations

from tfbatch.registry import Registry

OPTIMIZERS = Registry(__name__, kind="optimizer", folder=__path__)

__all__ = ["OPTIMIZERS"]
