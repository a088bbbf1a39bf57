"""The recommended training as a script in plain Keras: it must be the same training."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import io
import types
from pathlib import Path
from typing import Any

import keras
import pytest
import tiny_model
from search_fixtures import make_request_of

import tfbatch
from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import DataDescription, OwnData
from tfbatch.errors import InputError
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.plug_ins import check_reference
from tfbatch.python_objects import options_and_objects
from tfbatch.request.task import IN_PYTHON, Task
from tfbatch.schema import Named
from tfbatch.search.snippet import keras_snippet, optimizer_call
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload, make_optimizer
from tfbatch.trial.derived import derive
from tfbatch.trial.outcome import TrialSpec

MODEL = "tiny_model:build"
CONFIGURATIONS = {
    "a whole epoch and a part": (
        Configuration(
            batch_size=48,
            base_learning_rate=0.03,
            scaling_rule="square_root",
            learning_rate_octaves=0.5,
            warmup_fraction=0.03,
            schedule=Named(name="wsd", cooldown=0.3, shape="linear"),
            optimizer=Named(name="sgd", momentum=0.8),
        ),
        1500,
    ),
    "a momentum that follows the schedule": (
        Configuration(
            batch_size=40,
            base_learning_rate=0.02,
            schedule=Named(name="one_cycle", momentum_at_peak=0.6),
            optimizer=Named(name="sgd", momentum=0.9),
        ),
        700,
    ),
    "an average of the weights": (
        Configuration(
            batch_size=64,
            base_learning_rate=0.03,
            optimizer=Named(
                name="sgd",
                nesterov=True,
                weight_decay_epochs=20.0,
                global_clipnorm=1.0,
                ema_half_life_fraction=0.1,
            ),
        ),
        1500,
    ),
    "less than an epoch": (
        Configuration(
            batch_size=100,
            base_learning_rate=1e-3,
            schedule=Named(name="cosine", final_fraction=0.01),
            optimizer=Named(name="adamw", weight_decay=0.1),
        ),
        542,
    ),
}


QUICK = "an average of the weights"
SPLITS = {"train": 1085, "validation": 357, "test": 355}
DIGITS = DataDescription("digits", SPLITS, "", num_classes=10)


def script(configuration, *, total_examples=542, **changes):
    derived = derive(configuration, num_examples=1085, total_examples=total_examples)
    given = {"data": DIGITS, "build_model": tiny_model.build, "compiled": False}
    given |= {"has_callbacks": False}
    given |= {key: changes.pop(key) for key in given if key in changes}
    asked = make_request_of()
    execution = changes.pop("execution", asked.execution)
    changes |= {"data": changes.pop("data_of")} if "data_of" in changes else {}
    subject = dataclasses.replace(asked.subject, **{"model": MODEL, **changes})
    text = keras_snippet(
        configuration, derived, subject=subject, execution=execution, seed=5, **given
    )
    return text, ast.parse(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("configuration", "total_examples"),
    [
        pytest.param(*case, id=name, marks=[] if name == QUICK else [pytest.mark.slow])
        for name, case in CONFIGURATIONS.items()
    ],
)
def test_the_script_trains_to_the_same_metrics_as_the_trial(digits, configuration, total_examples):
    text, _ = script(configuration, total_examples=total_examples)
    namespace: dict[str, Any] = {}
    keras.utils.set_random_seed(999)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(text, "snippet", "exec"), namespace)
    model, data = namespace["model"], namespace["data"]
    measured = model.evaluate(data.evaluation("validation"), verbose=0, return_dict=True)

    workload = Workload(digits, tiny_model.build)
    spec = TrialSpec("trial", "confirmation", 5, configuration, total_examples, 1085)
    result = run_trial(ProgramCache(workload), spec)

    assert int(model.optimizer.iterations) == result.steps
    assert measured["loss"] == pytest.approx(result.metrics["val_loss"], rel=1e-6)
    assert measured["accuracy"] == result.metrics["val_accuracy"]
    assert printed.getvalue().splitlines()[-1].startswith("test: {'accuracy': ")


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_the_written_optimizer_is_the_one_that_was_tried(name):
    defaults = OPTIMIZERS.load(name).PARAMETERS
    halved = {
        key: not value if isinstance(value, bool) else (value or 0.1) / 2
        for key, value in defaults.items()
    }
    shared = {"global_clipnorm": 1.0, "ema_half_life_fraction": 0.1}
    for parameters in ({}, halved, {**halved, **shared}):
        configuration = Configuration(
            batch_size=8, base_learning_rate=0.1, optimizer=Named(name=name, **parameters)
        )
        derived = derive(configuration, num_examples=1000, total_examples=1000)
        call = optimizer_call(configuration, derived)
        written = eval(call, {"keras": keras, "tfbatch": tfbatch, "learning_rate": 0.1})
        tried = make_optimizer(configuration, 0.1, derived)
        assert type(written) is type(tried)
        assert written.get_config() == tried.get_config() | {"name": written.name}


def test_only_a_schedule_that_sets_the_momentum_gets_its_callback():
    needs = "callbacks=[tfbatch.callbacks.ScheduledMomentum(), tfbatch.callbacks.StopAfterSteps("
    for schedule, needed in (
        (Named(name="one_cycle"), True),
        (Named(name="one_cycle", cycle_momentum=False), False),
        (Named(name="linear"), False),
    ):
        configuration = Configuration(batch_size=8, base_learning_rate=0.1, schedule=schedule)
        text, _ = script(configuration)
        assert (needs in text, "ScheduledMomentum" in text) == (needed, needed)


def test_numbers_are_written_exactly():
    configuration = Configuration(
        batch_size=8, base_learning_rate=0.1 + 0.2, base_batch_size=8, schedule=Named(name="linear")
    )
    text, _ = script(configuration)

    assert "learning_rate=0.30000000000000004," in text


@pytest.mark.parametrize(
    ("model", "imported"),
    [
        ("resnet", "from tfbatch.models.resnet import build"),
        ("my.package:make_model", "from my.package import make_model"),
    ],
)
def test_the_script_imports_the_model_that_was_tried(model, imported):
    text, tree = script(CONFIGURATIONS["less than an epoch"][0], model=model)

    assert imported in text.splitlines()
    called = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert imported.split()[-1] in called


@pytest.mark.parametrize("model", ["__main__:build", "script:main.<locals>.build", "x:<lambda>"])
def test_a_function_that_cannot_be_imported_is_left_to_the_reader(model):
    text, tree = script(CONFIGURATIONS["less than an epoch"][0], model=model)

    assert "# build_model is your own" in text
    assert "model = build_model(input_shape=data.input_shape, num_classes=data.num_classes)" in text
    assert "__main__" not in ast.unparse(tree)


def build_with_both(hp, input_shape, width=3):
    hidden = keras.layers.Dense(width + hp.Int("units", 1, 4))
    return keras.Sequential([keras.Input(input_shape), keras.layers.Flatten(), hidden])


def test_the_script_gives_a_builder_its_parameters_and_its_hyperparameters(monkeypatch):
    monkeypatch.setattr(tiny_model, "with_both", build_with_both, raising=False)
    configuration = CONFIGURATIONS["less than an epoch"][0].model_copy(
        update={"model": {"width": 7, "units": 2}}
    )
    text, _ = script(configuration, model="tiny_model:with_both", build_model=build_with_both)

    assert "model = with_both(input_shape=data.input_shape, width=7, hp=hp)" in text
    called = text[text.index("hp = keras_tuner") : text.index("learning_rate = ")]
    namespace: dict[str, Any] = {"data": types.SimpleNamespace(input_shape=(8, 8, 1))}
    exec("import keras_tuner\nfrom tiny_model import with_both\n" + called, namespace)
    assert namespace["model"].layers[-1].units == 9


def test_the_script_reads_the_same_data(tmp_path):
    configuration = CONFIGURATIONS["less than an epoch"][0]
    text, _ = script(configuration, dataset="/a/my.yaml", data_dir=str(tmp_path))

    assert f"data = tfbatch.load_data('/a/my.yaml', data_dir='{tmp_path}')" in text
    assert "data = tfbatch.load_data('digits')\n" in script(configuration)[0]


def compiled_builder():
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
    model.add(keras.layers.Dense(10))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer=keras.optimizers.Adam(0.003, clipnorm=0.7), loss=loss, metrics=["acc"])
    return model


@pytest.mark.slow
def test_the_script_of_a_compiled_model_replaces_its_optimizer_alone(digits, monkeypatch):
    configuration = Configuration(
        batch_size=100,
        base_learning_rate=0.01,
        schedule=Named(name="linear"),
        optimizer=Named(name="adam", beta_1=0.8),
    )
    monkeypatch.setattr(tiny_model, "compiled", compiled_builder, raising=False)
    text, _ = script(
        configuration, model="tiny_model:compiled", build_model=compiled_builder, compiled=True
    )
    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(text, "snippet", "exec"), namespace)
    model = namespace["model"]
    measured = model.evaluate(digits.evaluation("validation"), verbose=0, return_dict=True)

    spec = TrialSpec("trial", "confirmation", 5, configuration, 542, 1085)
    result = run_trial(ProgramCache(Workload(digits, compiled_builder)), spec)
    assert model.optimizer.clipnorm == 0.7
    assert measured["loss"] == pytest.approx(result.metrics["val_loss"], rel=1e-5)


def test_the_script_turns_off_what_the_configuration_turns_off_of_a_compiled_model():
    def changed(**numbers):
        configuration = Configuration(
            batch_size=8, base_learning_rate=0.1, optimizer=Named(name="adam", **numbers)
        )
        return script(configuration, build_model=compiled_builder, compiled=True)[0]

    off = changed(weight_decay=0.0, global_clipnorm=0.0)
    assert "'weight_decay': None" in off
    assert "'global_clipnorm': None" in off
    assert "'weight_decay'" not in changed()


def test_the_script_scales_the_loss_as_the_compiled_model_does():
    execution = dataclasses.replace(make_request_of().execution, precision="mixed_float16")
    configuration = Configuration(
        batch_size=8, base_learning_rate=0.1, optimizer=Named(name="adam")
    )
    text, _ = script(
        configuration, build_model=compiled_builder, compiled=True, execution=execution
    )
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(), initial_scale=16.0, dynamic_growth_steps=3
    )
    model.compile(scaled, "mse")
    lines = text[text.index("optimizer = ") : text.index("model.fit(")]
    exec(lines, {"keras": keras, "model": model, "learning_rate": 0.5})

    made = model.optimizer
    assert made is not scaled
    assert (made.initial_scale, made.dynamic_growth_steps) == (16.0, 3)
    assert float(made.inner_optimizer.learning_rate) == 0.5


def build_with_hp(hp, num_classes):
    raise NotImplementedError(hp, num_classes)


def build_otherwise(shape, classes, width=3, depth=2, **options):
    raise NotImplementedError(shape, classes, width, depth, options)


@pytest.mark.parametrize(
    ("build_model", "call"),
    [
        (build_with_hp, "build_model(num_classes=data.num_classes, hp=hp)"),
        (build_otherwise, "build_model(data.input_shape, data.num_classes, width=5)"),
    ],
)
def test_a_builder_is_called_with_what_it_asks_for(build_model, call):
    configuration = Configuration(batch_size=8, base_learning_rate=0.1, model={"width": 5})
    text, _ = script(configuration, model="__main__:build", build_model=build_model)

    assert f"model = {call}\n" in text
    assert ("hp.values.update({'width': 5})" in text) == ("hp=hp" in call)


def build_with_a_default(input_shape, num_classes=1):
    raise NotImplementedError(input_shape, num_classes)


def build_with_hp_and_a_default(hp, num_classes=1):
    raise NotImplementedError(hp, num_classes)


@pytest.mark.parametrize(
    ("build_model", "call"),
    [
        (build_with_a_default, "build_model(input_shape=data.input_shape)"),
        (build_with_hp_and_a_default, "build_model(hp=hp)"),
    ],
)
def test_without_classes_a_builder_keeps_its_default_as_in_the_trials(build_model, call):
    configuration = Configuration(batch_size=8, base_learning_rate=0.1)
    numbers = DataDescription("mine", {"train": 100, "validation": 20}, "")
    text, _ = script(configuration, model="x:<lambda>", build_model=build_model, data=numbers)

    assert f"model = {call}\n" in text


class Builder:
    def __call__(self, input_shape, num_classes):
        raise NotImplementedError(input_shape, num_classes)


@pytest.mark.parametrize(
    ("builder", "name"),
    [
        (functools.partial(tiny_model.build), "functools:<partial>"),
        (Builder(), f"{__name__}:<Builder>"),
    ],
)
def test_a_builder_that_has_no_name_of_its_own_is_left_to_the_reader(builder, name):
    options, _ = options_and_objects(builder, "digits")
    assert options["model"] == name
    text, tree = script(Configuration(batch_size=8, base_learning_rate=0.1), model=name)

    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not imported
    assert f"# build_model is your own {name.split(':')[1]}\n" in text
    with pytest.raises(InputError, match=r"`--model` must be package\.module:function"):
        check_reference(name, flag="--model")


@pytest.mark.parametrize(
    ("where", "is_named"), [("functools:<partial>", True), ("my.data:make", False)]
)
def test_the_script_says_that_a_data_function_without_a_name_is_the_readers(where, is_named):
    data = OwnData(name="make", kind="function", where=where)
    text, _ = script(
        Configuration(batch_size=8, base_learning_rate=0.1), data_of=data, dataset=where
    )

    assert (f"# {where} is your own: name it here as package.module:function" in text) == is_named


def test_the_script_has_a_place_for_a_recipe_of_ones_own_and_the_records_folder():
    configuration = CONFIGURATIONS["less than an epoch"][0]
    text, _ = script(configuration, dataset=IN_PYTHON, records_dir=Path("/my records"))

    assert "# recipe is your own" in text
    assert "data = tfbatch.load_data(recipe, records_dir='/my records')" in text


def test_the_script_has_a_place_for_the_callbacks_of_the_trials():
    configuration = Configuration(batch_size=8, base_learning_rate=0.1)
    text, _ = script(configuration, has_callbacks=True)

    assert "# your_callbacks is your own list of callbacks, as in the trials\n" in text
    assert "callbacks=[*your_callbacks, tfbatch.callbacks.StopAfterSteps(" in text
    assert "your_callbacks" not in script(configuration)[0]


@pytest.mark.parametrize(
    ("task", "given", "own"),
    [
        (
            Task(IN_PYTHON, ("mae",)),
            "    loss=loss,\n    metrics=['mae'],\n",
            "# loss is your own\n",
        ),
        (
            Task("mse", (IN_PYTHON,)),
            "    loss='mse',\n    metrics=metrics,\n",
            "# metrics are your own",
        ),
        (Task(IN_PYTHON), "    loss=loss,\n    metrics=[],\n", "# loss is your own\n"),
    ],
)
def test_the_script_says_which_of_loss_and_metrics_only_the_reader_has(task, given, own):
    configuration = Configuration(batch_size=8, base_learning_rate=0.1)
    text, _ = script(configuration, task=task)

    assert given in text
    assert own in text
    assert text.count("your own") == 1
    # A builder that compiles has both.
    assert "your own" not in script(configuration, task=task, compiled=True)[0]


def test_the_script_knows_the_task():
    configuration = Configuration(batch_size=8, base_learning_rate=0.1)
    own = DataDescription("mine", {"train": 100, "validation": 20}, "")
    task = Task("mse", ("mae",), {0: 1.0, 1: 2.0})
    text, _ = script(configuration, data=own, task=task)

    for line in ("loss='mse',", "metrics=['mae'],", "class_weight={0: 1.0, 1: 2.0},"):
        assert line in text
    assert "test" not in text.split("fit(")[1]
    four = dataclasses.replace(own, num_classes=4)
    every = "class_weight={0: 1.0, 1: 2.0, 2: 1.0, 3: 1.0},"  # Keras fails on a class beyond
    assert every in script(configuration, data=four, task=task)[0]
    soft, _ = script(configuration, data=dataclasses.replace(own, soft_labels=True))
    assert "keras.losses.CategoricalCrossentropy(from_logits=True)" in soft
    assert (
        "keras.applications.MobileNetV2(weights=None"
        in script(configuration, model="MobileNetV2")[0]
    )
