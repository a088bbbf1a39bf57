"""What a user reads where data, loss or metrics do not fit the model: one sentence."""

from __future__ import annotations

import keras
import pytest
import tensorflow as tf

from tfbatch.training.misfit import misfit, refusal

MSE = "mean_squared_error"


def model(inputs=("a", "b"), outputs=("out", "side"), **compiled):
    given = [keras.Input((3,), name=name) for name in inputs]
    hidden = keras.layers.Concatenate()(given) if len(given) > 1 else given[0]
    made = {name: keras.layers.Dense(1, name=name)(hidden) for name in outputs}
    found = keras.Model(given, made if len(outputs) > 1 else made[outputs[0]])
    found.compile("sgd", **({"loss": MSE} | compiled))
    return found


def shape(*dimensions):
    return tf.TensorSpec((None, *dimensions))


A, Y = shape(3), shape(1)
PAIR, TARGETS = (A, A), {"out": Y, "side": Y}
CASES = {
    "too few inputs": (model(), (A, TARGETS), r"takes 2 inputs \(`a`, `b`\), and the data gives 1"),
    "too many inputs": (
        model(inputs=("a",)),
        (PAIR, TARGETS),
        r"takes 1 input \(`a`\), and the data gives 2\.",
    ),
    "another name": (
        model(),
        ({"a": A, "bb": A}, TARGETS),
        r"`b` is missing\. Did you mean `bb`\? Name the data's inputs as the model's",
    ),
    "another shape": (
        model(),
        ((A, shape(2)), TARGETS),
        r"input `b` takes examples of shape \(3,\), and the data gives \(2,\)",
    ),
    "a target's name": (model(), (PAIR, {"out": Y, "sid": Y}), r"`side` is missing\. Did you mean"),
    "too few targets": (model(), (PAIR, Y), r"2 outputs \(`out`, `side`\), and the data gives 1"),
    "a loss's name": (
        model(loss={"out": MSE, "aside": MSE}),
        (PAIR, TARGETS),
        r"`loss` must name outputs of the model: `out`, `side`\. Received: `aside`\. Did you mean",
    ),
    "a loss for nothing": (
        model(outputs=("out",), loss={"wrong": MSE}),
        (PAIR, Y),
        r"Received: `wrong`\. Give a single loss, or name",
    ),
    "too many losses": (
        model(loss=[MSE] * 3),
        (PAIR, TARGETS),
        r"one entry for each of the model's 2 outputs, `out`, `side`\. Received: 3",
    ),
    "a metric's name": (
        model(metrics={"outt": ["mae"]}),
        (PAIR, TARGETS),
        r"`metrics` must name outputs .* Did you mean `out`\?",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_does_not_fit_is_one_sentence(name):
    made, spec, message = CASES[name]
    error = refusal(ValueError("Keras's own words"), "It failed", made, spec)
    assert "\n" not in str(error)
    with pytest.raises(type(error), match=message):
        raise error


def named(inputs, outputs, **compiled):
    """A model whose inputs and outputs are dicts, in whatever order they are written."""
    given = {name: keras.Input((size,), name=name) for name, size in inputs.items()}
    hidden = keras.layers.Concatenate()(keras.tree.flatten(given))
    made = {name: keras.layers.Dense(1)(hidden) for name in outputs}
    found = keras.Model(given, made)
    found.compile("sgd", **({"loss": MSE} | compiled))
    return found


def test_names_belong_to_the_tensors_as_keras_sorts_them():
    made = named({"z": 2, "a": 3}, ("side", "out"))
    assert misfit(made, ({"z": shape(2), "a": A}, TARGETS)) is None
    assert "input `z` takes examples of shape (2,)" in misfit(made, ({"z": A, "a": A}, TARGETS))


def test_structures_within_structures_and_outputs_without_a_loss_are_not_blamed():
    a, b, c = (keras.Input((3,), name=name) for name in "abc")
    given = {"deep": {"a": a, "b": b}, "c": c}
    hidden = keras.layers.Concatenate()(keras.tree.flatten(given))
    deep = keras.Model(given, keras.layers.Dense(1)(hidden))
    assert misfit(deep, ({"deep": {"a": A, "b": A}, "c": A}, Y)) is None
    assert misfit(deep, ({"c": A}, Y)) is None
    assert misfit(model(loss=[MSE, None]), (PAIR, Y)) is None
    assert misfit(model(loss={"out": MSE, "side": None}), (PAIR, {"out": Y})) is None


def test_the_sentence_ends_with_the_real_error():
    error = refusal(KeyError("in a loss"), "It failed", model(), (PAIR, Y))
    assert str(error).endswith("(The error: KeyError: 'in a loss')")


def test_what_fits_is_not_blamed_and_the_users_own_error_is_shown_whole():
    assert misfit(model(), (PAIR, TARGETS)) is None
    assert misfit(model(), ({"b": A, "a": A, "more": A}, TARGETS)) is None
    assert misfit(model(inputs=("a",), outputs=("out",)), (shape(3, 1), shape())) is None
    try:
        raise ZeroDivisionError("in a layer")
    except ZeroDivisionError as error:
        text = str(refusal(error, "The model cannot be built", model(), (PAIR, TARGETS)))
    assert text.startswith("The model cannot be built:\nTraceback")
    assert "ZeroDivisionError: in a layer" in text
