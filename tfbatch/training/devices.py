"""Which device and how many threads a worker has: settled before TensorFlow opens anything."""

from __future__ import annotations

import dataclasses
import os

import tensorflow as tf

from tfbatch.process.gpus import CudaBuild, GpuMachine, GpuSettings
from tfbatch.process.limits import whole_cores


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a worker runs among its siblings.

    Attributes:
        slot: Its number, from 0.
        workers: How many there are; None for `workers_per_gpu` on each, or the default of a CPU.
        workers_per_gpu: How many share a GPU where `workers` is None.
        logical_cpus: Split the CPU into this many logical devices, to try a strategy without GPUs.
        strategy: "mirrored" to train every trial on all devices at once, or None.
        whole: Whether it gets every core and every GPU: it works alone.
        cores: Cores that the workers share; None for all that the process may use.
        gpus: GPUs that the workers share, where this process sees only its own; else None.
        data_sharers: For so many workers it is decided whether the data has room in a GPU's memory,
            where these are not the ones that share it now: their number is found out later, or
            this process is apart from them. None for those that share it.
    """

    slot: int = 0
    workers: int | None = None
    workers_per_gpu: int = 1
    logical_cpus: int = 0
    strategy: str | None = None
    whole: bool = False
    cores: int | None = None
    gpus: int | None = None
    data_sharers: int | None = None

    def apart(self, workers: Devices) -> Place:
        """The same for a process that measures alone what workers do: its data lies where theirs.

        Args:
            workers: What they have.
        """
        return dataclasses.replace(self, data_sharers=self.data_sharers or workers.sharers)


@dataclasses.dataclass(frozen=True)
class Devices:
    """What a worker has found.

    Attributes:
        kind: Kind of device that trains, such as "CPU" or "NVIDIA A100-SXM4-40GB".
        accelerators: Names of all the machine's GPUs and TPUs.
        workers: Number of workers that were asked for, or the default here.
        threads: Threads of one operation.
        cores: Cores that the process may use.
        replicas: Devices that share every batch.
        sharers: Workers on one GPU.
    """

    kind: str
    accelerators: tuple[str, ...]
    workers: int
    threads: int
    cores: int = 1
    replicas: int = 1
    sharers: int = 1

    @property
    def name(self) -> str:
        """What a measurement without other trials runs on, such as "CPU, 2 threads"."""
        if self.kind != "CPU":
            return self.kind
        return f"CPU, {self.cores} thread{'s' if self.cores > 1 else ''}"

    @property
    def gpus(self) -> int:
        """How many GPUs the machine has."""
        return sum("GPU" in name for name in self.accelerators)

    def shared_by(self, sharers: int) -> Devices:
        """The same where each GPU has so many workers."""
        workers = self.gpus * sharers
        threads = _threads(self.cores, workers)
        return dataclasses.replace(self, workers=workers, threads=threads, sharers=sharers)


MOST_ON_A_GPU = 4
"""So many workers on a GPU are tried at most where their number is measured."""
MOST_WORKERS = 8
"""The default on a CPU is one worker a core, with one thread each, and at most this many."""


def claim_devices(place: Place) -> Devices:
    """Takes a worker's share of the machine. Must be called before TensorFlow runs anything.

    Several workers take the GPUs in turn, each with memory growth. On a CPU the cores are divided:
    two trials of one thread each are faster than one after the other with two.
    """
    gpus = tf.config.list_physical_devices("GPU")
    cores = min(whole_cores(), place.cores or whole_cores())
    workers = _workers(place, len(gpus)) or min(cores, MOST_WORKERS)
    if gpus:
        mine = gpus if place.whole or place.strategy else [gpus[place.slot % len(gpus)]]
        tf.config.set_visible_devices(mine, "GPU")
        for gpu in mine:
            tf.config.experimental.set_memory_growth(gpu, True)
    if place.logical_cpus:
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * place.logical_cpus,
        )
    threads = cores if place.whole else _threads(cores, workers)
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    replicas = 1
    if place.strategy:
        replicas = len(gpus) or max(place.logical_cpus, 1)
    accelerators = [*gpus, *tf.config.list_physical_devices("TPU")]
    return Devices(
        device_kind(),
        tuple(d.name for d in accelerators),
        workers,
        threads,
        cores,
        replicas,
        sharers=workers_on_a_gpu(place),
    )


def _threads(cores: int, workers: int) -> int:
    """Threads of one operation, where workers divide the cores."""
    return max(cores // workers, 1)


def workers_on_a_gpu(place: Place) -> int:
    """How many workers share the fullest GPU; 1 where there is none."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    if not gpus or place.whole:
        return 1
    gpus = place.gpus or gpus
    return -(-(_workers(place, gpus) or 1) // gpus)


def _workers(place: Place, gpus: int) -> int | None:
    """How many workers there are; None for the default of a CPU."""
    if place.strategy:
        return 1
    return place.workers or gpus * place.workers_per_gpu or None


def cuda_build() -> CudaBuild:
    """What this TensorFlow was built for; opens no device."""
    found = tf.sysconfig.get_build_info()
    if not found.get("is_cuda_build"):
        return CudaBuild()
    return CudaBuild(
        cuda=str(found.get("cuda_version", "unknown")),
        cudnn=str(found.get("cudnn_version", "unknown")),
        architectures=tuple(found.get("cuda_compute_capabilities", ())),
    )


def gpu_settings(machine: GpuMachine, *, jit_compile: bool) -> GpuSettings | None:
    """What trainings on the GPUs run with; None without a GPU. Opens no device.

    Args:
        machine: The GPUs.
        jit_compile: Whether XLA compiles the model.
    """
    if not machine.gpus:
        return None
    return GpuSettings(
        machine=machine,
        build=cuda_build(),
        allocator=os.environ.get("TF_GPU_ALLOCATOR") or "BFC",
        memory_growth=True,
        tensor_float_32=bool(tf.config.experimental.tensor_float_32_execution_enabled()),
        jit_compile=jit_compile,
    )


def use_threads(threads: int | None) -> int:
    """Limits this process to this many threads, if TensorFlow has not begun to run.

    Args:
        threads: The number; None for one per core.

    Returns:
        The number that it has, which is another one where TensorFlow runs already.
    """
    cores = whole_cores()
    wanted = threads or cores
    try:
        tf.config.threading.set_intra_op_parallelism_threads(wanted)
        tf.config.threading.set_inter_op_parallelism_threads(wanted)
    except RuntimeError:  # its threads are made once
        return tf.config.threading.get_intra_op_parallelism_threads() or cores or 1
    return wanted


def make_strategy(name: str | None) -> tf.distribute.Strategy | None:
    """The tf.distribute.Strategy of a name, over every device that the process sees; or None."""
    if name is None:
        return None
    kind = "GPU" if tf.config.get_visible_devices("GPU") else "CPU"
    return tf.distribute.MirroredStrategy([d.name for d in tf.config.list_logical_devices(kind)])


def device_kind() -> str:
    """The kind of device that trains, such as "CPU" or "NVIDIA A100-SXM4-40GB"."""
    accelerators = tf.config.get_visible_devices("GPU") or tf.config.get_visible_devices("TPU")
    if not accelerators:
        return "CPU"
    details = tf.config.experimental.get_device_details(accelerators[0])
    return str(details.get("device_name", accelerators[0].device_type))
