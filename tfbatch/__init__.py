"""tfbatch: which batch size to train with, and which learning rate and schedule go with it.

`import tfbatch` imports no TensorFlow; whatever needs it is imported when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import wrapt

from tfbatch.errors import (
    ConfigurationError,
    DataError,
    InputError,
    NothingLearnedError,
    RecordError,
    RunFolderError,
    SearchError,
    TfbatchError,
)

if TYPE_CHECKING:
    from tfbatch import callbacks, layers, optimizers, oracles, schedules
    from tfbatch.accumulation import accumulated
    from tfbatch.claims._try_claims import try_claims
    from tfbatch.comparison import RunComparison, compare_runs
    from tfbatch.finder import find_batch_size
    from tfbatch.instruments.curvature import measure_curvature
    from tfbatch.instruments.image_size_memory import measure_memory_by_image_size
    from tfbatch.instruments.largest_batch import find_max_batch_size
    from tfbatch.instruments.learning_rate_range import learning_rate_range
    from tfbatch.instruments.noise_scale import gradient_noise_scale
    from tfbatch.instruments.throughput import measure_throughput
    from tfbatch.pipeline import PreparedData
    from tfbatch.pipeline.load import load_data
    from tfbatch.search.result import NothingLearned, Result
    from tfbatch.training.structure import reusable
    from tfbatch.translation import Translation, translate_batch_size

_LAZY = {
    "NothingLearned": "tfbatch.search.result",
    "PreparedData": "tfbatch.pipeline",
    "Result": "tfbatch.search.result",
    "RunComparison": "tfbatch.comparison",
    "Translation": "tfbatch.translation",
    "accumulated": "tfbatch.accumulation",
    "compare_runs": "tfbatch.comparison",
    "find_batch_size": "tfbatch.finder",
    "find_max_batch_size": "tfbatch.instruments.largest_batch",
    "gradient_noise_scale": "tfbatch.instruments.noise_scale",
    "learning_rate_range": "tfbatch.instruments.learning_rate_range",
    "load_data": "tfbatch.pipeline.load",
    "measure_curvature": "tfbatch.instruments.curvature",
    "measure_memory_by_image_size": "tfbatch.instruments.image_size_memory",
    "measure_throughput": "tfbatch.instruments.throughput",
    "reusable": "tfbatch.training.structure",
    "translate_batch_size": "tfbatch.translation",
    "try_claims": "tfbatch.claims._try_claims",
}
_SUBMODULES = ("callbacks", "layers", "models", "optimizers", "oracles", "schedules")
_KERAS_CLASSES = (
    "tfbatch.layers._ghost_batch_normalization",
    "tfbatch.optimizers._lars",
    "tfbatch.schedules._keras",
)

__all__ = [
    "ConfigurationError",
    "DataError",
    "InputError",
    "NothingLearned",
    "NothingLearnedError",
    "PreparedData",
    "RecordError",
    "Result",
    "RunComparison",
    "RunFolderError",
    "SearchError",
    "TfbatchError",
    "Translation",
    "accumulated",
    "callbacks",
    "compare_runs",
    "find_batch_size",
    "find_max_batch_size",
    "gradient_noise_scale",
    "layers",
    "learning_rate_range",
    "load_data",
    "measure_curvature",
    "measure_memory_by_image_size",
    "measure_throughput",
    "optimizers",
    "oracles",
    "reusable",
    "schedules",
    "translate_batch_size",
    "try_claims",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"tfbatch.{name}")
    raise AttributeError(f"module 'tfbatch' has no attribute {name!r}")


def _register_with_keras(module: Any) -> None:
    """Registers the serializable classes, so that `load_model` finds them."""
    del module
    for name in _KERAS_CLASSES:
        importlib.import_module(name)


# Keras imports nothing by name for packages other than its own: whoever imports Keras after (or
# before) tfbatch gets the classes, and whoever never imports Keras pays nothing.
wrapt.when_imported("keras")(_register_with_keras)
