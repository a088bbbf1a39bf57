"""Everything that follows from a configuration, counted by hand."""

from __future__ import annotations

import pytest

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.training.derived import derive


def derived(batch_size, *, num_examples=1000, total_examples=1000, **configured):
    configuration = Configuration(
        **{"batch_size": batch_size, "base_learning_rate": 0.1, **configured}
    )
    return derive(configuration, num_examples=num_examples, total_examples=total_examples)


@pytest.mark.parametrize(
    ("batch_size", "total", "steps", "per_epoch", "epochs"),
    [
        (128, 1000, 8, 8, 1),  # the last of 104
        (128, 3000, 24, 8, 3),  # continuous: 3000 / 128 = 23.4
        (100, 1000, 10, 10, 1),
        (1, 1000, 1000, 1000, 1),
        (1000, 5000, 5, 1, 5),
        (32, 500, 16, 16, 1),  # half an epoch
        (999, 1000, 2, 2, 1),
        (128, 1001, 8, 8, 1),
        (128, 1025, 9, 8, 2),
        (1000, 1, 1, 1, 1),
    ],
)
def test_steps_and_epochs_of_a_thousand_examples(batch_size, total, steps, per_epoch, epochs):
    values = derived(batch_size, total_examples=total)

    assert (values.steps, values.steps_per_epoch, values.epochs) == (steps, per_epoch, epochs)
    assert values.total_examples == total
    assert (values.epochs - 1) * values.steps_per_epoch < values.steps
    assert values.steps <= values.epochs * values.steps_per_epoch


@pytest.mark.parametrize(
    ("rule", "octaves", "rate"),
    [
        ("none", 0, 0.1),
        ("linear", 0, 0.4),
        ("square_root", 0, 0.2),
        ("linear", -1, 0.2),
        ("square_root", 1.5, 0.2 * 2**1.5),
    ],
)
def test_the_learning_rate_follows_the_rule_and_the_offset(rule, octaves, rate):
    values = derived(128, base_batch_size=32, scaling_rule=rule, learning_rate_octaves=octaves)

    assert values.learning_rate == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize(
    ("fraction", "examples", "steps"), [(0, 0, 0), (0.1, 300, 3), (1, 3000, 24), (0.0001, 0, 0)]
)
def test_the_warmup_is_a_share_of_the_training(fraction, examples, steps):
    values = derived(128, total_examples=3000, warmup_fraction=fraction)

    assert (values.warmup_examples, values.warmup_steps) == (examples, steps)


def test_an_unknown_rule_is_refused():
    with pytest.raises(InputError, match=r"Unknown scaling rule `linar`\. Did you mean `linear`"):
        derived(8, scaling_rule="linar")
