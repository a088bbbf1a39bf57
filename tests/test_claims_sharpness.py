"""Sharpness: closed forms, what a reparametrization changes, and what the card makes of it."""

from __future__ import annotations

import dataclasses
import math

import keras
import numpy as np
import pytest
import tiny_model
from contexts import context_of

from tests.court_fixtures import NoisyQuadratic, SimulatedCourt, judged, noise_of
from tfbatch.claims import sharpness
from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._flat_weights import FlatLoss
from tfbatch.claims.sharpness import (
    Sharpness,
    box_sharpness,
    partial_correlation,
    scaled_by,
    sharpness_at_the_same_loss,
)
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.estimators.lanczos import extreme_eigenvalues
from tfbatch.gradients import HessianProduct
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

CLAIM = "large-falls-into-sharp-minima"


def test_the_box_s_largest_rise_of_a_line_is_at_its_corner():
    slopes, weights = np.array([2.0, -1.0, 0.5]), np.array([1.0, -3.0, 0.0])
    value = 4.0 + slopes @ weights
    found = box_sharpness(lambda w: (4.0 + slopes @ w, slopes), weights, half_length=0.01)
    rise = (np.abs(slopes) * 0.01 * (np.abs(weights) + 1)).sum()
    assert found == pytest.approx(100 * rise / (1 + value))


def test_the_box_s_largest_rise_of_a_paraboloid_is_at_the_farther_corner():
    curvatures, weights = np.array([10.0, 1.0]), np.array([0.5, -0.2])

    def loss(w):
        return float(curvatures @ w**2) / 2, curvatures * w

    corner = weights + np.sign(weights) * 1e-2 * (np.abs(weights) + 1)
    rise = loss(corner)[0] - loss(weights)[0]
    assert box_sharpness(loss, weights, half_length=1e-2) == pytest.approx(
        100 * rise / (1 + loss(weights)[0])
    )


def test_eigenvalues_of_a_known_quadratic_with_and_without_the_weights_scale():
    weights, hessian = np.array([2.0, -1.0, 0.1]), np.diag([1.0, 3.0, 50.0])
    plain = extreme_eigenvalues(lambda v: hessian @ v, dimension=3).largest.value
    scaled = extreme_eigenvalues(scaled_by(weights, lambda v: hessian @ v), dimension=3)
    assert plain == pytest.approx(50.0)
    assert scaled.largest.value == pytest.approx(4.0)  # 2^2 * 1, against 1 * 3 and 0.01 * 50


def test_a_reparametrization_changes_the_largest_eigenvalue_and_not_the_normalized_one():
    """Dinh et al. 2017: layers of a network of ReLUs times a and 1/a give the same outputs."""
    keras.utils.set_random_seed(1)
    generator = np.random.default_rng(1)
    x = generator.normal(size=(64, 4)).astype("float32")
    batch = (x, (x[:, :1] * x[:, 1:2]).astype("float32"))
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(6, activation="relu", use_bias=False),
            keras.layers.Dense(1, use_bias=False),
        ]
    )
    model.compile(loss="mse")

    def measured():
        flat = FlatLoss(model, tuple(map(keras.ops.convert_to_tensor, batch)))
        hessian = HessianProduct(model, [batch])
        return [
            flat(flat.start)[0],
            *(
                extreme_eigenvalues(each, dimension=30, most_products=30).largest.value
                for each in (hessian, scaled_by(flat.start, hessian))
            ),
        ]

    before = measured()
    first, second = model.get_weights()
    model.set_weights([first * 5, second / 5])
    after = measured()
    assert after[0] == pytest.approx(before[0], rel=1e-5)
    assert after[1] > 5 * before[1]
    assert after[2] == pytest.approx(before[2], rel=1e-3)


def test_a_partial_correlation_is_that_of_what_is_left():
    generator = np.random.default_rng(1)
    z, a, b = generator.normal(size=(3, 4000))
    x, y = z + 0.5 * a, z + 0.5 * (0.6 * a + 0.8 * b)
    assert np.corrcoef(x, y)[0, 1] > 0.85
    assert partial_correlation(x, y, [z]) == pytest.approx(0.6, abs=0.05)
    xy, xz, yz = (np.corrcoef(*pair)[0, 1] for pair in ((x, y), (x, z), (y, z)))
    assert partial_correlation(x, y, [z]) == pytest.approx(
        (xy - xz * yz) / math.sqrt((1 - xz**2) * (1 - yz**2))
    )
    assert math.isnan(partial_correlation(x, z, [z]))


MODEL = Sharpness(0.05, 0.2, 0.2, 20.0, 1e-4, 100.0, 5.0, 30.0)


class _Trained(SimulatedCourt):
    """Pairs whose large one is so many times as sharp, and has so much more validation loss."""

    def __init__(
        self, *, ratio=1.0, worse=0.0, losses=(0.05, 0.05), uncertain=0.0, at_rate=None, **workload
    ):
        super().__init__(NoisyQuadratic(), **workload)
        self._ratio, self._worse, self._at_rate = ratio, worse, at_rate or {}
        self._losses, self._uncertain = losses, uncertain

    def measure_each(self, function, cases, *, seconds, examples):
        assert function is sharpness_at_the_same_loss
        assert examples > 400 * min(1024, self.workload.num_examples)  # of two models
        return [
            self._pair(case["seed"], case["configurations"][1].base_learning_rate) for case in cases
        ]

    def _pair(self, seed, rate):
        a, b, c = noise_of(seed, "sharpness").normal(0, 0.05, 3)
        at = 0.2 + self._worse + 1e-3 * a
        small = dataclasses.replace(
            MODEL, training_loss=self._losses[0], largest=20 * math.exp(b), error=self._uncertain
        )
        large = dataclasses.replace(
            MODEL,
            training_loss=self._losses[1],
            largest=20 * self._at_rate.get(rate, self._ratio) * math.exp(c),
            validation_loss=at,
            metric=at,
        )
        return small, large


