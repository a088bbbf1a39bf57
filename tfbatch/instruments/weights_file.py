"""Kept weights, put into a model only if all of them are that model's."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

from tfbatch.errors import InputError

_NO_WEIGHTS = {"optimizer", "metrics", "seed_generator"}
"""Parts of a file that a model of the same layers need not have."""


def load_weights(model: Any, file: Path) -> None:
    """Loads what `Model.save_weights` or `Model.save` has written.

    Keras looks for each of the model's layers in the file, and says nothing of what is left over:
    the first layers of a deeper model would be taken for the whole one.

    Raises:
        InputError: No such file, or weights of another model.
    """
    try:
        with warnings.catch_warnings():
            # Its state is of no use here: a program's optimizer has its learning rate elsewhere.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model.load_weights(file)
        kept = _arrays_in(file)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split("Target variable:", maxsplit=1)[0].split())
        raise InputError(
            f"`weights_file` must hold weights of this model. Received: {file}: {reason}"
        ) from error
    if kept is not None and kept > len(model.weights):
        raise InputError(
            f"`weights_file` must hold weights of this model, which has {len(model.weights)} "
            f"arrays of them. Received: {file} with {kept}. Build the model "
            "these weights were saved from."
        )


def _arrays_in(file: Path) -> int | None:
    """Number of a file's arrays of weights; None for a format whose loading counts them itself."""
    if file.suffix == ".keras":
        with zipfile.ZipFile(file) as archive:
            return _counted(io.BytesIO(archive.read("model.weights.h5")))
    return _counted(file) if file.name.endswith(".weights.h5") else None


def _counted(source: Any) -> int:
    import h5py  # type: ignore[import-untyped]  # Keras reads such a file by it too

    found: list[str] = []
    with h5py.File(source, "r") as opened:
        opened.visititems(
            lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
        )
    return sum(1 for name in found if not _NO_WEIGHTS & set(name.split("/")))
