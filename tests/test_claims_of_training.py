"""Cards that train, on trainings whose truth is known: noisy quadratics and closed forms."""

from __future__ import annotations

import collections
import math

import numpy as np
import pytest

from tests.court_fixtures import NoisyQuadratic, SimulatedCourt, noise_of
from tfbatch import claims as court
from tfbatch.claims import (
    accumulated_batches,
    early_probe,
    gradient_noise,
    normalization,
    rate_exponent,
    same_budget,
    steps_to_target,
    tradeoff,
)
from tfbatch.claims._court import Run, Training
from tfbatch.claims._pairs import falls
from tfbatch.configuration import Configuration
from tfbatch.schema import Named


class Trained(SimulatedCourt):
    """A court that also counts operations."""

    def measure(self, function, configuration, sizes):
        assert function is same_budget.operations_per_example
        return tuple(1000.0 + 0.1 * size for size in sizes)


def judged(card, simulated):
    parts = {(c.name, part.name): part for c in court.claims() for part in c.parts}
    found = {}
    for one in card.collect(simulated):
        assert parts[one.claim, one.part].card == card.CARD
        found[one.claim, one.part] = one.verdict(parts[one.claim, one.part].kind)
    return found


@pytest.fixture(scope="module")
def quadratic():
    """A step takes as long as 64 examples beside its own, so that large ones are fast."""
    return Trained(NoisyQuadratic(), step=lambda size: 1e-3 * (64 + size), smallest_margin=1e-4)


def test_a_noisy_quadratic_needs_more_epochs_and_fewer_updates_with_a_large_batch(quadratic):
    found = judged(steps_to_target, quadratic)

    assert found["larger-needs-more-epochs", ""].word == "HOLDS"
    assert found["large-fast-but-worse-in-use", "updates"].word == "HOLDS"
    assert found["too-small-never-converges", ""].word == "DOES NOT HOLD"
    assert found["size-changes-speed-and-metric", "speed"].word == "HOLDS"


def test_a_noisy_quadratic_at_the_same_epochs_and_at_the_same_updates(quadratic):
    found = judged(same_budget, quadratic)

    assert found["same-epochs-large-is-worse", "tuned"].word == "HOLDS"
    assert found["same-epochs-large-is-worse", "fixed"].word == "HOLDS"
    assert found["large-can-match-small", ""].word == "DOES NOT HOLD"
    assert found["smaller-generalizes-better", "epochs"].word == "HOLDS"
    assert found["smaller-generalizes-better", "updates"].label == "reversed"
    assert found["equal-epochs-equal-work", ""].word == "DOES NOT HOLD"


def test_the_fastest_size_follows_the_time_of_a_step(quadratic):
    found = judged(tradeoff, quadratic)
    serial = Trained(NoisyQuadratic(), step=lambda size: 1e-3 * size)
    slow = judged(tradeoff, serial)

    assert found["weigh-and-choose", ""].word == "HOLDS"
    assert slow["fill-the-memory", "time to target"].word == "DOES NOT HOLD"


def test_nothing_is_trained_twice(quadratic):
    before = len(quadratic.trained)
    judged(steps_to_target, quadratic)
    judged(same_budget, quadratic)

    assert len(quadratic.trained) == before


def test_seeds_of_verdicts_of_margins_and_of_rates_have_nothing_in_common(quadratic):
    kinds = [set(quadratic.seeds(name, 20)) for name in ("verdict", "pilot", "tuning")]

    assert len(set.union(*kinds)) == 60


def with_exponent(exponent, *, deviation=0.1):
    """The score is best at c (B / 32)^exponent, up to a deviation in octaves of each seed."""

    def curve(training, examples):
        size = training.configuration.batch_size
        generator = np.random.default_rng(training.seed)
        shift = generator.normal(0, deviation, 2)  # one for all sizes, and one that tilts
        adam = training.configuration.optimizer.name == "adam"
        best = (
            math.log2(0.001 if adam else 0.05)
            + (exponent + shift[1] / 10) * math.log2(size / 32)
            + shift[0]
        )
        far = math.log2(training.configuration.base_learning_rate) - best
        return np.full(len(examples), -0.01 * far**2)

    return curve


