"""Everything that follows from a configuration, counted by hand."""

from __future__ import annotations

import math

import pytest

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS, parameters_of, roles_of
from tfbatch.scaling_rules import SCALING_RULES, rule_parameters
from tfbatch.schema import Named
from tfbatch.trial.derived import derive


def derived(
    batch_size, *, num_examples=1000, total_examples=1000, evaluated_every=None, **configured
):
    configuration = Configuration(
        **{"batch_size": batch_size, "base_learning_rate": 0.1, **configured}
    )
    return derive(
        configuration,
        num_examples=num_examples,
        total_examples=total_examples,
        evaluated_every=evaluated_every,
    )


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
    ("every", "batch_size", "per_epoch", "epochs"),
    [(250, 25, 10, 8), (250, 32, 8, 8), (250, 1000, 1, 2), (3000, 100, 20, 1), (None, 100, 10, 2)],
)
def test_evaluations_come_after_as_many_examples_as_asked(every, batch_size, per_epoch, epochs):
    values = derived(batch_size, total_examples=2000, evaluated_every=every)

    assert (values.steps_per_epoch, values.epochs) == (per_epoch, epochs)


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


@pytest.mark.parametrize(
    ("rule", "rate"),
    [
        ({"name": "power", "alpha": 0.5}, 0.2),
        ({"name": "saturating", "critical_batch_size": 96}, 0.4 / 1.75),
    ],
    ids=str,
)
def test_a_rules_own_parameters_count(rule, rate):
    values = derived(128, base_batch_size=32, scaling_rule=rule)

    assert values.learning_rate == pytest.approx(rate, rel=1e-12)


def optimizer(batch_size=128, *, rule="square_root", total_examples=1000, **written):
    """Derived values of an optimizer; its base batch size is 32, and 1000 examples an epoch."""
    return derived(
        batch_size,
        base_batch_size=32,
        scaling_rule=rule,
        total_examples=total_examples,
        optimizer=Named(**{"name": "adamw", **written}),
    )


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_by_its_own_rule_an_optimizer_has_the_numbers_that_its_file_declares(name):
    """Every number at every batch size: the rules that are defaults change none."""
    rule = OPTIMIZERS.load(name).SCALING_RULE
    values = optimizer(128, rule=rule, name=name)

    assert values.optimizer == parameters_of(name)
    assert (values.derived_numbers, values.held_numbers, values.numbers()) == ((), (), {})


@pytest.mark.parametrize("rule", SCALING_RULES.names())
@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_at_the_base_batch_size_every_number_is_as_it_is_written(name, rule):
    numbers = {k: 0.1 for k, v in OPTIMIZERS.load(name).PARAMETERS.items() if type(v) is float}
    required = dict.fromkeys(rule_parameters(rule), 0.75)
    if getattr(SCALING_RULES.load(rule), "REQUIRES", "") not in ("", *roles_of(name).values()):
        with pytest.raises(InputError, match=f"{rule} is for optimizers with a second moment"):
            optimizer(32, rule={"name": rule, **required}, name=name, **numbers)
        return
    values = optimizer(32, rule={"name": rule, **required}, name=name, **numbers)

    assert values.optimizer == parameters_of(name) | numbers
    assert (values.learning_rate, values.held_numbers) == (pytest.approx(0.1, rel=1e-15), ())


def test_a_half_life_in_examples_is_the_same_at_every_batch_size():
    for size in (1, 32, 500):
        values = optimizer(size, beta_2_half_life=5000, beta_1_half_life=500)
        beta_1, beta_2 = values.optimizer["beta_1"], values.optimizer["beta_2"]
        assert beta_2 ** (5000 / size) == pytest.approx(0.5, rel=1e-9)
        if size > 7:
            assert beta_1 ** (500 / size) == pytest.approx(0.5, rel=1e-9)
        assert values.derived_numbers == ("beta_2", "beta_1")


def test_the_default_second_moment_of_keras_is_a_half_life_of_22_thousand_examples():
    half_life = 32 * math.log(2) / -math.log(0.999)

    assert optimizer(32, beta_2_half_life=half_life).optimizer["beta_2"] == pytest.approx(0.999)
    for size in (8, 128):  # as the rule that keeps it has it
        by_rule = optimizer(size, rule="half_life").optimizer["beta_2"]
        written = optimizer(size, beta_2_half_life=half_life).optimizer["beta_2"]
        assert by_rule == pytest.approx(written, rel=1e-12)


@pytest.mark.parametrize(
    ("written", "number"),
    [
        ({"one_minus_beta_2": 1e-3}, 0.999),
        ({"beta_2_half_life": 1.0}, 0.5),  # 2**-128, held
        ({"beta_2_half_life": 1e9}, 0.99999),  # held
        ({"name": "sgd", "one_minus_momentum": 0.05}, 0.95),
        ({"name": "sgd", "momentum_half_life": 512}, 2 ** (-128 / 512)),
        ({"name": "sgd", "momentum_half_life": 1e9}, 0.99),  # held
        ({"name": "sgd", "momentum": 0.999}, 0.999),  # what is written is never moved
        ({"name": "lion", "beta_1_half_life": 128}, 0.5),
        ({"name": "rmsprop", "rho_half_life": 256}, 2**-0.5),
    ],
    ids=str,
)
def test_a_decay_may_be_written_in_three_ways(written, number):
    parameter = next(k for k in written if k != "name")
    parameter = parameter.removeprefix("one_minus_").removesuffix("_half_life")
    values = optimizer(**written)
    held = number in (0.5, 0.99999, 0.99) and written.get("name") != "lion"

    assert values.optimizer[parameter] == pytest.approx(number, rel=1e-12)
    assert values.held_numbers == ((parameter,) if held else ())


