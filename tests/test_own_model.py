"""A user's own model: what its builder may ask for, what a compiled one keeps, what is refused."""

from __future__ import annotations

import dataclasses

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from contexts import context_of
from search_fixtures import make_request_of

import tfbatch
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.models import keras_applications
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.request.search_config import load_search
from tfbatch.schema import Named
from tfbatch.search.compiled_optimizer import fit_baseline, fit_search
from tfbatch.search.progress import Progress
from tfbatch.search.session import _trainable
from tfbatch.search.space import SearchSpace
from tfbatch.training.asked import MOST_BUILDS, ask
from tfbatch.training.callbacks import as_factory, check_callbacks
from tfbatch.training.compilation import Compilation, compile_with
from tfbatch.training.description import check_optimizers, description_of
from tfbatch.training.model_builder import (
    check_arguments,
    check_builder,
    find_model_builder,
)
from tfbatch.training.own_optimizer import named_like, optimizer_like
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.optimizer_numbers import numbers_at, settings_beside
from tfbatch.trial.outcome import TrialSpec

ADAM = Configuration(
    batch_size=16,
    base_learning_rate=0.01,
    base_batch_size=16,
    schedule=Named(name="linear"),
    optimizer=Named(name="adam"),
)


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    """A linear target of four inputs."""
    generator = np.random.default_rng(0)
    x = generator.normal(size=(96, 4)).astype(np.float32)
    y = x @ np.array([[1.0], [-2.0], [0.5], [0.0]], np.float32)
    folder = tmp_path_factory.mktemp("own")
    return StoredData(store_data(folder, {"train": (x, y), "validation": (x, y)}), name="lines")


def layers(**arguments):
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, **arguments)])


def compiled_adam():
    model = layers()
    model.compile(
        optimizer=keras.optimizers.Adam(0.003, beta_2=0.9, clipnorm=0.5),
        loss="mse",
        metrics=["mae"],
    )
    return model


def train(data, build_model, configuration=ADAM, **more):
    """The outcome of one trial, the trial's model, and how many programs were traced."""
    callbacks = more.pop("callbacks", list)
    programs = ProgramCache(Workload(data, build_model, **more))
    spec = TrialSpec("trial", "search", 3, configuration, total_examples=120, num_examples=96)
    outcome = run_trial(programs, spec, user_callbacks=callbacks)
    return outcome, programs


def plain_keras(data, optimizer):
    """What plain Keras makes of the same training."""
    keras.utils.set_random_seed(3)
    model = layers()
    model.compile(optimizer=optimizer, loss="mse")
    model.fit(
        data.training(batch_size=16, seed=3, num_examples=120), epochs=1, shuffle=False, verbose=0
    )
    return model.get_weights()


def last_model(programs):
    return next(iter(programs._programs.values())).model


# What a builder may ask for


def build_with_shape(input_shape):
    return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(1)])


def build_positional(shape, classes):
    assert (shape, classes) == ((4,), None)
    return layers()


def build_positional_with_more(shape, classes, *more, **options):
    assert (shape, classes, more, options) == ((4,), None, (), {})
    return layers()


def build_with_options(input_shape, width=3):
    return keras.Sequential(
        [keras.Input(input_shape), keras.layers.Dense(width), keras.layers.Dense(1)]
    )


@pytest.mark.parametrize(
    "build",
    [
        build_positional,
        build_positional_with_more,
        *(
            pytest.param(build, marks=pytest.mark.slow)
            for build in (layers, build_with_shape, build_with_options)
        ),
    ],
)
def test_a_builder_gets_what_it_asks_for(regression, build):
    check_builder(build)
    outcome, _ = train(regression, build, compilation=Compilation("mse"))

    assert outcome.status == "completed", outcome.message
    assert set(outcome.metrics) == {"loss", "val_loss"}


def test_arguments_of_a_builder_come_from_the_configuration(regression):
    configuration = ADAM.model_copy(update={"model": {"width": 7}})
    _, programs = train(
        regression, build_with_options, configuration, compilation=Compilation("mse")
    )

    assert last_model(programs).layers[0].units == 7
    assert Configuration.from_flat(configuration.flat()) == configuration
    assert configuration.flat()["model_width"] == 7
    with pytest.raises(InputError, match=r"no argument `widht`\. Did you mean `width`"):
        check_arguments(build_with_options, {"widht": 1})


def test_a_builder_that_asks_for_what_there_is_not_is_refused():
    with pytest.raises(InputError, match=r"It also asks for: units\. Received: <lambda>"):
        check_builder(lambda input_shape, units: None)


