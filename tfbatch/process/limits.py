"""What the system lets this process use: cores, memory, and the control groups that say so."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("sys/fs/cgroup")
"""Where control groups are mounted, below the root."""


def control_groups(root: Path = Path("/")) -> list[tuple[list[str], Path]]:
    """The control groups of this process: their controllers, and their path below the mount.

    The group of version 2 names no controllers. Without control groups there is none.

    Args:
        root: Where /proc is.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return []
    parts = [line.split(":", 2) for line in lines]
    return [(part[1].split(",") if part[1] else [], Path(part[2].lstrip("/"))) for part in parts]


def affinity() -> list[int]:
    """The cores that this process may run on, by their numbers."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def usable_cores(root: Path = Path("/")) -> float:
    """Cores that this process may use: its affinity's, or a control group's quota if it is less.

    Args:
        root: Where /proc and /sys are.
    """
    return min([float(len(affinity())), *_quotas(root)])


def whole_cores() -> int:
    """The same in whole cores, at least one."""
    return max(1, int(usable_cores()))


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's, or less where something limits it.

    That is its control group, or a limit of its own (`ulimit -v`, `ulimit -d`).

    Args:
        root: Where /proc and /sys are.
    """
    machine: int = psutil.virtual_memory().total
    return min([machine, *_own_limits(), *_group_limits(root)])


def _quotas(root: Path) -> Iterator[float]:
    """Cores that this process's control group and all above it allow, versions 1 and 2."""
    mounts = root / CGROUPS
    for controllers, group in control_groups(root):
        if not controllers:
            for mount in (mounts, mounts / "unified"):
                for folder in _with_those_above(mount, group):
                    with contextlib.suppress(OSError, ValueError):  # ValueError for "max"
                        quota, period = (folder / "cpu.max").read_text(encoding="utf-8").split()
                        yield float(quota) / float(period)
        elif "cpu" in controllers:
            for folder in _with_those_above(mounts / "cpu", group):
                with contextlib.suppress(OSError, ValueError):
                    quota = (folder / "cpu.cfs_quota_us").read_text(encoding="utf-8")
                    period = (folder / "cpu.cfs_period_us").read_text(encoding="utf-8")
                    if float(quota) > 0:
                        yield float(quota) / float(period)


def _own_limits() -> Iterator[int]:
    """This process's limits of address space and of private memory."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of this process's control group and of all groups above it, versions 1 and 2."""
    mounts = root / CGROUPS
    for controllers, group in control_groups(root):
        if not controllers:
            for mount in (mounts, mounts / "unified"):
                yield from _limits(mount, group, "memory.max")
        elif "memory" in controllers:
            yield from _limits(mounts / "memory", group, "memory.limit_in_bytes")


def _limits(mount: Path, group: Path, file_name: str) -> Iterator[int]:
    for folder in _with_those_above(mount, group):
        try:
            text = (folder / file_name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdecimal():  # not "max"
            yield int(text)


def _with_those_above(mount: Path, group: Path) -> Iterator[Path]:
    # In a container the group's path is often the host's, which is not there: its parents are.
    for place in (group, *group.parents):
        yield mount / place
