"""The search of batch size and learning rate in a stock KerasTuner search, against tune's own."""

from __future__ import annotations

import math

import keras
import keras_tuner
import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from tfbatch.errors import InputError
from tfbatch.oracles import ScaledLearningRateOracle, Told, _bayesian, make_settings
from tfbatch.oracles._spread import spread_points
from tfbatch.request.search_config import load_search
from tfbatch.schema import Named
from tfbatch.search.space import SearchSpace

SIZES = [8, 16, 32, 64, 128]
ONLY_THE_TWO = {
    "batch_size": tuple(SIZES),
    "learning_rate_octaves": 0.0,
    "warmup_fraction": 0.0,
    "schedules": (Named(name="constant"),),
}
LOSS = keras_tuner.Objective("default_objective", "min")


def bowl(size, rate):
    """A loss that is least at a batch size of 32 and a rate of 0.01 for each 32 examples."""
    return math.log2(size / 32) ** 2 + math.log2(rate / (0.01 * size / 32)) ** 2


class Bowl(keras_tuner.HyperModel):
    """Trains nothing: `fit` is a function of batch size and learning rate."""

    def __init__(self, loss=bowl, *, stop_at=None):
        super().__init__()
        self.loss, self.stop_at = loss, stop_at
        self.tried = []

    def build(self, hp):
        hp.Choice("batch_size", SIZES, ordered=True)
        hp.Float("learning_rate", 1e-3, 0.05, sampling="log")
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def fit(self, hp, model, **arguments):
        del model, arguments
        if len(self.tried) == self.stop_at:
            raise KeyboardInterrupt
        self.tried.append((hp.get("batch_size"), hp.get("learning_rate")))
        return self.loss(*self.tried[-1])


class Joint(Bowl):
    """Declares what `tuner_configs/joint.yaml` searches, under names of a user's own."""

    def build(self, hp):
        hp.Choice("size", SIZES, ordered=True)
        hp.Float("rate", 1e-3, 0.05, sampling="log")
        hp.Float("octaves", -1.0, 1.0)
        hp.Choice("warmup_fraction", [0.0, 0.03, 0.1], ordered=True)
        schedule = hp.Choice("schedule", ["linear", "cosine", "wsd"])
        with hp.conditional_scope("schedule", ["cosine"]):
            if schedule == "cosine":
                hp.Choice("final_fraction", [0.0, 0.01, 0.1], ordered=True)
        with hp.conditional_scope("schedule", ["wsd"]):
            if schedule == "wsd":
                hp.Choice("cooldown", [0.1, 0.2, 0.3], ordered=True)
        return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def fit(self, hp, model, **arguments):
        del model, arguments
        self.tried.append((hp.get("size"), hp.get("rate")))
        return self.loss(*self.tried[-1])


def search(tmp_path, oracle, hypermodel, *, overwrite=True):
    tuner = keras_tuner.Tuner(
        oracle=oracle, hypermodel=hypermodel, directory=tmp_path, overwrite=overwrite
    )
    tuner.search(verbose=0)
    return hypermodel.tried


def proposals_of_tune(scores, *, space, seed, initial_trials):
    """Batch size and learning rate of the trials of `tune`, told these scores one by one."""
    searched = SearchSpace(space, num_examples=8 * max(SIZES))
    settings = make_settings("bayesian", initial_trials=initial_trials)
    oracle = settings.make(
        searched.hyperparameters(), direction="min", seed=seed, total_examples=1000
    )
    found = []
    for number, score in enumerate(scores):
        proposal = oracle.propose(str(number), known=None, bound=math.inf)
        configuration = searched.configuration(proposal.values)
        found.append((configuration.batch_size, searched.learning_rate(configuration)))
        oracle.tell(str(number), proposal, Told(score, "completed"))
    return found


def space_of_tune(**changes):
    return load_search("joint").space.model_copy(update=changes)


@pytest.mark.slow
def test_it_proposes_what_the_default_search_of_tune_proposes(tmp_path):
    oracle = ScaledLearningRateOracle(
        LOSS,
        max_trials=7,
        num_initial_points=6,
        batch_size="size",
        learning_rate="rate",
        learning_rate_octaves="octaves",
        seed=3,
    )
    tried = search(tmp_path, oracle, Joint())

    scores = [bowl(*one) for one in tried]
    space = space_of_tune(batch_size=tuple(SIZES))
    assert tried == proposals_of_tune(scores, space=space, seed=3, initial_trials=6)


class Digits(keras_tuner.HyperModel):
    """As KerasTuner's guide tunes the batch size: in `HyperModel.fit`, here declared in `build`."""

    def build(self, hp):
        hp.Choice("batch_size", SIZES, ordered=True)
        rate = hp.Float("learning_rate", 1e-3, 0.05, sampling="log")
        model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(10)])
        model.compile(
            optimizer=keras.optimizers.SGD(rate, momentum=0.9),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            run_eagerly=True,
        )
        return model

    def fit(self, hp, model, *args, **kwargs):
        return model.fit(*args, batch_size=hp.get("batch_size"), **kwargs)


