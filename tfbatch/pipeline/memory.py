"""How much memory this process may use, and arrays that TensorFlow reads where they are."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing as npt
import psutil
import tensorflow as tf

_ALIGNMENT = 64
"""TensorFlow's kernels refuse memory that does not begin at a multiple of this."""


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes that this process may use: the machine's, or less where something limits it.

    That is its control group, or a limit of its own (`ulimit -v`, `ulimit -d`).

    Args:
        root: Where /proc and /sys are.
    """
    machine: int = psutil.virtual_memory().total
    return min([machine, *_own_limits(), *_group_limits(root)])


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


def as_tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    """A tensor on the CPU that reads the array's own memory, where the array allows it.

    So a memory-mapped file stays one copy for all processes. The array must not be changed later.
    """
    usable = array.flags.c_contiguous and array.flags.writeable
    if usable and array.ctypes.data % _ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    with tf.device("CPU:0"):
        return tf.constant(array)
