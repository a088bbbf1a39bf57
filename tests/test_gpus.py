"""What NVIDIA's driver says of the GPUs, by a stand-in for nvidia-ml-py: nothing ran on one."""

# ruff: noqa: N802, N815 - NVIDIA's names
from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import types

import pytest
from processes import wait_until

from tfbatch.errors import InputError
from tfbatch.process.gpu_utilization import GpuSampler, GpuUtilization
from tfbatch.process.gpus import (
    CudaBuild,
    Gpu,
    GpuMachine,
    gpu_notes,
    read_gpus,
    unusable,
)
from tfbatch.reporting.recorded import _machine
from tfbatch.run_folder.fingerprint import write_fingerprint
from tfbatch.run_folder.reuse import _hardware
from tfbatch.search import preparation, session
from tfbatch.search.preparation import checked_gpus
from tfbatch.search.progress import Progress
from tfbatch.training.devices import cuda_build, gpu_settings

RELEASED = CudaBuild("12.5.1", "9", ("sm_60", "sm_70", "sm_80", "sm_89", "compute_90"))
"""As TensorFlow 2.21 says of itself."""


def gpu(name="NVIDIA H100 80GB HBM3", capability=(9, 0), held=0, uuid="GPU-1", reserved=0):
    return Gpu(name, capability, 85_000_000_000, 85_000_000_000 - reserved - held, uuid, reserved)


class Library:
    """Stands in for the module `pynvml`."""

    class NVMLError(Exception):
        """As pynvml's."""

    nvmlMemory_v2 = 33554472

    def __init__(self, *gpus, without_driver=False, broken=(), old=False, slices=()):
        self.gpus, self.without_driver, self.broken = gpus, without_driver, broken
        self.slices = dict(slices)
        self.open, self.openings, self.old = 0, 0, old
        self.busy, self.samples = iter(()), 0

    def nvmlInit(self):
        if self.without_driver:
            raise self.NVMLError("NVML Shared Library Not Found")
        self.open += 1
        self.openings += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion(self):
        return 12040

    def nvmlDeviceGetCount(self):
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index):
        assert self.open
        return self.gpus[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):
        for one in (*self.gpus, *self.slices):
            if one.uuid == uuid:
                return one
        raise self.NVMLError("Not Found")

    def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(self, handle):
        return self.slices[handle]

    def nvmlDeviceGetUtilizationRates(self, handle):
        self.samples += 1
        try:
            return types.SimpleNamespace(gpu=next(self.busy), memory=0)
        except StopIteration:
            raise self.NVMLError("Not Supported") from None

    def nvmlDeviceGetName(self, handle):
        if not handle.name:
            raise self.NVMLError("Not Supported")
        return handle.name

    def nvmlDeviceGetUUID(self, handle):
        return handle.uuid

    def nvmlDeviceGetCudaComputeCapability(self, handle):
        if handle in self.slices:
            raise self.NVMLError("Not Supported")
        return handle.compute_capability

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        if handle.uuid in self.broken:
            raise self.NVMLError("GPU is lost")
        found = types.SimpleNamespace(total=handle.memory_bytes, free=handle.free_bytes)
        if version == self.nvmlMemory_v2:
            if self.old:
                raise self.NVMLError("Function Not Found")
            found.reserved = handle.reserved_bytes
        return found


def test_name_capability_memory_and_driver_are_read_and_the_library_is_closed():
    library = Library(gpu(held=10**9))
    found = read_gpus(library, environment={})

    assert found == GpuMachine((gpu(held=10**9),), "550.54.15", "12.4")
    assert found.gpus[0].capability == "9.0"
    assert not library.open


