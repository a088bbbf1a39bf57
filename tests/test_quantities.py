"""Lengths of training: what is read, what it means in examples, what is refused."""

from __future__ import annotations

import pytest

from tfbatch.errors import ConfigurationError, InputError
from tfbatch.quantities import TrainingLength, TrainingLengthText, four_decimals, plain_digits
from tfbatch.schema import Strict, validate


class Holder(Strict):
    trial_length: TrainingLengthText


@pytest.mark.parametrize(
    ("text", "amount", "unit"),
    [
        ("5 epochs", 5, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("0.5 epochs", 0.5, "epochs"),
        ("200_000 examples", 200_000, "examples"),
        ("1 example", 1, "examples"),
        ("  7epochs ", 7, "epochs"),
        ("1_000_000.5 examples", 1_000_000.5, "examples"),
    ],
)
def test_a_length_is_read(text, amount, unit):
    assert TrainingLength.parse(text) == TrainingLength(amount=amount, unit=unit)


@pytest.mark.parametrize(
    "text",
    [
        *("", "5", "epochs", "-1 epochs", "0 epochs", "0.0 examples", "1e3 examples", "5 epochs!"),
        *("nan epochs", "5_ epochs", "5__0 epochs", "_5 epochs", "5,000 examples"),
        pytest.param("9" * 400 + " epochs", id="beyond floats"),
    ],
)
def test_another_form_is_refused(text):
    with pytest.raises(InputError) as caught:
        TrainingLength.parse(text)

    assert str(caught.value) == (
        'A length of training must be a positive number of epochs or examples, such as "5 epochs" '
        f'or "200_000 examples". Received: {text!r}.'
    )


def test_steps_are_refused_with_the_reason():
    with pytest.raises(InputError, match="Steps are not allowed: they change with the batch size"):
        TrainingLength.parse("300 steps")


@pytest.mark.parametrize(
    ("text", "num_examples", "examples"),
    [
        ("5 epochs", 1000, 5000),
        ("0.5 epochs", 1001, 501),
        ("0.1 epochs", 1000, 100),  # 0.1 * 1000 is a little more than 100 in binary
        ("0.7 epochs", 10, 7),
        ("0.001 epochs", 10, 1),
        ("0.000000000001 epochs", 10, 1),
        ("200_000 examples", 1000, 200_000),
        ("2.5 examples", 1000, 3),
        ("1_000_000 epochs", 50_000, 50_000_000_000),
    ],
)
def test_a_length_in_examples_is_rounded_up_and_at_least_one(text, num_examples, examples):
    assert TrainingLength.parse(text).examples(num_examples) == examples


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("5 epochs", "5 epochs"),
        ("1 epoch", "1 epochs"),
        ("200_000 examples", "200000 examples"),
        ("2_000_000 examples", "2000000 examples"),
        ("0.5 epochs", "0.5 epochs"),
        ("0.00001 epochs", "0.00001 epochs"),
        ("1.23456789 epochs", "1.23456789 epochs"),
        ("999999.5 epochs", "999999.5 epochs"),
        ("1234567.5 examples", "1234567.5 examples"),
        ("30_000_000_000_000_000_000_000 examples", "30000000000000000000000 examples"),
    ],
)
def test_a_length_is_shown_in_the_form_that_is_read(text, shown):
    length = TrainingLength.parse(text)

    assert str(length) == shown
    assert TrainingLength.parse(shown) == length


def test_a_length_is_text_in_json_and_a_value_in_python():
    holder = validate(Holder, {"trial_length": "0.5 epochs"}, where="x.yaml")

    assert holder.trial_length == TrainingLength(amount=0.5, unit="epochs")
    assert holder.model_dump(mode="json") == {"trial_length": "0.5 epochs"}
    assert Holder.model_validate_json(holder.model_dump_json()) == holder


@pytest.mark.parametrize("value", [5, 0.5, "5", None, ["5 epochs"]], ids=str)
def test_a_length_without_a_unit_is_refused_with_examples_of_the_right_form(value):
    with pytest.raises(ConfigurationError) as caught:
        validate(Holder, {"trial_length": value}, where="x.yaml")

    assert str(caught.value).startswith(
        "x.yaml: trial_length: A length of training must be a positive number of epochs or examples"
    )


def test_a_length_made_in_python_must_be_positive():
    with pytest.raises(ConfigurationError, match="amount: Input should be greater than 0"):
        validate(TrainingLength, {"amount": -1, "unit": "epochs"}, where="x.yaml")


@pytest.mark.parametrize(
    ("numbers", "texts"),
    [
        ((0.8123, 0.00004), ("0.8123", "0.0000")),
        ((0.0021,), ("0.0021",)),
        ((0.0,), ("0.0000",)),
        ((float("nan"), 0.5), ("nan", "0.5000")),
        ((-3.05e-5, 7.1e-7), ("-3.05e-05", "7.1e-07")),
        ((0.0005, -0.0002, 0.0012), ("0.0005", "-0.0002", "0.0012")),
    ],
)
def test_a_number_has_four_decimals_unless_it_and_its_neighbours_are_too_small(numbers, texts):
    assert tuple(four_decimals(n, *numbers) for n in numbers) == texts
    assert four_decimals(0.5, sign="+") == "+0.5000"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        *((0.0123, 3, "0.0123"), (99.6, 3, "99.6"), (999.4, 3, "999"), (999.6, 3, "1,000")),
        *((1234.0, 3, "1,234"), (0.83, 2, "0.83"), (99.7, 2, "100"), (1.26, 2, "1.3")),
        *((0.00001, 3, "0.00001"), (-1.234e-7, 3, "-0.000000123"), (0.0, 3, "0")),
    ],
)
def test_an_ordinary_number_has_no_exponent(value, digits, text):
    assert plain_digits(value, digits) == text
