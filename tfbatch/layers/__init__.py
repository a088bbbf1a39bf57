"""Batch normalization that does not depend on the batch size: a layer and two functions."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfbatch.layers._ghost_batch_normalization import GhostBatchNormalization
    from tfbatch.layers._momentum_in_examples import set_batch_normalization_momentum
    from tfbatch.layers._recalibration import recalibrate_batch_normalization

# They need Keras, which takes seconds to import.
_LAZY = {
    "GhostBatchNormalization": "tfbatch.layers._ghost_batch_normalization",
    "recalibrate_batch_normalization": "tfbatch.layers._recalibration",
    "set_batch_normalization_momentum": "tfbatch.layers._momentum_in_examples",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "GhostBatchNormalization",
    "recalibrate_batch_normalization",
    "set_batch_normalization_momentum",
]