def test_a_builder_that_asks_for_classes_where_there_are_none_is_told(regression):
    message = "asks for `num_classes`, but the targets are not classes.*Number class labels from 0"
    with pytest.raises(InputError, match=message):
        Workload(regression, lambda input_shape, num_classes: layers()).build(1)


def test_a_model_in_place_of_its_builder_is_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"given as a function that builds it.*clone_model"):
        check_builder(layers())


def build_with_hp(hp):
    if hp.Boolean("deep"):
        with hp.conditional_scope("deep", [True]):
            hidden = [keras.layers.Dense(hp.Int("units", 2, 8, step=2))]
    else:
        hidden = []
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(1)])
    rate = hp.Float("learning_rate", 1e-4, 1e-2, sampling="log")
    model.compile(optimizer=keras.optimizers.SGD(rate), loss="mse")
    return model


def conditions_of(described):
    """The values of others with which each hyperparameter is searched, by its name."""
    return {
        entry["config"]["name"]: {
            condition["config"]["name"]: condition["config"]["values"]
            for condition in entry["config"]["conditions"]
        }
        for entry in described.hyperparameters
    }


def model_with(*units):
    hidden = [keras.layers.Dense(number) for number in units]
    model = keras.Sequential([keras.Input((4,)), *hidden, keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    return model


def build_by_kind(hp):
    """Asks for most of it with some values alone, as plain code does."""
    kind = hp.Choice("kind", ["flat", "deep", "wide"])
    hp.Choice("activation", ["relu", "tanh"])
    if kind == "deep":
        return model_with(*(hp.Int(f"units_{k}", 2, 9) for k in range(hp.Int("layers", 1, 3))))
    return model_with(hp.Int("width", 10, 200)) if kind == "wide" else model_with()


def test_what_is_asked_with_some_values_alone_is_searched_with_these(regression):
    described = description_of(Workload(regression, build_by_kind))

    assert conditions_of(described) == {
        "kind": {},
        "activation": {},
        "layers": {"kind": ["deep"]},
        "width": {"kind": ["wide"]},
        "units_0": {"kind": ["deep"]},
        "units_1": {"layers": [2, 3]},
        "units_2": {"layers": [3]},
    }
    assert not [note for note in described.notes if "hp" in note]
    space = SearchSpace(
        make_request_of().search.space,
        num_examples=96,
        model_hyperparameters=described.hyperparameters,
    )
    hp = space.hyperparameters()
    for values, wanted in (
        ({"kind": "flat"}, ["activation", "kind"]),
        ({"kind": "deep", "layers": 2}, ["activation", "kind", "layers", "units_0", "units_1"]),
    ):
        hp.values = {f"model_{name}": value for name, value in values.items()}
        hp.ensure_active_values()
        model = space.configuration(hp.values).model
        assert sorted(model) == wanted
        assert model.items() >= values.items()


def test_what_a_wide_range_opens_is_searched_wherever_the_range_is(regression):
    """Not each of its values is tried, so that nobody knows with which it is asked."""

    def build(hp):
        if hp.Boolean("deep"):
            return model_with(*(hp.Int(f"units_{k}", 2, 5) for k in range(hp.Int("layers", 1, 10))))
        return model_with()

    found = conditions_of(description_of(Workload(regression, build)))

    assert set(found) == {"deep", "layers", *(f"units_{k}" for k in range(10))}
    assert found["units_0"] == found["units_9"] == found["layers"] == {"deep": [True]}


def test_a_scope_within_a_wide_range_is_opened(regression):
    def build(hp):
        layers = hp.Int("layers", 1, 20)
        with hp.conditional_scope("layers", [5, 6]):
            if layers in (5, 6):
                return model_with(hp.Int("units", 2, 50))
        return model_with()

    found = conditions_of(description_of(Workload(regression, build)))

    assert found == {"layers": {}, "units": {"layers": [5, 6]}}


def test_what_is_asked_in_several_cases_is_searched_in_all_of_them(regression):
    def build(hp):
        if hp.Boolean("first") or hp.Boolean("second"):
            return model_with(hp.Int("units", 2, 50))
        return model_with()

    found = conditions_of(description_of(Workload(regression, build)))

    assert found == {"first": {}, "second": {"first": [False]}, "units": {}}


def test_values_that_the_user_gives_are_those_that_are_built_with(regression):
    built = []

    def build(hp):
        built.append(hp.Choice("kind", ["flat", "deep"]))
        if built[-1] == "other":
            return model_with(hp.Int("units", 2, 50))
        if built[-1] == "deep":
            return model_with(hp.Int("layers", 1, 50))
        return model_with()

    workload = Workload(regression, build)
    fixed = description_of(workload, own={"kind": "other"})
    assert set(built) == {"other"}
    assert conditions_of(fixed) == {"kind": {}, "units": {}}
    listed = description_of(workload, searched={"kind": ("flat", "other")})
    assert set(built) == {"flat", "other"}
    assert conditions_of(listed)["units"] == {"kind": ["other"]}


def test_a_model_is_described_as_the_users_values_make_it(regression):
    def build(hp, clip=None):
        model = layers()
        kind = hp.Choice("optimizer", ["SGD", "Adam"])
        optimizer = getattr(keras.optimizers, kind)(0.1, global_clipnorm=clip)
        model.compile(optimizer=optimizer, loss="mse")
        return model

    own = {"optimizer": "Adam", "clip": 0.5}
    described = description_of(Workload(regression, build), own=own)

    assert described.optimizer.name == "adam"
    assert described.optimizer.arguments["global_clipnorm"] == 0.5


def test_what_a_parameter_opens_is_searched_with_its_values(regression):
    def build(hp, kind="flat"):
        return model_with(hp.Int("units", 2, 50)) if kind == "deep" else model_with()

    described = description_of(Workload(regression, build), searched={"kind": ("flat", "deep")})

    assert conditions_of(described) == {"units": {"kind": ["deep"]}}


def test_a_value_that_cannot_be_built_is_told_and_left_to_the_trials(regression):
    def build(hp):
        if hp.Choice("kind", ["flat", "cubic", "deep"]) == "cubic":
            raise ValueError("no such kind\n(yet)")
        return model_with(*([hp.Int("units", 2, 50)] if hp.get("kind") == "deep" else []))

    described = description_of(Workload(regression, build))

    assert conditions_of(described) == {"kind": {}, "units": {"kind": ["deep"]}}
    (note,) = [note for note in described.notes if "cannot be built" in note]
    assert note == (
        "The model cannot be built with kind='cubic', so trials with these values will fail: "
        "ValueError: no such kind"
    )


def test_a_builder_that_asks_for_more_than_can_be_tried_is_told(regression):
    built = []

    def build(hp):
        built.append(hp.Choice("first", list(range(30))))
        hp.Choice("second", list(range(30)))
        return model_with()

    described = description_of(Workload(regression, build), own={"frist": 3})

    assert len(built) == 1 + MOST_BUILDS
    assert "asked for `frist`: check the spelling" in " ".join(described.notes)
    (note,) = [note for note in described.notes if "could not try it all" in note]
    assert "only with other values of `second` is not searched" in note
    assert conditions_of(described) == {"first": {}, "second": {}}


def build_with_both(hp, width=3):
    return model_with(width, hp.Choice("units", [32, 128]))


def test_a_builder_gets_its_parameters_beside_hp_and_the_users_values(regression):
    """The trial, not only the build: what the journal says is what is trained."""
    changes = {"model": {"width": 7, "units": 64}, "optimizer": Named(name="sgd")}
    outcome, programs = train(regression, build_with_both, ADAM.model_copy(update=changes))

    assert outcome.status == "completed", outcome.message
    assert [layer.units for layer in last_model(programs).layers] == [7, 64, 1]


@pytest.mark.parametrize("searched", [True, False])
def test_an_argument_that_a_builder_with_hp_never_asks_for_is_refused(regression, searched):
    workload = Workload(regression, build_with_both)
    message = (
        r"must be one that it asks `hp` for, or a parameter.*Received: `unit`\. "
        r"Did you mean `units`\? It asks for: units; its parameters: width\."
    )
    with pytest.raises(InputError, match=message):
        description_of(workload, own={"unit": 64}, searched={} if searched else None)
    fine = {"units": 64, "width": 7}
    assert not description_of(workload, own=fine, searched=None).hyperparameters


def test_an_argument_that_is_asked_for_with_another_value_is_accepted(regression):
    workload = Workload(regression, build_with_hp)

    for searched in ({}, None):
        description_of(workload, own={"units": 6}, searched=searched)


@pytest.mark.parametrize("values", [(4, 8), (4,)], ids=["several", "one"])
def test_what_a_search_sets_is_no_part_of_what_the_user_trains_with_now(regression, values):
    def build(width=8):
        model = layers()
        model.compile(optimizer=keras.optimizers.SGD(0.5 if width == 8 else 0.25), loss="mse")
        return model

    described = description_of(Workload(regression, build), searched={"width": values})

    assert described.learning_rate == 0.5


def test_an_argument_that_is_a_list_reaches_the_builder_whole(regression):
    def build(sizes=(2,)):
        return keras.Sequential([keras.Input((4,)), *map(keras.layers.Dense, sizes)])

    compilation = Compilation("mse")
    workload = Workload(regression, build, compilation=compilation)
    assert description_of(workload, own={"sizes": [4, 1]}, searched=None).optimizer is None


def test_a_build_that_lacks_memory_once_is_tried_again():
    """The models that were built before may have taken it."""
    first = keras_tuner.HyperParameters()
    first.Choice("kind", ["flat", "deep"])
    built = []

    def build(values):
        built.append(values)
        if len(built) == 1:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
        return keras_tuner.HyperParameters()

    assert not ask(first, build, given={}).notes
    assert built == [{"kind": "deep"}] * 2


def test_the_builders_own_hyperparameters_are_described_and_used(regression):
    workload = Workload(regression, build_with_hp)
    described = description_of(workload)

    assert conditions_of(described) == {"deep": {}, "units": {"deep": [True]}}
    assert "`learning_rate` stays at its default" in " ".join(described.notes)
    deep = workload.build(1, arguments={"deep": True, "units": 6})
    assert [layer.units for layer in deep.layers] == [6, 1]
    assert [layer.units for layer in workload.build(1).layers] == [1]


def test_models_of_keras_applications_are_found_by_name():
    assert {"MobileNetV2", "ResNet50", "EfficientNetB0"} <= set(keras_applications())
    assert all(hasattr(keras.applications, name) for name in keras_applications())
    model = find_model_builder("MobileNetV2")(input_shape=(32, 32, 3), num_classes=7)
    assert model.output_shape == (None, 7)
    with pytest.raises(InputError, match="Did you mean `MobileNetV2`"):
        find_model_builder("MobileNetv2")


# What a compiled model keeps


def test_a_compiled_model_keeps_loss_metrics_and_the_settings_of_its_optimizer(regression):
    own = ADAM.model_copy(update={"optimizer": named_like(compiled_adam().optimizer)})
    outcome, programs = train(regression, compiled_adam, own)

    assert set(outcome.metrics) == {"loss", "mae", "val_loss", "val_mae"}
    optimizer = last_model(programs).optimizer
    assert type(optimizer) is keras.optimizers.Adam
    assert (optimizer.clipnorm, float(optimizer.beta_2)) == (0.5, pytest.approx(0.9))
    workload = Workload(regression, compiled_adam)
    schedule = workload.optimizer(own, workload.derive(own, 120), compiled_adam())
    reference = plain_keras(
        regression,
        keras.optimizers.Adam(schedule._learning_rate, beta_2=0.9, clipnorm=0.5),
    )
    for got, wanted in zip(last_model(programs).get_weights(), reference, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.slow
def test_a_compiled_models_program_is_reused_exactly(regression):
    programs = ProgramCache(Workload(regression, compiled_adam))
    spec = TrialSpec("trial", "search", 3, ADAM, total_examples=120, num_examples=96)
    first = run_trial(programs, spec).metrics
    other = ADAM.model_copy(update={"batch_size": 8, "base_learning_rate": 0.1})
    run_trial(programs, TrialSpec("other", "search", 4, other, total_examples=120, num_examples=96))

    assert run_trial(programs, spec).metrics == first
    assert programs.traced == 1
    fresh = ProgramCache(Workload(regression, compiled_adam), reuse=False)
    assert run_trial(fresh, spec).metrics == first


def compiled_with_scaling(scale=2.0**10, steps=500):
    model = layers()
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.003), initial_scale=scale, dynamic_growth_steps=steps
    )
    model.compile(scaled, "mse")
    return model


def test_a_compiled_model_keeps_how_its_loss_is_scaled(regression, tmp_path):
    made = compiled_with_scaling()
    compile_with(made, keras.optimizers.Adam(0.1), arguments={}, jit_compile=False)
    made.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
    made.save(tmp_path / "scaled.keras")
    loaded = keras.models.load_model(tmp_path / "scaled.keras")

    for model in (made, loaded):
        optimizer = model.optimizer
        assert (optimizer.initial_scale, optimizer.dynamic_growth_steps) == (2.0**10, 500)
        assert float(optimizer.inner_optimizer.learning_rate) == pytest.approx(0.1)
    scales = iter([2.0**10, 2.0**12])
    programs = ProgramCache(Workload(regression, lambda: compiled_with_scaling(next(scales))))
    programs._light = False  # each trial is built once
    for _ in range(2):
        programs.begin(ADAM, total_examples=120, seed=1)
    assert programs.traced == 2


class HalfStep(keras.Model):
    """A train_step of its own: half of the gradient."""

    def __init__(self):
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, inputs):
        return self.dense(inputs)

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(
            [g / 2 for g in gradients],  # type: ignore[union-attr]
            self.trainable_variables,
        )
        return {"loss": loss}


