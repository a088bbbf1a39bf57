"""One classifier of failures for lack of memory, fed with the words of every library."""

from __future__ import annotations

import errno
import os
import resource
import signal
from concurrent.futures import wait
from pathlib import Path

import numpy as np
import psutil
import pytest

from tfbatch.process.out_of_memory import (
    follows_out_of_memory,
    is_near_the_wall,
    is_out_of_memory,
    memory_message,
    out_of_memory_line,
)
from tfbatch.process.tracebacks import short_traceback
from tfbatch.workers import ProcessEndedError, Slot
from tfbatch.workers.slot import Start


class ResourceExhaustedError(Exception):
    """As TensorFlow's, which is known by its name."""


SHORTAGES = [
    # TensorFlow's kernels and allocators
    "OOM when allocating tensor with shape[256,64,112,112] and type float on /job:localhost/"
    "replica:0/task:0/device:GPU:0 by allocator GPU_0_bfc [Op:Conv2D]",
    "failed to allocate memory [Op:AddV2] name:",
    "SameWorkerRecvDone unable to allocate output tensor. Key: /job:localhost/...",
    "Dst tensor is not initialized. [Op:_EagerConst]",
    "Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.20GiB (rounded to 2362232064)",
    "EigenAllocator for GPU ran out of memory when allocating 4096.",
    # XLA and PJRT
    "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 4770354232 bytes.",
    "RESOURCE_EXHAUSTED: Failed to allocate request for 176.00MiB (184549376B) on device ordinal 0",
    "RESOURCE_EXHAUSTED: Out of memory allocating 1024 bytes.",
    "Ran out of memory in memory space hbm. Used 17.2G of 15.5G hbm.",
    "Attempting to reserve 12.00G at the bottom of memory. That was not possible. There are 3.1G",
    # CUDA's driver and runtime
    "failed to allocate 32.00M (33554432 bytes) from device: CUDA_ERROR_OUT_OF_MEMORY",
    "cudaSetDevice() on GPU:0 failed. Status: out of memory",
    "failed initializing StreamExecutor for CUDA device ordinal 0: INTERNAL: failed call to "
    "cuDevicePrimaryCtxRetain: CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    "cudaMalloc failed: cudaErrorMemoryAllocation",
    "failed to alloc 2740606464 bytes unified memory; result: CUDA_ERROR_OUT_OF_MEMORY",
    "NCCL operation failed: unhandled cuda error, 'out of memory'",
    "hipErrorOutOfMemory",
    # cuDNN, cuBLAS, cuFFT, cuSPARSE
    "Could not create cudnn handle: CUDNN_STATUS_ALLOC_FAILED",
    "failed to create cublas handle: CUBLAS_STATUS_ALLOC_FAILED",
    "failed to create cublas handle: the resource allocation failed",
    "CUDNN failed to allocate the scratch space for the runner",
    "Failed to allocate scratch buffer for device 0",
    "failed to create cuFFT batched plan: CUFFT_ALLOC_FAILED",
    "CUSPARSE_STATUS_ALLOC_FAILED",
    # the host
    "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
    "could not create a primitive: dnnl_out_of_memory",
    "libgomp: Out of memory allocating 131072 bytes",
    "mmap failed: Cannot allocate memory",
    "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.45 GiB for an array",
    "MemoryError",
    "Memory cgroup out of memory: Killed process 4711 (python)",
    "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null)",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
]
OTHERS = [
    "No space left on device; tensorboard/events.out.tfevents",
    "RESOURCE_EXHAUSTED: /run/a.tmp; Disk quota exceeded",
    "Too many open files; failed to allocate a file descriptor",
    "failed call to cuInit: CUDA_ERROR_NO_DEVICE: no CUDA-capable device is detected",
    "cudaSetDevice() on GPU:0 failed. Status: CUDA-capable device(s) is/are busy or unavailable",
    "CUDA driver version is insufficient for CUDA runtime version",
    "RESOURCE_EXHAUSTED: Received message larger than max (8388608 vs. 4194304)",
    "Allocation of 79148544 exceeds 10% of free system memory.",
    "Allocator (GPU_0_bfc) ran out of memory trying to allocate 2.76GiB. The caller indicates that "
    "this is not a failure, but this may mean that there could be performance gains",
    "Garbage collection: deallocate free memory regions to avoid OOM due to memory fragmentation.",
    "Hint: If you want to see a list of allocated tensors when OOM happens, add "
    "report_tensor_allocations_upon_oom to RunOptions for current allocation info.",
    "Could not create cudnn handle: CUDNN_STATUS_NOT_INITIALIZED",
    "too many resources requested for launch",
    "Table not initialized.",
    "shapes (3,4) and (5,6) do not match",
    "CUDA_ERROR_ILLEGAL_ADDRESS: an illegal memory access was encountered",
    "unknown option out_of_memory_policy",
    "Killed",
    "",
]


