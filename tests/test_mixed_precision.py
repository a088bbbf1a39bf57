"""A mixed policy against float32: timed side by side, and said where it gains nothing."""

from __future__ import annotations

import types
from pathlib import Path

import keras
import pytest
import tiny_model
from contexts import context_of

from tfbatch.configuration import Configuration
from tfbatch.errors import RecordError, StoppedError
from tfbatch.training import two_ways
from tfbatch.training.precision_comparison import (
    PrecisionAt,
    PrecisionComparison,
    compare_precision,
    mixed_policy_of,
)
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import StepTime
from tfbatch.training.workload import Workload

SIZES = [Configuration(batch_size=size, base_learning_rate=0.02) for size in (16, 64)]
KNOWN = {16: 1e-4, 64: 1e-4}


def at(size, full, mixed):
    """Rounds in milliseconds."""

    def time(rounds):
        seconds = tuple(one / 1e3 for one in rounds)
        return StepTime(size, sorted(seconds)[len(seconds) // 2], seconds, 2.0)

    return PrecisionAt(size, time(full), time(mixed))


SLOWER = at(32, (3.0, 3.3, 3.0), (6.0, 6.6, 7.5))
FASTER = at(256, (8.0, 8.8, 8.0), (4.0, 4.4, 3.2))
EITHER = at(512, (3.0, 3.0, 3.0), (2.0, 3.3, 3.0))


@pytest.mark.parametrize(
    ("precision", "device", "policy"),
    [
        ("float32", "CPU", "mixed_bfloat16"),
        ("float32", "TPU", "mixed_bfloat16"),
        ("float32", "NVIDIA H100 80GB HBM3", "mixed_float16"),
        ("mixed_bfloat16", "NVIDIA H100 80GB HBM3", "mixed_bfloat16"),
        ("mixed_float16", "CPU", "mixed_float16"),
    ],
)
def test_what_was_chosen_is_compared_or_else_what_the_device_is_made_for(precision, device, policy):
    assert mixed_policy_of(precision, device) == policy


def test_a_policy_that_gains_nothing_is_told_with_the_ratios_of_the_rounds():
    """3 ms against 6 ms, 3.3 against 6.6 and 3 against 7.5: 0.5, 0.5 and 0.4."""
    found = PrecisionComparison("mixed_bfloat16", "float32", (SLOWER,))

    assert found.conclusion() == (
        "mixed_bfloat16 is 0.50 x as fast at batch size 32 (0.40 to 0.50 in 3 rounds; 6.6 ms a "
        "step, 3 ms with float32): it gains nothing here."
    )
    assert found.compilation() == 4.0
    chosen = PrecisionComparison("mixed_bfloat16", "mixed_bfloat16", (SLOWER,))
    assert chosen.conclusion().endswith("gains nothing here, and --precision=float32 is faster.")


@pytest.mark.parametrize(
    ("sizes", "used", "said"),
    [
        ((EITHER,), "float32", "no gain is shown, since the rounds contradict"),
        ((SLOWER, EITHER), "mixed_float16", "no gain is shown, since the rounds"),
        ((FASTER,), "mixed_float16", "it gains time here."),
        ((FASTER,), "float32", "it gains time here; --precision=mixed_float16 trains with it, and"),
        ((SLOWER, FASTER), "mixed_float16", "it gains time here at batch size 256 alone."),
    ],
    ids=["rounds contradict", "the same, chosen", "chosen", "faster", "at the largest alone"],
)
def test_it_gains_only_where_every_round_says_so(sizes, used, said):
    assert f": {said}" in PrecisionComparison("mixed_float16", used, sizes).conclusion()


def test_a_size_without_a_figure_is_named_with_the_reason():
    missing = PrecisionAt(512, None, None, "the time is too short")
    part = PrecisionComparison("mixed_float16", "float32", (SLOWER, missing))
    nothing = PrecisionComparison("mixed_float16", "float32", (missing,))

    assert part.conclusion().endswith(
        "nothing here; at batch size 512 they were not compared: the time is too short."
    )
    assert nothing.conclusion() == (
        "mixed_float16 was not compared with float32 at batch size 512: the time is too short."
    )


def test_steps_that_the_time_does_not_allow_for_are_not_begun(digits):
    """Five rounds of three steps of both take 30 times 0.1 s at least; half of 5.9 s is allowed."""
    programs = ProgramCache(Workload(digits, tiny_model.build))
    found = compare_precision(context_of(programs), SIZES, {16: 0.1, 64: 0.1}, 5.9)

    assert programs.traced == 0
    assert [one.failure for one in found.sizes] == ["the time is too short"] * 2


def test_a_model_whose_layers_name_their_policies_is_not_compared(digits):
    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        hidden = keras.layers.Flatten()(inputs)
        return keras.Model(inputs, keras.layers.Dense(num_classes, dtype="float64")(hidden))

    programs = ProgramCache(Workload(digits, build))
    found = compare_precision(context_of(programs), SIZES[:1], KNOWN, 60.0)

    assert "no layer of the model takes float32" in found.conclusion()


def test_both_policies_are_timed_and_the_process_keeps_its_own(digits, monkeypatch):
    monkeypatch.setattr(two_ways, "_MOST_ROUND_SECONDS", 0.01)
    programs = ProgramCache(Workload(digits, tiny_model.build))
    found = compare_precision(context_of(programs), SIZES[:1], KNOWN, 60.0)

    (one,) = found.sizes
    assert one.failure == ""
    assert (found.policy, found.used) == ("mixed_bfloat16", "float32")
    assert len(one.full.rounds) == len(one.mixed.rounds) == 5
    assert keras.config.dtype_policy().name == "float32"
    assert programs.traced == 1, "float32 alone: the other has programs of its own"


@pytest.mark.slow
def test_a_step_that_a_policy_does_not_allow_is_told(digits):
    class NoBfloat16(keras.layers.Layer):
        def call(self, inputs):
            if keras.backend.standardize_dtype(inputs.dtype) == "bfloat16":
                raise TypeError("bfloat16 is unknown here.\nmore")
            return inputs

    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        hidden = keras.layers.Dense(8)(keras.layers.Flatten()(inputs))
        hidden = NoBfloat16()(hidden)
        return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))

    programs = ProgramCache(Workload(digits, build))
    found = compare_precision(context_of(programs), SIZES[:1], KNOWN, 60.0)

    assert "with mixed_bfloat16 training fails: " in found.conclusion()


@pytest.mark.parametrize(
    "error", [StoppedError("asked to stop"), RecordError(Path("a"), 1, "damaged")]
)
def test_what_says_nothing_of_a_policy_ends_the_comparison(error):
    class Failing:
        def begin(self, *args, **kwargs):
            raise error

    task = types.SimpleNamespace(heartbeat_or_stop=lambda: None)
    ways = (two_ways.Way("with float32", Failing()), two_ways.Way("with another", Failing()))
    with pytest.raises(type(error)):
        two_ways.time_two_ways(task, SIZES[0], 1.0, *ways)