@pytest.mark.parametrize(
    ("exponent", "linear", "root"),
    [(1.0, "HOLDS", "DOES NOT HOLD"), (0.5, "DOES NOT HOLD", "HOLDS")],
)
def test_the_exponent_of_the_best_rate_is_found(exponent, linear, root):
    simulated = Trained(
        with_exponent(exponent),
        baseline=Configuration(
            batch_size=32,
            base_batch_size=32,
            base_learning_rate=0.05,
            optimizer=Named(name="sgd", momentum=0.9),
        ),
    )
    found = judged(rate_exponent, simulated)

    assert found["linear-rule-holds", ""].word == linear
    assert found["square-root-rule-holds-for-adam", ""].word == root
    assert found["small-slow-but-better-in-use", "rate"].word == "HOLDS"


def test_the_vertex_of_a_parabola_is_exact_and_an_edge_is_told():
    scores = [-((octave - 0.3) ** 2) for octave in (-2, -1, 0, 1, 2)]

    assert rate_exponent.vertex((-2, -1, 0, 1, 2), scores) == (pytest.approx(0.3), True)
    assert rate_exponent.vertex((-2, -1, 0), (0.0, 1.0, 2.0)) == (0, False)
    assert rate_exponent.exponents((8, 32, 128), ((0.0,), (1.0,), (2.0,))) == (0.5,)


def test_a_clearly_better_metric_at_the_largest_size_is_no_objection_to_it():
    """C1 asks that it is no worse; C7 that it is neither worse nor better."""
    better = Trained(flat(-0.2), step=lambda size: 1e-3 * (64 + size))

    assert judged(tradeoff, better)["as-large-as-possible", "metric"].word == "HOLDS"
    assert judged(same_budget, better)["large-can-match-small", ""].label == "differs"
    worse = Trained(flat(0.2), step=lambda size: 1e-3 * (64 + size))
    assert judged(tradeoff, worse)["as-large-as-possible", "metric"].word == "DOES NOT HOLD"


def test_what_is_uncertain_in_the_times_of_steps_is_in_the_verdicts_on_seconds():
    """Trainings without noise, on a machine whose times vary by half: nothing is shown of 5 %."""

    def curve(training, examples):
        far = math.log2(training.configuration.base_learning_rate / 0.05)
        return -np.exp(-np.asarray(examples) / 5000 / (1 + far**2))

    simulated = Trained(curve, step=lambda size: 1e-3 * size, timing_noise=0.5)
    effects = {(one.claim, one.part): one.effects for one in steps_to_target.collect(simulated)}
    within = effects["small-slow-but-better-in-use", "seconds"]
    assert np.std(within) > 0.3
    assert np.std(effects["larger-needs-more-epochs", ""]) < 1e-9


def test_rounds_of_timing_that_choose_do_not_judge(quadratic):
    study, base = quadratic.study, quadratic.study.base
    (times,) = (one for one in quadratic.step_times(study.sizes) if one.batch_size == base)

    assert study.log_seconds(base, "tuning") == [np.median(np.log(times.rounds[:5]))] * 2
    assert study.log_seconds(base) == [math.log(seconds) for seconds in times.rounds[5:]]


def test_a_seed_reaches_the_target_where_the_metric_hardly_rises_any_more():
    """Seeds end at levels of their own soon: the median of the pilots is out of half's reach."""

    def curve(training, examples):
        far = math.log2(training.configuration.base_learning_rate / 0.05)
        level = 0.5 + 0.02 * far**2 + np.random.default_rng(training.seed).normal(0, 0.05)
        return -1 + (1 - level) * (1 - np.exp(-np.asarray(examples) / 1000))

    found = Trained(curve, step=float).study.updates_to_target(32, "tuned")
    assert sum(run.reached for run in found) >= 8


