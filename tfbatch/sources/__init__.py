"""Where examples come from, one file each.

A file holds one class `Source` (a `SourceBase`): its fields are the recipe's arguments. Examples
come in one fixed order that does not depend on their class, as `(key, {"image", "label"})`. A
source also makes itself of a text, and describes its data, for data sets that have no recipe.
"""

from __future__ import annotations

from tfbatch.plug_ins import Registry
from tfbatch.schema import validate
from tfbatch.sources._layout import split_role
from tfbatch.sources._source import SPLIT_NAMES, Description, SourceBase

SOURCES = Registry(__name__, kind="source", folder=__path__)


def make_source(name: str, **arguments: object) -> SourceBase:
    """Makes the source `name`.

    Raises:
        InputError: An unknown name or argument.
    """
    source: type[SourceBase] = SOURCES.load(name).Source
    return validate(source, arguments, where=f"source {name}")


__all__ = ["SOURCES", "SPLIT_NAMES", "Description", "SourceBase", "make_source", "split_role"]