@pytest.mark.parametrize(
    ("asked", "seen"),
    [
        ("0,2", ["GPU-a", "GPU-c"]),
        ("1", ["GPU-b"]),
        ("GPU-c", ["GPU-c"]),
        ("", []),
        ("-1", []),
        ("0,-1,2", ["GPU-a"]),
        ("7", []),
    ],
)
def test_only_what_cuda_may_use_counts(asked, seen):
    library = Library(*(gpu(uuid=f"GPU-{letter}") for letter in "abc"))
    found = read_gpus(library, environment={"CUDA_VISIBLE_DEVICES": asked})

    assert [one.uuid for one in found.gpus] == seen


def slice_of_a_gpu(name="NVIDIA A100 80GB PCIe MIG 1g.10gb"):
    return Gpu(name, (0, 0), 10_000_000_000, 9_000_000_000, "MIG-5c89")


@pytest.mark.parametrize("asked", ["MIG-5c89", "MIG-5c89,MIG-other"])
def test_of_a_slice_its_own_memory_is_read_and_not_that_of_the_whole_gpu(asked):
    whole, own = gpu("NVIDIA A100 80GB PCIe", (8, 0)), slice_of_a_gpu()
    library = Library(whole, slices=[(own, whole)])
    found = read_gpus(library, environment={"CUDA_VISIBLE_DEVICES": asked})

    assert found.gpus == (dataclasses.replace(own, compute_capability=(8, 0)),)
    assert (found.driver, found.unknown) == ("550.54.15", "")


def test_a_slice_without_a_name_has_that_of_its_gpu():
    whole, own = gpu("NVIDIA A100", (8, 0)), slice_of_a_gpu(name="")
    library = Library(whole, slices=[(own, whole)])
    found = read_gpus(library, environment={"CUDA_VISIBLE_DEVICES": "MIG-5c89"})

    assert [one.name for one in found.gpus] == ["a slice of NVIDIA A100"]


def test_of_a_slice_that_the_driver_does_not_know_nothing_is_known():
    library = Library(gpu())
    found = read_gpus(library, environment={"CUDA_VISIBLE_DEVICES": "MIG-GPU-1/1/0"})

    assert found == GpuMachine(unknown="Not Found")
    assert not library.open


@pytest.mark.parametrize(
    ("asked", "seen", "unknown"),
    [
        (None, ["GPU-a", "GPU-c"], "GPU is lost"),
        ("2,1", ["GPU-c"], "GPU is lost"),
        ("2", ["GPU-c"], ""),
        ("GPU-b", [], "GPU is lost"),
    ],
)
def test_a_gpu_that_the_driver_does_not_describe_costs_itself_alone(asked, seen, unknown):
    library = Library(*(gpu(uuid=f"GPU-{letter}") for letter in "abc"), broken=["GPU-b"])
    visible = {} if asked is None else {"CUDA_VISIBLE_DEVICES": asked}
    found = read_gpus(library, environment=visible)

    assert [one.uuid for one in found.gpus] == seen
    assert (found.driver, found.unknown) == ("550.54.15", unknown)


@pytest.mark.parametrize(
    "library",
    [Library(without_driver=True), Library(gpu(), broken=["GPU-1"])],
    ids=["none", "mute"],
)
def test_without_an_answer_of_the_driver_nothing_is_known_and_nothing_fails(library):
    found = read_gpus(library, environment={})

    assert found.gpus == ()
    assert found.unknown
    assert not library.open
    assert gpu_settings(found, jit_compile=False) is None


def test_without_nvidia_ml_py_nothing_is_known(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)

    assert read_gpus().unknown == "nvidia-ml-py is not installed"


@pytest.mark.parametrize(
    ("capability", "native", "compiled"),
    [
        ((8, 0), True, False),
        ((8, 6), True, False),
        ((7, 5), True, False),
        ((9, 0), True, True),
        ((12, 0), False, True),
        ((5, 2), False, False),
    ],
    ids=["A100", "RTX 3090", "T4", "H100", "RTX 5090", "GTX 980"],
)
def test_code_runs_on_its_major_version_from_its_minor_on_and_ptx_on_all_later(
    capability, native, compiled
):
    assert RELEASED.has_code_for(capability) is native
    assert RELEASED.compiles_for(capability) is compiled


