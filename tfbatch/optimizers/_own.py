"""The optimizer that a user's model builder compiled, of a class that no other file here names.

Only its learning rate is searched, around the one that it was compiled with.
"""

from __future__ import annotations

from typing import Any

KERAS_NAME = ""
BASE_LEARNING_RATE = (1e-4, 1e-2)
DEFAULT_LEARNING_RATE = 0.001
SCALING_RULE = "square_root"
PARAMETERS: dict[str, Any] = {}
ROLES: dict[str, str] = {}