def test_the_same_rate_is_the_same_for_all_sizes(quadratic):
    study = quadratic.study
    for budget in ("epochs", "target"):
        assert len({study.rate(size, "fixed", budget).value for size in study.sizes}) == 1


def test_a_best_rate_at_the_edge_forbids_every_decision():
    """The higher the rate the better, without end."""

    def curve(training, examples):
        rate = training.configuration.base_learning_rate
        noise = noise_of(training.seed, rate).normal(0, 1e-3)
        reached = 1 - np.exp(-np.asarray(examples) / 2000)
        return -1 + reached * (0.5 + 0.05 * math.log2(rate)) + noise

    class Endless(Trained):
        def measure(self, function, *arguments, **options):
            if function is gradient_noise.gradient_noise_during:
                return WithGradients.measure(self, function, *arguments, **options)
            if function is accumulated_batches.train_both_ways:
                return (0.1, 0.1 + 1e-6 * (options["seed"] % 7))
            return super().measure(function, *arguments, **options)

    endless = Endless(curve, step=lambda size: 1e-3 * (64 + size))
    for card in (steps_to_target, same_budget, tradeoff, early_probe, gradient_noise):
        for part, verdict in judged(card, endless).items():
            if part[0] != "equal-epochs-equal-work":  # has no rate
                assert not verdict.decided, part
    assert not judged(accumulated_batches, endless)["accumulation-equals-large-batch", ""].decided


def test_the_fall_over_all_sizes_is_that_of_a_line():
    table = {size: [3.0 - 0.5 * math.log2(size)] for size in (2, 8, 32)}

    assert falls(table) == (pytest.approx(2.0),)


def run_of(scores, *, diverged=False):
    training = Training(Configuration(batch_size=1, base_learning_rate=1.0), 40, 1)
    return Run(training, (0.0, 10.0, 20.0, 30.0, 40.0), scores, diverged)


def test_a_run_is_read_between_two_evaluations_and_a_diverged_one_is_worth_nothing():
    whole = run_of((-2.0, -1.0, -0.5, -0.25, -0.2))
    assert whole.score_at(15) == pytest.approx(-0.75)

    ended = Run(whole.training, (0.0, 10.0), (-2.0, -1.0), diverged=True)
    assert ended.score_at(10) == -1.0
    assert ended.score_at(40) == -2.0
    assert run_of((-2.0, -1.0, math.nan, -1.0, -1.0)).score_at(40) == -2.0


def test_oscillation_is_around_the_line():
    zigzag = run_of((0.0, 1.0, 0.0, 1.0, 0.0))
    straight = run_of((0.0, 1.0, 2.0, 3.0, 4.0))

    assert zigzag.oscillation(0, 40) == pytest.approx(math.sqrt(1.2 / 3))
    assert straight.oscillation(0, 40) == pytest.approx(0.0, abs=1e-12)
    assert zigzag.oscillation(20, 40) is None
    constant = run_of((-1.0, *(-0.3 + 1e-8 * (-1) ** n for n in range(4))))
    assert constant.oscillation(10, 40) == 0.0  # the metric is a number of 32 bits


class WithGradients(SimulatedCourt):
    """Gradients of a linear regression's examples, drawn without replacement by numpy."""

    def measure(self, function, configuration, sizes, *, seed, examples):
        assert function is gradient_noise.gradient_noise_during
        generator = np.random.default_rng(seed)
        inputs = generator.normal(size=(self.workload.num_examples, 8))
        residuals = inputs @ np.full(8, 0.3) + generator.normal(size=len(inputs))
        each = inputs * residuals[:, None]
        full = each.mean(0)
        distances, alignments = [], []
        for size in sizes:
            draws = [each[generator.permutation(len(each))[:size]].mean(0) for _ in range(16)]
            distances.append(float(np.mean([((d - full) ** 2).sum() for d in draws])))
            cosines = [d @ full / np.linalg.norm(d) / np.linalg.norm(full) for d in draws]
            alignments.append(float(np.mean(cosines)))
        state = gradient_noise.GradientNoise(
            tuple(sizes), tuple(distances), tuple(alignments), float(full @ full)
        )
        return (state,) * len(gradient_noise.SHARES)


