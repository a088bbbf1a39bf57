"""The hardware and software that a run's figures belong to."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("tensorflow", "keras", "keras-tuner", "tensorflow-datasets", "numpy")


def software() -> dict[str, str]:
    """Versions of Python and of the packages that shape a result."""
    versions = {"python": platform.python_version(), "platform": platform.platform()}
    for package in ("tfbatch", *_PACKAGES):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:  # a bare checkout
            versions[package] = "not installed"
    return versions


def hardware(accelerators: list[str]) -> dict[str, Any]:
    """Processor, cores that this process may use, memory, accelerators.

    Args:
        accelerators: Names of the devices besides the CPU.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "processor": _processor(),
        "cores": cores,
        "memory_bytes": psutil.virtual_memory().total,
        "accelerators": accelerators,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
