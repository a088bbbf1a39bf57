"""A locked run folder, and the first worker: it imports TensorFlow beside this process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from tfbatch.request.execution import Execution
from tfbatch.run_folder.files import worker_log
from tfbatch.run_folder.folder import RunLock
from tfbatch.search.progress import Progress
from tfbatch.workers import Slot, warm_slot


@contextlib.contextmanager
def locked_with_worker(
    run_dir: Path, execution: Execution, progress: Progress
) -> Iterator[tuple[RunLock, Slot | None]]:
    """The run folder's lock, and a worker that has begun to start; both end with the block.

    Args:
        run_dir: The run folder.
        execution: How trials are run; without worker processes of this machine there is no worker.
        progress: Its line on the terminal ends with the block.

    Raises:
        RunFolderError: Another command has the folder.
    """
    with RunLock(run_dir) as lock:
        warm = None
        if execution.workers != 0 and execution.cluster is None:
            lock.logs.mkdir(exist_ok=True)
            log = worker_log(lock.logs, 0)
            warm = warm_slot(log, lock.workers_file, "tfbatch.training.trial")
        try:
            yield lock, warm
        finally:
            progress.end()
            if warm:
                warm.close()
