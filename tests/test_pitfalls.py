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
from tfbatch.training.workload import Workload
from tfbatch.trial.objective import Objective

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
