"""Cards whose truth is known in closed form: surfaces, redundancy, methods, sizes of data."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests.court_fixtures import NoisyQuadratic, SimulatedCourt, judged, noise_of
from tfbatch.claims import error_surface, extremes, large_batch_methods, redundancy, same_budget
from tfbatch.claims._court import Run
from tfbatch.claims._pairs import fell_short, successes
from tfbatch.errors import InputError
from tfbatch.estimators.first_hit import StepsToTarget
from tfbatch.schema import Named


def test_a_paraboloid_has_no_residual_and_a_fourth_power_has():
    places = [-1, -0.5, 0, 0.5, 1]

    exact = error_surface.residual_of_a_paraboloid(places, [3 - x + 2 * x**2 for x in places])
    fourth = error_surface.residual_of_a_paraboloid(places, [x**4 for x in places])
    assert exact < 1e-12
    assert fourth == pytest.approx(9 / 70)  # the normal equations, at 0


def test_the_expansion_of_a_parabola_is_exact_and_that_of_a_cube_is_known():
    parabola = error_surface.error_of_the_expansion(
        lambda t: 1 - 3 * t + t**2, lambda t: -3 + 2 * t
    )
    # (1 + t/2)^3 grows by 2.375; the two terms are 1.5 and 0.75.
    cube = error_surface.error_of_the_expansion(
        lambda t: (1 + t / 2) ** 3, lambda t: 1.5 * (1 + t / 2) ** 2
    )
    assert parabola < 1e-12
    assert cube == pytest.approx(0.125 / 2.25)


@pytest.mark.parametrize(("error", "word"), [(0.02, "HOLDS"), (0.4, "DOES NOT HOLD")])
def test_a_network_is_locally_a_paraboloid_where_its_updates_are_small(error, word):
    class Surface(SimulatedCourt):
        def measure(self, function, configuration, *, seed, **options):
            if function is error_surface.residual_of_a_neuron:
                return 1e-15
            assert function is error_surface.error_of_an_update
            assert options["trained_steps"] == 20_000 // 64
            return error * (1 + 0.01 * (seed % 7))

    found = judged(error_surface, Surface(NoisyQuadratic()))
    assert found["error-surface-is-a-paraboloid", "linear"].word == "HOLDS"
    assert found["error-surface-is-a-paraboloid", "network"].word == word


def test_a_network_that_cannot_be_measured_costs_nothing_that_is_known_of_a_neuron():
    class Unmeasured(SimulatedCourt):
        def measure(self, function, *arguments, **options):
            if function is error_surface.error_of_an_update:
                raise InputError("its gradient cannot be measured")
            return 1e-15

    found = judged(error_surface, Unmeasured(NoisyQuadratic()))
    assert found["error-surface-is-a-paraboloid", "linear"].word == "HOLDS"
    assert "cannot be measured" in found["error-surface-is-a-paraboloid", "network"].reason


def test_copies_cost_the_full_batch_four_times_the_examples_and_small_ones_nothing():
    """Linear regression with one weight: the full batch falls by (1 - rate)^2 in each update."""
    generator = np.random.default_rng(1)
    targets = 1.0 + 0.05 * generator.normal(size=64)

    def loss(weights, chosen):
        away = weights[0] - targets[chosen]
        return float((away**2).mean()), np.array([2 * away.mean()])

    def cost(copies):
        return redundancy.descend(
            loss,
            np.array([0.0]),
            count=64,
            copies=copies,
            size=8,
            rate=0.02,
            generator=np.random.default_rng(2),
        )

    one, four = cost(1), cost(4)
    assert one.full == 64 * 20
    assert four.full == 4 * one.full
    assert one.reached
    assert four.reached
    assert one.small == pytest.approx(20 * 8, rel=0.3)
    assert four.small == pytest.approx(one.small, rel=0.3)


@pytest.mark.parametrize(("waste", "word"), [(4.0, "HOLDS"), (1.0, "DOES NOT HOLD")])
def test_small_batches_avoid_redundancy(waste, word):
    class Copied(SimulatedCourt):
        def measure(self, function, configuration, *, copies, seed):
            assert function is redundancy.cost_of_copies
            full = 5120.0 * (waste if copies > 1 else 1.0)
            return redundancy.CostOfCopies(full, 640.0 + seed % 13, reached=True)

    simulated = Copied(NoisyQuadratic(), step=float, smallest_margin=1e-4)
    found = judged(redundancy, simulated)
    assert found["small-avoids-redundancy", "copies"].word == word
    assert found["small-avoids-redundancy", "efficiency"].word == "HOLDS"


def test_a_seed_that_does_not_descend_is_a_doubt_and_not_the_loss_of_all():
    class Climbs(SimulatedCourt):
        seeds_asked = 0

        def measure(self, function, configuration, *, copies, seed):
            self.seeds_asked += copies == 1
            if self.seeds_asked == 3:
                why = "the full batch does not lower the loss"
                return redundancy.CostOfCopies(math.nan, math.nan, reached=False, why=why)
            return redundancy.CostOfCopies(5120.0 * copies, 640.0 + seed % 13, reached=True)

    evidence = redundancy._copies(Climbs(NoisyQuadratic(), step=float))
    assert len(evidence.effects) == 9
    assert "1 of 10 seeds tell nothing: the full batch does not lower the loss" in evidence.doubts
    assert not evidence.untestable


def gap_of(loss, *, but=""):
    """A batch of 512 loses so much within the epochs, but with one optimizer; a rate is best."""

    def curve(training, examples):
        configuration = training.configuration
        name = configuration.optimizer.name
        size, rate = configuration.batch_size, configuration.base_learning_rate
        best = {"sgd": 0.05 * size / 32, "lars": 4.0, "lamb": 0.004}[name]
        lost = loss if size == 512 and name != but else 0.0
        noise = noise_of(training.seed, size, rate, name).normal(0, 0.01)
        far = math.log2(rate / best)
        return np.full(len(examples), -0.3 - lost - 0.02 * far**2 + noise)

    return SimulatedCourt(curve, smallest_margin=0.01)


@pytest.mark.parametrize(
    ("loss", "but", "word"),
    [
        (0.3, "", "HOLDS"),
        (0.3, "lars", "DOES NOT HOLD"),
        (0.3, "lamb", "DOES NOT HOLD"),
        (0.0, "", "NOT TESTABLE HERE"),
    ],
)
def test_an_algorithm_for_very_large_batches_is_found_where_there_is_one(loss, but, word):
    simulated = gap_of(loss, but=but)
    verdict = judged(large_batch_methods, simulated)["no-algorithm-for-very-large", ""]

    assert verdict.word == word
    if loss == 0:
        assert "nothing to recover" in verdict.reason
        assert not any("lars" in str(run.training) for run in simulated.trained.values())
    else:
        assert verdict.estimate == pytest.approx(-0.15 if but else 0.15, abs=0.02)


def test_one_method_that_recovers_is_enough_where_tuning_seeds_would_choose_another():
    simulated = gap_of(0.3, but="lars")
    curve = simulated._curve
    tuning = simulated.seeds("tuning", simulated.preset.tuning_seeds)

    def worse_while_tuning(training, examples):
        by_lars = training.configuration.optimizer.name == "lars"
        return curve(training, examples) - (0.5 if by_lars and training.seed in tuning else 0.0)

    simulated._curve = worse_while_tuning
    verdict = judged(large_batch_methods, simulated)["no-algorithm-for-very-large", ""]
    assert (verdict.word, verdict.estimate) == ("DOES NOT HOLD", pytest.approx(-0.15, abs=0.02))


def test_methods_for_large_batches_train_for_the_epochs_and_a_compiled_model_has_one():
    compiled = SimulatedCourt(compiled=True)
    names = [method.name for method in large_batch_methods.methods_for(compiled)]
    assert names == ["a warm-up"]

    simulated = gap_of(0.3)
    judged(large_batch_methods, simulated)
    warm = [
        run.training
        for run in simulated.trained.values()
        if run.training.configuration.warmup_fraction
    ]
    assert {training.examples for training in warm} == {simulated.workload.examples}
    assert {training.configuration.batch_size for training in warm} == {512}


class Descending(SimulatedCourt):
    """Tells how many updates descend, and keeps what was asked for."""

    slower = 1

    def measure_each(self, function, cases, *, seconds):
        assert function is extremes.descents_after_training
        (self.seen, *_) = cases
        rate = self.seen["configuration"].base_learning_rate
        return [
            extremes.Descents(1.0, 0.6 + 0.01 * (case["seed"] % 7), rate=rate / self.slower)
            for case in cases
        ]


def test_descent_is_counted_after_a_training_at_the_rate_that_the_momentum_makes_of_it():
    simulated = Descending(NoisyQuadratic())
    simulated._asked = {"sgd-has-no-guarantee"}
    found = judged(extremes, simulated)["sgd-has-no-guarantee", ""]

    configuration = simulated.seen["configuration"]
    tuned = simulated.study.rate(32, "fixed", "epochs").value
    assert simulated.workload.baseline.optimizer.name == "sgd"
    assert configuration.base_learning_rate == pytest.approx(10 * tuned, rel=1e-3)
    assert simulated.seen["trained_steps"] == 20_000 // 32
    assert found.word == "HOLDS"


def test_a_rate_that_plain_descent_does_not_bear_is_named_with_the_one_that_it_does():
    simulated = Descending(NoisyQuadratic())
    simulated._asked, simulated.slower = {"sgd-has-no-guarantee"}, 8
    (found,) = extremes.collect(simulated)

    asked = simulated.seen["configuration"].base_learning_rate
    assert "10 of 10 trainings diverge" in found.finding
    assert f"down to {asked / 8:.3g}" in found.finding


def test_descent_at_the_rate_of_an_adaptive_optimizer_tells_nothing():
    adam = SimulatedCourt().workload.baseline.model_copy(update={"optimizer": Named(name="adam")})
    simulated = Descending(NoisyQuadratic(), baseline=adam)
    simulated._asked = {"sgd-has-no-guarantee"}

    found = judged(extremes, simulated)["sgd-has-no-guarantee", ""]
    assert found.word == "NOT TESTABLE HERE"
    assert "give --optimizer=sgd" in found.reason


def test_a_target_that_is_reached_at_once_is_a_bound_and_a_success():
    at_once = StepsToTarget(8, 10.0, reached=True, at_first=True)
    later, never = StepsToTarget(8, 40.0, reached=True), StepsToTarget(8, 90.0, reached=False)

    assert fell_short([at_once, later, never, later], [later] * 4) == 2
    assert successes([at_once, at_once], [later, never]) == (0.0, 1.0)


def zigzag(training, *, diverged=False):
    """Ten evaluations about a line, with a width that depends on batch size and seed."""
    size = training.configuration.batch_size
    width = (1 + 0.01 * (training.seed % 5)) / size
    examples = tuple(np.linspace(0, 20_000, 41))
    scores = tuple(-1 + x / 40_000 + width * (-1) ** n for n, x in enumerate(examples))
    return Run(training, examples, scores, diverged=diverged)


@pytest.mark.parametrize(("diverging", "word"), [(0, "HOLDS"), (1, "INCONCLUSIVE")])
def test_one_run_that_diverged_leaves_the_oscillation_undecided(diverging, word):
    """The nine pairs that are left are those that oscillate least."""

    class Zigzag(SimulatedCourt):
        def train(self, trainings):
            lost = self.seeds("verdict", 10)[:diverging]
            return [
                zigzag(one, diverged=one.seed in lost and one.configuration.batch_size == 32)
                for one in trainings
            ]

    simulated = Zigzag()
    found = same_budget._oscillation(simulated, "larger-is-more-accurate-direction", 32, 512)
    study = simulated.study
    rates = study.doubts("fixed", "epochs", (32,))
    verdict = dataclasses.replace(
        found, doubts=tuple(d for d in found.doubts if d not in rates)
    ).verdict("difference")

    assert verdict.word == word
    assert ("1 of 10 pairs diverged" in verdict.reason) == bool(diverging)
    assert len(found.effects) == 10 - diverging
