"""Data that many tests share. Nothing here needs a network, and nothing writes outside tmp."""

from __future__ import annotations

import gc
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before TensorFlow is imported

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: threads of their own would only wait for one another.
    for limit in ("TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(limit, "1")

import signal

import filelock
import keras
import numpy as np
import pytest

from tfbatch.dataset_info.recipe import Recipe

# Under nohup, or in the background of a script, a process ignores these, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# By the CPU time of their slow tests, then of their quick ones: the first nine cost `-m slow` most.
HEAVIEST_FIRST = """
    program faults stops readme examples kill cluster memory_limit strategy
    batch_growth schedules pipeline find_batch_size continued_trial records accumulation models
    instrument_memory callback_contract checkpoint own_model structure layers_native command_line
    trial callback_examples oracles callback_learning_rate_range_test gradient_options search_loop
    callback_gradient_noise_scale snippet probe exporters report
"""


def pytest_configure(config):
    """Declares the mark of a test whose other cases cost more than they are likely to find."""
    config.addinivalue_line(
        "markers", "quick_cases(*ids): of its cases, those with one of these in their id; else slow"
    )


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(items):
    """Longest files first: then two processes end at about the same time."""
    for item in items:
        for mark in item.iter_markers("quick_cases"):
            case = item.callspec.id if hasattr(item, "callspec") else ""
            if case and not any(one in case for one in mark.args):
                item.add_marker(pytest.mark.slow)
    rank = {f"test_{name}": number for number, name in enumerate(HEAVIEST_FIRST.split())}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


@pytest.hookimpl(tryfirst=True)  # before fixtures
def pytest_runtest_setup():
    """What a test leaves to chance is the same in every run."""
    keras.utils.set_random_seed(1)


@pytest.fixture(scope="session", autouse=True)
def everything_collectable_at_the_end():
    """Hypothesis looks at who refers to whom when it is imported, at a run's end if not before."""
    yield
    gc.unfreeze()


@pytest.fixture(scope="module", autouse=True)
def quick_collections(everything_collectable_at_the_end):
    """Graphs traced by earlier files make each collection of garbage last seconds: leave them out.

    KerasTuner's own loop collects for every model.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def records_dir(tmp_path_factory):
    """The records folder of the whole session, never the user's cache."""
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFBATCH_RECORDS_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits(records_dir):
    """The embedded digits, prepared once."""
    from tfbatch.pipeline import load_data

    return load_data("digits", records_dir=records_dir)


@pytest.fixture
def one_at_a_time(tmp_path_factory):
    """Tests with this never overlap, in whichever process they run.

    The kernel counts its kills for lack of memory for the whole machine: one that a test causes
    would explain a SIGKILL of another test.
    """
    with filelock.FileLock(tmp_path_factory.getbasetemp().parent / "one_at_a_time"):
        yield


@pytest.fixture(scope="module")
def short_rounds():
    """Step times of a file's whole searches in this process are measured in a tenth of the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tfbatch.interleaved_rounds._ROUND_SECONDS", 0.05)
        patch.setattr("tfbatch.interleaved_rounds._EXECUTION_SECONDS", 0.01)
        yield


@pytest.fixture(scope="session")
def cifar10_dir():
    """The folder of TensorFlow Datasets that holds cifar10/."""
    asked = os.environ.get("TFDS_DATA_DIR")
    if not asked or not (Path(asked).expanduser() / "cifar10").is_dir():
        pytest.skip("set TFDS_DATA_DIR to a TensorFlow Datasets folder that holds cifar10/")
    return Path(asked).expanduser()


@pytest.fixture(scope="session")
def make_recipe():
    """Makes the recipe of the data set tiny: 3 classes, images of 4 x 6 x 3, stored raw."""

    def make(**changes):
        written = {
            "name": "tiny",
            "description": "numbered images",
            "source": {"name": "digits"},
            "splits": {"train": "train", "validation": "held_out", "test": "test"},
            "features": {
                "image": {"kind": "image", "shape": [4, 6, 3], "stored": "raw"},
                "label": {"kind": "label", "num_classes": 3},
            },
            "shards": 3,
            "normalization": {"mean": [0, 0, 0], "standard_deviation": [1, 1, 1]},
            "trial_length": "1 epoch",
        }
        return Recipe.model_validate({**written, **changes})

    return make


def tiny_stream(train=8, validation=4, test=4):
    """Examples whose first pixel is their number and whose class is their number modulo 3."""
    for split, count in (("train", train), ("validation", validation), ("test", test)):
        for number in range(count):
            image = np.random.default_rng(number).integers(0, 256, (4, 6, 3), np.uint8)
            image[0, 0] = number
            yield split, f"{split}-{number}", {"image": image, "label": number % 3}


@pytest.fixture(scope="session")
def tiny_examples():
    """See tiny_stream."""
    return tiny_stream
