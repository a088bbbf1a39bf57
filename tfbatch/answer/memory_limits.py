"""What a run knows of memory: where it was used up, and what was measured to fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydantic

from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder.files import MEMORY_LIMIT
from tfbatch.schema import Strict
from tfbatch.trial.trials import Trials


class MemoryUsedUp(Strict):
    """Where memory was used up, beside what fits.

    Attributes:
        device: Kind of device, such as "CPU".
        smallest_that_failed: The smallest batch size at which memory was used up.
        largest_that_fits: The largest that was trained; None if none was.
    """

    device: str
    smallest_that_failed: int
    largest_that_fits: int | None


def memory_used_up(trials: Trials, device: str) -> MemoryUsedUp | None:
    """Where memory was used up on a kind of device; None if it never was."""
    wall = trials.memory_wall(device)
    if wall is None:
        return None
    return MemoryUsedUp(
        device=device,
        smallest_that_failed=wall,
        largest_that_fits=max(trials.completed().batch_sizes(), default=None),
    )


class MemoryPeak(Strict):
    """The peak memory of a training with one batch size.

    Attributes:
        batch_size: Examples in one update.
        megabytes: Peak of the process on a CPU, of the allocator on a GPU.
    """

    batch_size: int
    megabytes: int


class MemoryLimit(Strict):
    """The largest batch that fits, measured before the first trial of a run with a budget.

    Attributes:
        memory_budget: As asked, such as "8 GB" or "auto".
        workers: Worker processes that share it.
        device: "CPU", or the GPU's name.
        largest_asked: The largest size that was of interest.
        largest_batch_size: The largest up to it that a training fits with; 0 for none.
        conclusion: The measurement in words.
        peaks: What each size took that was run and fitted; an earlier version kept none.
    """

    memory_budget: str
    workers: int
    device: str
    largest_asked: int
    largest_batch_size: int
    conclusion: str
    peaks: tuple[MemoryPeak, ...] = ()

    def answers(self, memory_budget: str, workers: int, largest: int) -> bool:
        """Whether it is what would be measured again."""
        same = (memory_budget, workers) == (self.memory_budget, self.workers)
        bounded = self.largest_batch_size < self.largest_asked
        return same and (bounded or largest <= self.largest_asked)

    def check(self, *, batch_sizes: Sequence[int], baseline: int) -> None:
        """Refuses a search of which nothing, or not the baseline, fits.

        Raises:
            InputError: The smallest batch size of the search, or the baseline's, does not fit.
        """
        remedy = "Raise --memory_budget, or let fewer --workers share it."
        if min(batch_sizes) > self.largest_batch_size:
            raise InputError(
                f"No batch size of the search fits into the memory. Received: {min(batch_sizes)} "
                f"as the smallest, and {self._received()}. {self.conclusion} {remedy}"
            )
        if baseline > self.largest_batch_size:
            raise InputError(
                "The baseline's batch size must fit into the memory. Received: "
                f"{baseline}, and {self._received()}. {self.conclusion} {remedy} Or give a smaller "
                f"one: --baseline=batch_size={self.largest_batch_size}."
            )

    def _received(self) -> str:
        shared = f" for {self.workers} workers" if self.workers > 1 else ""
        return f"a memory budget of {self.memory_budget}{shared}"


def read_memory_limit(run_dir: Path) -> MemoryLimit | None:
    """What a run has measured; None if nothing.

    Raises:
        RunFolderError: The file is damaged.
    """
    path = run_dir / MEMORY_LIMIT
    if not path.exists():
        return None
    try:
        return MemoryLimit.model_validate_json(path.read_text(encoding="utf-8"))
    except (pydantic.ValidationError, ValueError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error!r}. Remove it: memory is measured again."
        ) from error
