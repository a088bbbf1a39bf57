"""The hardware and software that a run's figures belong to."""

from __future__ import annotations

import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import psutil

from tfbatch.process.gpu_utilization import GpuUtilization
from tfbatch.process.gpus import GpuSettings
from tfbatch.process.limits import affinity, usable_cores
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import FINGERPRINT
from tfbatch.run_folder.machine_load import MachineLoad

_PACKAGES = ("tensorflow", "keras", "keras-tuner", "tensorflow-datasets", "numpy")


def write_fingerprint(
    folder: Path, accelerators: list[str], gpu_settings: GpuSettings | None = None
) -> None:
    """Writes fingerprint.json, and keeps what it holds of the machine's load and GPUs.

    Args:
        folder: The run folder.
        accelerators: Names of the devices besides the CPU.
        gpu_settings: What trainings on GPUs run with; None without a GPU.

    Raises:
        RunFolderError: It cannot be written.
    """
    fingerprint: dict[str, Any] = {"software": software(), "hardware": hardware(accelerators)}
    if gpu_settings is not None:
        fingerprint["hardware"]["gpus"] = gpu_settings.gpus()
        fingerprint["gpu_software"] = gpu_settings.software()
    before = _read(folder)
    fingerprint |= {key: before[key] for key in ("load", "gpu_utilization") if before.get(key)}
    write_whole(folder / FINGERPRINT, json.dumps(fingerprint, indent=1))


def record_load(folder: Path, **loads: MachineLoad) -> None:
    """Records in fingerprint.json the cores that other processes used.

    Args:
        folder: The run folder.
        loads: By when: `at_start`, `during_run`.

    Raises:
        RunFolderError: It cannot be written.
    """
    fingerprint = _read(folder)
    written = {
        when: {
            "cores": round(load.cores, 2),
            "used_by_others": round(load.others, 2),
            "seconds": round(load.seconds, 1),
        }
        for when, load in loads.items()
    }
    fingerprint["load"] = {**fingerprint.get("load", {}), **written}
    write_whole(folder / FINGERPRINT, json.dumps(fingerprint, indent=1))


def record_gpu_utilization(folder: Path, found: GpuUtilization) -> None:
    """Records in fingerprint.json how busy the GPUs were.

    Args:
        folder: The run folder.
        found: Of this session.

    Raises:
        RunFolderError: It cannot be written.
    """
    written = {"mean": round(found.mean, 3), "peak": round(found.peak, 3), "gpus": found.gpus}
    fingerprint = _read(folder) | {"gpu_utilization": written}
    write_whole(folder / FINGERPRINT, json.dumps(fingerprint, indent=1))


def _read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / FINGERPRINT).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or of a run that was killed
        return {}
    return found


def software() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("tfbatch", *_PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a bare checkout
            versions[package] = "not installed"
    return versions


def hardware(accelerators: list[str]) -> dict[str, object]:
    """Processor, cores that this process may use, memory, accelerators.

    Args:
        accelerators: Names of the devices besides the CPU.
    """
    cores = len(affinity())
    return {
        "processor": processor(),
        "cores": cores,
        "usable_cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": accelerators,
    }


def processor() -> str:
    """The name of this machine's processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