def test_this_tensorflow_says_what_it_was_built_for():
    found = cuda_build()

    assert bool(found.cuda) == bool(found.architectures)
    assert not found.cuda or found.has_code_for((8, 0))


def test_a_gpu_that_the_driver_compiles_for_is_named_with_the_remedy():
    (note,) = gpu_notes(GpuMachine((gpu("NVIDIA RTX 5090", (12, 0)),)), RELEASED)

    assert "no code for NVIDIA RTX 5090 (compute capability 12.0; it has sm_60, sm_70" in note
    assert "XLA may end the process" in note
    assert "--jit_compile=false" in note
    assert gpu_notes(GpuMachine((gpu("NVIDIA A100", (8, 0)),)), RELEASED) == []


def test_a_gpu_without_any_code_is_refused_only_where_there_is_no_other():
    old, new = gpu("GTX 980", (5, 2)), gpu("NVIDIA A100", (8, 0))

    assert "no code for GTX 980: its compute capability is 5.2" in unusable(
        GpuMachine((old,)), RELEASED
    )
    assert "CUDA_VISIBLE_DEVICES=-1" in unusable(GpuMachine((old,)), RELEASED)
    assert unusable(GpuMachine((old, new)), RELEASED) == ""
    assert gpu_notes(GpuMachine((old, new)), RELEASED)[0].endswith("TensorFlow leaves it idle.")
    assert unusable(GpuMachine(), RELEASED) == ""


def test_gpus_that_differ_are_told_for_their_seconds_are_compared():
    a100, h100 = gpu("NVIDIA A100", (8, 0)), gpu("NVIDIA H100", (9, 0))

    (note,) = gpu_notes(GpuMachine((a100, a100, h100)), RELEASED)
    assert note.startswith("The GPUs differ (NVIDIA A100, NVIDIA H100)")
    assert "by CUDA_VISIBLE_DEVICES" in note
    assert gpu_notes(GpuMachine((h100, h100)), RELEASED) == []


def test_memory_that_other_processes_hold_is_told_and_a_display_is_not():
    held = (40 * 10**9, 2 * 10**8)
    busy, idle = (gpu("NVIDIA A100", (8, 0), held=one) for one in held)
    (note,) = gpu_notes(GpuMachine((busy, idle)), RELEASED)

    assert note.startswith("Other processes hold 40.0 GB of the 85.0 GB of NVIDIA A100")


@pytest.mark.parametrize("old", [False, True], ids=["driver", "driver before 510"])
def test_what_the_driver_reserves_is_no_other_process(old):
    """The first version of the question counts it as used; here 600 MB, more than is noticed."""
    library = Library(gpu(reserved=600_000_000, held=10**8), old=old)
    (found,) = read_gpus(library, environment={}).gpus

    assert found.free_bytes == 84_300_000_000
    assert found.held_bytes == (700_000_000 if old else 10**8)
    assert bool(gpu_notes(GpuMachine((found,)), RELEASED)) is old


def test_a_tensorflow_without_cuda_leaves_a_gpu_idle_and_this_is_told():
    (note,) = gpu_notes(GpuMachine((gpu(),)), CudaBuild())

    assert note.startswith("This TensorFlow is built without CUDA: NVIDIA H100")
    assert unusable(GpuMachine((gpu(),)), CudaBuild()) == ""


@pytest.mark.parametrize("capability", [(8, 0), (5, 2)], ids=["usable", "no code"])
def test_it_is_checked_before_any_process_begins(capability, monkeypatch):
    machine = GpuMachine((gpu("A card", capability, held=10**10),))
    monkeypatch.setattr(preparation, "read_gpus", lambda: machine)
    monkeypatch.setattr(preparation, "cuda_build", lambda: RELEASED)
    told: list[str] = []
    progress = Progress(None)
    progress.note = told.append
    if capability == (5, 2):
        with pytest.raises(InputError, match="no code for A card"):
            checked_gpus(progress)
        return

    assert checked_gpus(progress) == machine
    assert told[0].startswith("Other processes hold 10.0 GB")


