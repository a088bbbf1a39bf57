"""Model builders, one file each.

A file holds `build(input_shape, num_classes)`, which returns an uncompiled `keras.Model` from
float32 [batch, *input_shape] to logits, float32 [batch, num_classes].
"""

from __future__ import annotations

from tfbatch.registry import Registry

MODELS = Registry(__name__, kind="model", folder=__path__)

__all__ = ["MODELS"]
