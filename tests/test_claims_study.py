"""The study's search for rates, and what it cannot test: trainings by closed forms."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from tests import court_fixtures
from tests.court_fixtures import (
    NoisyQuadratic,
    SimulatedCourt,
    hashable,
    judged,
    make_workload,
    noise_of,
)
from tfbatch.claims import (
    accumulated_batches,
    cards,
    early_probe,
    extremes,
    rate_exponent,
    same_budget,
    steps_to_target,
    throughput,
)
from tfbatch.claims._batch_size_study import BatchSizeStudy, too_slow
from tfbatch.claims._changed_data import DataChange
from tfbatch.errors import InputError
from tfbatch.schema import Named

BASE = make_workload().baseline


class FarRates(SimulatedCourt):
    """At a batch of 2 the best rate is so many octaves above the rule's, at all others at it."""

    def __init__(self, octaves, *, reach=1.0, **options):
        def curve(training, examples):
            size, rate = hashable(training.configuration)
            best = octaves if size <= 2 else 0
            far = math.log2(rate / (0.05 * size / 32)) - best
            speed = (reach if size <= 2 else 1.0) / (1 + 0.6 * far**2)
            loss = np.exp(-4 * speed * np.asarray(examples) / 20_000)
            return -loss + noise_of(training.seed).normal(0, 0.002)

        super().__init__(curve, step=lambda size: 1e-3 * (64 + size), **options)


@pytest.mark.parametrize("octaves", [-4, 0, 4])
def test_a_best_rate_beyond_the_first_octaves_is_found_where_none_of_them_reaches_the_target(
    octaves,
):
    simulated = FarRates(octaves)
    rate = simulated.study.rate(2, "tuned", "target")

    assert math.log2(rate.value / (0.05 * 2 / 32)) == pytest.approx(octaves, abs=0.01)
    assert (rate.doubts, rate.falls_short) == ((), "")
    found = judged(steps_to_target, simulated)
    assert found["too-small-never-converges", ""].word == "DOES NOT HOLD"


@pytest.mark.parametrize(
    ("below", "above", "alike"), [(1.9, 2.1, (0.5,)), (1.9, 1.9, (0.5, 2.0)), (9.0, 9.0, ())]
)
def test_rates_within_two_standard_errors_of_the_best_one_are_not_told_from_it(below, above, alike):
    margin = SimulatedCourt(lambda training, x: np.full(len(x), -0.5)).study.margin

    def curve(training, examples):
        octave = round(math.log2(hashable(training.configuration)[1] / 0.05))
        worse = (below if octave < 0 else above) * abs(octave) * margin
        return np.linspace(-1.0, -0.3, len(examples)) - worse * np.linspace(0, 1, len(examples))

    study = SimulatedCourt(curve).study  # 2 tuning seeds: the error is the margin
    assert study.margin == margin
    assert study.rate(32, "tuned", "epochs").value == pytest.approx(0.05)
    assert study.alike(32, "epochs") == pytest.approx(tuple(0.05 * factor for factor in alike))


def test_a_rate_at_the_edge_forbids_what_is_said_of_success():
    found = judged(steps_to_target, FarRates(9))

    assert found["too-small-never-converges", ""].word == "INCONCLUSIVE"
    assert "highest that was tried" in found["too-small-never-converges", ""].reason


def test_a_size_that_falls_short_at_its_best_rate_never_converges():
    """Ten times slower at any rate: the search is closed, and that is the claim."""
    found = judged(steps_to_target, FarRates(0, reach=0.1))

    assert found["too-small-never-converges", ""].word == "HOLDS"
    assert "no rate reaches" in found["small-slow-but-better-in-use", "seconds"].reason


def test_where_every_rate_diverges_lower_ones_are_tried():
    def curve(training, examples):
        rate = training.configuration.base_learning_rate
        if rate > 0.05 / 2**4.5:
            return np.full(len(examples), -1.0)
        return -0.5 - 0.01 * math.log2(rate / (0.05 / 2**5)) ** 2 * np.ones(len(examples))

    rate = SimulatedCourt(curve).study.rate(32, "tuned", "epochs")
    assert rate.value == pytest.approx(0.05 / 2**5, rel=1e-3)
    dead = SimulatedCourt(lambda training, x: np.full(len(x), -1.0))
    assert "learns anything" in dead.study.rate(32, "tuned", "epochs").doubts[0]


