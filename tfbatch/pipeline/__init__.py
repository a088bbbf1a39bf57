"""A data set, a split and a batch size -> tf.data.Dataset.

A recipe's data that fits in a share of memory stays resident as uint8 and is batched by index;
larger data streams from records. A user's own arrays are mapped from files, what their function
makes is made in each process. Every training stream is continuous, seeded, and counted in examples.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfbatch.pipeline.load import load_data
    from tfbatch.pipeline.recipe_data import PreparedData
    from tfbatch.pipeline.recipe_records import default_records_root, prepare_records
    from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE

_LAZY = {
    "EVALUATION_BATCH_SIZE": "trainable_data",
    "PreparedData": "recipe_data",
    "default_records_root": "recipe_records",
    "load_data": "load",
    "prepare_records": "recipe_records",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:  # needs TensorFlow, which takes seconds to import
        return getattr(importlib.import_module(f"tfbatch.pipeline.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "EVALUATION_BATCH_SIZE",
    "PreparedData",
    "default_records_root",
    "load_data",
    "prepare_records",
]
