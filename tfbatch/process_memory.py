"""How much memory this process may use, and how much one holds and has held."""

from __future__ import annotations

import re
import resource
from collections.abc import Iterator
from pathlib import Path

import psutil

WORKER_SHARE = 0.8
"""All workers together may keep this share of the memory before they are replaced."""


def worker_bytes(workers: int) -> float:
    """The largest resident set, in bytes, that one of `workers` may have between two trials."""
    return WORKER_SHARE * float(psutil.virtual_memory().total) / workers


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's, or less where something limits it.

    That is its control group, or a limit of its own (`ulimit -v`, `ulimit -d`).

    Args:
        root: Where /proc and /sys are.
    """
    machine: int = psutil.virtual_memory().total
    return min([machine, *_own_limits(), *_group_limits(root)])


def resident(process: int | None = None) -> int | None:
    """The resident set that a process has now, in bytes: VmRSS. None if it has ended.

    Args:
        process: Its ID; None for this process.
    """
    return _counted("VmRSS", process)


def peak_resident(process: int | None = None) -> int | None:
    """The largest resident set that a process has had, in bytes: VmHWM. None if it has ended.

    Not `ru_maxrss`: that of a child begins at its parent's peak.

    Args:
        process: Its ID; None for this process.
    """
    return _counted("VmHWM", process)


def _counted(what: str, process: int | None) -> int | None:
    path = Path(f"/proc/{process or 'self'}/status")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(rf"^{what}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _own_limits() -> Iterator[int]:
    """This process's limits of address space and of private memory."""
    for kind in (resource.RLIMIT_AS, resource.RLIMIT_DATA):
        soft, _ = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY:
            yield soft


def _group_limits(root: Path) -> Iterator[int]:
    """The limits of this process's control group and of all groups above it, versions 1 and 2."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        number, controllers, group = line.split(":", 2)
        if number == "0":
            for mount in (mounts, mounts / "unified"):
                yield from _limits(mount, group, "memory.max")
        elif "memory" in controllers.split(","):
            yield from _limits(mounts / "memory", group, "memory.limit_in_bytes")


def _limits(mount: Path, group: str, file_name: str) -> Iterator[int]:
    # In a container the group's path is often the host's, which is not there: its parents are.
    inner = Path(group.lstrip("/"))
    for place in (inner, *inner.parents):
        try:
            text = (mount / place / file_name).read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text.isdecimal():  # not "max"
            yield int(text)
