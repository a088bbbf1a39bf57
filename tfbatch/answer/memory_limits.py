"""What a run knows of memory: where it was used up, and what was measured to fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pydantic

from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder.files import MEMORY_LIMIT
from tfbatch.schema import Strict
from tfbatch.trial.trials import Trials

SAME_MEMORY = 0.01
"""The memory of one machine differs by less from one start of its system to the next."""


class MemoryUsedUp(Strict):
    """Where memory was used up, beside what fits.

    Attributes:
        device: Kind of device, such as "CPU".
        smallest_that_failed: The smallest batch size at which memory was used up.
        largest_that_fits: The largest that was trained on that kind; None if none was.
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
        largest_that_fits=max(
            (t.configuration.batch_size for t in trials.completed() if t.device == device),
            default=None,
        ),
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

    Where the time was over before the search had ended (`cut_short_after`), or its processes were
    used up, it is what had been measured: sizes between what fits and what does not are neither.

    Attributes:
        memory_budget: As asked, such as "8 GB" or "auto".
        workers: Worker processes that share it.
        device: "CPU", or the GPU's name.
        largest_asked: The largest size that was of interest.
        largest_batch_size: The largest up to it that a training fits with; 0 for none. Where it
            is not `settled`: the largest that was measured to fit.
        conclusion: The measurement in words.
        peaks: What each size took that was run and fitted; an earlier version kept none.
        cut_short_after: Seconds after which the search was cut short; None if it was not.
        smallest_that_failed: The smallest size that was measured not to fit; None if none was, or
            if an earlier version wrote it.
        processes_used_up: Whether the search had no process left before it knew of a limit.
        automatic_bytes: With "auto" on a CPU, a worker's part of what could be used; None
            otherwise, and in what an earlier version wrote.
    """

    memory_budget: str
    workers: int
    device: str
    largest_asked: int
    largest_batch_size: int
    conclusion: str
    peaks: tuple[MemoryPeak, ...] = ()
    cut_short_after: float | None = None
    smallest_that_failed: int | None = None
    processes_used_up: bool = False
    automatic_bytes: float | None = None

    @property
    def settled(self) -> bool:
        """Whether the limit was known before the time or the processes of its search were over."""
        return self.cut_short_after is None and not self.processes_used_up

    @property
    def largest_possible(self) -> float:
        """No larger size fits, as far as was measured; infinite where none was seen to fail."""
        if self.settled:
            return self.largest_batch_size
        return math.inf if self.smallest_that_failed is None else self.smallest_that_failed - 1

    def answers(
        self,
        memory_budget: str,
        workers: int,
        largest: int,
        *,
        device: str,
        seconds: float,
        automatic_bytes: float | None = None,
    ) -> bool:
        """Whether it is what would be measured again.

        Args:
            memory_budget: As asked.
            workers: Worker processes that share it.
            largest: The largest size of interest.
            device: Kind of device that would be measured on.
            seconds: What the search may take now: more than it had may find more.
            automatic_bytes: See the attribute.
        """
        same = (memory_budget, workers, device) == (self.memory_budget, self.workers, self.device)
        if automatic_bytes is not None and self.automatic_bytes is not None:
            same = same and math.isclose(automatic_bytes, self.automatic_bytes, rel_tol=SAME_MEMORY)
        if self.cut_short_after is not None:
            return same and largest <= self.largest_asked and seconds <= self.cut_short_after
        bounded = self.settled and self.largest_batch_size < self.largest_asked
        return same and (bounded or largest <= self.largest_asked)

    def check(self, *, batch_sizes: Sequence[int], baseline: int) -> None:
        """Refuses a search of which nothing, or not the baseline, fits.

        What was not measured, because time or processes were over, is not refused.

        Raises:
            InputError: The smallest batch size of the search, or the baseline's, does not fit.
        """
        remedy = "Raise --memory_budget, or let fewer --workers share it."
        if min(batch_sizes) > self.largest_possible:
            raise InputError(
                f"No batch size of the search fits into the memory. Received: {min(batch_sizes)} "
                f"as the smallest, and {self._received()}. {self.conclusion} {remedy}"
            )
        if baseline > self.largest_possible:
            fits = self.largest_batch_size
            smaller = f" Or give a smaller one: --baseline=batch_size={fits}." if fits else ""
            raise InputError(
                "The baseline's batch size must fit into the memory. Received: "
                f"{baseline}, and {self._received()}. {self.conclusion} {remedy}{smaller}"
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
