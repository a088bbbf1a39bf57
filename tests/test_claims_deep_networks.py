"""X10: where deep networks begin to converge; and the small trainings of cards."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf
import tiny_model
from contexts import context_of

from tests.court_fixtures import SimulatedCourt, judged, noise_of
from tfbatch.claims import deep_networks
from tfbatch.claims._small_training import SmallTraining, batches, image_shape, labeled_images
from tfbatch.claims.deep_networks import Start, first_start, gap_in_octaves, smallest_start
from tfbatch.errors import InputError
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

SIZES = (4, 8, 16, 32, 64)
UPDATES = 100


class Losses:
    """A training whose losses at its evaluations are known."""

    examples = 10

    def __init__(self, losses):
        self._losses = iter(losses)
        self.updates = 0

    def restart(self):
        pass

    def step(self, chosen, rate):
        self.updates += 1

    def loss(self, chosen):
        return next(self._losses)


def started(losses, *, longest=60):
    training = Losses(losses)
    found = first_start(
        training, 1.0, 0.1, size=4, longest=longest, every=10, seed=1, heartbeat=lambda: None
    )
    return found, training.updates


def test_a_network_has_begun_where_three_evaluations_in_a_row_are_below():
    assert started([1.0, 0.8, 0.8, 0.95, 0.8, 0.8, 0.8], longest=70) == (70, 70)
    assert started([0.8, 0.8, 0.89]) == (30, 30)
    assert started([0.8, 0.8, 0.9, 0.8, 0.8, 0.9]) == (None, 60)


@pytest.mark.parametrize("loss", [math.nan, math.inf, 3.1])
def test_a_network_that_diverged_does_not_begin_any_more(loss):
    assert started([0.8, 0.8, loss]) == (None, 30)


def test_the_gap_is_that_of_the_smallest_sizes_in_octaves():
    def starts(*sizes):
        return [Start(0.01, size, 50) for size in sizes]

    assert smallest_start(starts(32, 8), 0.01, SIZES, UPDATES) == 8
    assert smallest_start(starts(8), 0.04, SIZES, UPDATES) is None
    assert smallest_start([Start(0.01, 4, 101), Start(0.01, 64, 100)], 0.01, SIZES, UPDATES) == 64
    table = {"alexnet": [starts(8), starts(4)], "googlenet": [starts(32), starts()]}
    assert gap_in_octaves(table, 0.01, SIZES, UPDATES) == (2.0, 5.0)  # 128, a bound, over 4


class Court(SimulatedCourt):
    """Networks begin from known sizes on.

    Args:
        smallest: `smallest(network, rate)` -> the size from which on a network begins, about.
        long: Whether batch size 4 begins with as many examples as 32 has.
    """

    def __init__(self, smallest, *, long=True, why="", **options):
        super().__init__(**options)
        self._smallest, self._long, self._why = smallest, long, why

    def measure_each(self, function, cases, *, seconds):
        assert function is deep_networks.starts_of
        assert seconds > 0
        if self._why:
            raise InputError(self._why)
        return [self._starts(**case) for case in cases]

    def _starts(self, network, sizes, updates, seed):
        found = []
        for rate in deep_networks.RATES:
            octaves = noise_of(seed, network, rate).integers(-1, 2)
            from_here = self._smallest(network, rate) * 2.0**octaves
            found += [Start(rate, size, 50 if size >= from_here else None) for size in sizes]
        paper = [
            Start(deep_networks.PAPERS, 4, 800 if self._long else None),
            Start(deep_networks.PAPERS, 32, 100),
        ]
        others = (s for s in found if (s.rate, s.size) not in {(p.rate, p.size) for p in paper})
        return (*paper, *others)


DEEPER, UNSTABLE = ("deeper-needs-larger", ""), ("too-small-unstable", "deep nets")


def test_a_deeper_network_that_needs_larger_batches_is_found_at_the_rate_where_it_does():
    found = judged(
        deep_networks,
        Court(lambda network, rate: 32 if network == "googlenet" and rate == 0.04 else 8),
    )
    assert found[DEEPER].word == "HOLDS"
    assert found[DEEPER].estimate == pytest.approx(2, abs=0.7)


def test_networks_that_begin_alike_at_every_rate_are_no_evidence_for_depth():
    found = judged(deep_networks, Court(lambda network, rate: 8))

    assert found[DEEPER].word != "HOLDS"


def test_a_deeper_network_that_begins_at_smaller_batches_is_called_so():
    found = judged(deep_networks, Court(lambda network, rate: 8 if network == "googlenet" else 32))

    assert (found[DEEPER].word, found[DEEPER].label) == ("DOES NOT HOLD", "reversed")


def test_a_network_that_begins_at_no_size_does_not_show_that_a_larger_one_helps():
    # At 0.04 GoogLeNet may need a lower rate, and not a larger batch. (At 0.01 the court lets 32
    # begin, whatever the network.)
    def at_32(network, rate):
        return 8 if (network, rate) == ("alexnet", 0.04) else 1e3

    never = judged(deep_networks, Court(at_32))
    assert never[DEEPER].word == "INCONCLUSIVE"
    assert "10 of 10 effects are only bounds" in never[DEEPER].reason

    # A rate at which both begin is chosen instead, and the other one's bounds do not count.
    def smallest(network, rate):
        return {0.0025: 1e3, 0.01: 8, 0.04: 32}[rate] if network == "googlenet" else 8

    court = Court(smallest)
    assert judged(deep_networks, court)[DEEPER].word == "HOLDS"
    assert "at the rate 0.04," in next(deep_networks.collect(court)).finding


def test_bounds_forbid_only_what_the_true_value_could_speak_against():
    # AlexNet begins nowhere: the gap is at most what it counts as.
    early = judged(deep_networks, Court(lambda network, rate: 1e3 if network == "alexnet" else 8))
    assert early[DEEPER].label == "reversed"

    # At 0.01 GoogLeNet begins an octave later; at 0.04 nowhere in 9 seeds, AlexNet at the largest.
    table = {
        "alexnet": [[Start(0.01, 32, 50), Start(0.04, 64, 50)]] * 10,
        "googlenet": [[Start(0.01, 64, 50), Start(0.04, 64, None)]] * 9
        + [[Start(0.01, 64, 50), Start(0.04, 64, 50)]],
    }

    def bounds(chosen, rates):
        return deep_networks._bounds(table, chosen, rates, SIZES, UPDATES)

    assert bounds(0.01, (0.01, 0.04)) == 0  # HOLDS at one rate is enough
    table["alexnet"] = [[Start(0.01, 64, 50), Start(0.04, 64, 50)]] * 10
    assert bounds(0.01, (0.01, 0.04)) == 9  # and DOES NOT HOLD must be so at every rate
    table["alexnet"] = [[Start(0.04, 4, 50)]] * 10
    assert bounds(0.04, (0.01, 0.04)) == 9  # however large the gap is counted


def test_where_neither_network_begins_the_reason_is_given():
    court = Court(lambda network, rate: 1e3, long=False)
    court._starts = lambda network, sizes, updates, seed: tuple(
        Start(rate, size, None) for rate in deep_networks.RATES for size in sizes
    )
    found = judged(deep_networks, court)

    assert {verdict.word for verdict in found.values()} == {"NOT TESTABLE HERE"}
    assert "take a larger --preset" in found[DEEPER].reason


def test_failures_of_the_smallest_batch_count_after_the_same_examples():
    def smallest(network, rate):
        return 8

    stable = judged(deep_networks, Court(smallest, long=True))
    assert (stable[UNSTABLE].word, stable[UNSTABLE].estimate) == ("DOES NOT HOLD", 0.0)
    unstable = judged(deep_networks, Court(smallest, long=False))
    assert (unstable[UNSTABLE].word, unstable[UNSTABLE].estimate) == ("HOLDS", 1.0)

    starts = [Start(0.01, 4, 800), Start(0.01, 32, 101)]  # 3,200 examples, and too many
    assert deep_networks.began([starts], 3200) == [(True, False)]


def test_data_that_is_no_images_is_told():
    found = judged(deep_networks, Court(None, why="the inputs have the shape (4,)"))

    assert found[DEEPER].word == "NOT TESTABLE HERE"
    assert found[DEEPER].reason == "the inputs have the shape (4,)"
    assert image_shape((8, 8, 1)) == (8, 8, 1)
    for shape in ((4,), (None, 8, 1), {"a": (8, 8, 1)}):
        with pytest.raises(InputError, match="needs images of one size"):
            image_shape(shape)


def test_every_batch_size_sees_the_same_order_of_the_examples():
    def first(size, count):
        return np.concatenate(list(itertools.islice(batches(10, size, 3), count)))

    np.testing.assert_array_equal(first(4, 15), first(6, 10))
    assert sorted(first(5, 2)) == list(range(10))


def test_a_small_training_is_sgd_with_momentum_and_begins_anew():
    x = np.array([[1.0], [2.0]], np.float32)
    y = np.array([1.0, 1.0], np.float32)
    model = tf.keras.Sequential([tf.keras.Input((1,)), tf.keras.layers.Dense(1, use_bias=False)])
    model.set_weights([np.array([[3.0]], np.float32)])
    training = SmallTraining(
        model, lambda t, p: (p[:, 0] - t) ** 2 / 2, tf.constant(x), tf.constant(y)
    )
    for _ in range(2):
        training.restart()
        assert training.loss([0, 1]) == pytest.approx((2**2 + 5**2) / 4)
        training.step([0], 0.1)  # gradient 2
        assert float(model.get_weights()[0][0, 0]) == pytest.approx(2.8)
        training.step([1], 0.1)  # gradient 2 * (5.6 - 1) = 9.2, and 0.9 times the 2 of before
        assert float(model.get_weights()[0][0, 0]) == pytest.approx(2.8 - 0.1 * (9.2 + 1.8))


def test_a_network_is_trained_on_the_digits(digits):
    task = context_of(ProgramCache(Workload(digits, tiny_model.build)))
    images, labels, classes = labeled_images(task, most=50, side=4)
    assert (images.shape, labels.shape, classes) == ((50, 4, 4, 1), (50,), 10)

    found = deep_networks.starts_of(task, network="alexnet", sizes=(4, 32), updates=2, seed=1)

    cells = [(start.rate, start.size) for start in found]
    assert cells[:2] == [(0.01, 4), (0.01, 32)]
    assert set(cells) == set(itertools.product(deep_networks.RATES, (4, 32)))
