"""What was measured in the process that trains, kept in the run folder: nothing is measured twice.

A measurement is a function with its arguments. Its result is a file of its own, there as soon as
the function has returned, whatever ends the session afterwards.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

import pydantic

from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import MEASUREMENTS
from tfbatch.schema import JsonObject, content_hash

R = TypeVar("R")


class Measurements:
    """Results by what was measured, and on which device.

    Args:
        run_dir: The run folder.
        device: Its name; what another one has measured is measured anew.
    """

    def __init__(self, run_dir: Path, device: str):
        self._folder, self._device = run_dir / MEASUREMENTS, device

    def recall(
        self,
        function: Callable[..., R],
        arguments: Sequence[object],
        options: Mapping[str, object],
        measure: Callable[[], R],
    ) -> R:
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
        kept = self._kept(function, arguments, options)
        return kept.read() if kept.path.exists() else kept.write(measure())

    def recall_each(
        self,
        function: Callable[..., R],
        cases: Sequence[Mapping[str, object]],
        measure: Callable[[Sequence[Mapping[str, object]], Callable[[int, R], None]], None],
    ) -> list[R]:
        """What `function` has returned for each case, in their order.

        Args:
            function: See `recall`.
            cases: Its arguments by keyword, for each.
            measure: `measure(cases, ended)` calls the function for cases that are not known, and
                `ended(index, result)` as soon as one has ended: it is kept then.

        Raises:
            InputError: The function does not say what it returns.
            RunFolderError: A file cannot be read or written.
        """
        kept = [self._kept(function, (), case) for case in cases]
        missing = [index for index, one in enumerate(kept) if not one.path.exists()]

        def ended(index: int, result: R) -> None:
            kept[missing[index]].write(result)

        if missing:
            measure([cases[index] for index in missing], ended)
        return [one.read() for one in kept]

    def _kept(
        self, function: Callable[..., R], arguments: Sequence[object], options: Mapping[str, object]
    ) -> _Kept[R]:
        kind = pydantic.TypeAdapter(returned(function))
        name = f"{function.__module__}.{function.__qualname__}"
        asked = [self._device, name, arguments, dict(options)]
        plain = json.loads(json.dumps(asked, default=_plain))
        path = self._folder / f"{function.__name__}-{content_hash(plain)}.json"
        return _Kept(path, plain, kind)


@dataclasses.dataclass(frozen=True)
class _Kept(Generic[R]):
    """The file of one measurement.

    Attributes:
        path: Where it is.
        measured: What was measured: the device, the function and its arguments.
        kind: What the function returns.
    """

    path: Path
    measured: JsonObject
    kind: pydantic.TypeAdapter[R]

    def read(self) -> R:
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            return self.kind.validate_python(content["result"])
        except (ValueError, KeyError, TypeError) as error:
            raise RunFolderError(
                f"{self.path} is damaged: {error}. Remove it, and the same command measures it "
                "anew."
            ) from error

    def write(self, found: R) -> R:
        self.path.parent.mkdir(exist_ok=True)
        content = {"measured": self.measured, "result": self.kind.dump_python(found)}
        write_whole(self.path, json.dumps(content, indent=1, default=_plain))
        return found


def returned(function: Callable[..., R]) -> type[R]:
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
    found: type[R] = typing.get_type_hints(holder, globalns=names)["return"]
    return found


def _plain(value: object) -> JsonObject:
    if isinstance(value, pydantic.BaseModel):
        found: JsonObject = value.model_dump(mode="json")
        return found
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    raise TypeError(f"{type(value).__name__} cannot be kept in the run folder")
