"""No `Any` stands where one module calls another: what crosses a seam has a type."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import tfbatch

PACKAGE = Path(tfbatch.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
OF_KERAS = {"get_config", "set_state", "Sweep.__call__", "WatchedInput.__call__"}
"""Methods that Keras and KerasTuner call with what it likes; so are the `logs` of each `on_...`."""
OPEN = {
    "schema.py": "JsonObject: what a file contains before a model is made of it",
    "workers/slot.py": "carries any function and its result to another process; Engine.call and "
    "Bench.measure, which others use, take their types from the function",
    "workers/ray_slot.py": "the same for a process on another machine",
    "search/worker_engine.py": "perform() is what Engine.call, which is typed, hands over to",
}
"""Modules whose seam is open, and why."""


def is_public(name):
    return not name.startswith("_") or name in ("__init__", "__call__")


_ANY_NUMBERS = ("NDArray[Any]", "dtype[Any]")
"""An array's type leaves open what its numbers are."""


def has_any(annotation):
    if annotation is None:
        return False
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return bool(re.search(r"(?<!NDArray\[)(?<!dtype\[)\bAny\b", annotation.value))
    if isinstance(annotation, ast.Subscript) and ast.unparse(annotation).endswith(_ANY_NUMBERS):
        return False
    if isinstance(annotation, ast.Name):
        return annotation.id == "Any"
    return any(map(has_any, ast.iter_child_nodes(annotation)))


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
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Subscript):
            found += [ast.unparse(node.targets[0])] if has_any(node.value) else []
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias":
            found += [ast.unparse(node.target)] if has_any(node.value) else []
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


def test_what_others_call_is_typed():
    found = {
        path.relative_to(PACKAGE).as_posix(): offenders(path.read_text(encoding="utf-8"))
        for path in FILES
    }
    loose = {name: names for name, names in found.items() if names}

    assert {name: names for name, names in loose.items() if name not in OPEN} == {}
    assert OPEN.keys() <= loose.keys(), "no exception any more: take it out"


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
def pixels(image: npt.NDArray[Any]) -> Any | npt.NDArray[Any]: ...
Build: TypeAlias = "Callable[..., Any]"
"""

    assert offenders(text) == [
        "Look",
        "measure(data)",
        "measure(return)",
        "Reading.at(sizes)",
        "Reading.found",
        "pixels(return)",
        "Build",
    ]