def best_at(exponent):
    """The score is best at 0.05 (B / 32)^exponent, whatever the optimizer."""

    def curve(training, examples):
        size, rate = hashable(training.configuration)
        far = math.log2(rate / 0.05 / (size / 32) ** exponent)
        shift = noise_of(training.seed).normal(0, 0.05)
        return np.full(len(examples), -0.01 * (far - shift) ** 2)

    return curve


@pytest.mark.parametrize("compiled", [False, True])
def test_the_rate_of_the_small_is_told_with_any_optimizer(compiled):
    """C35 speaks of the user's training, M1 and M2 of SGD and of Adam."""
    simulated = SimulatedCourt(
        best_at(0.5),
        baseline=BASE.model_copy(update={"optimizer": Named(name="adamw")}),
        compiled=compiled,
    )
    found = judged(rate_exponent, simulated)

    assert found["small-slow-but-better-in-use", "rate"].word == "HOLDS"
    assert found["small-slow-but-better-in-use", "rate"].estimate == pytest.approx(1.0, abs=0.05)
    if compiled:
        assert "compiled with adamw" in found["linear-rule-holds", ""].reason


@pytest.mark.parametrize("base", [10, 50, 130])
def test_a_quarter_of_the_baseline_is_tried_also_where_it_is_rounded_down(base):
    rate = BASE.base_learning_rate * base / BASE.base_batch_size
    at_base = {"batch_size": base, "base_batch_size": base, "base_learning_rate": rate}
    found = judged(
        rate_exponent, SimulatedCourt(best_at(0.5), baseline=BASE.model_copy(update=at_base))
    )

    assert found["small-slow-but-better-in-use", "rate"].word == "HOLDS"


def test_one_size_has_no_exponent():
    at_one = BASE.model_copy(update={"batch_size": 1, "base_batch_size": 1})
    found = judged(rate_exponent, SimulatedCourt(best_at(1.0), baseline=at_one, num_examples=2))

    assert {verdict.word for verdict in found.values()} == {"NOT TESTABLE HERE"}
    assert "--baseline" in found["small-slow-but-better-in-use", "rate"].reason


class Counted(SimulatedCourt):
    """A court that measures what cards measure beside trainings; steps of over 2 s have no time."""

    def measure(self, function, *arguments, **options):
        if function is same_budget.operations_per_example:
            return tuple(1000.0 for _ in arguments[1])
        if function is accumulated_batches.train_both_ways:
            return 0.1, 0.1
        raise InputError(f"{function.__name__} is not simulated")

    def step_times(self, batch_sizes, change=None):
        return tuple(one for one in super().step_times(batch_sizes) if one.seconds <= 2)


def with_batch_size(size, *, num_examples=1024, step=lambda size: 1e-3 * (64 + size)):
    return Counted(
        NoisyQuadratic(),
        step=step,
        baseline=BASE.model_copy(
            update={
                "batch_size": size,
                "base_batch_size": size,
                "base_learning_rate": 0.05 * size / 32,
            }
        ),
        num_examples=num_examples,
        normalizations=("none", "batch", "group"),
    )


# X2 has sizes of its own, X14 networks and data too.
CARDS = [card for card in cards() if card.CARD not in ("X2", "X14")]


@pytest.mark.parametrize(("size", "num_examples"), [(512, 1024), (1, 1024), (4, 8), (1, 2)])
def test_a_size_is_never_compared_with_itself(size, num_examples):
    simulated = with_batch_size(size, num_examples=num_examples)
    found = [one for card in CARDS for one in card.collect(simulated)]

    for one in found:
        flat = one.effects and not any(one.effects) and not one.doubts
        # Nothing differs where all runs reach the target, and by what is simulated alike.
        alike = ("accumulation-", "normalization-", "large-early")
        expected = one.unit == "share" or one.claim.startswith(alike)
        assert not flat or expected, one
        still = not one.effects and "does not oscillate at all" in " ".join(one.doubts)
        assert one.untestable or still or len(one.effects) in (1, 10, 15), one
        if one.untestable:
            assert len(one.untestable) > 20
    untestable = {(one.claim, one.part): one.untestable for one in found if one.untestable}
    if size == 512:
        assert "--baseline=batch_size=32" in untestable["same-epochs-large-is-worse", "fixed"]
        assert ("too-small-never-converges", "") not in untestable
    if size == 1:
        assert "give a larger one" in untestable["too-small-never-converges", ""]
        assert "give a larger one" in untestable["one-example-hardly-converges", ""]
    if num_examples == 8:
        assert "none is between" in untestable["some-size-best-in-metric", "epochs"]
        assert "none is between" in untestable["some-size-best-in-time", ""]


