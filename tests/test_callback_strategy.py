"""Callbacks in the `fit` of a model made under a strategy: two logical CPUs, one process."""

from __future__ import annotations

import json
import textwrap

import pytest
from processes import run_warm

pytestmark = pytest.mark.slow
TWO_REPLICAS = """
    import json, warnings
    import tensorflow as tf
    warnings.simplefilter("ignore")
    tf.config.set_logical_device_configuration(
        tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
    )
    import keras, numpy as np
    from tfbatch import callbacks
    from tfbatch.errors import InputError

    x = np.random.default_rng(1).normal(size=(320, 3)).astype("float32")
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])

    def build():
        keras.utils.set_random_seed(1)  # small batches of other orders may end a sweep early
        with strategy.scope():
            model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
            model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse")
            model.optimizer.build(model.trainable_variables)
        return model

    def state(model):
        found = [*model.variables, *model.optimizer.variables]
        return [keras.ops.convert_to_numpy(v).tolist() for v in found]

    class Interrupted(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 30:
                raise KeyboardInterrupt

    found = {}
    for name in ("Throughput", "GradientNoiseScale", "Advisor", "own data"):
        own = name == "own data"
        made = callbacks.GradientNoiseScale(x, x) if own else getattr(callbacks, name)()
        model = build()
        before = state(model)
        try:
            model.fit(x, x[:, :1], verbose=0, callbacks=[made])
        except InputError as error:
            found[name] = [str(error), state(model) == before]

    model = build()
    before = state(model)
    try:
        with callbacks.LearningRateRangeTest(1e-5, 1e-3) as test:
            model.fit(x, x[:, :1], batch_size=8, verbose=0, callbacks=[test, Interrupted()])
    except KeyboardInterrupt:
        rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
        found["restored"] = [len(test.losses), state(model) == before, rate]

    adaptive = callbacks.AdaptiveBatchSize(
        lambda: 99.0, batch_size=8, max_batch_size=32, patience=1, scaling_rule="linear"
    )
    dataset, model = adaptive.dataset(x, x[:, :1]), build()
    history = model.fit(dataset, epochs=3, verbose=0, shuffle=False, callbacks=[adaptive]).history
    rate = float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))
    updates = int(keras.ops.convert_to_numpy(model.optimizer.iterations))
    found["adaptive"] = [history["batch_size"], updates, rate]
    print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found():
    done = run_warm("-c", textwrap.dedent(TWO_REPLICAS))
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("made", "name"),
    [
        ("Throughput", "Throughput"),
        ("GradientNoiseScale", "GradientNoiseScale"),
        ("own data", "GradientNoiseScale"),
        ("Advisor", "Advisor"),
    ],
)
def test_who_reads_batches_refuses_in_one_sentence_with_the_remedy(found, made, name):
    said, untouched = found[made]

    assert said == (
        f"{name} reads the batches of a `fit` on one device, and the model was made under "
        "MirroredStrategy: make the model outside the strategy's scope, or leave the callback out."
    )
    assert untouched


def test_a_range_test_that_was_interrupted_restores_every_replica(found):
    losses, same, rate = found["restored"]

    assert losses == 31
    assert same
    assert rate == pytest.approx(0.01)


def test_the_batch_grows_and_the_learning_rate_follows(found):
    sizes, updates, rate = found["adaptive"]

    assert sizes == [8, 16, 32]
    assert updates == 40 + 20 + 10
    assert rate == pytest.approx(0.04)
