"""A public name has one definition, and every call in examples and benchmarks fits it."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

import tfbatch

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "tfbatch"
SCRIPTS = sorted([*(ROOT / "examples").glob("*.py"), *(ROOT / "benchmarks").rglob("*.py")])


def exported(path):
    """The names in a package's literal `__all__`; lists made from a registry are left out."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            try:
                return list(ast.literal_eval(node.value))
            except ValueError:
                return []
    return []


def test_a_public_name_has_one_definition():
    public = {name for path in PACKAGE.rglob("__init__.py") for name in exported(path)}
    definitions = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in public:
                definitions[node.name].append(path.relative_to(ROOT).as_posix())

    assert {"load_data", "find_batch_size", "PreparedData"} <= definitions.keys()
    assert {name: paths for name, paths in definitions.items() if len(paths) > 1} == {}


def names_of(tree):
    """What the imports of tfbatch in a script make of its names."""
    names: dict[str, Any] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.partition(".")[0] == "tfbatch":
                    module = importlib.import_module(alias.name)
                    names[alias.asname or "tfbatch"] = module if alias.asname else tfbatch
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == (
            "tfbatch"
        ):
            module = importlib.import_module(str(node.module))
            for alias in node.names:
                held = getattr(module, alias.name, None)
                names[alias.asname or alias.name] = held or importlib.import_module(
                    f"{node.module}.{alias.name}"
                )
    return names


def resolve(node, names):
    """The object of tfbatch that an expression such as `tfbatch.callbacks.HParams` names."""
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.Attribute):
        held = resolve(node.value, names)
        return None if held is None else getattr(held, node.attr)
    return None


def bind(call, function):
    """Binds a call's arguments, without their values, as Python would.

    Raises:
        TypeError: The function does not take them.
    """
    signature = inspect.signature(function)
    positional = [None for given in call.args if not isinstance(given, ast.Starred)]
    named = {given.arg: None for given in call.keywords if given.arg}
    unpacked = len(positional) < len(call.args) or len(named) < len(call.keywords)
    (signature.bind_partial if unpacked else signature.bind)(*positional, **named)


def check_calls(source):
    """Binds every call of something of tfbatch; returns how many there are."""
    tree = ast.parse(source)
    names = names_of(tree)
    checked = 0
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        function = resolve(call.func, names)
        # A Keras class's own `__new__` takes anything: its `__init__` is what must take them.
        if callable(function) and (
            inspect.isfunction(function) or inspect.isclass(function) or inspect.ismethod(function)
        ):
            try:
                bind(call, function)
            except TypeError as error:
                raise TypeError(f"line {call.lineno}: {ast.unparse(call.func)}: {error}") from error
            checked += 1
    return checked


@pytest.mark.parametrize("path", SCRIPTS, ids=[str(p.relative_to(ROOT)) for p in SCRIPTS])
def test_every_call_of_a_script_fits_what_it_calls(path):
    check_calls(path.read_text(encoding="utf-8"))


def test_a_call_that_does_not_fit_is_found():
    good = "import tfbatch\ntfbatch.load_data('digits', data_dir=None)"

    assert check_calls(good) == 1
    assert check_calls("from tfbatch import load_data as f\nf('digits', **{'wrong': 1})") == 1
    with pytest.raises(TypeError, match=r"line 2: tfbatch\.load_data: .*'resident_share'"):
        check_calls(good.replace("data_dir", "resident_share"))
    with pytest.raises(AttributeError, match="no attribute 'load'"):
        check_calls("import tfbatch\ntfbatch.load()")
