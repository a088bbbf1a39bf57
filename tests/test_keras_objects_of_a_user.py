"""Keras objects that a user gives travel whole, or are refused by name: no default takes over."""

from __future__ import annotations

import functools
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from search_fixtures import make_request_of

from tfbatch.errors import InputError
from tfbatch.python_objects import PythonObjects, task_of, user_code
from tfbatch.request.task import IN_PYTHON
from tfbatch.run_folder.folder import RunFolder
from tfbatch.training import single
from tfbatch.training.by_value import copied, dumps
from tfbatch.training.callbacks import as_factory
from tfbatch.training.compilation import Compilation, compiled_parts
from tfbatch.training.context import UserCode
from tfbatch.training.description import unmoved_metrics
from tfbatch.training.evaluation import drop_unsavable_compilation
from tfbatch.training.given_objects import code_identity, hash_of
from tfbatch.training.own_optimizer import (
    check_kept,
    learning_rate_of,
    named_like,
    optimizer_like,
)


class Scaled(keras.losses.Loss):
    """Not registered."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, y_true, y_pred):
        return self.factor * keras.ops.mean(keras.ops.square(y_true - y_pred), axis=-1)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class Forgetful(Scaled):
    def get_config(self):
        return keras.losses.Loss.get_config(self)


class Numbered(Scaled):
    """Has a number of its own, which no configuration returns."""

    numbers = itertools.count()

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.number = next(self.numbers)


class NumberedForgetful(Numbered, Forgetful):
    pass


class Unmakeable(Scaled):
    """Needs an argument that its configuration lacks: Keras says so when a model is loaded."""

    def __init__(self, factor, table):
        super().__init__(factor)
        self.table = table

    def get_config(self):
        return keras.losses.Loss.get_config(self)


class Largest(keras.metrics.Metric):
    def __init__(self, power=1.0, name="largest", **kwargs):
        super().__init__(name=name, **kwargs)
        self.power = power
        self.value = self.add_weight(name="value", initializer="zeros")

    def update_state(self, y_true, y_pred, sample_weight=None):
        self.value.assign(
            keras.ops.maximum(self.value, keras.ops.max(keras.ops.abs(y_true - y_pred)))
        )

    def result(self):
        return self.value**self.power

    def get_config(self):
        return {**super().get_config(), "power": self.power}


class Times(keras.layers.Layer):
    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x):
        return x * self.factor

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


class ForgetfulTimes(Times):
    def get_config(self):
        return keras.layers.Layer.get_config(self)


class Twisted(keras.optimizers.SGD):
    def __init__(self, learning_rate=0.1, twist=1.0, **kwargs):
        super().__init__(learning_rate, **kwargs)
        self.twist = twist


class Watch(keras.callbacks.Callback):
    def __init__(self, metric, layer):
        super().__init__()
        self.metric, self.layer = metric, layer


ONE, ZERO = np.ones((4, 2), "float32"), np.zeros((4, 2), "float32")


@pytest.mark.parametrize("loss", [Scaled(100.0), Unmakeable(100.0, [1.0])])
def test_a_loss_travels_attribute_by_attribute(loss):
    for part in (copied(loss), copied({"a": [loss]})["a"][0]):
        assert part is not loss
        assert float(part(ONE, ZERO)) == 100.0


def test_a_metric_travels_with_its_class_and_values_and_shares_no_variable():
    metric = Largest(2.0)
    metric.update_state(3 * ONE, ZERO)
    copy = copied([metric])[0]
    assert float(copy.result()) == 9.0
    metric.reset_state()
    copy.update_state(4 * ONE, ZERO)

    assert float(copy.result()) == 16.0
    assert float(metric.result()) == 0.0
    assert [v.name for v in copy.variables] == ["value"]
    auc = keras.metrics.AUC(num_thresholds=7, name="area")
    assert copied(auc).get_config() == auc.get_config()


@pytest.mark.parametrize(
    "metric",
    [
        keras.metrics.BinaryAccuracy(threshold=0.25),
        keras.metrics.SparseTopKCategoricalAccuracy(k=2),
        keras.metrics.MeanIoU(num_classes=3),
        keras.metrics.Precision(thresholds=[0.1, 0.2]),
        keras.metrics.CategoricalCrossentropy(),
    ],
    ids=lambda metric: metric.name,
)
def test_a_metric_of_keras_travels_with_the_lists_and_dicts_that_it_keeps(metric):
    copy = copied([metric])[0]
    assert copy.get_config() == metric.get_config()
    assert len(copy.variables) == len(metric.variables)


class Pair(keras.metrics.Metric):
    """Keeps metrics in a list."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [keras.metrics.Mean(), keras.metrics.Mean()]

    def update_state(self, y_true, y_pred, sample_weight=None):
        for part in self.parts:
            part.update_state(y_pred)

    def result(self):
        return self.parts[0].result() + self.parts[1].result()


