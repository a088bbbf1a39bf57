"""Every file of tfbatch/callbacks, found with no list, in plain Keras training.

The example in a class's docstring makes the callback: it is run with `model`, `data`, `x`, `y`,
`x_validation`, `y_validation` and `log_dir` at hand.
"""

from __future__ import annotations

import copy
import functools
import inspect
import json
import math
import pathlib
import re
import textwrap
import unittest
import warnings

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from processes import run_warm

import tfbatch
from tfbatch import callbacks as folder
from tfbatch.errors import InputError
from tfbatch.plug_ins import Registry

REGISTRY = Registry("tfbatch.callbacks", kind="callback", folder=folder.__path__)
CALLBACKS = REGISTRY.names()
EACH = pytest.mark.parametrize("name", CALLBACKS)
rng = np.random.default_rng(0)
X = rng.normal(size=(150, 8)).astype("float32")
Y = rng.integers(0, 3, 150)


class Stub:
    """Stands for the model in a docstring's example, and notes what it is given."""

    def __init__(self):
        self.data, self.callbacks, self.optimizer = None, None, None

    def compile(self, *, optimizer, **_):
        self.optimizer = optimizer

    def fit(self, data, *_, callbacks, **__):
        self.data, self.callbacks = data, callbacks


def find_class(name):
    """The one public Callback class that the file defines."""
    module = REGISTRY.load(name)
    found = [
        one
        for one in vars(module).values()
        if inspect.isclass(one)
        and issubclass(one, keras.callbacks.Callback)
        and one.__module__ == module.__name__
        and not one.__name__.startswith("_")
    ]
    assert len(found) == 1, f"{name}.py must define one callback"
    return found[0]


def make(name, log_dir):
    """The callback of the docstring's example, and the optimizer that it needs, if any."""
    block = re.search(r"```python\n(.*?)```", inspect.getdoc(find_class(name)), re.DOTALL)
    assert block, f"{name}.py: the class's docstring must have an example"
    names = {one: getattr(folder, one) for one in folder.__all__}
    model = Stub()
    names |= {"tfbatch": tfbatch, "keras": keras, "pathlib": pathlib, "model": model, "data": None}
    names |= {
        "x": np.tile(X[:120], (5, 1)),
        "y": np.tile(Y[:120], 5),
        "x_validation": X[120:],
        "y_validation": Y[120:],
    }
    exec(textwrap.dedent(block.group(1)), names | {"log_dir": log_dir})
    if model.data is not None:
        raise unittest.SkipTest("trains on a dataset that it makes itself: see its own tests")
    (callback,) = model.callbacks
    return callback, model.optimizer


