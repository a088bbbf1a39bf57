"""Imports go down only, heavy libraries stay where they belong, and importing tfbatch is cheap."""

from __future__ import annotations

import ast
import functools
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import tfbatch

PACKAGE = Path(tfbatch.__file__).parent
# From the ground up: a module imports from the floors below its own.
FLOORS = [
    # No TensorFlow; these may import one another, without a circle.
    "errors schema plug_ins quantities configuration dataset_info seeds "
    "run_folder estimators charts metric_direction trial_status process interleaved_rounds "
    "notebook loss_scaling",
    "encoded_images",
    # Leaves.
    "schedules scaling_rules optimizers layers models sources records augmentations exporters "
    "gradients hparams_log curves_log oracles accumulation device_memory",
    "trial",
    "pipeline workers",
    "request",
    "answer",
    "reporting",
    "callbacks comparison translation",
    "training",
    "bench",
    "largest_batch",
    "search",
    "python_objects",
    "finder instruments",
    # The command line.
    "command_line",
    "prepare tune train export probe report claims compare translate",
    "__main__",
]
WITHOUT_TENSORFLOW = ("trial", "request", "answer", "reporting", "comparison", "translation")
"""Parts above the leaves that must run where there is none, with all that they import."""
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
GROUND = FLOOR["errors"]
LEAVES = FLOOR["schedules"]
COMMAND_LINE = FLOOR["command_line"]
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def part(path):
    """The name below tfbatch that a module belongs to, e.g. "schedules"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


class WithoutTypes(ast.NodeTransformer):
    """Leaves out what a file imports for types alone."""

    def visit_If(self, node):
        return None if ast.unparse(node.test) == "TYPE_CHECKING" else self.generic_visit(node)


@functools.cache
def imports(path, *, types=True):
    """Every module that a file imports, also inside functions and, if asked, for types alone."""
    found = []
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree if types else WithoutTypes().visit(tree)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def imported_parts(path):
    """The names below tfbatch that a file imports, but its own."""
    own = [name.split(".")[1] for name in imports(path) if name.startswith("tfbatch.")]
    return sorted(set(own) - {part(path)})


def imports_any(path, *libraries):
    return [name for name in imports(path, types=False) if name.split(".")[0] in libraries]


def test_every_module_imports_from_floors_below_only():
    offenders = []
    for path in MODULES:
        floor = FLOOR[part(path)]
        for name in imported_parts(path):
            below = FLOOR[name] < floor
            within_the_ground_floor = FLOOR[name] == floor == GROUND
            if not (below or within_the_ground_floor):
                offenders.append(f"{path.relative_to(PACKAGE)} imports {name}")

    assert offenders == []


def test_the_ground_floor_has_no_circle():
    graph = {}
    for path in MODULES:
        if FLOOR.get(part(path)) == GROUND:
            graph.setdefault(part(path), set()).update(imported_parts(path))

    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_a_leaf_never_imports_another_leaf():
    """The rule above says so already; this one says it for the plug-in folders by name."""
    for path in MODULES:
        if FLOOR.get(part(path)) == LEAVES:
            assert not [name for name in imported_parts(path) if FLOOR[name] == LEAVES]


def out_of_place(path):
    """The imports of a module that belong elsewhere."""
    floor, found = FLOOR[part(path)], []
    if floor == GROUND or part(path) in WITHOUT_TENSORFLOW:
        found += imports_any(path, "tensorflow", "keras", "keras_tuner", "tensorboard")
    a_builders_own_hp = path == PACKAGE / "training" / "workload.py"
    if part(path) not in ("search", "oracles") and not a_builders_own_hp:
        found += imports_any(path, "keras_tuner")
    if path != PACKAGE / "sources" / "tfds.py":
        found += imports_any(path, "tensorflow_datasets")
    of_a_command = floor >= COMMAND_LINE and part(path) != "claims"
    if not of_a_command and path != PACKAGE / "claims" / "__main__.py":
        absl = imports_any(path, "absl")
        found += [name for name in absl if name.startswith(("absl.flags", "absl.app"))]
    return found


def test_heavy_libraries_are_imported_where_they_belong():
    found = {str(path.relative_to(PACKAGE)): out_of_place(path) for path in MODULES}

    assert {path: names for path, names in found.items() if names} == {}


def writes_into_engine(path):
    """Lines that set an attribute of what is called an engine."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        for target in targets:
            owner = target.value if isinstance(target, ast.Attribute) else None
            name = getattr(owner, "attr", getattr(owner, "id", ""))
            if name.strip("_") == "engine":
                found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    return found


def test_nobody_changes_an_engine_from_outside():
    assert [line for path in MODULES for line in writes_into_engine(path)] == []


def test_every_part_of_the_package_is_looked_at():
    assert len(MODULES) > 60
    assert {part(path) for path in MODULES} <= set(FLOOR), "give each a floor in this test"
    assert "tfbatch.errors.DataError" in imports(PACKAGE / "sources" / "tfds.py")


def test_importing_tfbatch_and_asking_for_names_imports_no_tensorflow():
    program = """
import sys
def check(what):
    found = [m for m in ("tensorflow", "keras") if m in sys.modules]
    assert not found, f"{what} imported {found}"

import tfbatch; check("tfbatch")
tfbatch.find_batch_size; check("a function")
from tfbatch.dataset_info.recipe import load_recipe; load_recipe("cifar10"); check("recipes")
import tfbatch.models, tfbatch.optimizers; tfbatch.models.check_model_name("resnet"); check("names")
import tfbatch.trial.trials, tfbatch.trial.derived; check("trials")
import tfbatch.answer.stored, tfbatch.answer.table, tfbatch.answer.summary; check("answers")
import tfbatch.schedules; tfbatch.schedules.make_family("cosine", final_fraction=0.1)
check("schedules")
"""
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True
    )

    assert run.returncode == 0, run.stderr


def test_every_public_name_exists():
    for name in tfbatch.__all__:
        assert getattr(tfbatch, name)
    with pytest.raises(AttributeError, match="module 'tfbatch' has no attribute 'find_batchsize'"):
        _ = tfbatch.find_batchsize


def test_no_public_function_bears_the_name_of_a_module():
    """After `import tfbatch.tune` the name is the module."""
    modules = {part(path) for path in MODULES}

    for name in set(tfbatch.__all__) & modules:
        assert getattr(tfbatch, name).__name__ == f"tfbatch.{name}"
