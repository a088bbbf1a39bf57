"""Whether a failure is a lack of memory: the one place that knows the libraries' messages.

TensorFlow, XLA, cuDNN, cuBLAS, the CUDA driver, C++ and Python each report it in their own words,
some as an error of another kind (`InternalError: cudaSetDevice() on GPU:0 failed`), and
TensorFlow's class for it, ResourceExhaustedError, also means a full disk or too many open files.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

_SHORTAGE = re.compile(
    r"out[ _-]?of[ _-]?memory\b"  # XLA, CUDA, BFC allocator, oneDNN, HIP, the kernel's log
    r"|\bOOM when\b|\bOOM\b.{0,20}\ballocat"  # TensorFlow's kernels
    r"|_ALLOC(?:ATION)?_FAILED\b|the resource allocation failed"  # cuDNN, cuBLAS, cuFFT and others
    r"|\bfailed to alloc(?:ate)?\b"  # CUDA driver, PJRT, cuDNN's scratch space
    r"|\bDst tensor is not initialized"  # a copy to the device found no room
    r"|\bcudaErrorMemoryAllocation\b"
    r"|\boom-kill|\bstd::bad_alloc\b|\bMemoryError\b"
    r"|\b(?:cannot|could not|unable to) allocate (?:memory|output tensor|[\d.]+ ?(?:[KMGT]i?)?B)"
    r"|\b(?:insufficient|not enough) memory\b"
    r"|\bexceeded memory limit\b"
    r"|\bAttempting to (?:allocate|reserve) .*That was not possible",  # TPU
    re.IGNORECASE,
)
"""A line with one of these reports a lack of memory ..."""
_NO_SHORTAGE = re.compile(
    r"this is not a failure|to avoid OOM|exceeds \d+% of (?:free )?system memory"
    r"|OOM happens, add report_tensor_allocations"
    r"|No space left on device|Disk quota exceeded|Too many open files|file descriptor"
    r"|message larger than max|larger than max \(",
    re.IGNORECASE,
)
"""... unless it also has one of these: advice and warnings, a full disk, other resources."""
_MISTAKES = (ValueError, TypeError, LookupError, AttributeError, NameError, ImportError)
"""What code raises of its own: whose words count only where they quote a library's ..."""
_MISTAKE_LINE = re.compile(
    r"\s*(?:ValueError|TypeError|KeyError|IndexError|AttributeError|NameError|ImportError"
    r"|ModuleNotFoundError): "
)
"""... and the same in the last line of a traceback."""
_CODE = re.compile(r"[A-Z]_OUT_OF_MEMORY\b|_ALLOC(?:ATION)?_FAILED\b|OOM when|RESOURCE_EXHAUSTED")
_CONSEQUENCE = re.compile(
    r"CU(?:DNN|BLAS)_STATUS_NOT_INITIALIZED|could not create cudnn handle"
    r"|failed to create cublas handle|failed to initialize (?:cudnn|cublas)|without BLAS support"
    r"|cuDNN failed to initialize|DNN library (?:is not found|initialization failed)"
    r"|No algorithm worked",
    re.IGNORECASE,
)
"""A library that could not be opened: for lack of memory, or because the driver is too old."""
_NODE = re.compile(r"\s*\[Op:[^\]]*\]|\s*\[\[\{\{node .*$")


def is_out_of_memory(failure: BaseException | str) -> bool:
    """Whether a failure is a lack of memory, of the host or of a device.

    A full disk, too many open files, too large a message, an absent or busy GPU are not.

    Args:
        failure: The exception, whose causes (`raise ... from`) are looked at too; or a text: what
            a process printed, or a traceback, whose lines of source code do not count.
    """
    if isinstance(failure, str):
        exhausted = "ResourceExhaustedError" in failure and not _NO_SHORTAGE.search(failure)
        return exhausted or bool(out_of_memory_line(failure))
    return any(_in_exception(error) for error in _with_causes(failure))


def follows_out_of_memory(message: str, log: str) -> bool:
    """Whether cuDNN or cuBLAS could not be opened because memory was refused before.

    An old driver gives the same message, so the log must show the refusal.

    Args:
        message: The error's message or traceback.
        log: What the process printed before it.
    """
    return bool(_CONSEQUENCE.search(message) and out_of_memory_line(log))


_NEAR_THE_WALL = "near the threshold of the available device memory"
"""What TensorFlow's allocator says where it gives regions back to make room for a larger one."""


def is_near_the_wall(log: str) -> bool:
    """Whether a GPU's allocator had to clear up to go on: such a step fits today, and is slow.

    Args:
        log: What the process printed.
    """
    return _NEAR_THE_WALL in log


def out_of_memory_line(text: str) -> str:
    """The first line of a text that reports a lack of memory, stripped; "" if none does."""
    lines = text.splitlines()
    if "Traceback (most recent call last)" in text:
        lines = [line for line in lines if not line.startswith("  ")]  # frames and their source
    return next((line.strip() for line in lines if _reports_shortage(line)), "")


def memory_message(error: BaseException) -> str:
    """An error for lack of memory in one line: without TensorFlow's graph and hints."""
    for found in _with_causes(error):
        lines = str(found).splitlines()
        line = out_of_memory_line(str(found)) or next(filter(None, map(str.strip, lines)), "")
        if _in_exception(found):
            return _NODE.sub("", line).strip() or type(found).__name__
    return type(error).__name__


def _in_exception(error: BaseException) -> bool:
    if isinstance(error, MemoryError):
        return True
    if isinstance(error, _MISTAKES) and not _CODE.search(str(error)):
        return False
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno == errno.ENOMEM
    text = str(error)
    # By its name: TensorFlow is not imported here.
    exhausted = any(kind.__name__ == "ResourceExhaustedError" for kind in type(error).__mro__)
    return bool(out_of_memory_line(text)) or (exhausted and not _NO_SHORTAGE.search(text))


def _reports_shortage(line: str) -> bool:
    if _MISTAKE_LINE.match(line) and not _CODE.search(line):
        return False
    return bool(_SHORTAGE.search(line)) and not _NO_SHORTAGE.search(line)


def _with_causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        seen.add(id(found))
        yield found
        found = found.__cause__
