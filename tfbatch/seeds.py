"""Seeds derived from one seed: independent, reproducible, never 0."""

from __future__ import annotations

import hashlib

from tfbatch.errors import InputError

LARGEST_SEED = 2**31 - 1


def derive_seed(seed: int, *parts: str | int) -> int:
    """A seed in [1, 2**31 - 1] for one purpose, e.g. `derive_seed(7, "search", 3)`.

    Never 0: KerasTuner takes a seed of 0 for "random".

    Raises:
        InputError: A negative or too large seed.
    """
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"`seed` must be from 0 to {LARGEST_SEED}. Received: {seed}.")
    text = "/".join(map(str, (seed, *parts)))
    number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    return 1 + number % LARGEST_SEED
