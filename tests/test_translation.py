"""What changes with the batch size: closed forms, the measured slope, and what is refused."""

from __future__ import annotations

import math

import pytest
from search_fixtures import BASELINE, finished, trials_of

import tfbatch
import tfbatch.translate
from tfbatch.answer.best_learning_rates import brackets_of, exponent_of
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS, roles_of
from tfbatch.run_folder.folder import RunFolder
from tfbatch.schema import Named

translate = tfbatch.translate_batch_size


def values(found, name):
    one = found.find(name)
    return one.before, pytest.approx(one.after), one.low, one.high


def test_adamw_at_four_times_the_batch():
    found = translate(256, 1024, optimizer="adamw", learning_rate=3e-4, steps=1001, warmup_steps=9)

    assert found.ratio == 4
    rate = found.learning_rate
    assert (rate.rule, rate.before, rate.after) == ("square_root", 3e-4, pytest.approx(6e-4))
    assert (rate.low, rate.high) == (pytest.approx(3e-4), pytest.approx(6e-4))
    assert "Malladi" in rate.source
    assert (found.find("steps").after, found.find("warmup_steps").after) == (251, 3)
    assert found.find("beta_2").after == pytest.approx(0.999**4)
    assert found.find("beta_2").low == pytest.approx(1 - 4 * 0.001)
    assert found.find("beta_1").after == 0.9
    assert found.find("beta_1").low == pytest.approx(0.6)
    # learning rate * weight decay / batch size stays: Wang & Aitchison
    assert found.find("weight_decay").after == pytest.approx(0.004 * 4 / 2)
    assert found.find("weight_decay").high == pytest.approx(0.004 * 4)
    assert found.find("least_warmup_steps").before == 2000
    assert found.find("least_warmup_steps").after == math.ceil(2 / (1 - 0.999**4))
    assert found.find("batch_normalization_momentum").after == pytest.approx(0.99**4)
    assert not found.measured


def test_sgd_follows_the_square_root_and_its_linear_rule_is_the_far_end():
    found = translate(32, 128, optimizer="sgd", learning_rate=0.1)

    rate = found.learning_rate
    assert rate.rule == "square_root"
    assert (rate.after, rate.low, rate.high) == pytest.approx((0.2, 0.1, 0.4))
    assert any("linear rule (Goyal" in note for note in found.notes)
    assert any("The upper end" in note for note in found.notes)
    smaller = translate(128, 32, optimizer="sgd", learning_rate=0.2)
    down = smaller.learning_rate
    assert (down.after, down.low, down.high) == pytest.approx((0.1, 0.05, 0.2))
    assert any("The lower end" in note for note in smaller.notes)
    same = translate(256, 256, to_gpus=4, optimizer="sgd", learning_rate=0.2)
    assert not any("linear rule" in note for note in same.notes)
    adam = translate(32, 128, optimizer="adam", learning_rate=0.1)
    assert not any("linear rule" in note for note in adam.notes)


def test_back_and_forth_is_where_it_began():
    there = translate(32, 256, optimizer="adam", learning_rate=0.01)
    back = translate(
        256,
        32,
        optimizer="adam",
        learning_rate=there.learning_rate.after,
        optimizer_arguments={"beta_2": there.find("beta_2").after},
    )

    assert back.learning_rate.after == pytest.approx(0.01)
    assert back.find("beta_2").after == pytest.approx(0.999)


def test_more_gpus_keep_their_micro_batch_and_their_normalization():
    found = translate(256, to_gpus=4, optimizer="sgd")

    assert found.after.batch_size == 1024
    assert found.find("batch_normalization_momentum").after == pytest.approx(0.99)
    assert found.find("micro_batch").after == 256


def test_accumulation_at_the_same_batch_changes_what_sees_the_micro_batch_alone():
    found = translate(256, 256, to_accumulation=4, optimizer="adamw")

    changed = {one.name for one in found.changes if one.factor != pytest.approx(1)}
    assert changed == {"batch_normalization_momentum", "micro_batch"}
    assert found.find("batch_normalization_momentum").after == pytest.approx(0.99**0.25)
    assert any("tfbatch.accumulated" in note for note in found.notes)


