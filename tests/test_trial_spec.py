"""One specification of a trial: what follows from it is derived once, and lengths are compared."""

import dataclasses
import pickle

import pytest

from tfbatch.configuration import Configuration
from tfbatch.schema import Named
from tfbatch.trial import outcome
from tfbatch.trial.outcome import TrialSpec


def spec(schedule="constant", total_examples=1000, *, seed=1, **changes):
    """Batches of 10, so 100 updates."""
    name, *cooldown = schedule.split()
    named = Named(name=name, **{"cooldown": float(cooldown[0])} if cooldown else {})
    written = {"batch_size": 10, "base_learning_rate": 0.1, "schedule": named, **changes}
    return TrialSpec("t", "search", seed, Configuration(**written), total_examples, 500)


@pytest.mark.parametrize(
    ("schedule", "updates", "same"),
    [
        ("constant", 99, True),
        ("wsd 0.2", 50, True),
        ("wsd 0.2", 79, True),
        ("wsd 0.2", 81, False),
        ("wsd 0.2", 100, False),
        ("cosine", 50, False),
        ("one_cycle", 50, False),
    ],
)
def test_what_may_go_on_in_a_longer_training(schedule, updates, same):
    """The cool-down of a share of 0.2 begins with update 80 of 100."""
    short, long = spec(schedule), spec(schedule, 2000)

    assert (short.course(updates) == long.course(updates)) is same
    assert short.identity() != long.identity()


def test_a_warm_up_is_another_one_in_a_longer_training():
    """It is a share of the length: 10 updates of 100, and 20 of 200."""
    short, long = spec(warmup_fraction=0.1), spec(total_examples=2000, warmup_fraction=0.1)

    assert short.course(50) != long.course(50)


@pytest.mark.parametrize(
    "other",
    [
        spec(seed=2),
        spec(base_learning_rate=0.2),
        spec(batch_size=20),
        spec(optimizer=Named(name="adam")),
        spec(model={"width": 3}),
        spec("wsd 0.2"),
    ],
    ids=["seed", "rate", "batch size", "optimizer", "model", "schedule"],
)
def test_another_training_has_another_course(other):
    assert other.course(10) != spec().course(10)


def test_what_is_derived_travels_with_the_specification(monkeypatch):
    sent = spec()
    derived = sent.derived
    monkeypatch.delattr(outcome, "derive")
    received = pickle.loads(pickle.dumps(sent))

    assert received == sent
    assert received.derived == derived


def test_a_changed_specification_derives_anew():
    first = spec()
    assert first.derived.steps == 100
    assert dataclasses.replace(first, total_examples=500).derived.steps == 50
