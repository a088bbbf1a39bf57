"""How large the experiments are: a preset changes sizes, never the rules."""

from __future__ import annotations

import dataclasses
from typing import Literal

from tfbatch.errors import InputError

PresetName = Literal["tiny", "small", "full"]
Purpose = Literal["verdict", "pilot", "tuning"]
"""What seeds are for: to judge, to fix margins and the target, to choose rates and sizes."""
PURPOSES: tuple[Purpose, ...] = ("verdict", "pilot", "tuning")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of the experiments.

    Attributes:
        name: Its name.
        length: Length of a training as a multiple of the data's own.
        factors: Batch sizes as multiples of the baseline's.
        longest: Length of the longest training as a multiple of `length`: what the largest batch
            size, and the full batch, get for as many updates as the others.
        seeds: Fresh seeds that a verdict rests on.
        pilot_seeds: Seeds that fix margins and targets, and that no verdict uses.
        tuning_seeds: Seeds that choose learning rates and sizes, and that no verdict uses.
        rounds: Interleaved rounds of timing: one and a half for each seed, since a third of them
            chooses between sizes.
        timing_seconds: About what all rounds of one set of batch sizes may take.
    """

    name: PresetName
    length: float
    factors: tuple[float, ...]
    longest: float = 16.0
    seeds: int = 10
    pilot_seeds: int = 5
    tuning_seeds: int = 2
    rounds: int = 15
    timing_seconds: float = 30.0

    def count(self, purpose: Purpose) -> int:
        """How many seeds are for a purpose."""
        return {
            "verdict": self.seeds,
            "pilot": self.pilot_seeds,
            "tuning": self.tuning_seeds,
        }[purpose]


_FINE = (1 / 32, 1 / 16, 1 / 4, 1 / 2, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
PRESETS = {
    preset.name: preset
    for preset in (
        Preset("tiny", 0.5, (1 / 16, 1 / 4, 1.0, 4.0, 16.0), longest=4.0),
        Preset("small", 1.0, (1 / 16, 1 / 4, 1.0, 4.0, 16.0), tuning_seeds=3, timing_seconds=150.0),
        Preset(
            "full",
            2.0,
            _FINE,
            seeds=20,
            pilot_seeds=8,
            tuning_seeds=5,
            rounds=30,
            timing_seconds=600.0,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """A preset by its name.

    Raises:
        InputError: There is none.
    """
    for preset in PRESETS.values():
        if preset.name == name:
            return preset
    raise InputError(f"`preset` must be one of {', '.join(PRESETS)}. Received: {name!r}.")