def half_step():
    model = HalfStep()
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss="mse")
    return model


def test_a_train_step_of_ones_own_is_what_trains(regression):
    rate = Configuration(batch_size=16, base_learning_rate=0.1, base_batch_size=16)
    momentum_free = rate.model_copy(update={"optimizer": Named(name="sgd", momentum=0.0)})
    keras.utils.set_random_seed(3)
    model = half_step()
    model(np.zeros((1, 4), np.float32))
    model.optimizer.learning_rate = 0.05
    full = layers()
    full.set_weights(model.get_weights())
    full.compile(optimizer=keras.optimizers.SGD(0.05), loss="mse")
    data = regression.training(batch_size=16, seed=3, num_examples=120)
    full.fit(data, epochs=1, shuffle=False, verbose=0)

    expected = full.evaluate(regression.evaluation("validation"), verbose=0)
    outcome, _ = train(regression, half_step, momentum_free)
    assert outcome.status == "completed", outcome.message
    assert outcome.metrics["val_loss"] == pytest.approx(expected, rel=1e-5)


class Frobenius(keras.optimizers.SGD):
    """An optimizer that tfbatch does not know."""


def test_an_optimizer_of_another_class_is_kept_with_its_learning_rate_alone(regression):
    def build():
        model = layers()
        model.compile(optimizer=Frobenius(0.02, momentum=0.5), loss="mse")
        return model

    described = description_of(Workload(regression, build))

    assert (described.optimizer, described.learning_rate) == (Named(name="own"), 0.02)
    assert "Frobenius" in described.notes[0]
    made = optimizer_like(build().optimizer, {}, 0.5)
    assert (type(made), made.momentum, float(made.learning_rate)) == (Frobenius, 0.5, 0.5)


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adamax, Frobenius])
def test_trunks_whose_cool_downs_cannot_branch_off_are_not_begun(regression, optimizer):
    """What an optimizer without a file keeps cannot be carried over to another learning rate."""

    def build():
        model = layers()
        model.compile(optimizer=optimizer(0.02), loss="mse")
        return model

    described = description_of(Workload(regression, build))
    said = []
    progress = Progress(None)
    progress.say = said.append

    assert described.optimizer.name == "own"
    assert optimizer.__name__ in described.no_branches
    assert not described.whole_only
    first = _trainable(load_search("trunks_first"), described, progress)
    assert (first.oracle.name, first.oracle.in_parts) == ("bayesian", False)
    assert f"what {optimizer.__name__} keeps between updates" in said[0]
    for name in ("hyperband", "joint"):  # nothing branches off in them
        assert _trainable(load_search(name), described, progress).oracle.name != "trunks"
    with pytest.raises(InputError, match=rf"adam, .*sgd.* Received: .*{optimizer.__name__}"):
        _trainable(load_search("trunks"), described, progress)
    search = load_search("trunks")
    linear = search.space.model_copy(update={"schedules": (Named(name="linear"),)})
    search = search.model_copy(update={"space": linear})
    assert _trainable(search, described, progress) is search, "it has no cool-downs"
    first = load_search("trunks_first").model_copy(update={"space": linear})
    assert _trainable(first, described, progress) is first
    stopped = dataclasses.replace(described, whole_only="EarlyStopping may stop one")
    with pytest.raises(InputError, match=rf"Received: .*{optimizer.__name__}"):
        _trainable(load_search("trunks"), stopped, progress)


