"""Keras's backend: tfbatch needs TensorFlow, and says so before anything is imported."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tfbatch.errors import InputError


def check_backend() -> None:
    """Refuses any backend of Keras but TensorFlow.

    Raises:
        InputError: KERAS_BACKEND, or Keras's configuration file, names another one.
    """
    home = os.environ.get("KERAS_HOME") or str(Path.home() / ".keras")
    where, backend = "KERAS_BACKEND", os.environ.get("KERAS_BACKEND")
    if not backend:
        where = str(Path(home) / "keras.json")
        try:
            backend = json.loads(Path(where).read_text(encoding="utf-8")).get("backend")
        except (OSError, ValueError, AttributeError):  # absent or damaged: Keras's default
            backend = None
    if backend and backend != "tensorflow":
        raise InputError(
            "tfbatch needs Keras on TensorFlow: its programs are TensorFlow graphs. Received: "
            f"backend {backend!r} in {where}. Set KERAS_BACKEND=tensorflow."
        )
