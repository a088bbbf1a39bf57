"""Noise early and late, on noisy quadratics whose second moments are known, and on closed forms."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests import court_fixtures
from tests.court_fixtures import SimulatedCourt, judged, noise_of
from tfbatch.claims import annealing
from tfbatch.claims._batch_size_study import Rate
from tfbatch.claims._claim import UntestableError


def legs_of(training):
    """From where to where, at which batch size and rate."""
    start = 0
    for one in training.line:
        c = one.configuration
        yield start, one.examples, c.batch_size, c.base_learning_rate
        start = one.examples


class BranchedQuadratic:
    """The loss of SGD on a quadratic in expectation, whatever the course: of each coordinate

        E x^2 <- (1 - r h)^2 E x^2 + r^2 c / B

    in an update. Offsets of the log loss are drawn for each seed, and for each course of a seed.
    """

    def __init__(self, *, curvatures=(1.0, 0.3, 0.1), variance=2.0, seeds=0.01, courses=0.0):
        self.h, self.c = np.array(curvatures), variance
        self.seeds, self.courses = seeds, courses

    def moments(self, training, examples):
        """[examples, coordinates]."""
        found = np.ones((len(examples), len(self.h)))
        moment = np.ones(len(self.h))
        for start, end, size, rate in legs_of(training):
            shrink = (1 - rate * self.h) ** 2
            floor = rate**2 * self.c / size / (1 - shrink)
            inside = (examples > start) & (examples <= end)
            with np.errstate(over="ignore", invalid="ignore"):
                at = np.append(examples[inside], end) - start
                reached = floor + (moment - floor) * shrink ** (at / size)[:, None]
            found[inside], moment = reached[:-1], reached[-1]
        return found

    def __call__(self, training, examples):
        with np.errstate(over="ignore", invalid="ignore"):
            loss = 0.5 * (self.h * self.moments(training, examples)).sum(1) / (0.5 * self.h.sum())
        loss = np.where(np.isfinite(loss) & (loss < 1e6), loss, 1e6)
        offset = noise_of(training.seed).normal(0, self.seeds)
        offset += noise_of(training.seed, training.name).normal(0, self.courses)
        return -(loss * np.exp(offset))


def court_of(curve, **workload):
    workload = {"num_examples": 4096, "smallest_margin": 1e-3, **workload}
    return SimulatedCourt(curve, **workload)


@pytest.fixture(scope="module")
def quadratic():
    """Noise is what keeps it from its minimum, at any rate that gets there in time."""
    return judged(annealing_without_measurements(), court_of(BranchedQuadratic()))


def annealing_without_measurements():
    """The card, whose spectra are those of a saddle."""

    class Card:
        CARD = annealing.CARD

        @staticmethod
        def collect(court):
            court.measure_each = lambda function, cases, seconds: [(-0.1, 1.0)] * len(cases)
            return annealing.collect(court)

    return Card


def test_where_noise_is_what_is_left_decay_and_growth_remove_it_alike(quadratic):
    assert quadratic["decay-is-annealing", "decay"].word == "HOLDS"
    assert quadratic["decay-is-annealing", "growth"].word == "HOLDS"
    assert quadratic["noise-early-low-rate-late", "end"].word == "HOLDS"
    assert quadratic["noisy-so-raise-or-decay", "batch"].word == "HOLDS"
    assert quadratic["noisy-so-raise-or-decay", "rate"].word == "HOLDS"
    assert quadratic["noisy-so-raise-or-decay", "alike"].word == "HOLDS"


def test_where_noise_is_what_is_left_a_large_batch_does_not_lack_it(quadratic):
    assert quadratic["stuck-so-reduce", ""].word == "NOT TESTABLE HERE"
    assert quadratic["large-early", ""].label == "reversed"
    assert quadratic["large-stays-at-bad-optima", "training"].word == "DOES NOT HOLD"


@pytest.mark.parametrize("seed", range(3))
def test_a_growing_batch_is_a_falling_rate_up_to_the_rate_times_the_curvature(seed):
    """Of the second moment at the end, as the rate goes to 0 over the same time."""
    drawn = np.random.default_rng(seed)
    curve = BranchedQuadratic(curvatures=drawn.uniform(0.3, 1.0, 3), variance=drawn.uniform(1, 9))
    rates, found = (0.1, 0.05, 0.025, 0.0125), []
    for rate in rates:
        court = court_of(curve, examples=round(400 / rate))
        branches = annealing._Branches(court)
        falls, grows = (
            curve.moments(
                branches._training(branches.in_drops(8, rate, by_size=by_size), 1),
                np.array([branches.examples]),
            )[0]
            for by_size in (False, True)
        )
        found.append(np.abs(grows / falls - 1))
    differences = np.array(found)

    assert (differences <= np.outer(rates, curve.h)).all()
    assert differences[1:] / differences[:-1] == pytest.approx(0.5, rel=0.2)


class Levels:
    """A training comes to the level of its last leg within a fifth of a training.

    Args:
        level: Of a course, as (size, rate) of each leg.
        deviation: Of what is drawn for each seed, and again for each course of it.
    """

    def __init__(self, level, *, deviation=0.01):
        self.level, self.deviation = level, deviation

    def __call__(self, training, examples):
        score, found = -1.0, np.zeros(len(examples))
        legs = list(legs_of(training))
        for number, (start, end, _, _) in enumerate(legs, 1):
            level = self.level(tuple(leg[2:] for leg in legs[:number]))
            inside = (examples > start) & (examples <= end)
            at = np.append(examples[inside], end) - start
            reached = level + (score - level) * np.exp(-at / 400)
            found[inside], score = reached[:-1], reached[-1]
        drawn = noise_of(training.seed).normal(0, self.deviation)
        return found + drawn + noise_of(training.name).normal(0, self.deviation)


def sizes(legs):
    """Without repetition."""
    return tuple(dict.fromkeys(size for size, _ in legs))


def words(level, *claims, **options):
    court = court_of(Levels(level, **options), examples=20_000)
    court._asked = claims
    return judged(annealing_without_measurements(), court)


def test_who_is_stuck_at_a_large_batch_is_helped_by_a_smaller_one():
    claims = ("stuck-so-reduce", "large-stays-at-bad-optima")
    found = words(lambda legs: -0.6 if legs[-1][0] >= 512 else -0.1, *claims)
    opposite = words(lambda legs: -0.1 if legs[-1][0] >= 512 else -0.6, *claims)

    assert {verdict.word for verdict in found.values()} == {"HOLDS"}
    worse = words(lambda legs: {(512,): -0.3, (512, 128): -0.6}.get(sizes(legs), -0.1), claims[0])

    assert worse["stuck-so-reduce", ""].label == "reversed"
    assert opposite["stuck-so-reduce", ""].reason.endswith("it does not lack noise")
    assert opposite["large-stays-at-bad-optima", "training"].word != "HOLDS"


def test_a_run_that_diverged_is_not_stuck():
    """It counts as the untrained model from there on, whose metric does not change either."""
    court = court_of(Levels(lambda legs: -0.1), examples=20_000)
    court._asked = ("large-stays-at-bad-optima",)
    train = court.train

    def diverging(trainings):
        return [
            dataclasses.replace(run, diverged=True, examples=(0.0,), scores=run.scores[:1])
            if run.training.configuration.batch_size == court.study.large
            and run.training.seed in court.seeds("verdict", 10)
            else run
            for run in train(trainings)
        ]

    court.train = diverging
    found = judged(annealing_without_measurements(), court)
    assert found["large-stays-at-bad-optima", "training"].word == "DOES NOT HOLD"


def test_a_plateau_that_is_no_worse_than_the_best_constant_rate_has_no_noise_to_lose():
    claim = "noisy-so-raise-or-decay"
    found = words(lambda legs: -0.3, claim)

    assert {verdict.word for verdict in found.values()} == {"NOT TESTABLE HERE"}
    assert found[claim, "rate"].reason.endswith("its noise is not what is excessive")


def test_early_noise_is_no_gain_where_a_large_batch_at_the_same_rate_is_as_early():
    claim = "noise-early-low-rate-late"
    for large, word in ((-0.4, "HOLDS"), (-0.1, "DOES NOT HOLD")):
        found = words(
            lambda legs, large=large: (
                {32: -0.1, 160: large}.get(legs[0][0], -0.4) if legs[0][1] >= 0.05 else -0.4
            ),
            claim,
        )
        assert found[claim, "early"].word == word


def test_large_first_holds_only_against_every_other_order():
    def large_first(legs):
        return -0.1 if len(legs) > 1 and legs[0][0] > legs[-1][0] else -0.4

    def small_first(legs):
        return -0.1 if len(legs) > 1 and legs[0][0] < legs[-1][0] else -0.4

    def either(legs):
        return -0.1 if len(legs) > 1 else -0.4

    assert words(large_first, "large-early")["large-early", ""].word == "HOLDS"
    assert words(either, "large-early")["large-early", ""].word != "HOLDS"
    assert words(small_first, "large-early")["large-early", ""].label == "reversed"


def test_a_falling_rate_is_no_gain_where_half_of_the_best_constant_one_does_as_well():
    """The tuning seeds may have chosen an octave too much."""
    claim = "noise-early-low-rate-late"

    def low_is_good(legs):
        return -0.1 if legs[-1][1] <= 0.025 else -0.4

    falls = words(lambda legs: -0.1 if len(legs) > 1 else -0.4, claim)
    assert falls[claim, "end"].word == "HOLDS"
    court = court_of(Levels(low_is_good), examples=20_000)
    court._asked = (claim,)
    court.study._best_rates[32, "epochs"] = Rate(0.05)
    assert judged(annealing_without_measurements(), court)[claim, "end"].word == "DOES NOT HOLD"


def test_without_any_effect_nothing_but_equality_is_shown():
    claims = ("noise-early-low-rate-late", "decay-is-annealing", "large-early")
    found = words(lambda legs: -0.3, *claims, deviation=0.003)

    assert found.pop(("decay-is-annealing", "growth")).word == "HOLDS"
    others = {verdict.word for verdict in found.values()}
    assert others <= {"DOES NOT HOLD", "INCONCLUSIVE"}


def test_who_never_comes_to_rest_has_no_plateau_to_branch_from():
    def rises(training, examples):
        return -1.0 + 1e-6 * np.asarray(examples)

    court = court_of(rises, examples=20_000)
    court._asked = ("noisy-so-raise-or-decay", "stuck-so-reduce")
    found = judged(annealing_without_measurements(), court)

    assert {verdict.word for verdict in found.values()} == {"NOT TESTABLE HERE"}
    assert "no plateau to branch from" in found["stuck-so-reduce", ""].reason


def test_a_growing_batch_that_the_data_does_not_allow_is_not_compared():
    court = court_of(Levels(lambda legs: -0.3), num_examples=256)
    court._asked = ("decay-is-annealing",)
    found = judged(annealing_without_measurements(), court)

    assert found["decay-is-annealing", "growth"].word == "NOT TESTABLE HERE"
    assert found["decay-is-annealing", "decay"].word == "DOES NOT HOLD"


def test_a_branch_that_runs_out_of_memory_costs_its_own_part():
    court = court_of(Levels(lambda legs: -0.3))
    court._asked = ("decay-is-annealing", "noise-early-low-rate-late")
    train = court.train

    def without_memory(trainings):
        if any(one.configuration.batch_size in (32, 250) and one.parent for one in trainings):
            raise UntestableError("it runs out of memory")
        return train(trainings)

    court.train = without_memory
    found = judged(annealing_without_measurements(), court)

    assert {one[1] for one, verdict in found.items() if verdict.word == "NOT TESTABLE HERE"} == {
        "end",
        "growth",
    }


def diverging_above(rate, *, seeds=None):
    """Trainings whose loss is no number above a rate; of some seeds, or of all."""

    def level(legs):
        size, at = legs[-1]
        return -0.1 - 0.05 * abs(np.log2(at / (0.05 * size / 32)))

    levels = Levels(level)

    def curve(training, examples):
        found = levels(training, examples)
        for start, _, size, at in legs_of(training):
            if size == 32 and at > rate and (seeds is None or training.seed in seeds):
                found[examples > start] = np.nan
        return found

    return curve


def test_a_rate_at_which_runs_diverge_is_no_plateau_whose_noise_is_excessive():
    """All of its branches are worth the untrained model, and were called alike."""
    court = court_of(diverging_above(1.5 * 0.05), examples=20_000)
    court._asked = ("noisy-so-raise-or-decay",)
    found = judged(annealing_without_measurements(), court)

    assert {verdict.word for verdict in found.values()} == {"NOT TESTABLE HERE"}
    with pytest.raises(UntestableError, match="2 of 2 runs diverge"):
        annealing._Branches(court).rest(32, 0.2, 20_000, premise="")


def test_verdict_runs_that_diverge_before_the_branches_begin_forbid_a_decision():
    seeds = court_of(None).seeds("verdict", 10)[:4]
    court = court_of(diverging_above(1.5 * 0.05, seeds=seeds), examples=20_000)
    court._asked = ("noisy-so-raise-or-decay",)
    found = judged(annealing_without_measurements(), court)

    assert {verdict.word for verdict in found.values()} == {"INCONCLUSIVE"}
    for verdict in found.values():
        assert "4 of 10 runs diverge before the branches begin" in verdict.reason


def test_early_arms_end_where_they_are_compared(monkeypatch):
    """One that is read between two evaluations of a longer training looks worse than it is."""
    monkeypatch.setattr(court_fixtures, "EVALUATIONS", 8)
    court = court_of(lambda training, x: -np.exp(-np.asarray(x) / 4000), examples=20_000)
    found = annealing._early(court, annealing._Branches(court))

    assert found.effects == (0.0,) * 10
    assert found.rivals == ((0.0,) * 10,)


def test_a_size_that_is_not_evaluated_by_then_is_not_called_stuck_or_not():
    court = court_of(Levels(lambda legs: -0.1), examples=20_000)
    court._asked = ("large-stays-at-bad-optima",)
    court.measure_each = lambda function, cases, seconds: [(-0.1, 1.0)] * len(cases)
    (found,) = annealing.collect(court)

    assert court.study.read_at("updates") == (32, 128, 512)
    assert "batch size 512 less 32" in found.finding
    assert found.doubts == ()
