"""How many trials share a GPU, where that was left to a measurement."""

from __future__ import annotations

import json
from pathlib import Path

from tfbatch.errors import ConfigurationError, RunFolderError
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import GPU_SHARING
from tfbatch.schema import Strict, validate


class GpuSharing(Strict):
    """What `--workers_per_gpu=auto` came to; it stays as it is while a run goes on on that device.

    Attributes:
        device: The kind of GPU that was measured on.
        batch_size: The baseline's, which was trained with.
        workers_per_gpu: Trials that run on a GPU at a time.
        examples_per_second: Of all together, by how many trained side by side on one GPU.
        reason: Why there are no more of them, as a clause.
    """

    device: str
    batch_size: int
    workers_per_gpu: int
    examples_per_second: dict[int, float]
    reason: str

    def __str__(self) -> str:
        """In a sentence."""
        trials = f"{self.workers_per_gpu} trial{'s' if self.workers_per_gpu > 1 else ''} at a time"
        if not self.examples_per_second:
            return f"Each GPU gets {trials} (--workers_per_gpu=auto): {self.reason}."
        return (
            f"Each GPU gets {trials} (--workers_per_gpu=auto): of the baseline, batch size "
            f"{self.batch_size}, {self._measured()}, and {self.reason}."
        )

    def _measured(self) -> str:
        rates = sorted(self.examples_per_second.items())
        each = [
            f"{number} training{'s side by side' if number > 1 else ' alone'} did {rate:,.0f}"
            for number, rate in rates
        ]
        return f"{', '.join(each)} examples a second"

    def write(self, folder: Path) -> None:
        """Writes the file of a run folder, whole or not at all.

        Raises:
            RunFolderError: It cannot be written.
        """
        write_whole(folder / GPU_SHARING, self.model_dump_json(indent=1) + "\n")


def read_gpu_sharing(folder: Path) -> GpuSharing | None:
    """What a run has measured; None where it did not come to that, or nobody asked for it.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = folder / GPU_SHARING
    try:
        return validate(GpuSharing, json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ConfigurationError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error}. Remove it: how many trials share a GPU is then measured "
            "again."
        ) from error