@pytest.mark.parametrize("text", SHORTAGES)
def test_a_lack_of_memory_is_known_from_every_librarys_words(text):
    assert is_out_of_memory(text)
    assert is_out_of_memory(RuntimeError(f"Graph execution error:\n\nat node x\n{text}\n"))


@pytest.mark.parametrize("text", OTHERS)
def test_other_failures_are_not_called_a_lack_of_memory(text):
    assert not is_out_of_memory(text)
    assert not is_out_of_memory(RuntimeError(text))


def test_a_real_array_too_large_for_the_machine():
    with pytest.raises(MemoryError) as caught:
        np.zeros(2**60, np.uint8)

    assert is_out_of_memory(caught.value)
    assert memory_message(caught.value).startswith("Unable to allocate 1.00 EiB for an array")


def test_exceptions_are_known_by_kind_number_and_cause():
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert is_out_of_memory(ResourceExhaustedError("{{node a}} no more room"))
    caused = ValueError("the model cannot be built")
    caused.__cause__ = MemoryError()
    assert is_out_of_memory(caused)
    assert memory_message(caused) == "MemoryError"
    for number in (errno.ENOSPC, errno.EMFILE, errno.EAGAIN):
        assert not is_out_of_memory(OSError(number, "out of memory, says a file system"))
    assert not is_out_of_memory(ResourceExhaustedError("a; No space left on device"))
    assert not is_out_of_memory(ResourceExhaustedError("a; Too many open files"))


@pytest.mark.parametrize("kind", [ValueError, KeyError, TypeError])
def test_a_mistake_of_a_users_own_code_is_no_lack_of_memory_whatever_it_speaks_of(kind):
    words = "not enough memory of past steps: unknown policy 'out_of_memory'"
    traceback = f"Traceback (most recent call last):\n  line\n{kind.__name__}: {words}\n"

    assert not is_out_of_memory(kind(words))
    assert not is_out_of_memory(traceback)
    assert is_out_of_memory(kind("layer `a`: OOM when allocating tensor with shape[8]"))


def test_source_lines_of_a_traceback_do_not_count():
    text = (
        "Traceback (most recent call last):\n"
        '  File "a.py", line 3, in call\n'
        "    except MemoryError:  # out of memory\n"
        "ValueError: {}\n"
    )

    assert not is_out_of_memory(text.format("odd"))
    assert is_out_of_memory(text.format("CUDA_ERROR_OUT_OF_MEMORY"))


@pytest.mark.parametrize(
    "text",
    [
        "Could not create cudnn handle: CUDNN_STATUS_NOT_INITIALIZED",
        "failed to create cublas handle: CUBLAS_STATUS_NOT_INITIALIZED",
        "Attempting to perform BLAS operation using StreamExecutor without BLAS support",
        "No algorithm worked!  Error messages:",
    ],
)
def test_a_library_that_cannot_be_opened_counts_after_a_refusal_alone(text):
    refused = "I failed to allocate 2.46G from device: CUDA_ERROR_OUT_OF_MEMORY: out of memory"

    assert follows_out_of_memory(text, f"loading\n{refused}\n{text}")
    assert not follows_out_of_memory(text, "possibly insufficient driver version: 384.145.0")
    assert not follows_out_of_memory("shapes do not match", refused)


def test_the_message_is_one_line_without_tensorflows_graph():
    error = ResourceExhaustedError(
        "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
        + '  File "/x/site-packages/keras/src/a.py", line 1, in fit\n\n' * 60
        + "OOM when allocating tensor with shape[4096,512] and type float on /device:CPU:0 by "
        "allocator cpu\n\t [[{{node a/b}}]]\nHint: If you want to see a list of allocated tensors "
        "when OOM happens, add report_tensor_allocations_upon_oom\n [Op:__inference_f_355]"
    )

    assert memory_message(error) == (
        "OOM when allocating tensor with shape[4096,512] and type float on /device:CPU:0 by "
        "allocator cpu"
    )
    assert out_of_memory_line("a\n  MemoryError: b \nc") == "MemoryError: b"


