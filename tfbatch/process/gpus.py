"""What NVIDIA's driver says of the GPUs, asked of nvidia-ml-py: no device is opened for it.

TensorFlow tells a name and a compute capability, after it has opened every device; it logs, and
then uses or ignores, a GPU that it has no code for. The driver is asked before anything of that.
"""

# ruff: noqa: N802, N815 - NVIDIA's names
from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

_MEGABYTE = 10**6
NOTICEABLE = 300 * _MEGABYTE
"""A display holds less of a GPU's memory than this; what the driver reserves is not in it."""
_INSTALL = (
    "Install a TensorFlow that has it (a nightly build, NVIDIA's container, or a newer release of "
    "tensorflow[and-cuda])"
)
_HIDE = "hide the GPU with CUDA_VISIBLE_DEVICES=-1 and train on the CPU"
NOT_SEEN = (
    "TensorFlow does not see the GPU: its libraries are not there, or do not fit the driver. "
    "Install tensorflow[and-cuda]; until then the CPU trains."
)


class NvmlMemory(Protocol):
    """Memory of a GPU, in bytes; `reserved`, the driver's own, is in its second version alone."""

    total: int
    free: int


class NvmlUtilization(Protocol):
    """Shares of the last sampling period, in percent."""

    gpu: int
    memory: int


