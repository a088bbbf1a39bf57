"""What a search asks of whatever runs its trials."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tfbatch.training.devices import Devices
from tfbatch.training.outcome import Outcome, Phase, TrialSpec

Finished = tuple[TrialSpec, Outcome]
Progress = Callable[[int, int], None]


class Engine(Protocol):
    """Runs trials, several at a time, and single tasks while no trial runs."""

    @property
    def devices(self) -> Devices:
        """What it runs on."""

    @property
    def free(self) -> bool:
        """Whether another trial could be started now."""

    def can_start(self, phase: Phase) -> bool:
        """Whether a trial of a phase can be started now."""

    def start(self, spec: TrialSpec) -> None:
        """Starts a trial."""

    def wait(self) -> list[Finished]:
        """Waits until trials end; returns them."""