@pytest.mark.slow
def test_on_digits_it_proposes_what_tune_proposes_for_the_same_losses(tmp_path):
    x, y = load_digits(return_X_y=True)
    x = (x / 16.0).astype("float32")
    oracle = ScaledLearningRateOracle("val_loss", max_trials=5, num_initial_points=4)
    tuner = keras_tuner.Tuner(oracle, Digits(), directory=tmp_path)
    tuner.search(x[:400], y[:400], validation_data=(x[400:600], y[400:600]), epochs=2, verbose=0)

    trials = list(oracle.trials.values())
    tried = [
        (t.hyperparameters.get("batch_size"), t.hyperparameters.get("learning_rate"))
        for t in trials
    ]
    scores = [trial.score for trial in trials]
    space = space_of_tune(**ONLY_THE_TWO)
    assert tried == proposals_of_tune(scores, space=space, seed=1, initial_trials=4)
    assert min(scores) < 1.5  # chance is log(10), 2.3


def test_a_search_that_is_reloaded_goes_on_as_tune_would_have(tmp_path):
    def oracle():
        return ScaledLearningRateOracle(LOSS, max_trials=6, num_initial_points=4, seed=2)

    whole = search(tmp_path / "whole", oracle(), Bowl())

    stopped = Bowl(stop_at=5)
    with pytest.raises(KeyboardInterrupt):
        search(tmp_path / "parts", oracle(), stopped)
    rest = search(tmp_path / "parts", oracle(), Bowl(), overwrite=False)

    assert stopped.tried + rest == whole
    scores = [bowl(*one) for one in whole]
    space = space_of_tune(**ONLY_THE_TWO)
    assert whole == proposals_of_tune(scores, space=space, seed=2, initial_trials=4)
    assert len(whole) == 6


def test_the_learning_rate_of_a_trial_is_the_base_scaled_to_its_batch_size(tmp_path):
    points = {}
    for exponent in (0.0, 0.5, 1.0):
        oracle = ScaledLearningRateOracle(
            LOSS, max_trials=5, base_batch_size=16, learning_rate_exponent=exponent
        )
        points[exponent] = search(tmp_path / str(exponent), oracle, Bowl())

    for unscaled, root, linear in zip(*points.values(), strict=True):
        size, base = unscaled
        assert root == (size, pytest.approx(base * (size / 16) ** 0.5))
        assert linear == (size, pytest.approx(base * size / 16))
        assert 1e-3 <= base <= 0.05


@pytest.mark.filterwarnings("ignore:All-NaN axis encountered")
def test_diverged_trials_do_not_end_a_search_and_count_as_the_worst(tmp_path):
    def diverging(size, rate):
        return math.nan if rate > 0.002 else bowl(size, rate)

    oracle = ScaledLearningRateOracle(LOSS, max_trials=8, num_initial_points=8, seed=1)
    tried = search(tmp_path, oracle, Bowl(diverging))

    diverged = [rate > 0.002 for _, rate in tried]
    assert len(tried) == 8
    assert any(all(diverged[k : k + 3]) for k in range(6))  # KerasTuner alone would have ended
    _, values = oracle._vectorize_trials()
    scores = [bowl(*one) for one in tried if one[1] <= 0.002]
    assert sorted(set(values)) == sorted(set(scores))
    assert list(values).count(max(scores)) == sum(diverged) + 1


def test_a_range_of_batch_sizes_is_searched_where_most_of_it_does_not_fit(tmp_path):
    class Range(Bowl):
        def build(self, hp):
            hp.Int("batch_size", 16, 256)
            hp.Float("learning_rate", 1e-3, 0.05, sampling="log")
            return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

    def wall(size, rate):
        if size >= 64:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return -size  # what is proposed is always too large

    oracle = ScaledLearningRateOracle(LOSS, max_trials=8, num_initial_points=2, seed=4)
    tried = search(tmp_path, oracle, Range(wall))

    sizes = [size for size, _ in tried]
    assert sum(size < 64 for size in sizes) >= 5, sizes
    assert {type(size) for size in sizes} == {int}


def test_three_errors_in_a_row_end_a_search(tmp_path):
    oracle = ScaledLearningRateOracle(LOSS, max_trials=9)

    with pytest.raises(RuntimeError, match="consecutive failures"):
        search(tmp_path, oracle, Bowl(lambda size, rate: 1 / 0))


@pytest.fixture
def reported(chief):
    """An oracle with four losses of about 100, and a trial that runs."""
    for loss in (100.0, 101.0, 103.0, 102.0):
        trial = chief.create_trial("worker")
        chief.update_trial(trial.trial_id, {"default_objective": loss})
        trial.status = "COMPLETED"
        chief.end_trial(trial)
    chief.create_trial("another worker")
    return chief


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_running_trial_counts_as_what_the_ended_ones_let_expect(reported):
    """Before the session's first Gaussian process too."""
    points, values = reported._vectorize_trials()

    assert points.shape == (5, 2)
    assert values[:4].tolist() == [100.0, 101.0, 103.0, 102.0]
    assert 100.0 < values[4] < 105.0


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_running_trial_counts_alike_in_a_search_that_is_reloaded(reported):
    before = reported._vectorize_trials()
    reported.gpr.fit([[0.0, 0.0], [1.0, 1.0]], [5.0, 6.0])  # of an earlier proposal
    reported._places.clear()

    assert [part.tolist() for part in reported._vectorize_trials()] == [
        part.tolist() for part in before
    ]