def test_a_weight_decay_in_epochs_is_what_the_weights_remember():
    """B / (eta N tau): after tau epochs of decay alone a factor of about 1/e is left."""
    for size in (8, 128):
        values = optimizer(size, weight_decay_epochs=5)
        per_step = values.learning_rate * values.optimizer["weight_decay"]
        assert values.optimizer["weight_decay"] == pytest.approx(
            size / (values.learning_rate * 1000 * 5), rel=1e-12
        )
        assert (1 - per_step) ** (5 * 1000 / size) == pytest.approx(math.exp(-1), rel=0.02)
        assert values.derived_numbers == ("weight_decay",)


def test_the_learning_rates_offset_does_not_change_the_weights_memory():
    for octaves in (-1.0, 0.0, 2.0):
        values = derived(
            64,
            learning_rate_octaves=octaves,
            optimizer=Named(name="sgd", weight_decay_epochs=10),
        )
        share = values.learning_rate * values.optimizer["weight_decay"]
        assert share == pytest.approx(64 / (1000 * 10), rel=1e-12)


def test_an_average_of_the_weights_has_a_share_of_the_training_as_half_life():
    for size in (8, 64):
        for total in (1000, 4000):
            values = optimizer(size, total_examples=total, ema_half_life_fraction=0.05)
            momentum = values.optimizer["ema_momentum"]
            assert momentum ** (0.05 * total / size) == pytest.approx(0.5, rel=1e-9)
    assert optimizer(ema_half_life_fraction=0).optimizer["ema_momentum"] is None


def test_the_rule_of_malladi_changes_every_number_and_says_which():
    values = optimizer(128, rule="adam_sde", epsilon=1e-8)

    assert values.optimizer["beta_1"] == pytest.approx(0.6)
    assert values.optimizer["beta_2"] == pytest.approx(0.996)
    assert values.optimizer["epsilon"] == pytest.approx(5e-9)
    assert values.optimizer["weight_decay"] == 0.004
    assert values.numbers() == {
        f"derived_{name}": values.optimizer[name] for name in ("beta_1", "beta_2", "epsilon")
    }


def test_where_the_rule_of_malladi_has_no_answer_the_number_is_held_and_named():
    """ratio * (1 - beta_1) is 1 at 320."""
    edge, over = optimizer(319, rule="adam_sde"), optimizer(512, rule="adam_sde")

    assert edge.optimizer["beta_1"] == pytest.approx(1 - 319 / 320)
    assert (over.optimizer["beta_1"], over.held_numbers) == (0.0, ("beta_1",))
    assert over.flat()["held_numbers"] == "beta_1"
    assert edge.held_numbers == ()
    assert "held_numbers" not in edge.flat()


def test_a_timescale_is_what_it_says_whatever_the_rule():
    values = optimizer(rule="adam_sde", beta_2_half_life=5000, beta_1=0.9)

    assert values.optimizer["beta_2"] == 2 ** (-128 / 5000)
    assert values.optimizer["beta_1"] == pytest.approx(0.6)


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"beta_3": 0.9}, r"adamw has no parameter `beta_3`\. Did you mean `beta_"),
        ({"ema_momentum": 0.9}, r"adamw has no parameter `ema_momentum`"),
        (
            {"beta_2": 0.9, "beta_2_half_life": 5.0},
            r"its beta_2 once\. .*`beta_2` and `beta_2_",
        ),
        ({"beta_2_half_life": 0}, r"`beta_2_half_life` of adamw must be > 0\. Received: 0"),
        ({"one_minus_beta_1": 1.5}, r"must be in \[0, 1\]\. Received: 1\.5"),
        ({"ema_half_life_fraction": 2}, r"must be in \[0, 1\]\. Received: 2"),
        ({"weight_decay": -0.1}, r"`weight_decay` of adamw must be >= 0\. Received: -0\.1"),
        ({"weight_decay_epochs": 0}, r"must be > 0\. Received: 0"),
        ({"weight_decay_epochs": 0.1}, r"must be > batch size / training examples = 0\.128, or"),
        ({"beta_1": True}, r"`beta_1` of adamw must be a number\. Received: True"),
        ({"amsgrad": 1}, r"`amsgrad` of adamw must be true or false\. Received: 1"),
        ({"beta_1": "high"}, r"must be a number\. Received: 'high'"),
        ({"beta_1": None}, r"must be a number\. Received: None"),
        ({"name": "adagrad", "epsilon_half_life": 1}, r"adagrad has no parameter"),
    ],
    ids=str,
)
def test_what_an_optimizer_cannot_have_is_refused(written, message):
    with pytest.raises(InputError, match=message):
        optimizer(**written)


def test_a_flat_row_holds_numbers_and_words_alone():
    row = optimizer(512, rule="adam_sde", weight_decay_epochs=5).flat()

    assert {type(value) for value in row.values()} <= {int, float, str}
    assert row["steps"] == 2
    assert row["derived_weight_decay"] > 0