class Nvml(Protocol):
    """The functions of `pynvml` that are used."""

    NVMLError: type[Exception]
    nvmlMemory_v2: int

    def nvmlInit(self) -> None:
        """Opens the library; raises NVMLError without a driver."""

    def nvmlShutdown(self) -> None:
        """Closes it."""

    def nvmlSystemGetDriverVersion(self) -> str:
        """Such as "550.54.15"."""

    def nvmlSystemGetCudaDriverVersion(self) -> int:
        """The newest CUDA that the driver runs: 12040 for 12.4."""

    def nvmlDeviceGetCount(self) -> int:
        """Number of GPUs."""

    def nvmlDeviceGetHandleByIndex(self, index: int) -> object:
        """What the functions below take."""

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> object:
        """The same, by its identity; a slice's too, as CUDA_VISIBLE_DEVICES names it."""

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle: object) -> object:
        """That of the GPU which a slice is a part of."""

    def nvmlDeviceGetName(self, handle: object) -> str:
        """Such as "NVIDIA H100 80GB HBM3"."""

    def nvmlDeviceGetUUID(self, handle: object) -> str:
        """Such as "GPU-1b2c...", as CUDA_VISIBLE_DEVICES takes it."""

    def nvmlDeviceGetCudaComputeCapability(self, handle: object) -> tuple[int, int]:
        """Such as (9, 0)."""

    def nvmlDeviceGetMemoryInfo(self, handle: object, version: int | None = None) -> NvmlMemory:
        """`total` and `free`, and `reserved` of version `nvmlMemory_v2`, in bytes."""

    def nvmlDeviceGetUtilizationRates(self, handle: object) -> NvmlUtilization:
        """In how much of the last sampling period a kernel ran, and memory was read or written."""


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU, or the slice of one (MIG) that CUDA_VISIBLE_DEVICES names.

    Attributes:
        name: Such as "NVIDIA H100 80GB HBM3".
        compute_capability: Such as (9, 0).
        memory_bytes: All of its memory.
        free_bytes: What no process held when it was asked.
        uuid: Its identity, as CUDA_VISIBLE_DEVICES takes it.
        reserved_bytes: What the driver keeps for itself; 0 where it does not tell that from what
            processes hold.
    """

    name: str
    compute_capability: tuple[int, int]
    memory_bytes: int
    free_bytes: int
    uuid: str
    reserved_bytes: int = 0

    @property
    def capability(self) -> str:
        """Such as "9.0"."""
        return ".".join(map(str, self.compute_capability))

    @property
    def held_bytes(self) -> int:
        """What processes hold of its memory."""
        return self.memory_bytes - self.reserved_bytes - self.free_bytes


@dataclasses.dataclass(frozen=True)
class GpuMachine:
    """The GPUs that this process may use, and their driver.

    Attributes:
        gpus: In the driver's order; empty without any.
        driver: The driver's version; empty where it could not be asked.
        cuda: The newest CUDA that the driver runs, such as "12.4"; empty likewise.
        unknown: Why it could not be asked, or does not describe a GPU, which is then none of
            `gpus`; empty where it told all.
    """

    gpus: tuple[Gpu, ...] = ()
    driver: str = ""
    cuda: str = ""
    unknown: str = ""

    def with_those_of(self, other: GpuMachine) -> GpuMachine:
        """The GPUs of both, each once and as it was found first: processes see parts of them."""
        known = {gpu.uuid for gpu in self.gpus}
        more = tuple(gpu for gpu in other.gpus if gpu.uuid not in known)
        return dataclasses.replace(self if self.gpus else other, gpus=self.gpus + more)


@dataclasses.dataclass(frozen=True)
class CudaBuild:
    """What the installed TensorFlow was built for.

    Attributes:
        cuda: Version of CUDA; empty for a build without.
        cudnn: Version of cuDNN; empty likewise.
        architectures: Such as ("sm_80", "compute_90"). Of each there is code that runs as it is, on
            the same major version from that minor one on; of the latter kind there is PTX too,
            which the driver compiles for all later ones (TensorFlow's configure.py).
    """

    cuda: str = ""
    cudnn: str = ""
    architectures: tuple[str, ...] = ()

    def has_code_for(self, capability: tuple[int, int]) -> bool:
        """Whether kernels run as they are on a GPU of this compute capability."""
        major, minor = capability
        return any(found[0] == major and found[1] <= minor for _, found in self._architectures())

    def compiles_for(self, capability: tuple[int, int]) -> bool:
        """Whether there is code that the driver can compile for it."""
        return any(
            kind == "compute" and found <= capability for kind, found in self._architectures()
        )

    def _architectures(self) -> list[tuple[str, tuple[int, int]]]:
        matches = (re.fullmatch(r"(sm|compute)_(\d+)(\d)[a-z]?", a) for a in self.architectures)
        return [(m[1], (int(m[2]), int(m[3]))) for m in matches if m]


@dataclasses.dataclass(frozen=True)
class GpuSettings:
    """What figures of a GPU depend on beside its name.

    Attributes:
        machine: The GPUs and their driver.
        build: What TensorFlow was built for.
        allocator: "BFC", TensorFlow's own, or what TF_GPU_ALLOCATOR names.
        memory_growth: Whether it takes memory as it is needed, and not all at the start.
        tensor_float_32: Whether float32 products may be rounded to TensorFloat-32.
        jit_compile: Whether XLA compiles the model.
    """

    machine: GpuMachine
    build: CudaBuild
    allocator: str
    memory_growth: bool
    tensor_float_32: bool
    jit_compile: bool

    def gpus(self) -> list[dict[str, object]]:
        """Name, compute capability and memory of each, for JSON."""
        return [
            {
                "name": gpu.name,
                "compute_capability": gpu.capability,
                "memory_bytes": gpu.memory_bytes,
                "free_bytes_at_start": gpu.free_bytes,
            }
            for gpu in self.machine.gpus
        ]

    def software(self) -> dict[str, object]:
        """Driver, libraries and settings, for JSON."""
        return {
            "driver": self.machine.driver,
            "cuda_of_driver": self.machine.cuda,
            "cuda": self.build.cuda,
            "cudnn": self.build.cudnn,
            "allocator": self.allocator,
            "memory_growth": self.memory_growth,
            "tensor_float_32": self.tensor_float_32,
            "xla": self.jit_compile,
        }

    def __str__(self) -> str:
        """In a line."""
        each = [
            f"{gpu.name} (compute capability {gpu.capability}, {_gigabytes(gpu.memory_bytes)}, "
            f"{_gigabytes(gpu.free_bytes)} of it free)"
            for gpu in self.machine.gpus
        ]
        growth = " with memory growth" if self.memory_growth else ""
        return (
            f"{', '.join(each)}; driver {self.machine.driver}, CUDA {self.build.cuda}, cuDNN "
            f"{self.build.cudnn}, allocator {self.allocator}{growth}, TF32 "
            f"{_on(self.tensor_float_32)}, XLA {_on(self.jit_compile)}"
        )


def read_gpus(
    library: Nvml | None = None, *, environment: Mapping[str, str] | None = None
) -> GpuMachine:
    """Asks the driver.

    Args:
        library: `pynvml`, which is imported where none is given.
        environment: Where CUDA_VISIBLE_DEVICES is looked up. Default: this process's.
    """
    if library is None:
        try:
            import pynvml
        except ImportError:
            return GpuMachine(unknown="nvidia-ml-py is not installed")
        library = pynvml
    try:
        library.nvmlInit()
    except library.NVMLError as error:  # no driver: a machine without such a GPU
        return GpuMachine(unknown=str(error))
    asked = (os.environ if environment is None else environment).get("CUDA_VISIBLE_DEVICES")
    try:
        version = library.nvmlSystemGetCudaDriverVersion()
        driver = library.nvmlSystemGetDriverVersion()
        visible = _visible(library, _described(library), asked)
    except library.NVMLError as error:  # a driver that does not answer, or not all of it
        return GpuMachine(unknown=str(error))
    finally:
        library.nvmlShutdown()
    return GpuMachine(
        tuple(one for one in visible if isinstance(one, Gpu)),
        driver,
        f"{version // 1000}.{version % 1000 // 10}",
        next((one for one in visible if isinstance(one, str)), ""),
    )


def gpu_notes(machine: GpuMachine, build: CudaBuild) -> list[str]:
    """What a user should know of the GPUs before anything is trained, a sentence each.

    Args:
        machine: The GPUs.
        build: What the installed TensorFlow was built for.
    """
    notes = []
    if machine.gpus and not build.cuda:
        names = _listed(gpu.name for gpu in machine.gpus)
        return [
            f"This TensorFlow is built without CUDA: {names} stays idle. Install "
            "tensorflow[and-cuda]."
        ]
    used = [gpu.name for gpu in machine.gpus if _runs_on(gpu, build)]
    if len(set(used)) > 1:
        notes.append(
            f"The GPUs differ ({_listed(used)}), and trials on them are compared in seconds. "
            "Choose those of one kind by CUDA_VISIBLE_DEVICES."
        )
    for gpu in machine.gpus:
        if gpu.held_bytes > NOTICEABLE:
            notes.append(
                f"Other processes hold {_gigabytes(gpu.held_bytes)} of the "
                f"{_gigabytes(gpu.memory_bytes)} of {gpu.name}: what fits, and how long a step "
                "takes, depends on them (nvidia-smi lists them)."
            )
        if not build.has_code_for(gpu.compute_capability) and build.compiles_for(
            gpu.compute_capability
        ):
            notes.append(
                f"This TensorFlow has no code for {gpu.name} (compute capability "
                f"{gpu.capability}; it has {', '.join(build.architectures)}): the driver compiles "
                "each kernel when it is first used, which can take half an hour, and XLA may end "
                f"the process. {_INSTALL}, or try --jit_compile=false."
            )
        elif not build.has_code_for(gpu.compute_capability):
            notes.append(f"{_without_code(gpu, build)} TensorFlow leaves it idle.")
    return notes


def unusable(machine: GpuMachine, build: CudaBuild, *, hide: str = _HIDE) -> str:
    """Why no GPU of the machine can be used although there are some; empty where one can be.

    Args:
        machine: The GPUs.
        build: What the installed TensorFlow was built for.
        hide: How its user trains on the CPU instead.
    """
    if not machine.gpus or not build.cuda:
        return ""
    if any(_runs_on(gpu, build) for gpu in machine.gpus):
        return ""
    return f"{_without_code(machine.gpus[0], build)} {_INSTALL}, or {hide}."


def _runs_on(gpu: Gpu, build: CudaBuild) -> bool:
    capability = gpu.compute_capability
    return build.has_code_for(capability) or build.compiles_for(capability)


def _without_code(gpu: Gpu, build: CudaBuild) -> str:
    return (
        f"This TensorFlow has no code for {gpu.name}: its compute capability is {gpu.capability}, "
        f"and there is code for {', '.join(build.architectures) or 'none'}."
    )


def _described(library: Nvml) -> list[Gpu | str]:
    """Every GPU at its index; one that the driver does not describe is the reason."""
    found: list[Gpu | str] = []
    for index in range(library.nvmlDeviceGetCount()):
        try:
            found.append(_read(library, library.nvmlDeviceGetHandleByIndex(index)))
        except library.NVMLError as error:  # such as one that was lost
            found.append(str(error))
    return found


def _read(library: Nvml, handle: object) -> Gpu:
    memory, reserved = _memory(library, handle)
    major, minor = library.nvmlDeviceGetCudaComputeCapability(handle)
    return Gpu(
        name=library.nvmlDeviceGetName(handle),
        compute_capability=(int(major), int(minor)),
        memory_bytes=int(memory.total),
        free_bytes=int(memory.free),
        uuid=library.nvmlDeviceGetUUID(handle),
        reserved_bytes=reserved,
    )


def _read_slice(library: Nvml, uuid: str) -> Gpu:
    """A part of a GPU with memory of its own.

    Raises:
        Exception: The library's NVMLError: there is no such slice, or it does not describe it.
    """
    handle = library.nvmlDeviceGetHandleByUUID(uuid)
    memory, reserved = _memory(library, handle)
    whole = library.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
    major, minor = library.nvmlDeviceGetCudaComputeCapability(whole)
    try:
        name = library.nvmlDeviceGetName(handle)
    except library.NVMLError:
        name = f"a slice of {library.nvmlDeviceGetName(whole)}"
    return Gpu(
        name=name,
        compute_capability=(int(major), int(minor)),
        memory_bytes=int(memory.total),
        free_bytes=int(memory.free),
        uuid=uuid,
        reserved_bytes=reserved,
    )


def _memory(library: Nvml, handle: object) -> tuple[NvmlMemory, int]:
    """A GPU's memory, and what of it the driver reserves: the first version counts that as used."""
    try:
        found = library.nvmlDeviceGetMemoryInfo(handle, version=library.nvmlMemory_v2)
    except library.NVMLError:  # a driver before 510
        return library.nvmlDeviceGetMemoryInfo(handle), 0
    return found, int(getattr(found, "reserved", 0))


def _visible(library: Nvml, gpus: Sequence[Gpu | str], asked: str | None) -> Sequence[Gpu | str]:
    """Those that CUDA_VISIBLE_DEVICES names.

    CUDA counts the fastest first unless CUDA_DEVICE_ORDER=PCI_BUS_ID, the driver by the bus: the
    same where all GPUs are alike.

    Raises:
        Exception: The library's NVMLError, of a slice: the whole GPU's figures are not its own.
    """
    if asked is None:
        return gpus
    found: list[Gpu | str] = []
    for name in map(str.strip, asked.split(",")):
        if name.isdecimal():
            if int(name) >= len(gpus):
                break
            found.append(gpus[int(name)])
        elif name.startswith("GPU-"):
            named = [one for one in gpus if isinstance(one, Gpu) and one.uuid.startswith(name)]
            found += named or [one for one in gpus if isinstance(one, str)]
        elif name.startswith("MIG-"):  # a part of one, which the driver does not list
            return [_read_slice(library, name)]  # CUDA opens one of them
        else:  # as CUDA does: the first that is none ends the list
            break
    return found


def _on(value: bool) -> str:
    return "on" if value else "off"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(names))


def _gigabytes(number: float) -> str:
    return f"{number / 1e9:.1f} GB"