def test_the_metrics_that_a_metric_keeps_in_a_list_travel_too():
    pair = Pair()
    pair.update_state(ZERO, ONE)
    copy = copied(pair)
    assert float(copy.result()) == 2.0
    copy.reset_state()
    assert float(copy.result()) == 0.0
    assert float(pair.result()) == 2.0


def test_layers_and_models_keep_their_values_though_their_classes_are_not_registered():
    normalization = keras.layers.Normalization()
    normalization.adapt(np.array([[1.0], [3.0]]))
    inputs = keras.Input((1,))
    model = keras.Model(inputs, Times(5.0)(normalization(inputs)))
    model.compile("sgd", Scaled(7.0), metrics=[Largest(3.0)])

    x = np.array([[2.0], [5.0]], "float32")
    np.testing.assert_array_equal(copied(model)(x), model(x))
    np.testing.assert_array_equal(copied(normalization)(x), normalization(x))
    assert float(np.max(model(x))) == 15.0


def build_with(part):
    return lambda: part


@pytest.mark.parametrize(
    ("made", "name", "wrong", "given"),
    [
        (lambda: Forgetful(100.0), "Forgetful", "factor=2.0", "factor=100.0"),
        (lambda: ForgetfulTimes(3.0), "ForgetfulTimes", "factor=1.0", "factor=3.0"),
        (lambda: Twisted(0.1, twist=4.0), "Twisted", "twist=1.0", "twist=4.0"),
        (
            lambda: keras.Sequential([keras.Input((1,)), ForgetfulTimes(3.0)]),
            "ForgetfulTimes",
            "factor=1.0",
            "factor=3.0",
        ),
        (lambda: build_with(Forgetful(9.0)), "Forgetful", "factor=2.0", "factor=9.0"),
    ],
    ids=["loss", "layer", "optimizer", "layer-in-model", "closure-of-a-builder"],
)
def test_an_argument_that_get_config_does_not_return_is_refused_by_name(made, name, wrong, given):
    with pytest.raises(InputError) as caught:
        dumps(made())
    for words in (f"`get_config` of {name}", f"has {wrong}.", f"Received: {given}."):
        assert words in str(caught.value)


def test_what_cannot_be_made_again_is_refused_in_one_sentence():
    class Subclass(keras.Model):
        def __init__(self, values):
            super().__init__()
            self.values = values

        def call(self, x):
            return x

    with pytest.raises(
        InputError, match=r"^Subclass cannot be recreated from its `get_config\(\)`"
    ):
        dumps(Subclass(object()))


def test_a_compiled_optimizer_is_kept_or_refused():
    check_kept(keras.optimizers.Adam(1e-3, beta_1=0.7))
    check_kept(Twisted(0.1, momentum=0.5))
    with pytest.raises(InputError, match=r"`get_config` of Twisted .* has twist=1\.0"):
        check_kept(Twisted(0.1, twist=4.0))


def test_callbacks_are_copied_for_each_trial_with_the_keras_objects_in_them():
    given = Watch(Largest(2.0), Times(3.0))
    factory = as_factory([given])
    assert factory is not None
    first, second = factory()[0], factory()[0]

    assert first.metric is not second.metric
    assert (first.metric.power, first.layer.factor) == (2.0, 3.0)
    with pytest.raises(InputError, match="ForgetfulTimes"):
        as_factory([Watch(None, ForgetfulTimes(3.0))])()


class TwoTargets:
    soft_labels = False


