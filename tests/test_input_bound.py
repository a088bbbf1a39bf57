"""Input-bound or compute-bound, told by the instrument's own numbers as an injected delay grows."""

from __future__ import annotations

import time
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from contexts import context_of
from processes import with_long_enough_pauses

import tfbatch
from tfbatch import interleaved_rounds
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.instruments import input_bound
from tfbatch.instruments.input_bound import (
    InputBoundReading,
    InputShare,
    measure_input_bound,
    spread,
)
from tfbatch.instruments.open_bench import open_bench
from tfbatch.interleaved_rounds import InRounds
from tfbatch.request.execution import Execution
from tfbatch.training.step_times import StepTime

BATCH_SIZE = 16
EXAMPLES = 256
MODEL_SECONDS = 0.003
sleeps = {"model": MODEL_SECONDS}


@tfbatch.reusable
class Sleeping(keras.layers.Layer):  # type: ignore[misc]
    """Takes a while whatever the machine, and changes nothing."""

    def call(self, inputs):
        def wait(values):
            time.sleep(sleeps["model"])
            return values

        kept = tf.numpy_function(wait, [tf.stop_gradient(inputs)], tf.float32)
        with tf.control_dependencies([kept]):
            return tf.identity(inputs)


def build_model():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2)(Sleeping()(inputs)))


def dataset(delay):
    """A user's `make_dataset` whose map function sleeps so long for each batch."""

    def wait(values):
        time.sleep(delay)
        return values

    def slowed(features, labels):
        kept = tf.numpy_function(wait, [features], tf.float32)
        kept.set_shape(features.shape)
        return kept, labels

    def make_dataset(split, batch_size, seed):
        del seed
        if split == "test":
            return None
        features = np.random.default_rng(0).normal(size=(EXAMPLES, 4)).astype("float32")
        labels = np.arange(EXAMPLES, dtype="int32") % 2
        made = tf.data.Dataset.from_tensor_slices((features, labels)).batch(batch_size)
        return made.map(slowed) if delay and split == "train" else made

    return make_dataset


def measure(factor, seconds, monkeypatch):
    """With a model that takes so many seconds for a batch, and a pipeline of a factor of them."""
    delay, sleeps["model"] = factor * seconds, seconds
    monkeypatch.setattr(interleaved_rounds, "_EXECUTION_SECONDS", 2 * seconds)
    monkeypatch.setattr(interleaved_rounds, "_ROUND_SECONDS", 4 * seconds)
    with open_bench(build_model, dataset(delay), execution=Execution(workers=0)) as bench:
        found = bench.measure(measure_input_bound, [bench.configuration(BATCH_SIZE)])
    return found.at(BATCH_SIZE)


@pytest.mark.slow
def test_the_verdict_flips_where_the_pipeline_passes_the_model(monkeypatch):
    """From a tenth of the model's step to ten times of it."""

    def relations(found):
        quick, slow = found
        return {
            "the quick pipeline is not waited for": quick.verdict == "compute-bound",
            "the slow pipeline is": slow.verdict == "input-bound",
            "the delay is in the pipeline": (slow.pipeline.seconds > 10 * quick.pipeline.seconds),
            "on a cached batch the model does not feel it": (
                slow.model.seconds < slow.pipeline.seconds / 3
            ),
            "a step waits for its batch": slow.together.seconds >= 0.9 * slow.pipeline.seconds,
        }

    found = with_long_enough_pauses(
        lambda seconds: [measure(factor, seconds, monkeypatch) for factor in (0.1, 10)],
        lambda found: all(relations(found).values()),
        seconds=MODEL_SECONDS,
    )

    assert [what for what, holds in relations(found).items() if not holds] == []


def share(pipeline, model, batch_size=8):
    times = (pipeline, model, max(pipeline, model))
    return InputShare(batch_size, *(StepTime(batch_size, t, (t, t, t)) for t in times))


@pytest.mark.parametrize(
    ("pipeline", "verdict"),
    [
        (1.11, "input-bound"),
        (1.09, "balanced"),
        (1.0, "balanced"),
        (0.92, "balanced"),
        (0.90, "compute-bound"),
    ],
    ids=str,
)
def test_the_rule_is_a_tenth_to_either_side(pipeline, verdict):
    assert share(pipeline, 1.0).verdict == verdict


def test_the_advice_is_about_the_pipeline_and_names_the_sizes():
    found = InputBoundReading((share(2.0, 1.0, 8), share(0.5, 1.0, 64)))

    assert "at batch size 8: raise the pipeline's parallelism" in found.conclusion()
    assert "not the batch" in found.conclusion()
    assert (found.verdict_at(10), found.verdict_at(1000)) == ("input-bound", "compute-bound")
    assert "The model holds" in InputBoundReading((share(0.5, 1.0),)).conclusion()
    assert "about as long" in InputBoundReading((share(1.0, 1.0),)).conclusion()


