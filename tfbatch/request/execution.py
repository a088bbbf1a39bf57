"""How trials are run: processes, precision, devices, memory."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Literal

from tfbatch.errors import InputError, did_you_mean
from tfbatch.quantities import bytes_of
from tfbatch.schema import as_plain, check_numbers

PRECISIONS = ("float32", "mixed_float16", "mixed_bfloat16")
AUTOMATIC: Literal["auto"] = "auto"
"""What is found out: the memory budget, XLA, where examples live, workers on a GPU."""
DATA_ON = (AUTOMATIC, "device", "host")
MAX_STATE_GB = 4.0
"""Gigabytes that end states of trials may take on disk, by default."""
_MOST_WORKERS = 256
_NUMBERS = ("stall_minutes", "checkpoint_seconds", "max_state_gb", "logical_cpus")

JitCompile = bool | Literal["auto"]
"""Whether XLA compiles the model; "auto" for what Keras chooses, see `Execution`."""
WorkersPerGpu = int | Literal["auto"]
"""Workers that share a GPU; "auto" for what is measured, see `Execution`."""


@dataclasses.dataclass(frozen=True)
class Execution:
    """How trials are run.

    Attributes:
        workers: Worker processes; None for one per GPU or, on a CPU, one per core up to eight;
            0 for none: everything in this process.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model. "auto" is Keras's own default: with a GPU,
            where every layer supports it; never on a CPU alone, under a tf.distribute strategy or
            with deterministic operations. A model that its builder compiles keeps its own.
        stall_minutes: A trial without a heartbeat for this long is ended.
        checkpoint_seconds: The least time between two checkpoints of a trial.
        cluster: The Ray cluster whose nodes run the trials: "auto" for the one that runs on this
            machine, or "HOST:PORT" of its head. None: trials run on this machine.
        strategy: "mirrored" to train each trial on all devices of the machine, or None.
        logical_cpus: Logical devices to split the CPU into, to try a strategy without GPUs.
        memory_budget: Memory for all workers together (on GPUs: of each one), such as "8 GB", or
            "auto" for 80 % of what there is: the largest batch that fits is measured first. None:
            trials find out.
        memory_seconds: Seconds after which the search for that batch begins no further process,
            and answers with what it has measured; infinite for no limit. None: on a GPU 60, or 150
            where XLA compiles the model; on a CPU no limit.
        max_state_gb: Gigabytes (10^9 bytes) that end states of trials may take in the run folder.
        data_on: Where batches are made of the examples: "device" (in the graph that trains, from
            the device's memory), "host", or "auto" for the device where it is a GPU and the data
            fits into a fifth of its memory.
        workers_per_gpu: Workers that share a GPU, where `workers` is None. "auto" for as many as
            are measured, before the first trial, to get most done; without a GPU it changes
            nothing.
    """

    workers: int | None = None
    precision: str = "float32"
    jit_compile: JitCompile = AUTOMATIC
    stall_minutes: float = 10.0
    checkpoint_seconds: float = 60.0
    cluster: str | None = None
    strategy: str | None = None
    logical_cpus: int = 0
    memory_budget: str | None = None
    memory_seconds: float | None = None
    max_state_gb: float = MAX_STATE_GB
    data_on: str = AUTOMATIC
    workers_per_gpu: WorkersPerGpu = 1

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, as_plain(getattr(self, field.name)))
        check_numbers(**{name: getattr(self, name) for name in _NUMBERS})
        if self.memory_seconds is not None:
            check_numbers(memory_seconds=self.memory_seconds)
        workers = self.workers
        if workers is not None and not (isinstance(workers, int) and 0 <= workers <= _MOST_WORKERS):
            raise InputError(
                f"`workers` must be a whole number from 0 (run in this process) to "
                f"{_MOST_WORKERS}. Received: {workers!r}."
            )
        if self.precision not in PRECISIONS:
            raise InputError(
                f"`precision` must be one of {', '.join(PRECISIONS)}."
                f"{did_you_mean(self.precision, PRECISIONS)} Received: {self.precision!r}."
            )
        if self.data_on not in DATA_ON:
            raise InputError(
                f"`data_on` must be one of {', '.join(DATA_ON)}."
                f"{did_you_mean(self.data_on, DATA_ON)} Received: {self.data_on!r}."
            )
        self._check_workers_per_gpu()
        if self.jit_compile not in (True, False, AUTOMATIC):
            raise InputError(
                f'`jit_compile` must be True, False or "auto". Received: {self.jit_compile!r}.'
            )
        if self.memory_budget not in (None, AUTOMATIC):
            try:
                bytes_of(self.memory_budget)
            except InputError as error:
                raise InputError(f"{error} Or give auto, for 80 % of what there is.") from error
        if self.memory_budget is not None and self.workers == 0:
            raise InputError(
                "`memory_budget` needs worker processes, whose memory can be measured. Received: "
                "workers=0. Leave `workers` out."
            )
        if self.memory_seconds is not None and not self.memory_seconds >= 0:
            raise InputError(
                "`memory_seconds` must be >= 0, or inf for no limit. Received: "
                f"{self.memory_seconds}."
            )
        if self.cluster is not None:
            self._check_cluster(self.cluster)
        if self.strategy not in (None, "mirrored"):
            raise InputError(f"`strategy` must be mirrored. Received: {self.strategy!r}.")
        if self.strategy and self.workers not in (None, 1):
            raise InputError(
                "With `strategy` every trial takes all devices: there is one worker. "
                f"Received: workers={self.workers}. Leave `workers` out."
            )
        if self.logical_cpus < 0:
            raise InputError(f"`logical_cpus` must be >= 0. Received: {self.logical_cpus}.")
        if not self.stall_minutes > 0:
            raise InputError(f"`stall_minutes` must be > 0. Received: {self.stall_minutes}.")
        if not (self.max_state_gb >= 0 and math.isfinite(self.max_state_gb)):
            raise InputError(f"`max_state_gb` must be >= 0. Received: {self.max_state_gb}.")
        if not self.checkpoint_seconds >= 0:
            raise InputError(
                f"`checkpoint_seconds` must be >= 0. Received: {self.checkpoint_seconds}."
            )

    def _check_workers_per_gpu(self) -> None:
        """Refuses what is no number of workers, and what would say it twice.

        Raises:
            InputError: One of them.
        """
        asked = self.workers_per_gpu
        if asked != AUTOMATIC and not (isinstance(asked, int) and 1 <= asked <= _MOST_WORKERS):
            raise InputError(
                f"`workers_per_gpu` must be from 1 to {_MOST_WORKERS}, or auto. "
                f"Received: {asked!r}."
            )
        if asked != 1 and (self.workers is not None or self.strategy):
            given = "strategy" if self.workers is None else "workers"
            raise InputError(
                f"`workers_per_gpu` and `{given}` both say how many workers there are. Received: "
                f"workers_per_gpu={asked}, {given}={getattr(self, given)}. Leave one of them out."
            )

    def _check_cluster(self, cluster: str) -> None:
        """Refuses what is no address, and what a cluster cannot do.

        Raises:
            InputError: One of them.
        """
        host, colon, port = cluster.rpartition(":")
        is_address = colon and re.fullmatch(r"[\w.-]+|\[[\da-fA-F:.]+\]", host)
        if cluster != "auto" and not (is_address and port.isdecimal() and 0 < int(port) < 65536):
            raise InputError(
                "`cluster` must be auto, for the Ray cluster that runs on this machine, or "
                f"HOST:PORT of its head, such as 192.168.0.1:6379. Received: {cluster!r}."
            )
        if self.workers == 0:
            raise InputError(
                "`cluster` needs worker processes, which its nodes run. Received: workers=0. Leave "
                "`workers` out."
            )
        if self.workers_per_gpu == AUTOMATIC:
            raise InputError(
                "`workers_per_gpu` is measured on the GPUs of one machine, and the nodes of a "
                "`cluster` may differ. Received: workers_per_gpu=auto. Run `tfbatch tune "
                "--workers_per_gpu=auto --max_trials=1` on a node with a GPU, and give the number "
                "that it chooses."
            )
        if self.memory_budget is not None:
            raise InputError(
                "`memory_budget` is measured on this machine, and says nothing of the nodes of a "
                f"`cluster`. Received: {self.memory_budget!r}. Leave it out: a batch that does not "
                "fit costs a trial, and no larger one follows. Or run `tfbatch probe` on a node of "
                "each kind, and give --batch_sizes up to the smallest of the limits."
            )
