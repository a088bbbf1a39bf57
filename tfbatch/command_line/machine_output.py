"""What programs read: one JSON document on the standard output, nothing else there.

`--json` sends what is for people to the standard error, and `--quiet` leaves it out. The schema of
every command's document has one version: a key that goes away or changes its meaning raises it, a
new key does not.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import math
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

import pydantic
from absl import flags

if TYPE_CHECKING:
    from rich.console import Console

SCHEMA_VERSION: Literal[1] = 1
Content = TypeVar("Content", bound=pydantic.BaseModel)


class Document(pydantic.BaseModel, Generic[Content]):
    """What a command prints with `--json`.

    Attributes:
        schema_version: Of the schema.
        tfbatch: Version of the package.
        command: The command's name.
        exit_code: What the command exits with; 0 where it is done.
        result: What it has found.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = SCHEMA_VERSION
    tfbatch: str
    command: str
    exit_code: int = 0
    result: Content


def define_output_flags(values: flags.FlagValues) -> None:
    """Adds `--json` and `--quiet` to a command's flags."""
    flags.DEFINE_boolean(
        "json",
        False,
        "Print one JSON document on the standard output, and everything else on the standard "
        "error.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "quiet", False, "Print no progress, only the result and errors.", flag_values=values
    )


def json_text(command: str, result: pydantic.BaseModel, *, exit_code: int = 0) -> str:
    """The document of a result, as text that ends in a line feed; numbers that are not are null.

    What UTF-8 cannot hold, such as the bytes of a folder's name of another encoding, is escaped.
    """
    document = Document[pydantic.SerializeAsAny[pydantic.BaseModel]](
        tfbatch=importlib.metadata.version("tfbatch"),
        command=command,
        exit_code=exit_code,
        result=result,
    )
    try:
        return document.model_dump_json(indent=1) + "\n"
    except ValueError:  # not UTF-8: what `json` escapes, pydantic cannot write
        return json.dumps(_finite(document.model_dump(mode="json")), indent=1) + "\n"


def _finite(content: Any) -> Any:
    """With null for every number that is none, as pydantic writes it."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


@dataclasses.dataclass(frozen=True)
class Voices:
    """Where a command speaks to people, and to programs.

    Attributes:
        people: What it has found, in words and tables.
        progress: What it does; None where nobody asked.
        programs: The document; None without `--json`.
    """

    people: Console
    progress: Console | None
    programs: Console | None

    def document(self, command: str, result: pydantic.BaseModel, *, exit_code: int = 0) -> None:
        """Prints the document where one was asked for."""
        if self.programs is not None:
            text = json_text(command, result, exit_code=exit_code)
            self.programs.print(
                text, end="", markup=False, emoji=False, highlight=False, soft_wrap=True
            )


def voices_of(values: flags.FlagValues, out: Console, err: Console) -> Voices:
    """Who hears what, by `--json` and `--quiet`.

    Args:
        values: The command's parsed flags.
        out: The standard output.
        err: The standard error.
    """
    from rich.console import Console

    people = err if values.json else out
    progress = None if values.quiet else people
    if values.json and values.quiet:
        people = Console(quiet=True)
    return Voices(people, progress, out if values.json else None)
