"""Step times of a run, each batch size alone on the device: what is ranked in seconds."""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.errors import RunFolderError
from tfbatch.pacing import FEWEST_ROUNDS
from tfbatch.run_folder.files import STEP_TIMES
from tfbatch.training.devices import Devices
from tfbatch.training.step_times import ROUNDS
from tfbatch.trial.finished import FinishedTrial

SECONDS_EACH = 0.6 * ROUNDS
"""What measuring one batch size takes, beside starting up."""
STARTING_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class StepSeconds:
    """Seconds of one step by batch size, round by round; empty where nothing was measured.

    Attributes:
        device: Where, such as "CPU, 2 threads".
        rounds: By batch size.
        validation: Seconds of one evaluation on the validation split, or None.
    """

    device: str = ""
    rounds: Mapping[int, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    validation: float | None = None

    def of(self, trial: FinishedTrial) -> list[float]:
        """Seconds of all steps of a trial's training, alone: one value a round.

        Trials that share a machine slow each other down, so that their own seconds are a cost and
        no property of the batch size.
        """
        return [t * trial.steps for t in self.rounds.get(trial.configuration.batch_size, ())]

    def median(self, batch_size: int) -> float | None:
        """Median seconds of one step, or None."""
        times = self.rounds.get(batch_size)
        return statistics.median(times) if times else None

    def is_measured(self, batch_size: int) -> bool:
        """Whether enough rounds were measured; a session that was ended may leave fewer."""
        return len(self.rounds.get(batch_size, ())) >= FEWEST_ROUNDS


def read_step_seconds(folder: Path) -> StepSeconds:
    """What an earlier session has measured.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = folder / STEP_TIMES
    if not path.exists():
        return StepSeconds()
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        rounds = {int(size): tuple(times) for size, times in content["seconds"].items()}
        return StepSeconds(content["device"], rounds, content.get("validation_seconds"))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error!r}. Remove it: step times are measured again."
        ) from error


def device_name(devices: Devices) -> str:
    """Such as "CPU, 2 threads"."""
    if devices.kind != "CPU":
        return devices.kind
    return f"CPU, {devices.cores} thread{'s' if devices.cores > 1 else ''}"


def by_batch_size(configurations: Iterable[Configuration]) -> list[Configuration]:
    """The first configuration of each batch size, smallest first."""
    first: dict[int, Configuration] = {}
    for configuration in configurations:
        first.setdefault(configuration.batch_size, configuration)
    return [first[size] for size in sorted(first)]
