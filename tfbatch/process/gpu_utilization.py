"""How busy the GPUs are, asked of NVIDIA's driver once a second: no device is opened for it."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import statistics
import threading
from collections.abc import Mapping
from types import TracebackType

from tfbatch.process.gpus import Nvml, read_gpus

EVERY_SECONDS = 1.0
"""The driver's own period is between a sixth of a second and a second."""
_LAST_SECONDS = 2.0
"""A driver that does not answer, as of a GPU that was lost, must not keep a run from ending."""


@dataclasses.dataclass(frozen=True)
class GpuUtilization:
    """In how much of the time a GPU ran any kernel, those of other processes included.

    That is no share of its arithmetic: one small kernel after another counts as busy.

    Attributes:
        mean: 0 to 1, over samples and GPUs.
        peak: Of one sample of one GPU, 0 to 1.
        gpus: Number of GPUs, idle ones included.
    """

    mean: float
    peak: float
    gpus: int

    def __str__(self) -> str:
        """In a clause."""
        of = f"{self.gpus} GPUs" if self.gpus > 1 else "the GPU"
        return f"{of} busy {self.mean:.0%} of the time on average, {self.peak:.0%} at most"


class GpuSampler:
    """Samples the GPUs that this process may use, from a thread, while it is entered.

    Args:
        library: `pynvml`, which is imported where none is given.
        environment: Where CUDA_VISIBLE_DEVICES is looked up. Default: this process's.
        every_seconds: Between two samples.
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
        self._samples: list[list[float]] = []

    def __enter__(self) -> GpuSampler:
        """Begins; does nothing without a GPU."""
        gpus = read_gpus(self._library, environment=self._environment).gpus
        if gpus:
            names = [gpu.uuid for gpu in gpus]
            self._thread = threading.Thread(target=self._sample, args=(names,), daemon=True)
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
            self._thread.join(_LAST_SECONDS)

    def utilization(self) -> GpuUtilization | None:
        """What was seen so far; None without a GPU, or where its driver does not say."""
        samples = list(self._samples)
        if not samples:
            return None
        every = [share for sample in samples for share in sample]
        return GpuUtilization(statistics.fmean(every), max(every), len(samples[0]))

    def _sample(self, names: list[str]) -> None:
        library = self._library
        if library is None:
            import pynvml

            library = pynvml
        # A part of a GPU, or an old card, does not say; nor does a driver that has just gone.
        with contextlib.suppress(library.NVMLError):
            library.nvmlInit()
            try:
                handles = [library.nvmlDeviceGetHandleByUUID(name) for name in names]
                while not self._over.wait(self._every_seconds):
                    found = [library.nvmlDeviceGetUtilizationRates(one) for one in handles]
                    self._samples.append([one.gpu / 100 for one in found])
            finally:
                library.nvmlShutdown()
