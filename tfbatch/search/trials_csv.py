"""trials.csv at every end of a run: of an answer, of an interruption, of an error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tfbatch.errors import RunFolderError
from tfbatch.run_folder.files import TRIALS_CSV
from tfbatch.run_folder.folder import RunFolder
from tfbatch.run_folder.table import write_csv
from tfbatch.search.progress import Progress


@contextlib.contextmanager
def csv_at_the_end(folder: RunFolder, progress: Progress) -> Iterator[None]:
    """Writes trials.csv when the block ends, however it ends; a failure is told, not raised.

    Args:
        folder: The open run folder.
        progress: Told where the file cannot be written: the journal has everything already.
    """
    try:
        yield
    finally:
        try:
            write_csv(folder.path / TRIALS_CSV, folder.journal.rows)
        except RunFolderError as error:
            progress.say(str(error))
