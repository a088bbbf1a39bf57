"""A folder is a registry: a new file is found with no edit, an unknown name is refused kindly."""

from __future__ import annotations

import sys

import pytest

from tfbatch.augmentations import AUGMENTATIONS
from tfbatch.errors import InputError
from tfbatch.exporters import EXPORTERS
from tfbatch.models import MODELS
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.oracles import ORACLES
from tfbatch.plug_ins import Registry
from tfbatch.scaling_rules import SCALING_RULES
from tfbatch.schedules import SCHEDULES
from tfbatch.sources import SOURCES

EVERY = {
    "augmentations": AUGMENTATIONS,
    "exporters": EXPORTERS,
    "models": MODELS,
    "optimizers": OPTIMIZERS,
    "oracles": ORACLES,
    "scaling rules": SCALING_RULES,
    "schedules": SCHEDULES,
    "sources": SOURCES,
}


@pytest.fixture
def shapes(tmp_path, monkeypatch):
    """A package with the plug-ins circle and square."""
    folder = tmp_path / "shapes_of_a_test"
    folder.mkdir()
    for name, text in {
        "__init__": "",
        "_private": "",
        "circle": "AREA = 3",
        "square": "raise RuntimeError('imported')",
        "notes.txt": "",
    }.items():
        (folder / (name if "." in name else f"{name}.py")).write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield Registry("shapes_of_a_test", kind="shape", folder=[str(folder)])
    for name in [n for n in sys.modules if n.startswith("shapes_of_a_test")]:
        del sys.modules[name]


def test_names_are_files_sorted_without_private_ones(shapes):
    assert shapes.names() == ["circle", "square"]


def test_listing_and_checking_import_nothing(shapes):
    assert shapes.check("square") == "square"
    assert not [name for name in sys.modules if name.startswith("shapes_of_a_test")]


def test_a_plug_in_is_imported_when_it_is_loaded(shapes):
    assert shapes.load("circle").AREA == 3
    with pytest.raises(RuntimeError, match="imported"):
        shapes.load("square")


def test_a_new_file_is_found_with_no_edit(shapes, tmp_path):
    (tmp_path / "shapes_of_a_test" / "line.py").write_text("AREA = 0")

    assert shapes.names() == ["circle", "line", "square"]
    assert shapes.load("line").AREA == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sqare", "Unknown shape `sqare`. Did you mean `square`? Available: circle, square."),
        ("zzz", "Unknown shape `zzz`. Available: circle, square."),
        ("_private", "Unknown shape `_private`. Available: circle, square."),
        ("__init__", "Unknown shape `__init__`. Available: circle, square."),
        ("", "Unknown shape ``. Available: circle, square."),
        (
            "../circle",
            "Unknown shape `../circle`. Did you mean `circle`? Available: circle, square.",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_the_closest_one(shapes, name, message):
    for refused in (shapes.check, shapes.load):
        with pytest.raises(InputError) as caught:
            refused(name)
        assert str(caught.value) == message


@pytest.mark.parametrize("registry", EVERY.values(), ids=EVERY)
def test_every_plug_in_can_be_loaded_and_says_what_it_is(registry):
    assert registry.names()
    for name in registry.names():
        module = registry.load(name)
        assert module.__name__ == f"{registry.package}.{name}"
        assert module.__doc__