def words(**trained):
    found = judged(sharpness, _Trained(**trained))
    return {part: found[CLAIM, part] for part in ("sharpness", "metric")}


@pytest.mark.parametrize(
    ("ratio", "word", "label"),
    [
        (3.0, "HOLDS", ""),
        (1.0, "DOES NOT HOLD", "negligible"),
        (0.3, "DOES NOT HOLD", "reversed"),
    ],
)
def test_the_large_size_is_sharper_where_its_eigenvalue_is_half_as_large_again(ratio, word, label):
    found = words(ratio=ratio)["sharpness"]
    assert (found.word, found.label) == (word, label)


def test_sharpness_that_follows_the_rate_decides_nothing_where_tuning_does_not_tell_rates(
    monkeypatch,
):
    asked = []

    def alike(study, size, budget):
        asked.append((size, budget))
        return (0.01, 0.04)

    monkeypatch.setattr(BatchSizeStudy, "alike", alike)
    assert words(ratio=3.0)["sharpness"].word == "HOLDS"
    assert words(ratio=1.0)["sharpness"].word == "DOES NOT HOLD"
    for ratio, other in ((3.0, 1.0), (1.0, 3.0)):
        found = words(ratio=ratio, at_rate={0.04: other})
        assert found["sharpness"].word == "INCONCLUSIVE"
        assert found["metric"].word == "DOES NOT HOLD"  # alike at all of them
    finding = next(sharpness.collect(_Trained(ratio=3.0, at_rate={0.04: 1.0}))).finding
    assert "at the rate 0.04, which tuning does not tell" in finding
    assert asked[0] == (512, "updates")


@pytest.mark.parametrize(("worse", "word"), [(0.1, "HOLDS"), (0.0, "DOES NOT HOLD")])
def test_the_large_size_generalizes_worse_where_its_metric_at_the_same_loss_is(worse, word):
    assert words(worse=worse)["metric"].word == word


def test_of_a_metric_that_is_to_be_large_a_larger_one_is_not_worse():
    found = words(worse=0.1, larger_is_better=True, metric="val_accuracy")
    assert found["metric"].label == "reversed"


def test_training_losses_that_differ_by_more_than_ten_percent_decide_nothing():
    assert words(ratio=3.0, losses=(0.05, 0.0545))["sharpness"].word == "HOLDS"
    # What is left of the difference is taken off a metric that is the loss.
    assert words(worse=0.1, losses=(1.0, 1.0999))["metric"].word == "DOES NOT HOLD"
    found = words(ratio=3.0, losses=(0.05, 0.06))
    assert {one.word for one in found.values()} == {"INCONCLUSIVE"}
    reason = next(sharpness.collect(_Trained(losses=(0.05, 0.06)))).doubts[-1]
    assert "10 of 10 pairs" in reason


def test_an_eigenvalue_that_did_not_converge_decides_nothing():
    found = words(ratio=3.0, uncertain=0.2)["sharpness"]
    assert found.word == "INCONCLUSIVE"
    assert "uncertain" in found.reason
    assert words(worse=0.1, uncertain=0.2)["metric"].word == "HOLDS"  # it needs none


def test_one_size_alone_or_a_model_without_curvature_cannot_be_tested():
    class Unmeasured(_Trained):
        def measure_each(self, function, cases, *, seconds, examples):
            raise InputError("the model has a train_step of its own")

    for court, reason in (
        (Unmeasured(), "train_step"),
        (_Trained(num_examples=32), "is the largest that is tried"),
    ):
        found = judged(sharpness, court)
        assert {one.word for one in found.values()} == {"NOT TESTABLE HERE"}
        assert reason in found[CLAIM, "metric"].reason


def test_the_finding_has_the_edge_of_stability_and_the_correlation_at_equal_training_loss():
    finding = next(sharpness.collect(_Trained(ratio=3.0, worse=0.1))).finding
    assert "correlation of sharpness and gap at equal training loss is +1.00" in finding
    assert "the rate times the eigenvalue is" in finding


PLAIN = Configuration(batch_size=16, base_batch_size=16, base_learning_rate=0.1)


@pytest.fixture(scope="module")
def task(digits):
    return context_of(ProgramCache(Workload(digits, tiny_model.build)))


@pytest.mark.parametrize(
    "lengths",
    [
        pytest.param((640, 5120), marks=pytest.mark.slow, id="large"),
        pytest.param((1920, 1920), id="small"),
    ],
)
def test_the_size_that_ends_lower_is_stopped_at_the_other_s_loss(task, lengths):
    """Which of the two ends lower depends on the lengths; both jump by more than that limit."""
    sizes = [PLAIN, PLAIN.model_copy(update={"batch_size": 128, "base_batch_size": 128})]
    small, large = sharpness_at_the_same_loss(
        task, configurations=sizes, lengths=lengths, metric="loss", seed=2
    )
    assert small.training_loss == pytest.approx(large.training_loss, rel=0.06)
    for one in (small, large):
        assert one.metric == one.validation_loss
        assert one.largest > 0
        assert one.error < 0.1
        assert one.box > 0
        assert one.trace > one.largest / 2


def test_a_training_that_diverges_has_no_sharpness(task):
    wild = PLAIN.model_copy(update={"base_learning_rate": 1e6})
    assert (
        sharpness_at_the_same_loss(
            task, configurations=[wild, PLAIN], lengths=(64, 64), metric="loss", seed=1
        )
        == ()
    )
