"""What makes batch sizes incomparable is refused or named: the loss itself depends on the batch."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from contexts import context_of

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.search.preparation import check_comparable
from tfbatch.search.progress import Progress
from tfbatch.training.compilation import Compilation
from tfbatch.training.description import description_of
from tfbatch.training.evaluation import Untrained, evaluate, measure_untrained
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.single_values import single_values
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import TrialSpec

CONFIGURATION = Configuration(batch_size=8, base_learning_rate=0.01)


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    x = np.random.default_rng(0).normal(size=(72, 3)).astype(np.float32)
    data = (x, x.sum(axis=1, keepdims=True))
    folder = tmp_path_factory.mktemp("lines")
    return StoredData(store_data(folder, {"train": data, "validation": data}), name="lines")


def dense(**arguments):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    if arguments:
        model.compile(optimizer="sgd", **arguments)
    return model


def in_batch_negatives(target, output):
    """Each example against all others of its batch, as a contrastive loss does."""
    scores = keras.ops.matmul(output, keras.ops.transpose(target))
    labels = keras.ops.arange(keras.ops.shape(scores)[0])
    return keras.losses.sparse_categorical_crossentropy(labels, scores, from_logits=True)


@pytest.mark.quick_cases("mean")
@pytest.mark.parametrize(
    ("loss", "dependent"),
    [
        ("mse", []),
        (in_batch_negatives, ["loss"]),
        (keras.losses.MeanSquaredError(reduction="sum"), ["loss"]),
    ],
    ids=["mean", "in-batch negatives", "sum"],
)
def test_a_loss_that_depends_on_the_batch_is_found_out(lines, loss, dependent):
    programs = ProgramCache(Workload(lines, lambda: dense(loss=loss, metrics=["mae"])))

    found = measure_untrained(context_of(programs), CONFIGURATION)

    assert list(found.batch_dependent) == dependent


def test_batch_sizes_are_not_ranked_by_a_training_loss_that_depends_on_the_batch():
    said: list[str] = []
    progress = Progress(None)
    progress.say = said.append  # type: ignore[method-assign]
    untrained = Untrained({"loss": 4.0}, 1.0, "hash", {"loss": (4.0, 2.0)})

    check_comparable(Objective.parse("val_loss"), untrained, progress)
    assert "its training values of different batch sizes are not comparable" in said[0]
    assert Objective.parse("loss").name == "loss"
    with pytest.raises(InputError, match="as a training metric it cannot compare batch sizes"):
        check_comparable(Objective.parse("loss"), untrained, progress)


def test_the_evaluation_batch_size_has_no_effect_on_a_mean(lines):
    workload = Workload(lines, lambda: dense(loss="mse", metrics=["mae"]))
    model = workload.compiled(CONFIGURATION, total_examples=8, seed=1)
    whole = evaluate(model, workload, "validation")
    small = model.evaluate(
        lines.evaluation("validation", batch_size=7), verbose=0, return_dict=True
    )

    assert whole == pytest.approx(small, rel=1e-5)


def test_a_loss_that_sums_is_named(lines):
    summing = keras.losses.MeanSquaredError(reduction="sum")
    compiled = description_of(Workload(lines, lambda: dense(loss=summing))).notes
    given = description_of(Workload(lines, dense, compilation=Compilation(summing))).notes

    for notes in (compiled, given):
        assert sum("sums over the batch" in note for note in notes) == 1


def fixed():
    return keras.Sequential([keras.Input(batch_shape=(16, 3)), keras.layers.Dense(1)])


def stateful():
    inputs = keras.Input(batch_shape=(4, 3, 1))
    hidden = keras.layers.SimpleRNN(2, stateful=True)(inputs)
    return keras.Model(inputs, keras.layers.Dense(1)(hidden))


@pytest.mark.parametrize(("build", "size"), [(fixed, 16), (stateful, 4)])
def test_a_model_for_one_batch_size_alone_is_refused(lines, build, size):
    with pytest.raises(InputError, match=f"built for batches of {size} examples alone"):
        Workload(lines, build, compilation=Compilation("mse")).build(1)


def unbuilt():
    hidden = keras.layers.SimpleRNN(2, stateful=True, name="memory")
    return keras.Sequential([keras.layers.Reshape((3, 1)), hidden, keras.layers.Dense(1)])


class Stateful(keras.Model):
    def __init__(self):
        super().__init__()
        self.both = keras.layers.Bidirectional(
            keras.layers.SimpleRNN(2, stateful=True), name="memory"
        )

    def call(self, inputs):
        return self.both(inputs[..., None])[:, :1]


@pytest.mark.parametrize("build", [unbuilt, Stateful])
def test_a_stateful_layer_of_a_model_without_inputs_is_refused(lines, build):
    with pytest.raises(InputError, match=r"`memory` builds the model.*with stateful=True"):
        Workload(lines, build, compilation=Compilation("mse")).build(1)


def test_a_metric_of_several_values_is_left_out_and_named(tmp_path):
    x = np.random.default_rng(0).normal(size=(72, 3)).astype(np.float32)
    both = (x, np.eye(2, dtype=np.float32)[(x.sum(axis=1) > 0).astype(int)])
    folder = store_data(tmp_path / "data", {"train": both, "validation": both})

    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "sigmoid")])
        of_each = keras.metrics.F1Score(name="of_each")
        model.compile(optimizer="sgd", loss="mse", metrics=["mae", of_each])
        return model

    programs = ProgramCache(Workload(StoredData(folder, name="both"), build))
    found = measure_untrained(context_of(programs), CONFIGURATION)

    assert list(found.metrics) == ["loss", "mae"]
    assert found.several == ("of_each",)
    assert any("`of_each` has several values, and is left out" in note for note in found.notes)
    with pytest.raises(InputError, match=r"must be a metric of one value.*val_of_each, which has"):
        Objective.parse("val_of_each:max").check(found.metrics, several=found.several)
    curves = tmp_path / "curves"
    trained = run_trial(
        programs, TrialSpec("search-0001", "search", 1, CONFIGURATION, 144, 72, log_dir=curves)
    )
    assert (trained.status, trained.message) == ("completed", "")
    assert sorted(trained.metrics) == ["loss", "mae", "val_loss", "val_mae"]


def test_a_metric_of_one_value_in_a_list_is_one():
    assert single_values({"a": np.float32([0.5]), "b": 1.5, "c": [1, 2]}) == {"a": 0.5, "b": 1.5}