def test_the_gradient_noise_of_a_linear_regression():
    simulated = WithGradients(NoisyQuadratic())
    found = judged(gradient_noise, simulated)

    # d = 8, delta = 0.3 in each: tr(S) = (8 0.09 + 1) 8 + 8 0.09, |G|^2 = 0.72: about 20 examples.
    assert found["larger-is-more-accurate-direction", "direction"].word == "HOLDS"
    assert found["larger-is-closer-to-true-gradient", ""].estimate == pytest.approx(1.0, abs=0.1)
    assert found["sample-noise-always-sufficient", ""].estimate == pytest.approx(
        math.log((1.72 * 8 + 0.72) / 0.72 / 32), abs=0.2
    )
    assert found["sample-noise-always-sufficient", ""].word == "DOES NOT HOLD"
    assert found["too-large-loses-randomness", "noise"].word == "HOLDS"


class WithHeavyTails(SimulatedCourt):
    """One example in fifty carries the gradient."""

    scales = (0.0,) * 4

    def measure(self, function, configuration, sizes, *, seed, examples):
        generator = np.random.default_rng(seed)
        count = self.workload.num_examples
        large = np.where(generator.random(count) < 0.02, 1.0, 0.01)
        each = generator.normal(size=(count, 20)) * large[:, None] + 0.02
        full, found = each.mean(0), []
        for size in sizes:
            order = np.concatenate([generator.permutation(count) for _ in range(9 * size)])
            draws = gradient_noise.draws_of(size, count)
            means = each[order[: draws * size].reshape(draws, size)].mean(1)
            found.append(float(((means - full) ** 2).sum(1).mean()))
        alike = (0.5,) * len(sizes)
        return tuple(
            gradient_noise.GradientNoise(
                tuple(sizes), tuple(found), alike, float(full @ full) * math.exp(-scale)
            )
            for scale in self.scales
        )


def test_the_slope_is_found_where_few_examples_carry_the_gradient():
    """With eight draws of each size the slope was -0.43, and a theorem did not hold."""
    found = judged(gradient_noise, WithHeavyTails(NoisyQuadratic()))

    assert found["larger-is-more-accurate-direction", "direction"].word == "HOLDS"
    assert found["larger-is-closer-to-true-gradient", ""].estimate == pytest.approx(1.0, abs=0.1)
    assert [gradient_noise.draws_of(size, 1000) for size in (2, 8, 500)] == [256, 125, 8]


@pytest.mark.parametrize(
    ("scales", "word"),
    [
        ((5.0, 5.0, 5.0, 5.0), "HOLDS"),
        ((5.0, 5.0, -5.0, 5.0), "DOES NOT HOLD"),
        ((-5.0, 5.0, 5.0, 5.0), "DOES NOT HOLD"),
    ],
)
def test_noise_is_always_sufficient_only_if_it_is_at_every_state(scales, word):
    simulated = WithHeavyTails(NoisyQuadratic())
    simulated.scales = scales

    assert judged(gradient_noise, simulated)["sample-noise-always-sufficient", ""].word == word


def test_accumulation_that_equals_and_one_that_does_not():
    class Accumulating(SimulatedCourt):
        shift = 0.0

        def measure(self, function, configuration, *, seed, **options):
            assert function is accumulated_batches.train_both_ways
            return 0.1 + self.shift, 0.1 + 1e-6 * (seed % 7)

    class Normalizing(Accumulating):
        shift = 0.05

    claim = ("accumulation-equals-large-batch", "")
    assert judged(accumulated_batches, Accumulating(NoisyQuadratic()))[claim].word == "HOLDS"
    assert judged(accumulated_batches, Normalizing(NoisyQuadratic()))[claim].label == "differs"