def test_a_quick_pipeline_that_takes_the_models_cores_is_told():
    times = (0.5, 1.0, 1.4)
    found = InputShare(8, *(StepTime(8, t, (t, t, t)) for t in times))

    assert found.verdict == "compute-bound"
    assert "lengthens the step by 40%" in InputBoundReading((found,)).conclusion()


def test_batches_made_on_the_device_for_nothing_shorten_no_step():
    """0.98 s together, where the model alone was timed to take 1 s: that is noise."""

    def said(*together):
        shares = tuple(
            InputShare(8 * n, *(StepTime(8 * n, t, (t, t, t)) for t in (0.0, 1.0, both)))
            for n, both in enumerate(together, start=1)
        )
        return InputBoundReading(shares, on_device=True).conclusion()

    assert "-" not in said(0.98, 0.97)
    assert said(0.98, 1.09).endswith("by no more than 10% at every measured batch size.")
    assert "at batch size 16 that lengthens the model's step by 40%, the most" in said(0.98, 1.4)
    assert "--data_on=host" in said(0.98, 1.4)


def test_the_verdict_of_a_size_between_is_that_of_the_nearest_by_ratio():
    found = InputBoundReading((share(2.0, 1.0, 8), share(0.5, 1.0, 64)))

    assert found.verdict_at(22) == "input-bound"
    assert found.verdict_at(30) == "compute-bound"


def test_the_chart_has_the_rounds_for_error_bars():
    times = (StepTime(8, t, (0.9 * t, t, 1.2 * t)) for t in (0.001, 0.002, 0.003))
    (chart,) = InputBoundReading((InputShare(8, *times),)).charts()

    assert [series.y for series in chart.series] == [(1.0,), (2.0,), (3.0,)]
    assert chart.series[1].low == pytest.approx((1.8,))
    assert chart.series[1].high == pytest.approx((2.4,))


def test_batches_that_fill_the_pipelines_buffers_are_not_timed(monkeypatch):
    """10 s for the two executions before, 2 s for each of three with four batches."""
    now, taken = [0.0], []

    def take(iterator, count):
        taken.append(int(count))
        now[0] += 10 if len(taken) == 1 else 2

    monkeypatch.setattr(input_bound, "_take", take)
    monkeypatch.setattr(input_bound, "stream", lambda programs, batch_size, steps: range(steps))
    monkeypatch.setattr(input_bound.time, "perf_counter", lambda: now[0])
    configuration = Configuration(batch_size=16, base_learning_rate=0.1)
    seconds = input_bound._time_pipeline(
        None,  # type: ignore[arg-type]
        configuration,
        executions=3,
        warmup=2,
        at_once=4,
    )

    assert taken == [8, 4, 4, 4]
    assert seconds == pytest.approx(0.5)


def test_each_size_is_timed_in_three_ways_and_those_without_time_or_memory_are_named(monkeypatch):
    def first_visit(batch_size, kind, *, most_at_once):
        seconds = kind(executions=1, warmup=1, at_once=most_at_once)
        return interleaved_rounds.Paced(batch_size, kind, most_at_once, seconds, 0.0, [seconds] * 3)

    def training(programs, configuration, *, cached=False, **pace):
        return (2.0 if cached else 3.0) * configuration.batch_size

    monkeypatch.setattr(input_bound, "first_visit", first_visit)
    monkeypatch.setattr(input_bound, "steps_at_once", lambda programs, configuration: 5)
    monkeypatch.setattr(input_bound, "time_training", training)
    monkeypatch.setattr(input_bound, "_time_pipeline", lambda *_, **pace: float(pace["at_once"]))
    monkeypatch.setattr(
        input_bound,
        "measure_in_rounds",
        lambda sizes, visit, **_: InRounds((visit(0), visit(1)), left_out=(32,), too_large=(64,)),
    )
    configurations = [
        Configuration(batch_size=size, base_learning_rate=0.1) for size in (64, 8, 16, 32)
    ]
    held = types.SimpleNamespace(held=None)
    on_the_host = types.SimpleNamespace(workload=held, clear=lambda: None)
    found = measure_input_bound(context_of(on_the_host), configurations)

    assert [
        (one.batch_size, one.pipeline.seconds, one.model.seconds, one.together.seconds)
        for one in found.shares
    ] == [(8, 5.0, 16.0, 24.0), (16, 5.0, 32.0, 48.0)]
    assert found.left_out == (32, 64)
    assert found.at(8).added == pytest.approx(0.5)


def test_a_size_that_was_not_measured_is_refused():
    with pytest.raises(InputError, match=r"must be a measured one: 8\. Received: 9"):
        InputBoundReading((share(1.0, 1.0),)).at(9)


def test_sizes_are_spread_with_both_ends():
    assert spread([8, 16, 32, 64, 128, 256, 512, 1024], 4) == [8, 32, 256, 1024]
    assert spread([8, 16], 4) == [8, 16]
