"""Arrays that TensorFlow reads where they are."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import tensorflow as tf

_ALIGNMENT = 64
"""TensorFlow's kernels refuse memory that does not begin at a multiple of this."""


def as_tensor(array: npt.NDArray[Any]) -> tf.Tensor:
    """A tensor on the CPU that reads the array's own memory, where the array allows it.

    So a memory-mapped file stays one copy for all processes. The array must not be changed later.
    """
    usable = array.flags.c_contiguous and array.flags.writeable
    if usable and array.ctypes.data % _ALIGNMENT == 0:
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    with tf.device("CPU:0"):
        return tf.constant(array)
