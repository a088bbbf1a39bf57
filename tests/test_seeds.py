"""Derived seeds: reproducible, different for every purpose, never 0."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfbatch import seeds
from tfbatch.errors import InputError
from tfbatch.seeds import LARGEST_SEED, derive_seed


def test_derived_seeds_are_fixed_for_all_time():
    """Another value would make the same command another search than before."""
    assert derive_seed(1, "baseline") == 1078570624
    assert derive_seed(0, "search", 3) == 1689051612


def test_derived_seeds_are_the_same_in_another_process():
    code = "from tfbatch.seeds import derive_seed; print(derive_seed(7, 'confirmation', 2))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert int(done.stdout) == derive_seed(7, "confirmation", 2)


def test_every_seed_and_purpose_has_its_own():
    derived = [derive_seed(s, name, n) for s in range(30) for name in ("a", "b") for n in range(30)]

    assert len(set(derived)) == len(derived)
    assert all(1 <= seed <= LARGEST_SEED for seed in derived)


def test_a_derived_seed_is_never_zero(monkeypatch):
    """KerasTuner takes 0 for "random"; try the hashes that are multiples of the range."""

    class Hash:
        def __init__(self, number):
            self.number = number

        def digest(self):
            return self.number.to_bytes(8, "big") + bytes(24)

    for number in (0, LARGEST_SEED, 5 * LARGEST_SEED, LARGEST_SEED - 1, 2**64 - 1):
        monkeypatch.setattr(seeds.hashlib, "sha256", lambda text, n=number: Hash(n))
        assert 1 <= derive_seed(1, "x") <= LARGEST_SEED


@pytest.mark.parametrize("seed", [0, LARGEST_SEED])
def test_the_ends_of_the_range_are_allowed(seed):
    assert derive_seed(seed) >= 1


@pytest.mark.parametrize("seed", [-1, LARGEST_SEED + 1, 2**64])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(InputError, match=rf"`seed` must be from 0 to 2147483647. Received: {seed}"):
        derive_seed(seed)