@pytest.mark.parametrize(
    ("optimizer", "name", "numbers"),
    [
        (keras.optimizers.SGD(0.1, momentum=0.8), "sgd", {"momentum": 0.8}),
        (keras.optimizers.Adam(0.1, beta_1=0.7), "adam", {"beta_1": 0.7}),
        (keras.optimizers.AdamW(0.1), "adamw", {"weight_decay": 0.004}),
        (
            keras.optimizers.Muon(0.1, weight_decay=None, adam_weight_decay=None),
            "muon",
            {"weight_decay": 0.0, "adam_weight_decay": 0.0},
        ),
    ],
    ids=["sgd", "adam", "adamw", "muon"],
)
def test_a_compiled_optimizer_is_told_by_its_plug_in(optimizer, name, numbers):
    found = named_like(optimizer)

    assert found.name == name
    assert numbers.items() <= found.arguments.items()


def test_a_weight_decay_that_was_compiled_away_stays_away():
    """Muon has one by default, which a search put in its place."""
    compiled = keras.optimizers.Muon(0.1, weight_decay=None, adam_weight_decay=None)
    own = Configuration(batch_size=32, base_learning_rate=0.1, optimizer=named_like(compiled))
    numbers = numbers_at(own, learning_rate=0.1, num_examples=1000, total_examples=1000).values
    made = optimizer_like(compiled, settings_beside(own.optimizer, numbers), 0.1)

    assert not made.weight_decay
    assert not made.adam_weight_decay


