"""What was proposed for the trials that run: a search that goes on makes these, and no others.

With several workers a trial that was stopped can lie before others that are in the journal. Asked
again, an oracle that has heard of others would propose something else for it: its checkpoint would
be of no use, and what those others are might be proposed a second time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pydantic

from tfbatch.errors import SearchError
from tfbatch.oracles import Proposal
from tfbatch.run_folder.durable import cannot_be_written
from tfbatch.run_folder.files import OPEN_TRIALS
from tfbatch.schema import as_plain

_PROPOSALS = pydantic.TypeAdapter(dict[str, Proposal])


class OpenTrials:
    """The proposals of trials that were begun and have not ended, in a file of the run folder.

    Attributes:
        begun: Those of the session before, by the names of their trials; some may have ended.
        is_damaged: Whether there was a file that could not be read: its trials begin anew.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: Path):
        self._path = run_dir / OPEN_TRIALS
        self.begun: Mapping[str, Proposal] = {}
        self.is_damaged = False
        if self._path.exists():
            try:
                self.begun = _PROPOSALS.validate_json(self._path.read_bytes())
            except (OSError, ValueError):
                self.is_damaged = True

    def keep(self, proposals: Mapping[str, Proposal]) -> None:
        """Writes what is open now: whole or not at all.

        It is not flushed to the disk: after a power failure the trials begin anew.

        Raises:
            RunFolderError: It cannot be written.
            SearchError: A proposal has values of a kind that no hyperparameter has.
        """
        partial = self._path.with_name(f".{self._path.name}.partial")
        plain = {
            name: dataclasses.replace(one, values=as_plain(dict(one.values)))
            for name, one in proposals.items()
        }
        try:
            content = _PROPOSALS.dump_json(plain, warnings="error")
        except ValueError as error:
            raise SearchError(
                f"The values of a proposal must be int, float, str or bool: {error}"
            ) from error
        try:
            partial.write_bytes(content)
            partial.replace(self._path)
        except OSError as error:
            raise cannot_be_written(self._path, error) from error