def test_a_traceback_keeps_the_users_lines_and_leaves_out_the_graph():
    def users_layer():
        raise RuntimeError(
            "Graph execution error:\n\nDetected at node a/b defined at (most recent call last):\n"
            + '  File "/x/site-packages/keras/src/a.py", line 1, in fit\n\n' * 60
            + '  File "/home/me/model.py", line 7, in call\n\n'
            + "Cannot parse tensor from proto\n" * 100
            + "\t [[{{node a/b}}]]"
        )

    with pytest.raises(RuntimeError) as caught:
        users_layer()
    shown = short_traceback(caught.value)

    assert shown.startswith("Traceback (most recent call last)")
    assert "in users_layer" in shown
    assert '"/home/me/model.py", line 7' in shown
    assert "site-packages" not in shown
    assert len(shown.splitlines()) <= 41
    assert shown.endswith("\t [[{{node a/b}}]]\n")


def test_a_traceback_without_a_line_of_the_users_keeps_all_frames():
    error = RuntimeError("odd")
    code = compile("def f(e): raise e", "/x/site-packages/keras/src/a.py", "exec")
    scope: dict[str, object] = {}
    exec(code, scope)
    import tfbatch.seeds

    tfbatch_frame = compile("f(e)", f"{Path(tfbatch.__file__).parent}/x.py", "exec")
    try:
        exec(tfbatch_frame, {**scope, "e": error})
    except RuntimeError:
        error.__traceback__ = error.__traceback__.tb_next  # type: ignore[union-attr]

    assert "keras/src/a.py" in short_traceback(error)


def start_without_memory():
    limit = psutil.Process().memory_info().vms + 2**28
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    bytearray(2**30)


def start_like_a_gpu_that_is_full():
    raise RuntimeError("cudaSetDevice() on GPU:0 failed. Status: out of memory")


def start_oddly():
    raise RuntimeError("no such device")


@pytest.mark.parametrize(
    ("first", "ending", "words"),
    [
        (start_without_memory, "oom", "MemoryError"),
        (start_like_a_gpu_that_is_full, "oom", "cudaSetDevice() on GPU:0 failed"),
        (start_oddly, "killed", "RuntimeError: no such device"),
    ],
)
def test_a_process_that_cannot_start_says_why_and_blames_no_task(tmp_path, first, ending, words):
    slot = Slot(Start(tmp_path / "log", None, first))  # type: ignore[arg-type]
    try:
        slot.submit(os.getpid)
        with pytest.raises(ProcessEndedError) as caught:
            slot.result()
    finally:
        slot.close()

    assert caught.value.starting
    assert caught.value.ending == ending
    assert caught.value.message.startswith("Before its task began: ")
    assert words in caught.value.message


def _interrupted_group(ready):
    """Signals to the process itself, as to every process of its group."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(os.getpid(), number)
    ready.touch()
    return "alive"


def test_signals_to_the_group_are_the_parents_to_judge(tmp_path):
    slot = Slot(Start(tmp_path / "log", None, os.getpid))
    try:
        wait([slot.submit(_interrupted_group, tmp_path / "ready")])
        assert slot.result() == "alive"
        assert (tmp_path / "ready").exists()
    finally:
        slot.close()


def test_a_text_that_names_the_exhausted_resource_is_believed_unless_it_is_another_one():
    error = "tensorflow.python.framework.errors_impl.ResourceExhaustedError: "

    assert is_out_of_memory(error + "Graph execution error:")
    assert not is_out_of_memory(error + "events.out; No space left on device")


def test_an_allocator_that_clears_up_is_near_the_wall_and_refuses_nothing():
    said = (
        "Garbage collection: deallocate free memory regions (i.e., allocations) so that we can "
        "re-allocate a larger region to avoid OOM due to memory fragmentation. If you see this "
        "message frequently, you are running near the threshold of the available device memory "
        "and re-allocation may incur great performance overhead."
    )

    assert is_near_the_wall(said)
    assert not is_out_of_memory(said)
    assert not is_near_the_wall("The caller indicates that this is not a failure")
