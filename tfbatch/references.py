"""Finds a user's function by its name, `package.module:function`."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tfbatch.errors import InputError, did_you_mean


def check_reference(text: str, *, flag: str) -> None:
    """Refuses what is not `package.module:function`, importing nothing.

    Raises:
        InputError: A part is missing, or the function's name is not an identifier.
    """
    module, colon, function = text.partition(":")
    if not colon or not module or not function.isidentifier():
        raise InputError(f"`{flag}` must be package.module:function. Received: {text!r}.")


def find_function(reference: str, *, flag: str) -> Callable[..., Any]:
    """The function that `package.module:function` names, as Python finds it from this folder.

    Args:
        reference: The name.
        flag: The flag that it was given by, for messages.

    Raises:
        InputError: There is no such module or function.
    """
    module_name, function_name = reference.split(":", 1)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"`{flag}={reference}`: cannot import {module_name}: {error}.") from error
    except Exception as error:  # whatever the user's own module raises
        place = traceback.format_exc(limit=-1).splitlines()[1].strip()
        raise InputError(
            f"`{flag}={reference}`: cannot import {module_name}: {type(error).__name__}: {error} "
            f"({place})."
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(
            f"`{flag}={reference}`: {module_name} has no function `{function_name}`."
            f"{did_you_mean(function_name, functions)}"
        )
    function: Callable[..., Any] = found
    return function
