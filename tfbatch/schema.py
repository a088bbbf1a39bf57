"""Strict YAML: read by a safe YAML 1.2 loader, validated by pydantic, unknown keys forbidden.

YAML 1.2 (ruamel.yaml) is used because PyYAML's 1.1 reads `1e-3` as text, `no` as False and lets a
second key silently replace the first.
"""

from __future__ import annotations

import hashlib
import io
import json
import numbers
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pydantic
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from tfbatch.errors import ConfigurationError, InputError, did_you_mean

Value = TypeVar("Value")


def as_plain(value: Value) -> Value:
    """Python's own numbers in place of NumPy's, in dicts (their keys too), lists and tuples.

    An array of at most one dimension becomes a number or a list.
    """
    plain: Value = _plain(value)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim <= 1):
        return value.tolist()
    if type(value) is dict:
        return {_plain(key): _plain(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def check_numbers(**values: object) -> None:
    """Refuses what is no number, before it is compared with one.

    Args:
        **values: Of arguments, by their names.

    Raises:
        InputError: One is a text, None or anything else.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            remedy = "Leave it out: its default is used."
            if isinstance(value, str):
                remedy = "Write it without quotation marks."
            raise InputError(f"`{name}` must be a number. Received: {value!r}. {remedy}")


def expanded(path: str | Path) -> Path:
    """A path that a user names, with `~` as the home directory.

    Raises:
        InputError: The home directory of an unknown user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise InputError(f"{error} Received: {str(path)!r}. Write the folder out.") from error


class Strict(pydantic.BaseModel):
    """Base of all values that travel between modules: frozen, no unknown keys, finite numbers."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @pydantic.model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return as_plain(data)


class Named(pydantic.BaseModel):
    """A plug-in's name and its arguments; the plug-in itself checks the arguments."""

    model_config = pydantic.ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)
    name: str

    @pydantic.model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return as_plain(data)

    @property
    def arguments(self) -> JsonObject:
        """Everything but the name."""
        return dict(self.model_extra or {})


def as_named(value: object) -> object:
    """What stands for a plug-in without arguments may be its name alone."""
    return {"name": value} if isinstance(value, str) else value


def as_written(named: Named) -> str | JsonObject:
    """The inverse of `as_named`."""
    return {"name": named.name, **named.arguments} if named.arguments else named.name


Model = TypeVar("Model", bound=pydantic.BaseModel)
JsonObject: TypeAlias = dict[str, Any]
"""What a file of JSON or YAML contains, before a model is made of it."""
_LONGEST_RECEIVED = 120
"""Characters of what was received that a message shows; a whole file would hide the message."""


def read_yaml(path: Path) -> JsonObject:
    """Reads one YAML mapping.

    Raises:
        ConfigurationError: The file is absent, is not YAML, repeats a key, or holds no mapping.
    """
    try:
        loaded = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path}: is not UTF-8 text: {error.reason}.") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ConfigurationError(f"{path}: {line}{error.problem or error.context}.") from error
    except YAMLError as error:
        raise ConfigurationError(f"{path}: is not YAML: {error}.") from error
    if not isinstance(loaded, dict):
        raise ConfigurationError(
            f"{path}: must hold a mapping of keys to values. Received: {type(loaded).__name__}."
        )
    return loaded


def write_yaml(data: JsonObject, *, comment: str = "") -> str:
    """Returns `data` as YAML text that `read_yaml` reads back unchanged."""
    stream = io.StringIO()
    stream.writelines(f"# {line}\n" for line in comment.splitlines())
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.dump(json.loads(json.dumps(data)), stream)
    return stream.getvalue()


def validate(model: type[Model], data: object, *, where: str) -> Model:
    """Makes a `model` of plain data.

    Args:
        model: The pydantic class.
        data: What was read from YAML or JSON.
        where: The file or flag that `data` came from; the error message begins with it.

    Raises:
        ConfigurationError: Names each wrong key, what it must be and what was received.
    """
    try:
        return model.model_validate(data)
    except pydantic.ValidationError as error:
        problems = "\n".join(_explain(model, item, where) for item in error.errors())
        raise ConfigurationError(problems) from error
    except ConfigurationError:
        raise
    except InputError as error:
        raise ConfigurationError(f"{where}: {error}") from error


def load(model: type[Model], path: Path) -> Model:
    """Reads and validates one YAML file. Raises ConfigurationError as `validate` does."""
    return validate(model, read_yaml(path), where=str(path))


def content_hash(data: object) -> str:
    """A short hash (16 hexadecimal digits) of plain data, independent of the order of keys."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _explain(model: type[pydantic.BaseModel], item: Any, where: str) -> str:
    key = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        known = _keys_at(model, item["loc"][:-1])
        hint = did_you_mean(str(item["loc"][-1]), known)
        allowed = f" Allowed: {', '.join(known)}." if known else ""
        return f"{where}: {key}: is not a known key.{hint}{allowed}"
    if item["type"] == "missing":
        return f"{where}: {key}: is required."
    message = item["msg"].removeprefix("Value error, ").rstrip(".")
    received = f" Received: {item['input']!r}."
    if "Received" in message or len(received) > _LONGEST_RECEIVED:
        received = ""
    return f"{where}: {key + ': ' if key else ''}{message}.{received}"


def _keys_at(model: type[pydantic.BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """The keys allowed at a location of a nested model (empty where it cannot be told)."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        inner = [] if field is None else _models_in(field.annotation)
        if len(inner) != 1:
            return []
        model = inner[0]
    return sorted(field.alias or name for name, field in model.model_fields.items())


def _models_in(annotation: Any) -> list[type[pydantic.BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel):
        return [annotation]
    found = [m for a in getattr(annotation, "__args__", ()) for m in _models_in(a)]
    return list(dict.fromkeys(found))