def test_the_fingerprint_and_the_report_hold_what_figures_depend_on(tmp_path, monkeypatch):
    monkeypatch.delenv("TF_GPU_ALLOCATOR", raising=False)
    settings = gpu_settings(GpuMachine((gpu(),), "550.54.15", "12.4"), jit_compile=True)
    assert settings is not None
    write_fingerprint(tmp_path, ["/physical_device:GPU:0"], settings)
    written = json.loads((tmp_path / "fingerprint.json").read_text())
    machine = _machine(tmp_path)

    assert written["hardware"]["gpus"][0]["compute_capability"] == "9.0"
    assert written["gpu_software"]["driver"] == "550.54.15"
    assert {"cuda", "cudnn", "allocator", "tensor_float_32", "xla"} <= set(written["gpu_software"])
    assert machine.hardware.endswith("NVIDIA H100 80GB HBM3 (compute capability 9.0, 85 GB)")
    assert ("GPU: xla", "on") in machine.gpu_software
    assert ("GPU: allocator", "BFC") in machine.gpu_software
    assert _hardware(written) == "NVIDIA H100 80GB HBM3"
    assert str(settings).startswith("NVIDIA H100 80GB HBM3 (compute capability 9.0, 85.0 GB")


def test_how_busy_the_gpus_are_is_sampled_until_the_driver_says_no_more():
    library = Library(gpu(uuid="GPU-a"), gpu(uuid="GPU-b"), gpu(uuid="GPU-c"))
    library.busy = iter([8, 20, 40, 0])
    visible = {"CUDA_VISIBLE_DEVICES": "0,2"}
    with GpuSampler(library, environment=visible, every_seconds=0.001) as sampler:
        wait_until(lambda: library.openings == 2 and not library.open)

    assert sampler.utilization() == GpuUtilization(mean=pytest.approx(0.17), peak=0.4, gpus=2)
    assert str(sampler.utilization()) == "2 GPUs busy 17% of the time on average, 40% at most"


@pytest.mark.parametrize(
    ("library", "openings"),
    [(Library(without_driver=True), 0), (Library(), 1), (Library(gpu()), 2)],
    ids=["no driver", "no GPU", "a GPU that does not say"],
)
def test_where_no_gpu_says_how_busy_it_is_nothing_is_known(library, openings):
    with GpuSampler(library, environment={}, every_seconds=0.001) as sampler:
        wait_until(lambda: library.openings == openings and not library.open)

    assert sampler.utilization() is None


def test_the_utilization_is_told_kept_and_reported(tmp_path, monkeypatch):
    library = Library(gpu())
    library.busy = itertools.cycle([8])
    monkeypatch.setattr(
        session, "GpuSampler", lambda: GpuSampler(library, environment={}, every_seconds=0.001)
    )
    said: list[str] = []
    progress = Progress(None)
    progress.say = said.append
    with session._gpus_told(tmp_path, progress):
        wait_until(lambda: library.samples > 1)
    write_fingerprint(tmp_path, ["/physical_device:GPU:0"])
    written = json.loads((tmp_path / "fingerprint.json").read_text())

    assert said == ["During the run: the GPU busy 8% of the time on average, 8% at most."]
    assert written["gpu_utilization"] == {"mean": 0.08, "peak": 0.08, "gpus": 1}
    assert ("GPU: utilization", "the GPU busy 8% of the time on average, 8% at most") in _machine(
        tmp_path
    ).gpu_software


def test_without_a_gpu_the_fingerprint_is_as_it_was(tmp_path):
    write_fingerprint(tmp_path, [])
    written = json.loads((tmp_path / "fingerprint.json").read_text())

    assert set(written) == {"software", "hardware"}
    assert "gpus" not in written["hardware"]
    assert _machine(tmp_path).gpu_software == ()
