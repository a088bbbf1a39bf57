"""Code blocks of README and docs/ are run, their YAML is loaded, their commands are parsed."""

import functools
import importlib
import re
import shlex
import types
from pathlib import Path

import numpy as np
import pytest
from processes import run_warm
from ruamel.yaml import YAML

import tfbatch
import tfbatch.compare
import tfbatch.export
import tfbatch.prepare
import tfbatch.probe
import tfbatch.train
import tfbatch.translate
import tfbatch.tune
from tfbatch.__main__ import command_module
from tfbatch.command_line.running import parse_flags
from tfbatch.dataset_info.recipe import load_recipe
from tfbatch.request.search_config import Space
from tfbatch.schedules import SCHEDULES, ScheduleFamily
from tfbatch.schema import validate
from tfbatch.search.space import SearchSpace

pytestmark = pytest.mark.usefixtures("short_rounds")

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, flags=re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def ids(texts):
    return [next(line for line in text.splitlines() if line.strip())[:40] for text in texts]


SCRIPTS = [text for text in blocks("python") if "class Family" not in text]
# What a reader's machine takes longer for, and finds more precisely:
SHORTER = {"max_seconds=20": "max_seconds=4", "seconds=5": "seconds=1", "largest=128": "largest=8"}
GUARDED = [text for text in SCRIPTS if "__main__" in text]
COMMANDS = [
    line.split("#")[0].strip()
    for text in blocks("sh")
    for line in text.splitlines()
    if re.match(r"tfbatch [a-z]+ -", line)
]


def test_the_pages_have_examples_and_commands():
    assert len(PAGES) > 10
    assert len(SCRIPTS) >= 9
    assert {command.split()[1] for command in COMMANDS} >= {"tune", "train", "prepare", "export"}


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(
            text, marks=[pytest.mark.slow] * ("find_batch_size(" in text or "Tuner" in text)
        )
        for text in SCRIPTS
    ],
    ids=ids(SCRIPTS),
)
def test_python_block_runs(script, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFBATCH_RECORDS_DIR", str(tmp_path / "records"))
    # In this process: worker processes are tried elsewhere, and take seconds to start.
    in_process = functools.partial(tfbatch.find_batch_size, workers=0)
    monkeypatch.setattr(tfbatch, "find_batch_size", in_process, raising=False)
    exec(compile(script, "page.md", "exec"), {"__name__": "page"})


@pytest.mark.slow
@pytest.mark.parametrize("script", GUARDED, ids=ids(GUARDED))
def test_script_that_starts_processes_runs(script, tmp_path):
    for written, shorter in SHORTER.items():
        assert written in script
        script = script.replace(written, shorter)
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    environment = {"TFBATCH_RECORDS_DIR": str(tmp_path / "records")}
    ended = run_warm("script.py", cwd=tmp_path, environment=environment)
    assert ended.stdout.count("Received") == 0
    for said in ("largest training batch", "batch size", "noise scale", "range test", "Hessian"):
        assert said in ended.stdout


def test_the_schedule_of_the_pages_is_a_schedule_family():
    (text,) = (text for text in blocks("python") if "class Family" in text)
    module = types.ModuleType("page_schedule")
    exec(compile(text, "page.md", "exec"), module.__dict__)
    family = module.Family(final_fraction=0.01)
    assert isinstance(family, ScheduleFamily)
    middle = 1 - 0.99 * np.log(5.5) / np.log(10)
    np.testing.assert_allclose(family.factor(np.array([0.0, 0.5, 1.0]), np), [1.0, middle, 0.01])


def test_the_space_of_the_pages_is_a_space():
    (text,) = (text for text in blocks("yaml") if text.startswith("space:"))
    written = YAML(typ="safe", pure=True).load(text)["space"]
    space = SearchSpace(validate(Space, written, where="docs/space.md"), num_examples=45_000)
    assert {"schedule", "optimizer_beta_2_half_life", "model_normalization"} <= {
        hyperparameter.name for hyperparameter in space.hyperparameters().space
    }


def test_the_recipe_of_the_pages_is_a_recipe(tmp_path):
    (text,) = (text for text in blocks("yaml") if "source:" in text)
    (tmp_path / "fashion_mnist.yaml").write_text(text, encoding="utf-8")
    recipe = load_recipe("fashion_mnist", recipe_dir=tmp_path)
    assert recipe.features.image.shape == (28, 28, 1)


@pytest.mark.parametrize("command", COMMANDS)
def test_command_of_a_page_has_known_flags(command):
    _, name, *arguments = shlex.split(command)
    module = importlib.import_module(command_module(name))
    parse_flags(module.FLAGS, arguments, usage="")


def test_every_schedule_that_the_pages_name_exists():
    (named,) = re.findall(r"Also searched are the schedule \((.*?)\)", TEXT, flags=re.DOTALL)
    names = re.findall(r"`(\w+)`", named)
    assert len(names) >= 4
    assert set(names) <= set(SCHEDULES.names())
