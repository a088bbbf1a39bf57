"""What training costs at each batch size, measured before the first trial and then fixed."""

from __future__ import annotations

import json
from pathlib import Path

from tfbatch.errors import ConfigurationError, RunFolderError
from tfbatch.oracles import Prices
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import PRICES
from tfbatch.schema import Strict, validate


class MeasuredPrices(Strict):
    """What training costs, each batch size alone on the device.

    A search proposes by it, so it does not change once the first trial may have begun: a run that
    is resumed, perhaps on a slower day or another machine, proposes what it would have.

    Attributes:
        device: Where, such as "CPU, 2 threads".
        step_seconds: Seconds of one update by batch size; without those that could not be measured.
        missing: Why, by the batch size of those.
        evaluation_seconds: Seconds of one evaluation on the validation split.
        start_seconds: Seconds of a trial that are neither updates nor evaluations.
    """

    device: str
    step_seconds: dict[int, float]
    missing: dict[int, str] = {}
    evaluation_seconds: float = 0.0
    start_seconds: float = 0.0

    def prices(self, epoch_examples: int) -> Prices:
        """The same for an oracle, and an evaluation after each `epoch_examples`."""
        return Prices(
            self.step_seconds,
            evaluation_seconds=self.evaluation_seconds,
            epoch_examples=epoch_examples,
            start_seconds=self.start_seconds,
        )

    def write(self, folder: Path) -> None:
        """Writes the file of a run folder, whole or not at all."""
        write_whole(folder / PRICES, self.model_dump_json(indent=1) + "\n")


def read_prices(folder: Path) -> MeasuredPrices | None:
    """What the run's first session has measured; None where it did not come to that.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = folder / PRICES
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(content, dict):
            content.pop("workers", None)  # which earlier versions kept, and nobody read
        return validate(MeasuredPrices, content, where=str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ConfigurationError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error}. The search proposes by it, so it cannot be measured "
            "again: start anew with --overwrite."
        ) from error
