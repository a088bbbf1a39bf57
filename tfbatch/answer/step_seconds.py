"""Step times of a run, each batch size alone on the device: what is ranked in seconds."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tfbatch.errors import RunFolderError
from tfbatch.run_folder.files import STEP_TIMES
from tfbatch.schema import Strict
from tfbatch.trial.finished_trial import FinishedTrial


class StepSeconds(Strict):
    """Seconds of one step by batch size, round by round; empty where nothing was measured.

    Attributes:
        device: Where, such as "CPU, 2 threads".
        rounds: By batch size.
        validation: Seconds of one evaluation on the validation split, or None.
    """

    device: str = ""
    rounds: dict[int, tuple[float, ...]] = {}
    validation: float | None = None

    def of(self, trial: FinishedTrial) -> list[float]:
        """Seconds of all steps of a trial's training, alone: one value a round.

        Trials that share a machine slow each other down, so that their own seconds are a cost and
        no property of the batch size.
        """
        return self.of_steps(trial.steps, trial.configuration.batch_size)

    def of_steps(self, steps: float, batch_size: int) -> list[float]:
        """Seconds of so many steps, alone: one value a round."""
        return [t * steps for t in self.rounds.get(batch_size, ())]

    def where_all_have_some(self, trials: Iterable[FinishedTrial]) -> StepSeconds:
        """These where every one of the trials has some; else none.

        Seconds alone and seconds beside others cannot be compared.
        """
        known = all(trial.configuration.batch_size in self.rounds for trial in trials)
        return self if known else self.model_copy(update={"rounds": {}})

    def median(self, batch_size: int) -> float | None:
        """Median seconds of one step, or None."""
        times = self.rounds.get(batch_size)
        return statistics.median(times) if times else None


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
        validation = content.get("validation_seconds")
        return StepSeconds(device=content["device"], rounds=rounds, validation=validation)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error!r}. Remove it: step times are measured again."
        ) from error
