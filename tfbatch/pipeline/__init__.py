"""Recipe, split and batch size -> tf.data.Dataset.

Data that fits in a share of memory stays resident as uint8 and is batched by index; larger data
streams from records. Either way the training stream is continuous, seeded, and counted in examples.
"""

from __future__ import annotations

from tfbatch.pipeline.preparation import default_records_root, prepare_records
from tfbatch.pipeline.prepared_data import EVALUATION_BATCH_SIZE, PreparedData, load_data

__all__ = [
    "EVALUATION_BATCH_SIZE",
    "PreparedData",
    "default_records_root",
    "load_data",
    "prepare_records",
]
