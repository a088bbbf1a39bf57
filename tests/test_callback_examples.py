"""The scripts that show the callbacks: quickly on digits, and as they are where CIFAR-10 is."""

from __future__ import annotations

import importlib.util
import math
import re
import runpy
import sys
from pathlib import Path

import pytest
from processes import with_long_enough_pauses
from sklearn.datasets import load_digits

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import examples as as_they_are

EXAMPLES = as_they_are.EXAMPLES


def module_of(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digits(examples):
    """In place of a script's own images: no download, and small."""
    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8, 1)[:examples].astype("float32") / 16, labels[:examples]


@pytest.fixture
def example(monkeypatch):
    def load(name):
        module = module_of(name)
        monkeypatch.setattr(module, "load", digits)
        return module

    return load


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*shuffle=True:UserWarning")
def test_the_slow_pipeline_is_waited_for_and_the_cached_one_is_not(example, capsys):
    main = example("throughput").main
    waits = with_long_enough_pauses(
        lambda seconds: main(examples=400, epochs=2, delay=seconds),
        lambda waits: waits["slow"] > 2 * waits["cached"],
        seconds=0.006,
    )

    assert waits["slow"] > 2 * waits["cached"]
    assert capsys.readouterr().out.count("waiting for input") >= 2


def test_a_peak_of_memory_is_given_for_each_batch_size(example):
    peaks = example("peak_memory").main(examples=200, batch_sizes=(20, 100))

    assert list(peaks) == [20, 100]
    assert 50 < peaks[20] <= peaks[100]


@pytest.mark.slow
def test_the_noise_scale_is_given_for_each_epoch(example, capsys):
    scales = example("gradient_noise_scale").main(examples=900, epochs=2, batch_size=16)

    assert len(scales) == 2
    assert scales[-1] > 0
    assert "of the training's time" in capsys.readouterr().out


@pytest.mark.slow
def test_the_suggested_rate_is_trained_with(example, capsys):
    losses = example("learning_rate_range").main(examples=900, epochs=8, batch_size=32)

    assert all(math.isfinite(loss) for loss in losses.values())
    assert losses["suggested"] != losses["compiled"]
    assert "steepest" in capsys.readouterr().out


@pytest.mark.slow
def test_the_gap_in_the_same_mode_is_larger_than_that_of_the_curves(example):
    gaps = example("generalization_gap").main(examples=900, epochs=4)

    assert gaps["same_mode"] > gaps["curves"]


@pytest.mark.slow
def test_there_is_a_row_for_each_batch_size(example, tmp_path):
    folders = example("hparams_view").main(
        examples=200, batch_sizes=(16, 32), log_dir=str(tmp_path)
    )

    assert folders == [tmp_path / "fit-0001", tmp_path / "fit-0002"]
    assert all(any(folder.iterdir()) for folder in folders)


@pytest.mark.slow
def test_the_advice_is_printed(example, capsys):
    advisor = example("advisor").main(examples=600, epochs=1, batch_size=16)

    assert str(advisor.advice.lines[-1]) in capsys.readouterr().out


@pytest.mark.slow
def test_the_batch_grows_and_saves_updates(example, capsys):
    """Without the callback there is neither its dataset nor a size that grows."""
    found = example("adaptive_batch_size").main(examples=900, epochs=6, batch_size=8, interval=5)

    sizes = found["batch_sizes"]
    assert sizes[:2] == [8, 16]
    assert found["fixed"]["updates"] == 6 * 94
    assert found["adaptive"]["updates"] < 0.8 * found["fixed"]["updates"]
    assert min(found[name]["accuracy"] for name in ("fixed", "adaptive")) > 0.8
    assert f"on batches of {sizes[-1]}" in capsys.readouterr().out


def test_what_diverges_is_ended_and_what_does_not_is_trained_to_the_end(example, capsys):
    """Without the callback every training makes all its updates."""
    updates = example("divergence_guard").main(examples=640, epochs=2, learning_rates=(0.02, 50.0))

    assert updates[0.02] == 40
    assert updates[50.0] < 20
    assert "learning rate 50: " in (printed := capsys.readouterr().out)
    assert f"{40 - updates[50.0]} useless updates were not made" in printed


CIFAR10 = [
    path.stem
    for path in sorted(EXAMPLES.glob("*.py"))
    if "cifar10" in path.read_text(encoding="utf-8")
]


@pytest.mark.slow
def test_every_script_loads_its_images(cifar10_dir):
    assert len(CIFAR10) >= 10
    for name in CIFAR10:
        images, labels = runpy.run_path(str(EXAMPLES / f"{name}.py"))["load"](8)
        assert images.shape == (8, 32, 32, 3), name
        assert images.max() <= 1, name
        assert len(labels) == 8, name


@pytest.mark.slow
def test_a_script_runs_on_cifar10_as_it_is(cifar10_dir, tmp_path):
    """As a user starts it; all of them: `benchmarks/examples.py`."""
    (ended,) = as_they_are.run(["divergence_guard"], tmp_path)
    assert ended.code == 0, ended.errors
    assert re.search(r"\d", ended.printed), "no measured effect is printed"
