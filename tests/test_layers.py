"""Imports go down only, heavy libraries stay where they belong, and importing tfbatch is cheap."""

from __future__ import annotations

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import tfbatch

PACKAGE = Path(tfbatch.__file__).parent
FLOORS = {
    0: "errors durations registry schema recipes yaml_folder configuration statistics seeds "
    "training_config own_data backend references run_folder estimators class_balance charts "
    "chart_page byte_sizes metric_direction",
    1: "schedules scaling_rules optimizers layers models sources records augmentations exporters "
    "gradients hparams_log oracles accumulation",
    2: "pipeline workers",
    2.5: "callbacks",
    3: "training",
    4: "instruments",
    5: "search",
    5.4: "given",
    5.6: "bench",
    6: "finder measuring",
    7: "command_line",
    7.2: "workload_flags",
    7.4: "prepare tune train export probe",
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names.split()}
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
EACH_MODULE = pytest.mark.parametrize(
    "path", MODULES, ids=[str(p.relative_to(PACKAGE).with_suffix("")) for p in MODULES]
)


def part(path):
    """The name below tfbatch that a module belongs to, e.g. "schedules"."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path):
    """Every module that a file imports, also inside functions and for types alone."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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
    return [name for name in imports(path) if name.split(".")[0] in libraries]


@EACH_MODULE
def test_a_module_imports_from_floors_below_only(path):
    assert part(path) in FLOOR, f"give tfbatch/{part(path)} a floor in this test"
    floor = FLOOR[part(path)]
    for name in imported_parts(path):
        below = FLOOR[name] < floor
        within_the_ground_floor = FLOOR[name] == floor == 0
        assert below or within_the_ground_floor, name


def test_the_ground_floor_has_no_circle():
    graph = {}
    for path in MODULES:
        if FLOOR.get(part(path)) == 0:
            graph.setdefault(part(path), set()).update(imported_parts(path))

    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_a_leaf_never_imports_another_leaf():
    """The rule above says so already; this one says it for the plug-in folders by name."""
    for path in MODULES:
        if FLOOR.get(part(path)) == 1:
            assert not [name for name in imported_parts(path) if FLOOR[name] == 1]


@EACH_MODULE
def test_heavy_libraries_are_imported_where_they_belong(path):
    floor = FLOOR[part(path)]
    if floor == 0:
        assert not imports_any(path, "tensorflow", "keras", "keras_tuner", "tensorboard")
    a_builders_own_hp = path == PACKAGE / "training" / "workload.py"
    if part(path) not in ("search", "oracles") and not a_builders_own_hp:
        assert not imports_any(path, "keras_tuner")
    if path != PACKAGE / "sources" / "tfds.py":
        assert not imports_any(path, "tensorflow_datasets")
    if floor < 7:
        assert not [
            n for n in imports_any(path, "absl") if n.startswith(("absl.flags", "absl.app"))
        ]


def test_every_part_of_the_package_is_looked_at():
    assert len(MODULES) > 60
    assert {part(path) for path in MODULES} <= set(FLOOR)
    assert "tfbatch.errors.DataError" in imports(PACKAGE / "sources" / "tfds.py")


@pytest.mark.parametrize(
    "program",
    [
        "import tfbatch",
        "import tfbatch; tfbatch.find_batch_size",
        "import tfbatch.schedules; tfbatch.schedules.make_family('cosine', final_fraction=0.1)",
        "import tfbatch.recipes; tfbatch.recipes.load_recipe('cifar10')",
        "import tfbatch.models, tfbatch.optimizers; tfbatch.models.check_model_name('resnet')",
    ],
    ids=["import", "function", "schedules", "recipes", "names"],
)
def test_importing_tfbatch_and_asking_for_names_imports_no_tensorflow(program):
    check = "import sys; print([m for m in ('tensorflow', 'keras') if m in sys.modules])"

    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"{program}\n{check}"],
        capture_output=True,
        text=True,
    )

    assert (run.stdout.strip(), run.returncode) == ("[]", 0), run.stderr


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