def test_a_search_takes_a_compiled_models_optimizer(regression):
    described = description_of(Workload(regression, compiled_adam))
    asked = make_request_of()
    adapted = dataclasses.replace(
        asked,
        subject=fit_baseline(asked.subject, described),
        search=fit_search(asked.search, described),
    )

    space = adapted.search.space
    assert (space.optimizer.name, space.optimizer.arguments["beta_2"]) == ("adam", 0.9)
    assert space.base_learning_rate.min <= 0.0003
    assert space.base_learning_rate.max >= 0.03
    baseline = adapted.baseline_configuration("none")
    assert (baseline.base_learning_rate, baseline.optimizer.name) == (0.003, "adam")
    with pytest.raises(InputError, match="compiled with the optimizer adam, which it keeps"):
        fit_baseline(make_request_of(optimizer="sgd").subject, described)


def test_a_compiled_models_momentum_gives_way_to_one_that_is_searched(regression):
    def build():
        model = layers()
        model.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.7), loss="mse")
        return model

    described = description_of(Workload(regression, build))

    fitted = fit_search(make_request_of().search, described)
    assert fitted.space.optimizer.arguments["momentum"] == 0.7
    asked = make_request_of(search="bayesian")
    adapted = dataclasses.replace(
        asked,
        subject=fit_baseline(asked.subject, described),
        search=fit_search(asked.search, described),
    )
    assert adapted.search.space.optimizer.arguments["momentum"] == [0.8, 0.9, 0.95]
    # What the user trains with now has the compiled one: no value of the search, nor its default.
    baseline = adapted.baseline_configuration("none")
    assert baseline.optimizer.arguments["momentum"] == 0.7


