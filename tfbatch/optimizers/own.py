"""The optimizer that a user's model builder compiled, of a class that no other file here names.

Only its learning rate is searched, around the one that it was compiled with.
"""

from __future__ import annotations

from typing import Any

from tfbatch.errors import InputError

KERAS_NAME = ""
BASE_LEARNING_RATE = (1e-4, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS: dict[str, Any] = {}


def build(learning_rate: Any) -> Any:
    """There is nothing to build without a compiled model.

    Raises:
        InputError: Always.
    """
    del learning_rate
    raise InputError(
        "The optimizer `own` is that of a compiled model. Compile the model in its builder, or "
        "choose another optimizer."
    )