def through_the_service(oracle, *, ends):
    """As many trials as there are ends, each ended as KerasTuner's chief hears of it from a worker.

    An end is a score, or None for an error.
    """
    over_the_wire = keras_tuner.engine.trial.Trial
    for score in ends:
        trial = over_the_wire.from_proto(oracle.create_trial("worker").to_proto())
        assert trial.status == "RUNNING"
        if score is None:
            trial.status, trial.message = "INVALID", "Traceback: ZeroDivisionError"
        else:
            oracle.update_trial(trial.trial_id, {"default_objective": score})
            trial.status = "COMPLETED"
        oracle.end_trial(over_the_wire.from_proto(trial.to_proto()))


@pytest.fixture
def chief(tmp_path):
    space = keras_tuner.HyperParameters()
    space.Choice("batch_size", SIZES, ordered=True)
    space.Float("learning_rate", 1e-3, 0.05, sampling="log")
    oracle = ScaledLearningRateOracle(LOSS, max_trials=9, hyperparameters=space)
    oracle.verbose = 0
    oracle._set_project_dir(tmp_path, "chief")
    return oracle


def test_between_a_chief_and_its_workers_three_errors_in_a_row_end_a_search(chief):
    """The service hands on no error's message."""
    with pytest.raises(RuntimeError, match="consecutive failures"):
        through_the_service(chief, ends=[None, None, None])


@pytest.mark.filterwarnings("ignore:All-NaN axis encountered")
def test_between_a_chief_and_its_workers_scores_that_are_no_numbers_do_not_end_a_search(chief):
    through_the_service(chief, ends=[math.nan] * 4 + [None, 1.0, math.inf, math.nan])

    assert [trial.status for trial in chief.trials.values()].count("FAILED") == 6


def test_a_batch_size_that_only_fit_asks_for_is_searched_from_the_second_trial_on(tmp_path):
    class InFit(Bowl):
        def build(self, hp):
            hp.Float("learning_rate", 1e-3, 0.05, sampling="log")
            return keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])

        def fit(self, hp, model, **arguments):
            hp.Choice("batch_size", SIZES, ordered=True)
            return super().fit(hp, model, **arguments)

    oracle = ScaledLearningRateOracle(LOSS, max_trials=5, num_initial_points=4)
    tried = search(tmp_path, oracle, InFit())

    assert tried[0][0] == SIZES[0]
    assert len({size for size, _ in tried[1:5]}) >= 3
    # The first trial's base is the rate at its batch size divided by the rule.
    points, _ = oracle._vectorize_trials()
    place = math.log(tried[0][1] * 4 / 1e-3) / math.log(50)
    assert points[0][0] == pytest.approx(place)


@pytest.mark.parametrize(("first_trials", "come"), [(6, 2), (4, 1)])
def test_what_is_found_late_is_spread_over_the_first_trials_that_are_left(
    tmp_path, monkeypatch, first_trials, come
):
    class Late(Bowl):
        def fit(self, hp, model, **arguments):
            if len(self.tried) >= 3:
                hp.Float("momentum", 0.0, 0.9)
            return super().fit(hp, model, **arguments)

    counts = []

    def spread(*arguments, count, **others):
        counts.append(count)
        return spread_points(*arguments, count=count, **others)

    monkeypatch.setattr(_bayesian, "spread_points", spread)
    oracle = ScaledLearningRateOracle(LOSS, max_trials=6, num_initial_points=first_trials)
    search(tmp_path, oracle, Late())

    assert counts == [first_trials, come]
    assert oracle.get_state()["first_points"] == [], "the last trials are no first points"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"max_trials": 0}, "must be >= 1"),
        ({"seed": 0}, "must be >= 1"),
        ({"base_batch_size": 0}, "must be >= 1"),
        ({"learning_rate_exponent": np.inf}, "finite number"),
    ],
)
def test_numbers_that_are_out_of_range_are_refused(arguments, says):
    with pytest.raises(InputError, match=says):
        ScaledLearningRateOracle(LOSS, **arguments)


def test_a_space_without_the_two_is_refused_by_name(tmp_path):
    oracle = ScaledLearningRateOracle(LOSS, batch_size="batchsize")
    with pytest.raises(InputError, match=r"no hyperparameter `batchsize`.*Did you mean"):
        search(tmp_path, oracle, Bowl())

    space = keras_tuner.HyperParameters()
    space.Choice("learning_rate", [0.1, 0.2])
    oracle = ScaledLearningRateOracle(LOSS, hyperparameters=space)
    with pytest.raises(InputError, match="must be a range"):
        search(tmp_path, oracle, Bowl())
