"""A schedule that would be over before `fit` is: the callbacks say which number fits."""

from __future__ import annotations

import math
import re
import warnings

import keras
import numpy as np
import pytest
from several_optimizers import several_optimizers

import tfbatch
from tfbatch.callbacks import DivergenceGuard, StopAfterSteps

X = np.ones((10, 1), "float32")


def fit(*callbacks, total_examples, batch_size=6, epochs=10):
    """10 examples in batches of 6: two updates an epoch. Returns the last learning rate used."""
    schedule = tfbatch.schedules.LearningRateInExamples(
        "linear", learning_rate=0.1, batch_size=batch_size, total_examples=total_examples
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule), "mse")
    model.fit(X, X, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return float(schedule(int(model.optimizer.iterations) - 1))


def told(*callbacks, **arguments):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(*callbacks, **arguments)
    return [str(w.message) for w in caught if "ends after update" in str(w.message)]


def test_a_short_last_batch_ends_the_schedule_early_and_is_warned_of_with_the_number_that_fits():
    """10 epochs of 10 examples: 100, of which 17 updates of 6 are the end; 20 are made."""
    [message] = told(DivergenceGuard(), total_examples=100)

    assert "after update 17 of 20 (epoch 8.5 of 10)" in message
    total = int(re.search(r"total_examples=(\d+)", message)[1])  # type: ignore[index]
    assert total == 10 * math.ceil(10 / 6) * 6 == 120
    assert told(DivergenceGuard(), total_examples=total) == []
    assert fit(total_examples=100) == 0.0
    assert fit(total_examples=total) == pytest.approx(0.1 / 20)


@pytest.mark.slow
def test_whole_batches_and_an_announced_stop_are_no_reason():
    assert told(DivergenceGuard(), total_examples=100, batch_size=5) == []
    assert told(DivergenceGuard(), StopAfterSteps(17), total_examples=100) == []
    assert len(told(DivergenceGuard(), StopAfterSteps(19), total_examples=100)) == 1


@pytest.mark.parametrize("steps_before", [0, 2])
def test_the_steps_of_an_optimizer_that_accumulates_are_those_that_the_schedule_counts(
    steps_before,
):
    """Two epochs of two steps, of which the schedule has three; one that goes on is not judged."""
    schedule = tfbatch.schedules.LearningRateInExamples(
        "linear", learning_rate=0.1, batch_size=6, total_examples=18
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(schedule, gradient_accumulation_steps=4), "mse")
    model.optimizer.build(model.trainable_variables)
    model.optimizer._iterations.assign(steps_before)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, X, batch_size=6, epochs=2, verbose=0, callbacks=[DivergenceGuard()])

    found = [str(w.message) for w in caught if "ends after micro-step 3 of 4" in str(w.message)]
    assert len(found) == (0 if steps_before else 1)
    for message in found:
        assert "reads it at each of the gradient_accumulation_steps=4 of an update" in message
        assert "the examples of one micro-step" in message
        assert "4 times as many (epochs x steps per epoch) as total_examples" in message


def test_a_schedule_of_one_of_several_optimizers_is_warned_of_too():
    schedule = tfbatch.schedules.LearningRateInExamples(
        "linear", learning_rate=0.1, batch_size=6, total_examples=18
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(several_optimizers(schedule), "mse")

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(X, X, batch_size=6, epochs=2, verbose=0, callbacks=[DivergenceGuard()])

    assert "ends after update 3 of 4" in str([warning.message for warning in caught])
