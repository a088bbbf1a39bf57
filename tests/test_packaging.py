"""What is shipped: every package and YAML file, from a wheel and from a bare checkout alike."""

from __future__ import annotations

import ast
import configparser
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA_FOLDERS = ("pipelines", "tuner_configs")
LOADED = """
import sys
from pathlib import Path
import tfbatch
from tfbatch.dataset_info.recipe import RECIPES, load_recipe
from tfbatch.request.search_config import SEARCHES, load_search

place = Path(sys.argv[1])
assert Path(tfbatch.__file__).is_relative_to(place), tfbatch.__file__
for folder, load in ((RECIPES, load_recipe), (SEARCHES, load_search)):
    for name in folder.names():
        assert folder.find(name).is_relative_to(place), folder.find(name)
        load(name)
        print(f"{folder.folder}/{name}.yaml")
"""


@pytest.fixture(scope="module")
def settings():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def lines(text):
    return [line.strip() for line in text.splitlines() if line.strip()]


def yaml_files(root=ROOT):
    return sorted(f"{f}/{p.name}" for f in DATA_FOLDERS for p in (root / f).glob("*.yaml"))


def test_setup_cfg_lists_every_package_folder_and_no_other(settings):
    """`find:` cannot be used, since it does not see the two mapped folders."""
    folders = {
        ".".join(path.parent.relative_to(ROOT).parts)
        for path in (ROOT / "tfbatch").rglob("__init__.py")
    }
    mapped = {f"tfbatch.{folder}" for folder in DATA_FOLDERS}

    assert set(lines(settings["options"]["packages"])) == folders | mapped
    assert lines(settings["options"]["package_dir"]) == [
        f"tfbatch.{folder} = {folder}" for folder in DATA_FOLDERS
    ]


def test_every_page_names_the_oldest_python_that_setup_cfg_requires(settings):
    floor = settings["options"]["python_requires"].removeprefix(">=")
    classifiers = lines(settings["metadata"]["classifiers"])
    minors = [int(one.split("3.")[1]) for one in classifiers if ":: 3." in one]
    pages = {name: (ROOT / name).read_text() for name in ("README.md", "docs/index.md", "Makefile")}
    said = {name: re.findall(r"Python (3\.\d+) or newer", text) for name, text in pages.items()}

    assert said == {name: [floor] for name in pages}
    assert f"3.{min(minors)}" == floor
    assert f"sys.version_info < ({floor.replace('.', ', ')})" in pages["Makefile"]
    assert f'"py{floor.replace(".", "")}"' in (ROOT / "ruff.toml").read_text()
    assert settings["mypy"]["python_version"] == floor


def test_no_folder_with_modules_lacks_an_init():
    folders = {path.parent for path in (ROOT / "tfbatch").rglob("*.py")}

    assert [str(f) for f in sorted(folders) if not (f / "__init__.py").exists()] == []


def test_every_file_that_is_no_module_is_declared(settings):
    others = {
        (".".join(path.parent.relative_to(ROOT).parts), path.name)
        for path in (ROOT / "tfbatch").rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    declared = settings["options.package_data"]
    mapped = {f"tfbatch.{folder}" for folder in DATA_FOLDERS}

    assert others == {
        (package, name)
        for package, names in declared.items()
        if package not in mapped
        for name in names.split()
    }
    for folder in DATA_FOLDERS:
        assert declared[f"tfbatch.{folder}"] == "*.yaml"
        assert {path.suffix for path in (ROOT / folder).iterdir()} == {".yaml"}


def test_every_library_that_is_imported_is_required(settings):
    names = {
        "PIL": "pillow",
        "absl": "absl-py",
        "google": "protobuf",
        "ruamel": "ruamel.yaml",
        "sklearn": "scikit-learn",
        "grpc": "grpcio",
        "mlflow": "mlflow-skinny",
        "pynvml": "nvidia-ml-py",
    }
    extras = settings["options.extras_require"]
    optional = {"appendix": "matplotlib", "ray": "ray"}  # which tell how to install them
    imported, exporters = set(), ROOT / "tfbatch" / "exporters"
    for path in (ROOT / "tfbatch").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.split(".")[0])
        if path.parent == exporters and path.stem in extras:
            assert names.get(path.stem, path.stem) in extras[path.stem]
            imported.discard(path.stem)
    for extra, library in optional.items():
        assert library in re.split(r"[\s>=,<]+", extras[extra])
        imported.discard(library)
    outside = imported - set(sys.stdlib_module_names) - {"tfbatch"}
    wanted = {names.get(name, name.replace("_", "-")) for name in outside}
    required = {
        line.split(">=")[0].split("[")[0]
        for line in lines(settings["options"]["install_requires"])
        if not line.startswith("#")
    }

    assert wanted <= required, f"not required: {sorted(wanted - required)}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of what is under version control, and of nothing that a build left behind."""
    copy = tmp_path_factory.mktemp("copy") / "checkout"
    copy.mkdir()
    for name in ("tfbatch", *DATA_FOLDERS):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(checkout, tmp_path_factory):
    source = tmp_path_factory.mktemp("source") / "tfbatch"
    shutil.copytree(checkout, source)
    target = tmp_path_factory.mktemp("wheel")
    command = ["-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-w", str(target), "."]
    subprocess.run([sys.executable, *command], cwd=source, capture_output=True, check=True)
    return next(target.glob("tfbatch-*.whl"))


def run(arguments, *, cwd, path=None):
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    if path:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_wheel_holds_every_module_and_yaml_file(wheel, checkout):
    held = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(p.relative_to(checkout)) for p in (checkout / "tfbatch").rglob("*.py")}
    expected = modules | {"tfbatch/py.typed"} | {f"tfbatch/{name}" for name in yaml_files()}

    assert expected <= held
    assert {name for name in held if ".dist-info/" not in name} == expected


@pytest.mark.slow
def test_an_installed_wheel_works_without_the_checkout(wheel, tmp_path):
    place = tmp_path / "installed"
    command = ["-m", "pip", "install", "--no-deps", "--no-index", "--target", str(place)]
    subprocess.run([sys.executable, *command, str(wheel)], capture_output=True, check=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    assert lines(run(["-c", LOADED, str(place)], cwd=elsewhere, path=place)) == yaml_files()
    assert "usage: tfbatch tune" in run(["-m", "tfbatch.tune", "--help"], cwd=elsewhere, path=place)
    assert list(elsewhere.iterdir()) == []


@pytest.mark.slow
def test_a_bare_checkout_works_without_an_installation(checkout):
    assert lines(run(["-c", LOADED, str(checkout)], cwd=checkout)) == yaml_files()
    assert "usage: tfbatch tune" in run(["-m", "tfbatch.tune", "--help"], cwd=checkout)
