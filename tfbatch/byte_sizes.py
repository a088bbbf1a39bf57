"""Amounts of memory, as people write them."""

from __future__ import annotations

import contextlib
import re

from tfbatch.errors import InputError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def bytes_of(budget: float | str | None) -> float | None:
    """Bytes from a number or a text.

    Raises:
        InputError: Neither, or not > 0.
    """
    if budget is None:
        return None
    found: float | None = None
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([\d_.]+)\s*([KMGT]?I?B?)\s*", budget.upper())
        unit = match[2] if match else ""
        if match and unit in _UNITS:
            with contextlib.suppress(ValueError):
                found = float(match[1]) * _UNITS[unit]
    elif isinstance(budget, int | float) and not isinstance(budget, bool):
        found = float(budget)
    if found is None or not 0 < found < float("inf"):
        raise InputError(
            "`memory_budget` must be > 0: a number of bytes, or a text such as '1.5 GB' or "
            f"'800 MiB'. Received: {budget!r}."
        )
    return found
