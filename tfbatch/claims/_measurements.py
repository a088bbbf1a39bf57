"""What was measured in the process that trains, kept in the run folder: nothing is measured twice.

A measurement is a function with its arguments. Its result is a file of its own, there as soon as
the function has returned, whatever ends the session afterwards.
"""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import MEASUREMENTS
from tfbatch.schema import content_hash


class Measurements:
    """Results by what was measured.

    Args:
        run_dir: The run folder.
    """

    def __init__(self, run_dir: Path):
        self._folder = run_dir / MEASUREMENTS

    def recall(
        self,
        function: Callable[..., Any],
        arguments: Sequence[Any],
        options: Mapping[str, Any],
        measure: Callable[[], Any],
    ) -> Any:
        """What `function` has returned for these arguments, or what `measure` returns now.

        Args:
            function: Its name and its arguments are the key. The annotation of what it returns says
                how a file is read: numbers, tuples and dataclasses of them.
            arguments: Plain data and configurations.
            options: The same by keyword.
            measure: Calls the function.

        Raises:
            InputError: The function does not say what it returns.
            RunFolderError: The file cannot be read or written.
        """
        kind = pydantic.TypeAdapter(returned(function))
        asked = [f"{function.__module__}.{function.__qualname__}", arguments, dict(options)]
        plain = json.loads(json.dumps(asked, default=_plain))
        path = self._folder / f"{function.__name__}-{content_hash(plain)}.json"
        if path.exists():
            return _read(path, kind)
        found = measure()
        self._folder.mkdir(exist_ok=True)
        content = {"measured": plain, "result": kind.dump_python(found)}
        write_whole(path, json.dumps(content, indent=1, default=_plain))
        return found


def _read(path: Path, kind: pydantic.TypeAdapter[Any]) -> Any:
    try:
        return kind.validate_python(json.loads(path.read_text(encoding="utf-8"))["result"])
    except (ValueError, KeyError, TypeError) as error:
        raise RunFolderError(
            f"{path} is damaged: {error}. Remove it, and the same command measures it anew."
        ) from error


def returned(function: Callable[..., Any]) -> Any:
    """The type that a function returns; its other annotations may be there for types alone.

    Raises:
        InputError: It does not say.
    """
    annotation = getattr(function, "__annotations__", {}).get("return")
    if annotation is None:
        raise InputError(
            f"`{function.__name__}` must say what it returns, such as `-> tuple[float, ...]`: its "
            "result is kept in the run folder."
        )
    holder = types.SimpleNamespace(__annotations__={"return": annotation})
    names = getattr(function, "__globals__", {})
    return typing.get_type_hints(holder, globalns=names)["return"]


def _plain(value: Any) -> Any:
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} cannot be kept in the run folder")