def test_a_critical_batch_size_bends_the_learning_rate():
    sgd = translate(100, 400, optimizer="sgd", learning_rate=0.1, critical_batch_size=200)
    adam = translate(100, 400, optimizer="adam", learning_rate=0.1, critical_batch_size=200)

    assert sgd.learning_rate.rule == "saturating"
    assert sgd.learning_rate.after == pytest.approx(0.1 * (1 + 2) / (1 + 0.5))
    assert adam.learning_rate.rule == "surge"
    assert adam.learning_rate.after == pytest.approx(0.1)  # on both sides of its peak


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_every_optimizer_is_translated_and_every_line_has_a_rule_and_a_source(optimizer):
    found = translate(32, 64, optimizer=optimizer)

    assert all(one.rule and one.formula and one.source for one in found.changes)
    assert all(len(line) <= 80 for line in str(found).splitlines())
    assert "A prediction: nothing was trained" in str(found)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"to": 256}, "Nothing changes"),
        ({"to": None}, "Nothing changes"),
        ({"batch_size": 0}, "`batch_size` must be >= 1. Received: 0"),
        ({"to_gpus": 3}, "take 1023 or 1026. Received: 1024"),
        ({"learning_rate": -1.0}, "`learning_rate` must be > 0"),
        ({"optimizer": "adan"}, "Did you mean `adam`"),
        ({"optimizer_arguments": {"beta": 0.9}}, "has no parameter `beta`"),
        ({"optimizer_arguments": {"beta_2_half_life": 9.0}}, "is a timescale"),
        ({"optimizer_arguments": {"beta_2": 1.5}}, "`beta_2` of adam must be in [0, 1)"),
        ({"optimizer_arguments": {"beta_1": 1}}, "`beta_1` of adam must be in [0, 1)"),
        ({"optimizer_arguments": {"beta_2": "0.95"}}, "in [0, 1). Received: '0.95'"),
        ({"optimizer_arguments": {"beta_2": True}}, "in [0, 1). Received: True"),
        ({"optimizer_arguments": {"epsilon": math.inf}}, "must be >= 0 and finite. Received: inf"),
        ({"optimizer_arguments": {"weight_decay": -0.1}}, "must be >= 0 and finite"),
        ({"optimizer_arguments": {"amsgrad": 1}}, "must be true or false. Received: 1"),
        ({"batch_size": None}, "Add --batch_size=256"),
        ({"batch_normalization_momentum": 1.0}, "must be in [0, 1)"),
    ],
)
def test_what_cannot_be_translated_is_refused(change, message):
    with pytest.raises(InputError) as caught:
        translate(**{"batch_size": 256, "to": 1024, "optimizer": "adam", **change})
    assert message in str(caught.value)


def searched(size, rate, *, loss, **more):
    configuration = Configuration(
        batch_size=size,
        base_batch_size=size,
        base_learning_rate=rate,
        optimizer=Named(name="adam", beta_2=0.95),
    )
    return finished(f"search-{size}-{rate:.4f}", configuration, loss=loss, **more)


def bracketed(exponent, sizes=(16, 64, 256)):
    """At each size a best rate that follows the power, half of it, and twice as much diverged."""
    found = []
    for size in sizes:
        best = 0.001 * size**exponent
        found += [
            searched(size, best / 2, loss=2.0),
            searched(size, best, loss=1.0),
            searched(size, best * 2, loss=9.0, status="diverged"),
        ]
    return found


def test_the_slope_of_a_run_is_that_of_its_bracketed_best_rates():
    open_end = [searched(512, 7.0, loss=0.5), searched(512, 3.0, loss=0.9)]
    best = brackets_of(trials_of(*bracketed(0.3), *open_end))

    assert [(one.batch_size, one.closed, one.rates) for one in best] == [
        (16, True, 3),
        (64, True, 3),
        (256, True, 3),
        (512, False, 2),
    ]
    assert exponent_of(best).exponent == pytest.approx(0.3)
    assert exponent_of(best[:2]) is None


