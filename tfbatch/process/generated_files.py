"""What TensorFlow's AutoGraph leaves in the temporary directory."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_PREFIX = "__autograph_generated_file"


def remove_generated_files() -> None:
    """Removes the sources of functions that AutoGraph has converted in this process.

    TensorFlow writes one for each converted function, imports it, and removes it at the
    interpreter's normal end, which a worker and a command that ends at once never reach: some
    twenty files stayed behind for every run. The bytecode that the import leaves beside it is never
    removed. What is loaded is not read again, and what is removed twice is no error.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith(_PREFIX) and (path := getattr(module, "__file__", None)):
            Path(path).unlink(missing_ok=True)
            Path(importlib.util.cache_from_source(path)).unlink(missing_ok=True)