@pytest.mark.parametrize(("evaluations", "decided"), [(2, False), (4, False), (12, True)])
def test_where_no_training_can_show_that_it_keeps_the_target_no_success_is_judged(
    evaluations, decided, monkeypatch
):
    """0 of 10 against 0 of 10 runs was called negligible."""
    monkeypatch.setattr(court_fixtures, "EVALUATIONS", evaluations)
    simulated = FarRates(0)
    of_small = judged(steps_to_target, simulated)["too-small-never-converges", ""]
    of_one = extremes._one_example(simulated).verdict("difference")

    for verdict in (of_small, of_one):
        assert verdict.decided == decided
        assert decided or "give a longer --trial_length" in verdict.reason


def test_pilot_runs_that_diverged_set_no_target_and_many_of_them_forbid_what_reads_it():
    def court(count):
        simulated = FarRates(0)
        pilots = list(simulated.study._pilot)
        for number in range(count):
            lost = (math.nan,) * (len(pilots[number].scores) - 1)
            pilots[number] = dataclasses.replace(
                pilots[number], diverged=True, scores=(-1.0, *lost)
            )
        simulated.study.__dict__["_pilot"] = pilots
        return simulated.study

    one, two = court(1), court(2)
    assert one.target > -0.5
    assert one.doubts("tuned", "target", (32,)) == ()
    assert "3 of 5 pilot runs" in two.doubts("tuned", "target", (32,))[0]


def test_the_full_batch_trains_no_longer_than_the_largest_one():
    study = with_batch_size(32, num_examples=45_000).study
    assert study.length(45_000) == study.length(study.large)


def test_a_size_that_cannot_be_timed_costs_only_what_needs_its_time():
    whole = with_batch_size(32, step=lambda size: 0.003 * size)
    slow = with_batch_size(32, step=lambda size: 0.01 * size)  # 512 takes 5 s
    words = {card.CARD: judged(card, slow) for card in CARDS}

    for card in CARDS:
        assert words[card.CARD].keys() == judged(card, whole).keys()
    late = (too_slow(512), too_slow(1024))  # the largest one, and the full batch
    lost = {
        part
        for found in words.values()
        for part in found
        if any(reason in found[part].reason for reason in late)
    }
    assert lost == {
        *((name, part) for name in LARGEST for part in ("throughput", "time to target")),
        ("some-size-best-in-time", ""),
        ("bigger-is-better-at-the-same-rate", "seconds"),
        ("tens-to-hundreds", ""),
        ("weigh-and-choose", ""),
        ("full-batch-unsuited", ""),
        ("20-to-64-by-input-size", "best size"),
    }
    assert words["X3"]["larger-needs-more-epochs", ""].decided


LARGEST = ("as-large-as-possible", "fill-the-memory", "feed-the-hardware")


def test_where_nothing_can_be_timed_every_verdict_on_time_says_so():
    found = judged(throughput, with_batch_size(32, step=lambda size: 3.0))

    assert {verdict.word for verdict in found.values()} == {"NOT TESTABLE HERE"}
    assert all("faster" in verdict.reason for verdict in found.values())
    assert ("best-size-times-devices", "knee") in found


@pytest.fixture
def eight_evaluations(monkeypatch):
    """Trainings of 8,000 examples, at the baseline evaluated after each 1,000."""
    monkeypatch.setattr(court_fixtures, "EVALUATIONS", 8)
    return {"examples": 8000, "smallest_margin": 1e-3}


