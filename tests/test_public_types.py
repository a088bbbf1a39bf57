"""No `Any` stands where instruments, callbacks and gradients are called from elsewhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import tfbatch

PACKAGE = Path(tfbatch.__file__).parent
FILES = sorted(
    path
    for part in ("instruments", "largest_batch", "callbacks", "gradients")
    for path in (PACKAGE / part).glob("*.py")
) + [PACKAGE / name for name in ("bench.py", "interleaved_rounds.py", "device_memory.py")]
OF_KERAS = {"get_config", "Sweep.__call__", "WatchedInput.__call__"}
"""Methods that Keras calls with what it likes; so are the `logs` of each `on_...`."""


def is_public(name):
    return not name.startswith("_") or name in ("__init__", "__call__")


def has_any(annotation):
    names = ast.walk(annotation) if annotation is not None else ()
    return any(isinstance(node, ast.Name) and node.id == "Any" for node in names)


def loose(function):
    """The parameters of a function that are Any, and "return"."""
    given = function.args
    every = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    found = [one.arg for one in every if one is not None and has_any(one.annotation)]
    if function.name.startswith("on_") and "logs" in found:
        found.remove("logs")
    return found + (["return"] if has_any(function.returns) else [])


def offenders(text):
    """What of a module is loose: aliases, functions, and methods and fields of public classes."""
    found = []
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and has_any(node.value):
            found.append(ast.unparse(node.targets[0]))
        classes = [node] if isinstance(node, ast.ClassDef) and is_public(node.name) else []
        functions = [(node, "")] if isinstance(node, ast.FunctionDef) else []
        functions += [
            (one, f"{holder.name}.")
            for holder in classes
            for one in holder.body
            if isinstance(one, ast.FunctionDef)
        ]
        found += [
            f"{prefix}{one.name}({name})"
            for one, prefix in functions
            if is_public(one.name) and not {one.name, prefix + one.name} & OF_KERAS
            for name in loose(one)
        ]
        found += [
            f"{holder.name}.{ast.unparse(one.target)}"
            for holder in classes
            for one in holder.body
            if isinstance(one, ast.AnnAssign) and has_any(one.annotation)
        ]
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_what_others_call_is_typed(path):
    assert offenders(path.read_text(encoding="utf-8")) == []


def test_loose_types_are_found_wherever_they_stand():
    text = """
Look = Callable[[Any], None]
def measure(data: Any, *, size: int) -> dict[str, Any]: ...
def _own(data: Any) -> Any: ...
class Reading:
    found: list[Any]
    def on_epoch_end(self, epoch: int, logs: Any = None) -> None: ...
    def at(self, *sizes: Any) -> int: ...
    def get_config(self) -> dict[str, Any]: ...
"""

    assert offenders(text) == [
        "Look",
        "measure(data)",
        "measure(return)",
        "Reading.at(sizes)",
        "Reading.found",
    ]