def build(optimizer=None, *, steps_per_execution=1, seed=1):
    """With dropout and BatchNormalization: both have a state that a callback could disturb."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(3),
        ]
    )
    model.compile(
        optimizer=copy.deepcopy(optimizer) or keras.optimizers.SGD(0.05, momentum=0.9),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        steps_per_execution=steps_per_execution,
    )
    return model


def dataset():
    """Shuffled anew in every epoch; the last batch is smaller."""
    options = tf.data.Options()
    options.autotune.enabled = False  # its teardown waits for seconds
    data = tf.data.Dataset.from_tensor_slices((X[:118], Y[:118])).shuffle(118, seed=5).batch(4)
    return data.with_options(options)


def fit(model, *callbacks, epochs=2):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # `shuffle=True` is ignored, says Keras
        return model.fit(
            dataset(),
            epochs=epochs,
            verbose=0,
            callbacks=list(callbacks),
        )


def state(model):
    return [np.asarray(v.value) for v in [*model.variables, *model.optimizer.variables]]


def same(first, second):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, second, strict=True))


def updates(model):
    return int(model.optimizer.iterations)


def drives(name):
    """Whether a callback comes with its own dataset, and trains with no other."""
    return hasattr(find_class(name), "dataset")


IN_ANY_FIT = pytest.mark.parametrize("name", [name for name in CALLBACKS if not drives(name)])


@pytest.mark.parametrize("name", [name for name in CALLBACKS if drives(name)])
def test_a_callback_with_a_dataset_of_its_own_refuses_any_other(name):
    """What the others must do in any `fit`, tests/test_batch_growth.py has of these."""
    given = {"batch_sizes": {0: 8, 1: 16}, "noise_scale": lambda: 10.0, "max_batch_size": 16}
    given |= {"batch_size": 8}
    taken = inspect.signature(find_class(name)).parameters
    callback = find_class(name)(**{key: value for key, value in given.items() if key in taken})
    callback.dataset(X[:120], Y[:120])
    with pytest.raises(InputError, match="dataset"):
        fit(build(), callback)


@EACH
def test_the_folder_offers_the_callback_under_its_name(name):
    assert find_class(name).__name__ in folder.__all__
    assert find_class(name).__name__.lower() == name.replace("_", "")


@functools.cache
def traced(steps_per_execution):
    """A model that is traced once for all callbacks, and its initial state."""
    model = build(steps_per_execution=steps_per_execution)
    model.optimizer.build(model.trainable_variables)
    return model, state(model)


def untrained(optimizer, *, steps_per_execution=1):
    """A model as `build` gives it."""
    if optimizer:
        return build(optimizer, steps_per_execution=steps_per_execution)
    model, initial = traced(steps_per_execution)
    for variable, value in zip(
        [*model.variables, *model.optimizer.variables], initial, strict=True
    ):
        variable.assign(value)
    return model


def trainings(optimizer, first, then):
    """State and losses after a fit, and after two fits of another model and one without."""
    alone = untrained(optimizer)
    ends = [(fit(alone, *first), state(alone), updates(alone))]
    model = untrained(optimizer, steps_per_execution=3)
    for callbacks in (then, then, []):
        before = updates(model)
        ends.append((fit(model, *callbacks), state(model), updates(model) - before))
    assert type(model.train_function).__module__.split(".")[0] != "tfbatch"
    return ends


@functools.cache
def plain():
    return trainings(None, [], [])


@pytest.mark.quick_cases("hparams", "throughput")
@IN_ANY_FIT
def test_a_callback_survives_a_copy_a_second_fit_and_several_steps_at_once(name, tmp_path):
    """And if it promises so, it leaves no bit changed; afterwards `fit` goes on without it."""
    callback, optimizer = make(name, tmp_path)
    copied = copy.deepcopy(callback)

    ends = trainings(optimizer, [callback], [copied])

    histories, states, done = zip(*ends, strict=True)
    assert done[0] == done[1] == done[2]
    assert sorted(histories[0].history) == sorted(histories[1].history)
    assert sorted(histories[1].history) == sorted(histories[2].history)
    assert done[3] == 60
    if getattr(callback, "only_looks", False):
        for (history, end, _), mine, seen in zip(plain(), states, histories, strict=True):
            assert same(end, mine)
            assert history.history["loss"] == seen.history["loss"]


@pytest.mark.slow
@IN_ANY_FIT
def test_a_callback_works_in_a_search_of_keras_tuner(name, tmp_path):
    callback, optimizer = make(name, tmp_path / "log")
    seen = []

    class Small(keras_tuner.HyperModel):
        def build(self, hp):
            hp.Choice("units", [4, 8])
            return build(optimizer)

        def fit(self, hp, model, *arguments, **options):
            seen.append(options["callbacks"])
            history = model.fit(*arguments, **options)
            return history.history["val_loss"][-1]

    tuner = keras_tuner.RandomSearch(
        Small(), max_trials=1, directory=tmp_path / "search", overwrite=True
    )
    tuner.search(
        X[:120], Y[:120], epochs=3, batch_size=8, verbose=0, callbacks=[callback],
        validation_data=(X[120:], Y[120:]),
    )  # fmt: skip

    trials = tuner.oracle.trials.values()
    assert [trial.status for trial in trials] == ["COMPLETED"]
    assert all(math.isfinite(trial.score) for trial in trials)
    assert all(any(isinstance(one, type(callback)) for one in each) for each in seen)


DISTRIBUTED = """
    import json, sys, tempfile, traceback
    from pathlib import Path
    import tensorflow as tf
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    import test_callback_contract as contract
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    for name in contract.CALLBACKS:
        if contract.drives(name):
            continue
        callback, optimizer = contract.make(name, Path(tempfile.mkdtemp()))
        with strategy.scope():
            model = contract.build(optimizer)
        try:
            history = contract.fit(model, callback, epochs=1)
            found[name] = ["trained", float(history.history["loss"][-1])]
        except contract.InputError as error:
            found[name] = ["refused", str(error)]
    print(json.dumps(found))
"""


@pytest.mark.slow
def test_under_a_strategy_a_callback_works_but_for_those_that_read_batches():
    done = run_warm("-c", textwrap.dedent(DISTRIBUTED), cwd=pathlib.Path(__file__).parent)

    found = json.loads(done.stdout.splitlines()[-1])
    refused = {name: what for name, (how, what) in found.items() if how == "refused"}
    assert set(refused) == {"advisor", "gradient_noise_scale", "throughput"}
    for name, what in refused.items():
        assert what.startswith(f"{find_class(name).__name__} reads the batches"), name
    trained = {name: what for name, (how, what) in found.items() if how == "trained"}
    assert set(trained) | set(refused) == {name for name in CALLBACKS if not drives(name)}
    assert all(map(math.isfinite, trained.values())), trained


def test_there_are_callbacks_to_look_at():
    assert len(CALLBACKS) >= 12
    assert InputError