@pytest.fixture
def run_dir(tmp_path):
    path = tmp_path / "run"
    with RunFolder(path, identity={"objective": "val_loss:min"}, budget={}) as folder:
        baseline = BASELINE.model_copy(update={"optimizer": Named(name="adam", beta_2=0.95)})
        folder.journal.append(finished("baseline", baseline, phase="baseline", loss=3.0).row)
        for trial in bracketed(0.3):
            folder.journal.append(trial.row)
    return path


def test_the_slope_of_a_run_replaces_the_rule(run_dir):
    found = translate(16, 128, run_dir=run_dir)

    rate = found.learning_rate
    assert (found.optimizer, found.measured, rate.rule) == ("adam", True, "measured")
    assert rate.before == pytest.approx(0.001 * 16**0.3)
    assert rate.after == pytest.approx(0.001 * 128**0.3)
    assert found.find("beta_2").before == 0.95
    assert "best trial at batch size 16" in found.notes[0]
    beyond = translate(16, 1024, run_dir=run_dir)
    assert any("extrapolated" in note for note in beyond.notes)
    measured = translate(16, 256, run_dir=run_dir)
    assert any("best learning rate is 0.005278" in note for note in measured.notes)


def test_a_run_is_found_in_the_home_folder(run_dir, monkeypatch):
    monkeypatch.setenv("HOME", str(run_dir.parent))
    assert translate(16, 128, run_dir=f"~/{run_dir.name}") == translate(16, 128, run_dir=run_dir)


def test_a_run_that_has_no_trial_there_or_another_optimizer_is_refused(run_dir):
    with pytest.raises(InputError, match=r"no completed trial at batch size 48. It has: 16, 32, 6"):
        translate(48, 64, run_dir=run_dir)
    with pytest.raises(InputError, match=r"The run trained with adam\. Leave out --optimizer"):
        translate(16, 64, optimizer="sgd", run_dir=run_dir)


def test_the_command_prints_what_python_returns(capsys):
    arguments = ["--batch_size=256", "--to=1024", "--optimizer=adamw", "--learning_rate=0.0003"]
    code = tfbatch.translate.main([*arguments, "--optimizer_arguments=beta_2=0.95"])

    expected = translate(
        256, 1024, optimizer="adamw", learning_rate=3e-4, optimizer_arguments={"beta_2": 0.95}
    )
    assert (code, capsys.readouterr().out) == (0, f"{expected}\n")


def test_steps_are_rounded_up_in_whole_numbers():
    """30 steps of 100 are 3,000 examples, 125 steps of 24; in floats 30 * (100 / 24) is more."""
    found = tfbatch.translate_batch_size(100, 24, steps=30)

    assert found.find("steps").after == 125


def test_a_number_that_no_optimizer_trains_with_is_no_end_of_a_range():
    """1 - 16 * (1 - 0.9) is negative: the range of beta_1 ended at the 0 it was held at."""
    found = translate(32, 512, optimizer="adam", learning_rate=1e-3)

    assert (found.find("beta_1").low, found.find("beta_1").high) == (None, None)
    assert found.find("beta_2").low == pytest.approx(1 - 16 * 0.001)
    assert [note for note in found.notes if "adam_sde gives for `beta_1`" in note]
    assert not any("adam_sde" in note for note in translate(32, 64, optimizer="adam").notes)


def test_what_is_given_beside_a_run_is_not_called_the_runs(run_dir):
    own = translate(16, 128, run_dir=run_dir)
    given = translate(16, 128, run_dir=run_dir, learning_rate=0.5, critical_batch_size=100.0)

    assert own.notes[0].startswith("The values before are those of")
    assert given.notes[0].startswith("The values before that are not given are those of")
    assert given.learning_rate.before == 0.5
    assert "measured slope is used, and `critical_batch_size` is not" in given.notes[-1]