@pytest.mark.parametrize(
    ("search", "optimizer", "kept"),
    [
        ("thorough", keras.optimizers.SGD, {"nesterov": False}),
        ("adamw", keras.optimizers.AdamW, {"beta_1": 0.9, "epsilon": 1e-7, "amsgrad": False}),
    ],
)
def test_a_number_that_is_searched_as_a_timescale_replaces_the_compiled_one(
    regression, search, optimizer, kept
):
    """A space that had both would be refused: a number is written once."""

    def build():
        model = layers()
        model.compile(optimizer=optimizer(0.01, weight_decay=0.05), loss="mse")
        return model

    asked = make_request_of(search=search).search
    fitted = fit_search(asked, description_of(Workload(regression, build))).space

    assert fitted.optimizer.arguments == {**kept, **asked.space.optimizer.arguments}
    assert SearchSpace(fitted, num_examples=2048).optimizer_options()


SWITCHED_OFF = {
    "weight_decay": (keras.optimizers.Adam, {"weight_decay": 0.05}),
    "global_clipnorm": (keras.optimizers.SGD, {"global_clipnorm": 0.5}),
}


@pytest.mark.parametrize("setting", SWITCHED_OFF)
def test_a_searched_zero_turns_a_compiled_setting_off(regression, setting):
    kind, compiled = SWITCHED_OFF[setting]

    def build():
        model = layers()
        model.compile(optimizer=kind(0.01, **compiled), loss="mse")
        return model

    workload = Workload(regression, build)

    def made(**numbers):
        optimizer = Named(name=kind.__name__.lower(), **numbers)
        configuration = ADAM.model_copy(update={"optimizer": optimizer})
        derived = workload.derive(configuration, 96)
        return getattr(workload.optimizer(configuration, derived, workload.build(1)), setting)

    assert made(**{setting: 0.0}) is None
    assert made(**{setting: 0.25}) == 0.25
    assert made() == compiled[setting]


def test_a_number_that_a_compiled_optimizer_refuses_is_refused_before_any_trial(regression):
    """Keras takes one way of clipping, and the compiled one is kept."""

    def build():
        model = layers()
        model.compile(optimizer=keras.optimizers.SGD(0.01, clipnorm=1.0), loss="mse")
        return model

    task = context_of(ProgramCache(Workload(regression, build)))
    off, on = (
        ADAM.model_copy(update={"optimizer": Named(name="sgd", global_clipnorm=norm)})
        for norm in (0.0, 1.0)
    )

    check_optimizers(task, [off])
    with pytest.raises(InputError, match=r"SGD cannot be made .*global_clipnorm=1.0.*[Oo]nly one"):
        check_optimizers(task, [off, on])


# What is refused, and what is named


