"""How the learning rate follows the batch size, one file each.

A file holds one pure function `scale(learning_rate, ratio)`, where `ratio` is the batch size
divided by the one that `learning_rate` was meant for.
"""

from __future__ import annotations

from tfbatch.errors import InputError
from tfbatch.registry import Registry

SCALING_RULES = Registry(__name__, kind="scaling rule", folder=__path__)


def scaled(rule: str, learning_rate: float, *, batch_size: int, base_batch_size: int) -> float:
    """The learning rate at `batch_size` by a rule, from the one at `base_batch_size`.

    Raises:
        InputError: An unknown rule, or an argument that is not positive.
    """
    if min(learning_rate, batch_size, base_batch_size) <= 0:
        raise InputError(
            "`learning_rate`, `batch_size` and `base_batch_size` must be > 0. Received: "
            f"{learning_rate=}, {batch_size=}, {base_batch_size=}."
        )
    return float(SCALING_RULES.load(rule).scale(learning_rate, batch_size / base_batch_size))


__all__ = ["SCALING_RULES", "scaled"]
