"""`jit_compile="auto"`: resolved as Keras does, recorded as what it came to, and compared."""

from __future__ import annotations

import dataclasses

import keras
import pytest
import tensorflow as tf
import tiny_model
from absl import flags
from contexts import context_of

from tfbatch.command_line.workload_flags import define_workload_flags, jit_compile_from
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.request.execution import Execution
from tfbatch.request.request import make_request
from tfbatch.training.compilation import uses_xla
from tfbatch.training.description import description_of
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import StepTime
from tfbatch.training.workload import Workload
from tfbatch.training.xla_comparison import XlaComparison, compare_xla

CONFIGURATION = Configuration(batch_size=16, base_learning_rate=0.02)


class NoXla(keras.layers.Layer):
    def __init__(self):
        super().__init__()
        self.supports_jit = False

    def call(self, inputs):
        return inputs


def dense(layer=None):
    inputs = keras.Input((4,))
    hidden = layer(inputs) if layer else inputs
    return keras.Model(inputs, keras.layers.Dense(2)(hidden))


@pytest.fixture
def as_with_a_gpu(monkeypatch):
    """Keras asks this function which devices the machine has."""
    devices = [tf.config.PhysicalDevice(f"/{kind}:0", kind) for kind in ("CPU", "GPU")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: devices)


def compiled_as_a_user_would(layer=None):
    """A script that says nothing of XLA."""
    model = dense(layer)
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("layer", [None, NoXla()], ids=["supported", "not supported"])
@pytest.mark.parametrize("device", ["CPU", "GPU"])
def test_auto_is_what_a_users_script_gets_from_keras(layer, device, request):
    if device == "GPU":
        request.getfixturevalue("as_with_a_gpu")
    expected = compiled_as_a_user_would(layer).jit_compile

    assert uses_xla(dense(layer), "auto") == expected
    assert expected == (device == "GPU" and layer is None)


def test_under_a_strategy_keras_leaves_xla_off(as_with_a_gpu):
    with tf.distribute.OneDeviceStrategy("/CPU:0").scope():
        model = dense()

    assert not uses_xla(model, "auto")
    assert uses_xla(dense(), "auto")


@pytest.mark.parametrize("asked", [True, False], ids=["on", "off"])
def test_what_is_asked_for_is_not_resolved(asked):
    assert uses_xla(dense(), asked) is asked


@pytest.mark.parametrize(
    ("own", "asked", "compiled"),
    [(True, "auto", True), (False, "auto", False), (True, False, False), (False, True, True)],
    ids=["own on", "own off", "turned off", "turned on"],
)
def test_a_compiled_model_keeps_its_own_where_nothing_is_asked(own, asked, compiled, digits):
    def build(input_shape, num_classes):
        model = tiny_model.build(input_shape, num_classes)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=own)
        return model

    workload = Workload(digits, build, jit_compile=asked)
    model = workload.compiled(CONFIGURATION, total_examples=16, seed=1)

    assert model.jit_compile is compiled
    if asked != "auto":
        return
    found = description_of(workload)
    assert found.jit_compile is own
    assert not any("jit_compile" in note for note in found.notes)


def test_a_run_folder_holds_what_it_came_to_and_so_goes_on(digits):
    """On a CPU that is `false`, which run folders hold that were begun when off was the default."""
    described = description_of(Workload(digits, tiny_model.build, jit_compile="auto"))
    request = make_request(search="joint", dataset="digits", model="tiny_model:build")
    execution = dataclasses.replace(request.execution, jit_compile=described.jit_compile)
    resolved = dataclasses.replace(request, execution=execution)

    assert request.execution.jit_compile == "auto"
    assert resolved.identity()["jit_compile"] is False


def test_another_word_is_refused():
    with pytest.raises(InputError, match=r"must be True, False or .auto.\. Received: 'yes'"):
        Execution(jit_compile="yes")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ([], "auto"),
        (["--jit_compile=auto"], "auto"),
        (["--jit_compile=true"], True),
        (["--jit_compile=False"], False),
        (["--jit_compile"], True),
        (["--nojit_compile"], False),
    ],
    ids=["default", "auto", "true", "False", "as a boolean", "no"],
)
def test_the_flag_is_an_enum_that_is_still_typed_as_a_boolean(typed, meant):
    values = flags.FlagValues()
    define_workload_flags(values, batch_sizes="")
    values(["tfbatch", *typed])

    assert jit_compile_from(values) == meant


def test_the_flag_refuses_another_word():
    values = flags.FlagValues()
    define_workload_flags(values, batch_sizes="")
    with pytest.raises(flags.IllegalFlagValueError, match=r"auto\|true\|false"):
        values(["tfbatch", "--jit_compile=perhaps"])


def compared(off, on, used=True):
    def step_time(rounds, compilation=0.0):
        return StepTime(64, sorted(rounds)[1], tuple(rounds), compilation)

    return XlaComparison(64, used, step_time(off), step_time(on, 12.0))


def test_the_faster_one_is_told_where_every_round_says_so():
    """3 ms against 2 ms, round by round."""
    faster = compared((0.003, 0.0033, 0.003), (0.002, 0.0022, 0.002))
    slower = compared((0.002, 0.0022, 0.002), (0.003, 0.0033, 0.003))
    either = compared((0.003, 0.002, 0.003), (0.002, 0.003, 0.002))

    assert [one.speed_up.faster for one in (faster, slower, either)] == [True, False, None]
    assert faster.speed_up.middle == pytest.approx(1.5)
    assert either.speed_up.interval == pytest.approx((2 / 3, 1.5))
    assert faster.conclusion() == (
        "At batch size 64 a step takes 2 ms with XLA (compiled once in 12 s for each batch size) "
        "and 3 ms without: XLA is 1.50 times as fast, and it is on here."
    )
    assert "without XLA it is 1.50 times as fast, and it is on here: --jit_compile=false" in (
        slower.conclusion()
    )
    assert "the rounds show neither as the faster" in either.conclusion()
    off = dataclasses.replace(faster, used=False)
    assert off.conclusion().endswith("it is off here: --jit_compile=true changes that.")


@pytest.mark.slow
def test_both_ways_of_a_training_are_timed(digits):
    workload = Workload(digits, tiny_model.build)
    found = compare_xla(context_of(ProgramCache(workload)), CONFIGURATION, 30.0)

    assert found.failure == ""
    assert found.used is False
    assert len(found.on.rounds) == len(found.off.rounds) == 5
    assert workload.jit_compile is False


def test_a_model_that_xla_cannot_compile_is_told(digits):
    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        hidden = NoXla()(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))

    with pytest.warns(UserWarning, match="doesn't support"):
        found = compare_xla(context_of(ProgramCache(Workload(digits, build))), CONFIGURATION, 0.1)

    assert found.conclusion() == (
        "XLA was not compared at batch size 16: a layer of the model does not support it, and "
        "Keras turns it off."
    )