@pytest.mark.parametrize(
    ("optimizer", "beta_2", "sizes", "formula", "shown", "why"),
    [
        ("adamw", 0.95, (256, 4096), "0.4401267", 0.5, "0.5 is the end of that range"),
        ("adam", 0.999, (1024, 8), "0.9999922", 0.99999, "0.99999 is the end of that range"),
        ("adam", 0.3, (32, 64), "0.09", 0.3, "it stays as it is"),
    ],
)
def test_a_decay_that_its_formula_does_not_give_is_told(
    optimizer, beta_2, sizes, formula, shown, why
):
    found = translate(*sizes, optimizer=optimizer, optimizer_arguments={"beta_2": beta_2})

    assert found.find("beta_2").after == shown
    (note,) = (note for note in found.notes if note.startswith("`beta_2`: the formula gives"))
    assert f"gives {formula} at this batch size" in note
    assert why in note


def test_a_decay_beyond_its_range_stays_where_the_batch_size_does():
    found = translate(
        32, 32, to_accumulation=4, optimizer="rmsprop", optimizer_arguments={"rho": 0.3}
    )

    assert found.find("rho").factor == 1
    assert not any("the formula gives" in note for note in found.notes)
    assert not any("the formula gives" in note for note in translate(8, 32).notes)


def test_a_weight_decay_that_would_leave_nothing_is_refused_by_its_own_name():
    """It named `weight_decay_epochs`, which is what it is computed by."""
    with pytest.raises(InputError) as caught:
        translate(
            *(8, 8192),
            optimizer="adamw",
            learning_rate=0.01,
            optimizer_arguments={"weight_decay": 0.1},
        )

    message = str(caught.value)
    assert "`weight_decay` must be < 1 / (ratio * learning_rate) = 0.09766" in message
    assert "Received: 0.1, with a learning rate of 0.01 at batch size 8." in message
    assert "weight_decay_epochs" not in message


def test_what_may_be_off_may_be_given_as_none():
    found = translate(32, 64, optimizer="adam", optimizer_arguments={"weight_decay": None})

    assert found.find("weight_decay") is None


def test_the_decay_of_averaged_weights_keeps_its_half_life_in_examples():
    found = translate(256, 1024, optimizer="adamw", optimizer_arguments={"ema_momentum": 0.999})

    assert found.find("ema_momentum").before == 0.999
    assert found.find("ema_momentum").after == pytest.approx(0.999**4)
    for value in (1.0, True, "0.9"):
        with pytest.raises(InputError, match=r"`ema_momentum` of adamw must be in \[0, 1\)"):
            translate(256, 1024, optimizer="adamw", optimizer_arguments={"ema_momentum": value})
    with pytest.raises(InputError, match="`ema_half_life_fraction` is a timescale"):
        translate(
            *(256, 1024), optimizer="adamw", optimizer_arguments={"ema_half_life_fraction": 0.1}
        )


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_adam_sde_is_named_where_it_says_something_of_the_optimizer_alone(optimizer):
    """Adagrad's epsilon and the betas of Lion were said to follow a rule that they do not have."""
    found = translate(32, 128, optimizer=optimizer)

    named = {one.name for one in found.changes if "adam_sde" in one.formula}
    roles = roles_of(optimizer)
    moved = ("first_moment", "second_moment", "epsilon", "squared_epsilon")
    has_it = "second_moment" in roles.values()
    assert named == {name for name, role in roles.items() if has_it and role in moved}
    sources = {one.name for one in found.changes if "2205.10287" in one.source}
    assert sources - {"learning_rate"} == named


def test_a_weight_decay_has_no_end_that_a_rule_without_a_word_on_it_gives():
    """It reached down to the 0.004 that adam_sde leaves as it is, which no line said."""
    found = translate(256, 1024, optimizer="adamw", learning_rate=3e-4).find("weight_decay")

    assert (found.low, found.high) == (pytest.approx(0.008), pytest.approx(0.016))


def test_a_count_is_printed_with_all_of_its_digits():
    found = translate(1024, 256, steps=1_234_567, learning_rate=0.123456789)

    shown = str(found)
    assert "4,938,268" in shown
    assert "1,234,567" in shown
    assert "0.123457" in shown