def test_a_probe_that_tells_the_end_and_one_that_does_not():
    def court_of(sign):
        """What the candidates are worth at the end, times a sign in the first half."""

        def curve(training, examples):
            size, rate = (
                training.configuration.batch_size,
                training.configuration.base_learning_rate,
            )
            worth = -0.05 * math.log2(rate / 0.05 * 32 / size) ** 2 - 0.05 * math.log2(size)
            x = np.asarray(examples) / 20_000
            noise = np.random.default_rng(training.seed).normal(0, 1e-4)
            return np.where(x < 0.5, sign, 1) * worth + noise

        return SimulatedCourt(curve, step=float, smallest_margin=1e-4)

    good, bad = judged(early_probe, court_of(1)), judged(early_probe, court_of(-1))

    assert good["probe-with-a-part", "ranking"].word == "HOLDS"
    assert bad["probe-with-a-part", "ranking"].label == "reversed"
    assert bad["probe-with-a-part", "regret"].word == "DOES NOT HOLD"


def test_normalization_is_judged_by_differences_of_differences():
    def normalized(training, examples):
        """Batch normalization fails at a batch of 2; without any, a large batch is worse."""
        kind = training.configuration.model.get("normalization", "none")
        size = training.configuration.batch_size
        loss = 0.1 + 0.2 * (kind == "batch" and size == 2) + 0.2 * (kind == "none" and size == 512)
        far = math.log2(training.configuration.base_learning_rate / 0.05)
        noise = np.random.default_rng(training.seed).normal(0, 0.01)
        return np.full(len(examples), -loss - 0.01 * far**2 - noise)

    known = ("none", "batch", "group")
    found = judged(normalization, SimulatedCourt(normalized, step=float, normalizations=known))
    absent = judged(normalization, SimulatedCourt(normalized, step=float))

    assert found["normalization-needs-large", ""].word == "HOLDS"
    assert found["normalization-repairs-few-updates", ""].word == "HOLDS"
    assert absent["normalization-needs-large", ""].word == "NOT TESTABLE HERE"


def flat(effect):
    """The best rate follows the linear rule; the large size alone loses an effect.

    Every training has noise of its own beside that of its seed, with deviations of 0.01 each.
    """

    def curve(training, examples):
        configuration = training.configuration
        size, rate = configuration.batch_size, configuration.base_learning_rate
        own = noise_of(training.seed, size, rate).normal(0, 0.01)
        shared = np.random.default_rng(training.seed).normal(0, 0.01)
        far = math.log2(rate / 0.05 * 32 / size)
        loss = 0.1 + 0.05 * far**2 + effect * (size == 512) + own + shared
        reached = 1 - np.exp(-np.asarray(examples) / 2000)
        return -1.0 + reached * (1.0 - loss)

    return curve


def words_of(effect, runs):
    """How often each part of X4 gets each word, over courts with other seeds."""
    counts = collections.Counter()
    for seed in range(runs):
        simulated = Trained(flat(effect), step=lambda size: 1e-3 * (64 + size), seed=seed)
        for part, verdict in judged(same_budget, simulated).items():
            counts[(*part, verdict.word)] += 1
    return counts


@pytest.mark.slow
def test_error_rates_of_a_whole_card():
    """From the search of rates to the word: 200 courts without an effect, 100 with two margins.

    A share of 2.5 % has a standard error of 1.1 points in 200; more courts than these take minutes,
    and `tests/test_claims_choices.py` has the rules' own rates.
    """
    null, large = words_of(0.0, 200), words_of(0.028, 100)

    worse = ("same-epochs-large-is-worse", "tuned")
    equal = ("large-can-match-small", "")
    assert null[(*worse, "HOLDS")] <= 200 * (0.025 + 2 * 0.011)
    assert null[(*equal, "DOES NOT HOLD")] <= 200 * (0.05 + 4 * 0.015)
    assert null["some-size-best-in-metric", "epochs", "HOLDS"] <= 200 * (0.025 + 2 * 0.011)
    assert null["size-changes-speed-and-metric", "metric", "HOLDS"] <= 200 * (0.025 + 2 * 0.011)
    assert large[(*worse, "HOLDS")] >= 80
    assert large[(*equal, "HOLDS")] <= 100 * (0.025 + 4 * 0.016)