class TwoOptimizers(keras.Model):
    def compile(self, first, second, **arguments):
        super().compile(loss="mse", **arguments)
        self.first, self.second = first, second


def two_optimizers():
    model = TwoOptimizers(*_io())
    model.compile(keras.optimizers.Adam(), keras.optimizers.SGD())
    return model


def _io():
    inputs = keras.Input((4,))
    return inputs, keras.layers.Dense(1)(inputs)


REFUSED = {
    "several optimizers": (two_optimizers, {}, "several optimizers has several learning rates"),
    "no loss": (layers, {}, "not classes .*so the loss must be given"),
    "loss twice": (compiled_adam, {"loss": "mae"}, "compiled in its builder, so `loss` cannot"),
    "metrics twice": (compiled_adam, {"metrics": ("mae",)}, "so `metrics` cannot"),
    "unknown loss": (layers, {"loss": "mean_square_error"}, "Did you mean `mean_squared_error`"),
    "unknown metric": (
        layers,
        {"loss": "mse", "metrics": ("mae", "acuracy")},
        "`metrics` must be known to Keras. Received: 'acuracy'. Did you mean `accuracy`",
    ),
    "no model": (lambda: 3, {}, "must return a keras.Model. Received: int"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_model_that_cannot_be_trained_is_refused_in_one_sentence(regression, name):
    build, given, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        Workload(regression, build, compilation=Compilation(**given)).build(1)


@pytest.mark.parametrize("weights", [{10: 2.0}, {-1: 2.0}, {0: 1.0, 77: 2.0}])
def test_a_weight_of_a_class_that_there_is_not_is_refused(digits, weights):
    workload = Workload(digits, tiny_model.build, compilation=Compilation(class_weight=weights))
    with pytest.raises(InputError, match="must name classes from 0 to 9 of digits"):
        workload.build(1)


@pytest.mark.slow
def test_classes_without_a_weight_count_once_in_a_training(digits):
    """Keras looks for the others beyond the end of its table, and fails."""
    plain = Configuration(batch_size=32, base_learning_rate=0.01)
    some, every = (
        run_trial(
            ProgramCache(
                Workload(digits, tiny_model.build, compilation=Compilation(class_weight=weights))
            ),
            TrialSpec("t", "search", 1, plain, total_examples=640, num_examples=1085),
        )
        for weights in ({3: 4.0}, {index: 4.0 if index == 3 else 1.0 for index in range(10)})
    )
    assert some.status == "completed", some.message
    assert some.metrics == every.metrics


def test_what_is_replaced_is_named_once(regression):
    def build():
        model = keras.Sequential(
            [keras.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
        )
        decay = keras.optimizers.schedules.CosineDecay(0.1, 100)
        model.compile(
            optimizer=keras.optimizers.SGD(decay, gradient_accumulation_steps=4),
            loss="mse",
            run_eagerly=True,
        )
        return model

    notes = description_of(Workload(regression, build)).notes

    for part in (
        "momentum 0.99 counts updates",
        "learning rate and schedule are replaced",
        "cannot be the baseline",
        "accumulates 4 gradients",
        "runs eagerly",
    ):
        assert sum(part in note for note in notes) == 1, part


@pytest.mark.parametrize(("trainable", "momentum"), [(False, 0.99), (True, 1.0), (True, 0.9)])
def test_normalization_that_no_batch_size_changes_gets_no_advice(regression, trainable, momentum):
    """A frozen layer keeps its statistics, and so does one with a momentum of 1."""

    def build():
        normalization = keras.layers.BatchNormalization(momentum=momentum, trainable=trainable)
        return keras.Sequential([keras.Input((4,)), normalization, keras.layers.Dense(1)])

    notes = description_of(Workload(regression, build, compilation=Compilation("mse"))).notes

    assert not any("counts updates" in note for note in notes)


def test_a_model_that_runs_eagerly_does(regression):
    seen = []

    def build():
        class Eager(keras.layers.Layer):
            def call(self, inputs):
                seen.append(tf.executing_eagerly())
                return inputs

        model = keras.Sequential([keras.Input((4,)), Eager(), keras.layers.Dense(1)])
        model.compile(optimizer="sgd", loss="mse", run_eagerly=True)
        return model

    sgd = Configuration(batch_size=32, base_learning_rate=0.01)
    assert train(regression, build, sgd)[0].status == "completed"
    assert seen.count(True) >= 4


# Weights and callbacks


@pytest.mark.slow
def test_class_and_sample_weights_are_what_keras_makes_of_them(tmp_path):
    x = np.ones((32, 1), np.float32)
    y = np.array([0, 1] * 16)
    weight = np.linspace(0.1, 2.0, 32)

    def build():
        return keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(2, kernel_initializer="zeros")]
        )

    sgd = Configuration(
        batch_size=32, base_learning_rate=1.0, optimizer=Named(name="sgd", momentum=0.0)
    )

    def bias(data, **given):
        stored = StoredData(store_data(tmp_path, {"train": data, "validation": data}), name="w")
        workload = Workload(stored, build, compilation=Compilation(**given))
        programs = ProgramCache(workload)
        run_trial(programs, TrialSpec("t", "search", 1, sgd, total_examples=32, num_examples=32))
        return last_model(programs).get_weights()[1]

    np.testing.assert_allclose(bias((x, y)), [0, 0], atol=1e-7)
    # The gradient of the second bias is mean(w * (1/2 - y)), the step is its negative.
    expected = -np.mean(weight * (0.5 - y))
    np.testing.assert_allclose(bias((x, y, weight)), [-expected, expected], rtol=1e-5)
    expected = -np.mean(np.where(y == 1, 3.0, 1.0) * (0.5 - y))
    np.testing.assert_allclose(
        bias((x, y), class_weight={0: 1.0, 1: 3.0}), [-expected, expected], rtol=1e-5
    )


def test_targets_that_are_bool_are_weighted_by_class(tmp_path):
    x, y = np.ones((32, 1), np.float32), np.arange(32) % 2 == 1
    folder = store_data(tmp_path, {"train": (x, y), "validation": (x, y)})

    def build():
        return keras.Sequential(
            [keras.Input((1,)), keras.layers.Dense(1, "sigmoid", kernel_initializer="zeros")]
        )

    weighted = Compilation("binary_crossentropy", class_weight={0: 1, 1: 5})
    sgd = Configuration(
        batch_size=32, base_learning_rate=1.0, optimizer=Named(name="sgd", momentum=0.0)
    )
    programs = ProgramCache(Workload(StoredData(folder, name="w"), build, compilation=weighted))
    spec = TrialSpec("t", "search", 1, sgd, total_examples=32, num_examples=32)

    assert run_trial(programs, spec).status == "completed"
    expected = np.mean(np.where(y, 5, 1) * (y - 0.5))
    np.testing.assert_allclose(last_model(programs).get_weights()[1], [expected], rtol=1e-5)


def test_early_stopping_ends_a_trial_at_its_own_end(regression):
    class StopAtOnce(keras.callbacks.EarlyStopping):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    outcome, _ = train(
        regression,
        lambda: layers(),
        compilation=Compilation("mse"),
        callbacks=as_factory([StopAtOnce()]),
    )

    assert outcome.status == "completed"
    assert (outcome.examples, outcome.steps) == (96, 6)  # one epoch of 120 examples asked for
    assert np.isfinite(outcome.metrics["val_loss"])


def test_callbacks_that_contradict_a_search_are_refused_with_the_reason():
    for callback, message in (
        (keras.callbacks.ReduceLROnPlateau(), "ReduceLROnPlateau cannot be used: the learning"),
        (keras.callbacks.LearningRateScheduler(lambda epoch: 0.1), "LearningRateScheduler cannot"),
        (keras.callbacks.EarlyStopping(restore_best_weights=True), "by its best epoch"),
        ("early", "must be Keras callbacks"),
    ):
        with pytest.raises(InputError, match=message):
            check_callbacks([callback])
    (note,) = check_callbacks([keras.callbacks.EarlyStopping(), keras.callbacks.TerminateOnNaN()])
    assert "unequal numbers of examples" in note
    with pytest.raises(InputError, match="must be a list of Keras callbacks, or a function"):
        as_factory(keras.callbacks.EarlyStopping())


def test_callbacks_given_by_value_are_new_in_each_trial():
    stopping = keras.callbacks.EarlyStopping()
    make = as_factory([stopping])
    (first,), (second,) = make(), make()

    first.wait = 5
    assert first is not second
    assert not hasattr(second, "wait") or second.wait != 5
    assert stopping is not first


@pytest.mark.parametrize("where", ["variable", "file"])
def test_another_backend_of_keras_is_refused_before_anything_else(tmp_path, monkeypatch, where):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    if where == "variable":
        monkeypatch.setenv("KERAS_BACKEND", "jax")
    else:
        monkeypatch.setenv("KERAS_HOME", str(tmp_path))
        (tmp_path / "keras.json").write_text('{"backend": "jax"}')
    with pytest.raises(InputError, match=r"needs Keras on TensorFlow.*backend 'jax' in"):
        tfbatch.find_batch_size("small_cnn", "digits", run_dir=tmp_path / "run")