def steep_in_updates(training, examples):
    """The same fall of the loss with every update at every size, most of it at once."""
    size, rate = hashable(training.configuration)
    far = math.log2(rate / (0.05 * size / 32))
    updates = np.asarray(examples) / size
    own = noise_of(training.seed, size).normal(0, 0.001)
    return -np.exp(-0.1 * updates / (1 + 0.3 * far**2)) + own


def test_a_size_that_is_not_evaluated_after_the_same_updates_is_left_out(eight_evaluations):
    """Read on the line from the untrained model it is too bad, and the claim was "reversed"."""
    study = SimulatedCourt(steep_in_updates, **eight_evaluations).study
    found = list(same_budget._over_all_sizes(study, "updates", "updates"))

    assert [study.first_evaluation(size) for size in study.sizes] == [1000, 1000, 1024, 1024, 1024]
    assert study.examples_of(2, "updates") < 1000
    assert study.read_at("updates") == (32, 128, 512)
    assert study.read_at("epochs") == study.sizes == (2, 8, 32, 128, 512)
    claims = [one.claim for one in found]
    assert claims == ["some-size-best-in-metric", "smaller-generalizes-better"]
    for one in found:
        assert "not evaluated so early: 2, 8" in one.finding
        assert one.verdict("difference").label != "reversed"


def test_a_single_size_that_is_read_before_its_first_evaluation_is_doubted(eight_evaluations):
    study = SimulatedCourt(steep_in_updates, **eight_evaluations).study

    (doubt,) = study.doubts("tuned", "updates", (8, 128))
    assert "batch size 8 is read after 500 examples, and first evaluated after 1000" in doubt
    assert study.doubts("tuned", "epochs", study.sizes) == ()
    compared = same_budget._metric(study, "1000-is-worse-than-100", 8, 128, budget="updates")
    assert compared.verdict("difference").word == "INCONCLUSIVE"


def test_trainings_on_a_share_of_the_data_are_first_evaluated_as_much_earlier():
    short = SimulatedCourt(steep_in_updates, examples=4096)  # every 512 examples
    quarter = BatchSizeStudy(short, change=DataChange(share=0.25))

    assert [quarter.first_evaluation(size) for size in (2, 128, 200)] == [128, 128, 200]
    assert SimulatedCourt(steep_in_updates).study.first_evaluation(300) == 1200  # a pass of 1,024


def test_candidates_are_judged_early_where_all_of_them_are_evaluated(eight_evaluations):
    simulated = SimulatedCourt(steep_in_updates, **eight_evaluations)
    ranking, _ = early_probe.collect(simulated)

    assert early_probe.share_of(simulated) == pytest.approx(0.128)
    assert "after 13% of the epochs" in ranking.finding
    late = SimulatedCourt(steep_in_updates, examples=1000)
    for one in early_probe.collect(late):
        assert "batch size 512 is first evaluated after 51%" in one.untestable


def test_where_no_two_pilot_runs_differ_there_is_a_margin_and_nothing_is_decided():
    """Such as a recall that stays 0: a margin of 0 ended the session."""
    simulated = SimulatedCourt(
        lambda training, x: 0 * np.asarray(x), untrained=0.0, smallest_margin=0.0
    )
    simulated._asked = same_budget._OF_METRICS
    found = judged(same_budget, simulated)

    assert simulated.study.margin > 0
    assert "no two pilot runs" in simulated.study.doubts("tuned", "epochs", (32,))[-1]
    assert {verdict.decided for verdict in found.values()} == {False}


def test_a_metric_that_does_not_change_has_no_oscillation_to_be_compared():
    """Its rounding was taken for one, and e^31 times as large at the other size."""

    def curve(training, examples):
        zigzag = 0.1 * (-1.0) ** np.arange(len(examples))
        constant = 1e-7 * zigzag  # what is left of 32 bits
        return -0.3 + (zigzag if training.configuration.batch_size == 32 else constant)

    simulated = SimulatedCourt(curve)
    found = same_budget._oscillation(simulated, "larger-is-more-accurate-direction", 32, 512)

    assert found.effects == ()
    reason = found.verdict("difference").reason
    assert "in 10 of 10 pairs the metric of one does not oscillate at all" in reason