def test_metrics_of_each_output_are_compiled_and_copied():
    metrics = {"a": ["mae", Largest(2.0)], "b": ["mse"]}
    compilation = Compilation({"a": "mse", "b": "mse"}, metrics)
    inputs = keras.Input((2,))
    found = []
    for _ in range(2):
        model = keras.Model(
            inputs,
            {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")},
        )
        model.compile("sgd", **compilation.arguments(TwoTargets()))
        found.append(
            model.evaluate(ONE, {"a": ONE[:, :1], "b": ONE[:, :1]}, verbose=0, return_dict=True)
        )

    assert {"a_mae", "a_largest", "b_mse"} < set(found[0])
    assert float(metrics["a"][1].value) == 0.0
    task = task_of({"a": "mse"}, metrics, None)
    assert (task.loss, task.metrics) == (IN_PYTHON, (IN_PYTHON,))
    assert PythonObjects(metrics=metrics).metrics == metrics


class Halving(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without `get_config`."""

    def __call__(self, step):
        return 0.5 ** keras.ops.cast(step, "float32")


@pytest.mark.parametrize("rate", [Halving(), lambda: 0.5], ids=["schedule", "function"])
def test_a_schedule_without_get_config_is_no_obstacle_since_it_is_replaced(rate):
    compiled = keras.optimizers.SGD(rate, momentum=0.25)

    check_kept(compiled)
    assert learning_rate_of(compiled) is None
    assert named_like(compiled).arguments["momentum"] == 0.25
    made = optimizer_like(compiled, {}, 0.125)
    assert (float(made.learning_rate), made.momentum) == (0.125, 0.25)
    assert compiled._learning_rate is rate


def test_a_compiled_average_of_weights_is_refused_with_what_replaces_it():
    with pytest.raises(InputError, match=r"use_ema=True.*ema_half_life_fraction"):
        check_kept(keras.optimizers.AdamW(use_ema=True))


def test_a_model_whose_loss_cannot_be_written_down_is_saved_without_it(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", functools.partial(keras.losses.huber, delta=0.5))
    with pytest.raises(TypeError, match="Cannot serialize"):
        model.save(tmp_path / "a.keras")

    with pytest.warns(UserWarning, match="saved without its loss"):
        drop_unsavable_compilation(model)
    model.save(tmp_path / "b.keras")
    loaded = keras.models.load_model(tmp_path / "b.keras")
    assert not loaded.compiled
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])


@pytest.mark.filterwarnings("ignore:The model is saved without its loss")
def test_a_single_trainings_model_is_saved_without_a_loss_that_cannot_be_written(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", functools.partial(keras.losses.huber, delta=0.5))

    single._save(model, None, None, 0, tmp_path / "trained.keras")
    loaded = keras.models.load_model(tmp_path / "trained.keras")
    np.testing.assert_array_equal(loaded.get_weights()[0], model.get_weights()[0])
    assert np.isfinite(model.evaluate(np.ones((3, 2)), np.ones(3), verbose=0))


class TrainsAlone(keras.Model):
    """As in Keras's guides, without the `test_step` that belongs to it."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)
        self.tracker = keras.metrics.Mean(name="loss")

    def call(self, x):
        return self.dense(x)

    def train_step(self, data):
        self.tracker.update_state(1.0)
        return {"loss": self.tracker.result()}

    @property
    def metrics(self):
        return [self.tracker]


class Evaluates(TrainsAlone):
    def test_step(self, data):
        return self.train_step(data)


def test_metrics_that_no_validation_moves_are_told_of():
    models = TrainsAlone(), Evaluates()
    for model in models:
        model.compile("sgd", "mse")
    ones = np.ones((4, 2))
    assert models[0].evaluate(ones, ones[:, :1], verbose=0) == 0.0  # Keras says nothing

    assert "Override `test_step` too" in unmoved_metrics(models[0])
    assert unmoved_metrics(models[1]) == ""


def test_an_attribute_that_is_drawn_anew_is_no_lost_argument():
    assert copied(Numbered(factor=3.0)).factor == 3.0
    with pytest.raises(InputError, match=r"factor=2\.0\. Received: factor=3\.0"):
        copied(NumberedForgetful(factor=3.0))


def builder():
    raise NotImplementedError


def identity(callbacks=None, **compilation):
    """What a run keeps of code that is given."""
    return code_identity(
        UserCode(builder, as_factory(callbacks), compilation=Compilation(**compilation))
    )


def given(*, callbacks=None, **compilation):
    return identity(callbacks, **compilation)["given"]


def scaled_error(factor):
    def error(y_true, y_pred):
        return factor * keras.losses.mse(y_true, y_pred)

    return error


def patient():
    return [keras.callbacks.EarlyStopping(patience=2)]


STOPPING = keras.callbacks.EarlyStopping
MADE = {
    "loss of Keras": lambda n: {"loss": keras.losses.Huber(n)},
    "loss of the user": lambda n: {"loss": Scaled(n)},
    "loss with a counted name": lambda n: {"loss": Unmakeable(n, [1.0])},
    "function that a function makes": lambda n: {"loss": scaled_error(n)},
    "partial": lambda n: {"loss": functools.partial(keras.losses.huber, delta=n)},
    "losses by output": lambda n: {"loss": {"a": "mse", "b": keras.losses.Huber(n)}},
    "metric": lambda n: {"metrics": ["mae", Largest(n)]},
    "metric of Keras": lambda n: {"metrics": [keras.metrics.TopKCategoricalAccuracy(int(n))]},
    "callback": lambda n: {"callbacks": [STOPPING(patience=int(n))]},
    "array": lambda n: {"callbacks": [Watch(np.full((4, 2), n), None)]},
    "tensor": lambda n: {"loss": scaled_error(tf.constant(n))},
    "variable": lambda n: {"loss": scaled_error(tf.Variable(n))},
    "layer": lambda n: {"loss": Scaled(keras.layers.Dense(int(n), name="projection"))},
    "function that makes callbacks": lambda n: {
        "callbacks": functools.partial(lambda patience: [STOPPING(patience=patience)], int(n))
    },
}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
def test_other_objects_are_another_identity_and_the_same_made_again_are_the_same(made):
    assert given(**made(2.0)) == given(**made(2.0))
    assert given(**made(2.0)) != given(**made(5.0))


def test_what_has_a_name_or_writes_elsewhere_changes_no_identity(tmp_path):
    logs = [keras.callbacks.TensorBoard(log_dir=str(tmp_path / name)) for name in "ab"]

    assert given() == given(loss="mse", metrics=["mae"]) == {}
    assert given(callbacks=[logs[0]]) == given(callbacks=[logs[1]])
    assert given(callbacks=patient) != given() == given(callbacks=[])
    assert given(callbacks=[STOPPING(verbose=1)]) == given(callbacks=[STOPPING()])
    looped: list[object] = []
    looped.append(looped)
    assert hash_of(looped) == hash_of(looped)


def test_the_order_in_which_a_builder_asks_is_no_difference():
    """That of a set of texts is another one in each process."""
    asked = [{"config": {"name": name}} for name in "ab"]
    code = UserCode(builder)

    assert code_identity(code, asked=asked) == code_identity(code, asked=asked[::-1])
    assert code_identity(code, asked=asked) != code_identity(code, asked=asked[:1])


def test_the_seed_that_keras_draws_for_an_initializer_is_no_difference():
    """Another one in each process, so that the same call could never go on."""
    own, other = (keras.layers.Dense(8, name="same") for _ in range(2))
    seeded = keras.layers.Dense(
        8, name="same", kernel_initializer=keras.initializers.GlorotUniform(3)
    )

    assert own.kernel_initializer.seed != other.kernel_initializer.seed
    assert hash_of(own) == hash_of(other) != hash_of(seeded)


def test_a_callback_that_has_been_in_a_fit_of_the_users_is_the_same():
    """Keras turns the sign of `min_delta` there."""
    used = STOPPING("loss", min_delta=0.01)
    before = hash_of(used)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.zeros((4, 1)), np.zeros((4, 1)), callbacks=[used], verbose=0)

    assert used.min_delta < 0
    assert hash_of(used) == before


def test_a_lambda_counts_without_the_call_that_it_stands_in():
    first = dict(loss=lambda y, p: keras.losses.huber(y, p, delta=2.0), metrics=[])  # noqa: C408
    again = dict(loss=lambda y, p: keras.losses.huber(y, p, delta=2.0))  # noqa: C408
    other = dict(loss=lambda y, p: keras.losses.huber(y, p, delta=3.0))  # noqa: C408

    found = [hash_of(one["loss"]) for one in (first, again, other)]
    assert found[0] == found[1] != found[2]


def test_what_a_builder_compiles_is_part_of_the_identity():
    def compiled(delta):
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", keras.losses.Huber(delta), metrics=[Largest(2.0)])
        return hash_of(compiled_parts(model), sources=False)

    assert compiled(1.0) == compiled(1.0) != compiled(5.0)
    assert code_identity(UserCode(builder), "1f")["given"] == {"compiled_with": "1f"}


@pytest.mark.parametrize(
    ("name", "begun", "other"),
    [
        ("loss", {"loss": keras.losses.Huber(1.0)}, {"loss": keras.losses.Huber(5.0)}),
        ("callbacks", {}, {"callbacks": [STOPPING(patience=2)]}),
    ],
)
def test_a_run_goes_on_with_the_same_objects_alone(tmp_path, name, begun, other):
    with RunFolder(tmp_path, identity=identity(**begun), budget={}) as run:
        run.journal.append({"trial": "baseline"})

    with RunFolder(tmp_path, identity=identity(**begun), budget={}) as run:
        assert run.journal.rows
    with (
        pytest.raises(InputError, match=rf"begun with other settings:\n  given\.{name}: "),
        RunFolder(tmp_path, identity=identity(**other), budget={}),
    ):
        pass


def test_a_run_of_an_earlier_version_goes_on_with_what_it_did_not_keep(tmp_path):
    now = identity(loss=keras.losses.Huber(1.0))
    before = {key: value for key, value in now.items() if key != "given"}
    with RunFolder(tmp_path, identity=before, budget={}) as run:
        run.journal.append({"trial": "baseline"})

    with RunFolder(tmp_path, identity=now, budget={}) as run:
        assert run.journal.rows


def test_callbacks_are_named_where_they_were_given_by_name():
    subject = make_request_of(model="mlp").subject

    def name_of(**given):
        return user_code(subject, PythonObjects(**given)).callbacks_name

    assert name_of(callbacks=list, callbacks_name="mine:make") == "mine:make"
    assert name_of(callbacks=list) == IN_PYTHON
    assert name_of(callbacks=[keras.callbacks.TerminateOnNaN()]) == IN_PYTHON
    assert (name_of(), name_of(callbacks=[])) == (None, None)
