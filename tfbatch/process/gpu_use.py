"""How busy the GPUs are, asked of NVIDIA's driver once a second: no device is opened for it."""

from __future__ import annotations

import dataclasses
import os
import statistics
import threading
from collections.abc import Mapping
from types import TracebackType

from tfbatch.process.gpus import Nvml, read_gpus

EVERY_SECONDS = 1.0
"""The driver's own period is between a sixth of a second and a second."""


@dataclasses.dataclass(frozen=True)
class GpuUse:
    """In how much of the time a GPU ran any kernel, over some looks at it.

    That is no share of its arithmetic: one small kernel after another counts as busy.

    Attributes:
        mean: 0 to 1, on average over looks and GPUs.
        most: Of the busiest look at one GPU, 0 to 1.
        looks: Number of looks.
    """

    mean: float
    most: float
    looks: int

    def __str__(self) -> str:
        """In a clause."""
        return f"busy {self.mean:.0%} of the time on average, {self.most:.0%} at most"


class GpuWatch:
    """Looks at the GPUs that this process may use, from a thread, while it is entered.

    Args:
        library: `pynvml`, which is imported where none is given.
        environment: Where CUDA_VISIBLE_DEVICES is looked up. Default: this process's.
        every_seconds: Between two looks.
    """

    def __init__(
        self,
        library: Nvml | None = None,
        *,
        environment: Mapping[str, str] | None = None,
        every_seconds: float = EVERY_SECONDS,
    ):
        self._library = library
        self._environment = os.environ if environment is None else environment
        self._every_seconds = every_seconds
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._shares: list[list[float]] = []

    def __enter__(self) -> GpuWatch:
        """Begins; does nothing without a GPU."""
        gpus = read_gpus(self._library, environment=self._environment).gpus
        if gpus:
            names = [gpu.uuid for gpu in gpus]
            self._thread = threading.Thread(target=self._look, args=(names,), daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def use(self) -> GpuUse | None:
        """What was seen so far; None without a GPU, or where its driver does not say."""
        looks = list(self._shares)
        if not looks:
            return None
        every = [share for look in looks for share in look]
        return GpuUse(statistics.fmean(every), max(every), len(looks))

    def _look(self, names: list[str]) -> None:
        library = self._library
        if library is None:
            import pynvml

            library = pynvml
        try:
            library.nvmlInit()
        except library.NVMLError:
            return
        try:
            handles = [library.nvmlDeviceGetHandleByUUID(name) for name in names]
            while not self._over.wait(self._every_seconds):
                found = [library.nvmlDeviceGetUtilizationRates(handle) for handle in handles]
                self._shares.append([one.gpu / 100 for one in found])
        except library.NVMLError:  # a part of a GPU, or an old card: it does not say
            return
        finally:
            library.nvmlShutdown()
