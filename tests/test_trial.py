"""One real trial: what goes in decides what comes out, and whatever happens is an outcome."""

from __future__ import annotations

import dataclasses
import math
import shutil
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from contexts import context_of

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, RecordError, RunFolderError
from tfbatch.exporters._trial import read_curves
from tfbatch.pipeline import PreparedData
from tfbatch.schema import Named
from tfbatch.training.evaluation import (
    evaluate_weights,
    hash_of_settings,
    measure_untrained,
    save_model,
)
from tfbatch.training.model_builder import find_model_builder
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import fit, run_trial
from tfbatch.training.workload import Workload, make_optimizer
from tfbatch.trial.derived import derive
from tfbatch.trial.outcome import TrialSpec

SPEC = TrialSpec(
    trial="search-0001",
    phase="search",
    seed=11,
    configuration=Configuration(
        batch_size=32,
        base_learning_rate=0.05,
        warmup_fraction=0.1,
        schedule=Named(name="cosine", final_fraction=0.1),
        optimizer=Named(name="sgd", momentum=0.9),
    ),
    total_examples=542,
    num_examples=1085,
)


def build(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    hidden = keras.layers.Dense(24, activation="relu")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))


@pytest.fixture(scope="module")
def workload(digits):
    return Workload(digits, build)


def change(spec, **configuration):
    changed = spec.configuration.model_copy(update=configuration)
    return dataclasses.replace(spec, configuration=changed)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The trial that keeps its weights and curves."""
    folder = tmp_path_factory.mktemp("trial")
    return dataclasses.replace(
        SPEC, log_dir=folder / "curves", weights_file=folder / "search-0001.weights.h5"
    )


@pytest.fixture(scope="module")
def result(workload, kept):
    return run_trial(ProgramCache(workload), kept)


def test_a_trial_says_everything_that_it_measured(result):
    assert result.status == "completed"
    assert result.message == ""
    assert result.metrics.keys() == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert all(math.isfinite(value) for value in result.metrics.values())
    assert (result.examples, result.steps) == (542, 17)
    assert 0 < result.training_seconds < result.seconds


def row_of(spec):
    return {
        **{"trial": "search-0001", "curves": "curves", "total_examples": spec.total_examples},
        **{"batch_size": 32, "steps_per_epoch": spec.derived.steps_per_epoch, "examples": 542},
    }


def test_a_trial_leaves_whole_weights_and_curves(result, kept):
    assert result.status == "completed"
    assert kept.weights_file
    folder = kept.weights_file.parent
    assert sorted(p.name for p in folder.iterdir()) == ["curves", "search-0001.weights.h5"]
    assert len(list((folder / "curves").iterdir())) == 1, "one run for TensorBoard"
    points = read_curves(folder, row_of(SPEC))
    assert [point.values["examples"] for point in points][-1] == result.examples
    values = points[-1].values
    for name, value in result.metrics.items():
        assert values[name] == pytest.approx(value, rel=1e-6)
    assert "learning_rate" in values


def test_the_same_specification_gives_the_same_metrics_whatever_ran_before(workload, result):
    """The trials between them are another one, and the same one interrupted after 5 batches."""
    asked = []

    def stop_requested():
        asked.append(True)
        return len(asked) >= 5

    programs = ProgramCache(workload)
    other = run_trial(programs, change(SPEC, batch_size=100))
    long = dataclasses.replace(SPEC, total_examples=10 * 1085)
    stopped = run_trial(programs, long, stop_requested=stop_requested)

    assert run_trial(programs, SPEC).metrics == result.metrics
    assert other.metrics != result.metrics
    assert (stopped.status, stopped.steps) == ("interrupted", 5 * 17)


def test_evaluating_more_often_changes_no_training(workload, result, tmp_path):
    """Also not where an execution has another number of updates."""
    often = dataclasses.replace(SPEC, evaluated_every=91, log_dir=tmp_path / "curves")
    found = run_trial(ProgramCache(workload), often)

    assert found.metrics["val_loss"] == result.metrics["val_loss"]
    points = read_curves(tmp_path, row_of(often))
    assert [point.values["examples"] for point in points] == [96, 192, 288, 384, 480, 542]


@pytest.mark.slow
def test_each_part_of_a_specification_matters(workload, result):
    short = dataclasses.replace(SPEC, total_examples=160)
    specs = [
        short,
        change(short, learning_rate_octaves=0.1),
        change(short, schedule=Named(name="cosine", final_fraction=0.2)),
        change(short, optimizer=Named(name="sgd", momentum=0.8)),
    ]
    losses = [result.metrics["val_loss"]]
    losses += [run_trial(ProgramCache(workload), spec).metrics["val_loss"] for spec in specs]

    assert len(set(losses)) == len(losses)


@pytest.mark.slow
def test_seeds_are_paired_across_batch_sizes(workload):
    """With a learning rate of almost nothing the weights stay where the seed put them."""

    def val_loss(seed, batch_size):
        still = change(SPEC, batch_size=batch_size, base_learning_rate=1e-30)
        spec = dataclasses.replace(still, seed=seed, total_examples=160)
        return run_trial(ProgramCache(workload), spec).metrics["val_loss"]

    assert val_loss(11, 16) == val_loss(11, 128)
    assert val_loss(12, 16) != val_loss(11, 16)


def test_validation_is_of_the_final_weights_on_the_whole_split(workload, result, kept):
    model = build((8, 8, 1), 10)
    model.load_weights(kept.weights_file)

    split = list(workload.data.evaluation("validation").as_numpy_iterator())
    x, y = (np.concatenate(parts) for parts in zip(*split, strict=True))
    logits = np.asarray(model(x), np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(y)), y]

    assert len(y) == workload.data.num_examples("validation") == 357
    assert result.metrics["val_loss"] == pytest.approx(losses.mean(), rel=1e-5)
    assert result.metrics["val_accuracy"] == pytest.approx((logits.argmax(axis=1) == y).mean())


@pytest.mark.slow
def test_the_metrics_are_those_after_the_last_update_not_the_best(workload):
    """Two epochs with a learning rate that rises until it spoils what the first one learned."""
    rising = change(SPEC, base_learning_rate=0.8, warmup_fraction=1.0)
    spec = dataclasses.replace(rising, total_examples=2 * 1085)
    seen: list[dict[str, float]] = []

    class Noted(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(dict(logs))

    derived = workload.derive(spec.configuration, spec.total_examples)
    model = workload.compiled(spec.configuration, total_examples=spec.total_examples, seed=11)
    fit(model, workload, derived, seed=11, callbacks=[Noted()])
    result = run_trial(ProgramCache(workload), spec)

    assert len(seen) == 2
    assert seen[0]["val_loss"] < 0.9 * seen[1]["val_loss"]
    assert result.metrics["val_loss"] == seen[-1]["val_loss"]


def test_kept_weights_can_be_evaluated_again(workload, result, kept):
    assert kept.weights_file
    again = evaluate_weights(
        context_of(ProgramCache(workload)),
        kept.configuration,
        kept.weights_file,
        split="validation",
        seed=99,
    )

    assert again["loss"] == pytest.approx(result.metrics["val_loss"], rel=1e-6)
    assert again["accuracy"] == result.metrics["val_accuracy"]


def test_a_saved_model_continues_where_its_training_ended(workload, result, kept, tmp_path):
    assert kept.weights_file
    save_model(
        context_of(ProgramCache(workload)),
        kept.configuration,
        kept.weights_file,
        seed=kept.seed,
        total_examples=kept.total_examples,
        path=tmp_path / "best.keras",
    )
    assert [p.name for p in tmp_path.iterdir()] == ["best.keras"]
    loaded = keras.models.load_model(tmp_path / "best.keras")
    measured = loaded.evaluate(workload.data.evaluation("validation"), verbose=0, return_dict=True)

    assert measured["loss"] == pytest.approx(result.metrics["val_loss"], rel=1e-6)
    assert int(loaded.optimizer.iterations) == 17
    assert float(loaded.optimizer.learning_rate) == pytest.approx(0.05 * 0.1, rel=0.2)
    momenta = [v for v in loaded.optimizer.variables if "momentum" in v.path]
    assert momenta
    assert all(np.abs(np.asarray(v)).max() > 0 for v in momenta)


def test_a_learning_rate_far_too_large_ends_early_as_diverged(workload, tmp_path):
    wild = change(SPEC, base_learning_rate=1e4, warmup_fraction=0.0)
    spec = dataclasses.replace(
        wild,
        total_examples=20 * 1085,
        weights_file=tmp_path / "a.weights.h5",
        untrained_loss=2.3,
    )
    result = run_trial(ProgramCache(workload), spec)

    assert result.status == "diverged"
    assert result.message.startswith("the loss is ")
    assert result.steps < 20
    assert result.examples == result.steps * 32
    assert list(tmp_path.iterdir()) == []


def test_an_exception_of_the_builder_is_an_outcome_with_its_traceback(digits):
    def broken(input_shape, num_classes):
        raise RuntimeError(f"no layers for {num_classes} classes")

    result = run_trial(ProgramCache(Workload(digits, broken)), SPEC)

    assert result.status == "error"
    assert result.message.startswith("Traceback (most recent call last)")
    assert result.message.endswith("RuntimeError: no layers for 10 classes\n")
    assert "test_trial.py" in result.message
    assert (result.metrics, result.steps) == ({}, 0)


def test_running_out_of_memory_is_an_outcome(digits):
    def greedy(input_shape, num_classes):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    result = run_trial(ProgramCache(Workload(digits, greedy)), SPEC)

    assert result.status == "oom"
    assert result.message == "Out of memory: OOM when allocating tensor"


def test_damaged_records_are_no_outcome(digits, tmp_path):
    """Every trial after it would read the same wrong data."""
    folder = tmp_path / digits.folder.name
    shutil.copytree(digits.folder, folder)
    shutil.rmtree(folder / "decoded-train", ignore_errors=True)  # made before the damage
    shard = next(folder.glob("*-train.tfrecord-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)

    with pytest.raises(RecordError, match=rf"{shard.name}: record \d+"):
        run_trial(ProgramCache(Workload(PreparedData(digits.recipe, folder), build)), SPEC)


def test_an_interrupted_trial_keeps_no_weights(workload, tmp_path):
    file = tmp_path / "a.weights.h5"
    spec = dataclasses.replace(SPEC, weights_file=file, total_examples=10 * 1085)
    stopped = run_trial(ProgramCache(workload), spec, stop_requested=lambda: True)

    assert (stopped.status, stopped.steps) == ("interrupted", 17)
    assert list(tmp_path.iterdir()) == []


def test_a_stop_during_the_last_update_leaves_the_trial_completed(workload, result, tmp_path):
    """All 17 updates of this one are one execution."""
    spec = dataclasses.replace(SPEC, weights_file=tmp_path / "a.weights.h5")
    found = run_trial(ProgramCache(workload), spec, stop_requested=lambda: True)

    assert (found.status, found.steps, found.metrics) == ("completed", 17, result.metrics)
    assert spec.weights_file.exists()


def test_the_untrained_model_guesses(workload):
    untrained = measure_untrained(context_of(ProgramCache(workload)), SPEC.configuration)

    assert untrained.metrics.keys() == {"loss", "accuracy"}
    assert 1.5 < untrained.metrics["loss"] < 6.0
    assert untrained.metrics["accuracy"] < 0.4
    assert untrained.seconds > 0


@pytest.mark.slow
def test_the_models_hash_changes_with_the_model_and_with_nothing_else(digits, workload):
    def wider(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        hidden = keras.layers.Dense(25, activation="relu")(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))

    def other_activation(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        hidden = keras.layers.Dense(24, activation="tanh")(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(hidden))

    first = measure_untrained(context_of(ProgramCache(workload)), SPEC.configuration).model_hash
    again = measure_untrained(
        context_of(ProgramCache(workload)), change(SPEC, batch_size=64).configuration
    ).model_hash
    others = [
        measure_untrained(
            context_of(ProgramCache(Workload(digits, builder))), SPEC.configuration
        ).model_hash
        for builder in (wider, other_activation)
    ]

    assert again == first
    assert len({first, *others}) == 3


def small_model(*, decay=1e-4, rate=0.1, units=3, policy="float32", of_two=True):
    """A regularizer, a nested model, a wrapped layer, a lambda, and a layer without get_config."""

    class Own(keras.layers.Layer):
        def __init__(self, *parts):
            super().__init__()
            self.parts = list(parts)

        def call(self, x):
            return self.parts[0](x)

    layers = keras.layers
    inputs = keras.Input((4, 2))
    block = keras.Sequential([keras.Input((4, 2)), layers.Dropout(rate), layers.Dense(2)])
    hidden = layers.TimeDistributed(layers.Dense(units))(block(inputs))
    hidden = layers.Bidirectional(layers.LSTM(2, recurrent_dropout=rate / 2))(hidden)
    hidden = Own(layers.Dense(2, activation="relu"))(hidden)
    hidden = layers.Lambda(lambda x: 2 * x)(keras.ops.relu(hidden))
    if of_two:
        hidden = layers.Add()([hidden, hidden])
    outputs = layers.Dense(2, kernel_regularizer=keras.regularizers.L2(decay), dtype=policy)(hidden)
    return keras.Model(inputs, outputs)


@pytest.mark.parametrize(
    "change",
    [{"decay": 1e-2}, {"rate": 0.2}, {"units": 4}, {"policy": "mixed_bfloat16"}, {"of_two": False}],
    ids=["regularizer", "nested", "wrapped", "dtype", "layers"],
)
def test_the_hash_of_all_settings_sees_what_is_within_a_setting_or_a_layer(change):
    assert hash_of_settings(small_model(**change)) != hash_of_settings(small_model())


def test_the_hash_of_all_settings_is_equal_for_equal_builds():
    assert len({hash_of_settings(small_model()) for _ in range(3)}) == 1


def test_a_builder_that_raises_is_shown_whole_before_any_trial(digits):
    def broken(input_shape, num_classes):
        raise RuntimeError(f"no layers for {num_classes} classes")

    with pytest.raises(InputError, match=r"(?s)cannot be built.*Traceback.*no layers for 10"):
        measure_untrained(context_of(ProgramCache(Workload(digits, broken))), SPEC.configuration)


def test_a_disk_that_is_full_ends_the_run_and_leaves_no_half_weights(
    workload, tmp_path, monkeypatch
):
    """It says nothing about the configuration, so that it is no outcome."""
    spec = dataclasses.replace(SPEC, weights_file=tmp_path / "a.weights.h5")

    def full(model, path):
        Path(path).write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(RunFolderError, match=r"a\.weights\.h5 cannot be written: .*No space"):
        run_trial(ProgramCache(workload), spec)
    assert list(tmp_path.iterdir()) == []


def no_model(input_shape, num_classes):
    return "a model"


def too_wide(input_shape, num_classes):
    return build(input_shape, num_classes + 1)


def with_softmax(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    flat = keras.layers.Flatten()(inputs)
    return keras.Model(inputs, keras.layers.Dense(num_classes, activation="softmax")(flat))


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (no_model, r"must return a keras\.Model\. Received: str"),
        (too_wide, r"logits of shape \(None, 10\) for digits\. Received: .*\(None, 11\)"),
        (with_softmax, r"must return logits, but its last layer is a softmax"),
    ],
    ids=["no model", "wrong shape", "softmax"],
)
def test_a_model_that_cannot_be_used_is_refused(digits, builder, message):
    with pytest.raises(InputError, match=message):
        measure_untrained(context_of(ProgramCache(Workload(digits, builder))), SPEC.configuration)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal_cnn", r"Unknown model `smal_cnn`\. Did you mean `small_cnn`\?"),
        ("nowhere:build", r"`--model=nowhere:build`: cannot import nowhere: No module named"),
        ("mine:biuld", r"`--model=mine:biuld`: mine has no function `biuld`\. Did you .*`build`"),
        ("mine:needs_more", r"It also asks for: width\. Received: needs_more\("),
        ("mine:SIZE", r"mine has no function `SIZE`"),
        ("unparsable:build", r"cannot import unparsable: SyntaxError: .*unparsable\.py, line 1"),
        ("raising:build", r"cannot import raising: ZeroDivisionError: division by zero"),
        ("mine:not valid", r"`--model` must be a model's name or package\.module:function"),
    ],
)
def test_a_builder_that_cannot_be_found_or_called_is_refused(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("mine", "unparsable", "raising"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    (tmp_path / "mine.py").write_text(
        "SIZE = 3\ndef build(input_shape, num_classes): pass\n"
        "def needs_more(input_shape, num_classes, width): pass\n"
    )
    (tmp_path / "unparsable.py").write_text("def build(:\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")

    with pytest.raises(InputError, match=message):
        find_model_builder(name)


def test_a_builder_beside_the_user_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mine_too", raising=False)
    (tmp_path / "mine_too.py").write_text("def build(input_shape, num_classes): return 'here'\n")

    assert find_model_builder("mine_too:build")((8, 8, 1), 10) == "here"
    assert find_model_builder("small_cnn").__module__ == "tfbatch.models.small_cnn"


def test_whole_numbers_are_taken_for_an_optimizers_parameters():
    configuration = SPEC.configuration.model_copy(
        update={"optimizer": Named(name="sgd", momentum=0)}
    )

    derived = derive(configuration, num_examples=1085, total_examples=1085)
    assert make_optimizer(configuration, 0.1, derived).momentum == 0.0
