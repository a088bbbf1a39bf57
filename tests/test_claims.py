"""The court: contracts of claims and cards, and cards on step times whose truth is known."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.court_fixtures import SimulatedCourt
from tfbatch import claims as court
from tfbatch.claims import __main__ as command
from tfbatch.claims import _page, _request, alignment, rate_exponent, throughput
from tfbatch.claims._claim import Claim, Criterion, Evidence
from tfbatch.claims._pairs import restless
from tfbatch.claims._preset import PRESETS
from tfbatch.claims._request import chosen_claims
from tfbatch.claims._verdicts import Verdicts
from tfbatch.errors import InputError
from tfbatch.estimators.verdict import FULL
from tfbatch.training.step_times import StepTime

NUMBERS = [f"C{n}" for n in range(1, 62)]


def test_every_claim_of_the_founding_document_is_listed_once():
    listed = [claim.number for claim in court.claims()]

    assert listed[:61] == NUMBERS
    assert len(set(listed)) == len(listed)
    assert len({claim.name for claim in court.claims()}) == len(listed)


def test_every_claim_is_one_sentence_with_a_readable_name_and_a_statistic():
    bad = [
        claim.number
        for claim in court.claims()
        if not claim.statement.endswith(".")
        or not claim.parts
        or not claim.name.replace("-", "").isalnum()
        or len({part.name for part in claim.parts}) < len(claim.parts)
        or not all(part.statistic for part in claim.parts)
    ]
    assert bad == []


def test_a_statistic_says_where_its_card_measures_less_than_the_claim_says():
    assert "(memory is not measured)" in court.find_claim("C12").statistic()
    assert "rate: octaves of the best rate, B0 over a quarter of it" in (
        court.find_claim("C35").statistic()
    )
    assert rate_exponent._sizes(SimulatedCourt())[0] == 8


def test_the_list_names_every_claim_and_card():
    text = command.listing()

    assert all(claim.name in text for claim in court.claims())
    assert all(f"\n  {card.CARD} " in text for card in court.cards())
    assert f"{len(court.claims())} claims" in text


def test_every_claim_has_its_cards_and_every_question_and_contradiction_its_claims():
    """Nothing in the list is not tried yet, and no row of the page names what there is not."""
    untried = [claim.number for claim in court.claims() if not court.can_be_tried(claim)]
    rows = [names for _, names in _page._QUESTIONS]
    rows += [names for one, other, _ in _page._CONTRADICTIONS for names in (one, other)]

    assert untried == []
    assert all(rows)
    for names in rows:
        assert [court.find_claim(name).name for name in names] == list(names)


def test_listing_the_claims_imports_no_tensorflow():
    program = "import sys; from tfbatch.claims.__main__ import listing; listing(); "
    program += "sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize("card", court.cards(), ids=lambda card: card.CARD)
def test_a_card_is_needed_by_a_claim_and_says_what_it_does(card):
    assert card.TITLE
    assert any(card.CARD in claim.cards for claim in court.claims())


def test_presets_change_sizes_and_every_verdict_rests_on_ten_seeds():
    assert set(PRESETS) == {"tiny", "small", "full"}
    assert all(preset.seeds >= FULL and preset.rounds >= FULL for preset in PRESETS.values())
    assert all(1.0 in preset.factors for preset in PRESETS.values())


def test_unknown_names_are_refused_with_the_closest_one():
    with pytest.raises(InputError, match="Did you mean `bigger-is-faster`"):
        court.find_claim("biger-is-faster")
    with pytest.raises(InputError, match="Unknown card `X99`"):
        court.find_card("X99")


def test_a_claim_whose_card_does_not_exist_yet_is_refused(monkeypatch):
    claim = Claim("C99", "untried", "It is.", (Criterion("X98", "effect"),))
    monkeypatch.setattr(_request, "find_claim", lambda name: claim)
    with pytest.raises(InputError, match="`untried` cannot be tried yet: it needs X98"):
        chosen_claims(["C99"], [])


def test_a_claim_is_chosen_by_name_by_number_and_by_card():
    assert [c.number for c in chosen_claims(["bigger-is-faster"], [])] == ["C13"]
    assert [c.number for c in chosen_claims(["C12"], [])] == ["C12"]
    assert "C29" in [c.number for c in chosen_claims([], ["X2"])]
    assert all(court.can_be_tried(claim) for claim in chosen_claims([], []))


def judged(card, simulated):
    """The word on every part that a card tells something of, by claim and part."""
    parts = {(c.name, part.name): part for c in court.claims() for part in c.parts}
    found = {}
    for one in card.collect(simulated):
        assert parts[one.claim, one.part].card == card.CARD
        found[one.claim, one.part] = one.verdict(parts[one.claim, one.part].kind)
    return found


class Timed(SimulatedCourt):
    """A court that also knows what feeding from misaligned buffers costs."""

    def __init__(self, *, penalty, misaligned=1.0, **options):
        def step(size):
            return (1.0 + 0.02 * size) * penalty(size)

        super().__init__(step=step, **options)
        self.misaligned = misaligned

    def measure(self, function, *, rounds):
        assert function is alignment.time_addresses
        noise = np.random.default_rng(self._seed).normal(0, 0.002, (rounds, 2))
        return tuple((math.exp(a), self.misaligned * math.exp(b)) for a, b in noise)


def test_without_an_alignment_penalty_no_size_is_preferred():
    found = judged(alignment, Timed(penalty=lambda size: 1.0))

    assert found["powers-of-two-beat-tens", ""].word == "DOES NOT HOLD"
    assert found["multiples-of-8", ""].word == "DOES NOT HOLD"
    assert found["cpu-dislikes-powers-of-two", ""].word == "DOES NOT HOLD"
    assert found["no-need-for-powers-of-two", ""].word == "HOLDS"
    assert found["choose-casually", "speed"].word == "HOLDS"
    assert found["address-alignment-matters", ""].word == "DOES NOT HOLD"
    assert found["gpu-wants-multiples-of-32", ""].word == "NOT TESTABLE HERE"


def test_an_alignment_penalty_is_found():
    found = judged(alignment, Timed(penalty=lambda size: 1.1 if size % 8 else 1.0, misaligned=1.1))

    assert found["powers-of-two-beat-tens", ""].word == "HOLDS"
    assert found["multiples-of-8", ""].word == "HOLDS"
    assert found["cpu-dislikes-powers-of-two", ""].label == "reversed"
    assert found["no-need-for-powers-of-two", ""].word == "DOES NOT HOLD"
    assert found["address-alignment-matters", ""].word == "HOLDS"


def test_a_synthetic_timer_without_a_penalty_is_seldom_called_aligned():
    words = []
    for seed in range(200):
        times = Timed(penalty=lambda size: 1.0, seed=seed, timing_noise=0.03).step_times(
            alignment.SIZES
        )
        effects = alignment.contrast(
            [one.batch_size for one in times],
            [one.rounds for one in times],
            alignment.POWERS,
            alignment.TENS,
        )
        evidence = Evidence("", effects, 1e-6, "", "step time", "no", "")
        words.append(evidence.verdict("difference").word)
    # Half of 5 %, and four standard errors of 1.1 points.
    assert words.count("HOLDS") <= 200 * (0.025 + 4 * 0.011)


def times_with(deviation):
    """Of all sizes of X1 and X2, with this deviation of the log of a larger one's rounds."""
    sizes = sorted({*alignment.SIZES, 512})
    noise = np.random.default_rng(1).normal(size=(len(sizes), 15))
    rounds = [
        np.exp((0.01 if size <= 32 else deviation) * row) * (1.0 + 0.02 * size)
        for size, row in zip(sizes, noise, strict=True)
    ]
    return {
        size: StepTime(size, float(np.median(row)), tuple(map(float, row)))
        for size, row in zip(sizes, rounds, strict=True)
    }


def test_rounds_that_differ_by_more_than_the_margin_decide_nothing():
    for deviation, doubted in ((0.01, False), (0.2, True)):
        times = times_with(deviation)
        found = [
            throughput._evidence("bigger-is-faster", "", times[64], times[32]),
            alignment._evidence(
                [times[size] for size in alignment.SIZES],
                "powers-of-two-beat-tens",
                alignment.POWERS,
                alignment.TENS,
            ),
        ]
        assert [bool(one.doubts) for one in found] == [doubted] * 2
    for one, margin in zip(found, ("5%", "2%"), strict=True):
        verdict = one.verdict("difference")
        assert verdict.word == "INCONCLUSIVE"
        assert re.fullmatch(
            rf"rounds of timing differ by \d+\.\d%, more than the margin of {margin}: time them on "
            r"an idle machine, in another --run_dir \(this one keeps its times\)",
            verdict.reason,
        )


def test_rounds_of_addresses_that_differ_by_more_than_the_margin_decide_nothing():
    class Restless(Timed):
        def measure(self, function, *, rounds):
            pairs = super().measure(function, rounds=rounds)
            return tuple((on, off * (0.9, 1.0, 1.1)[k % 3]) for k, (on, off) in enumerate(pairs))

    found = judged(alignment, Restless(penalty=lambda size: 1.0))
    assert "rounds of timing differ by" in found["address-alignment-matters", ""].reason
    assert found["multiples-of-8", ""].word == "DOES NOT HOLD"


def test_a_few_disturbed_rounds_are_not_what_rounds_differ_by():
    assert restless([0.5, 0.01, 0.0, -0.01, 0.02, -0.6], math.log(1.05)) == ()
    assert restless((), math.log(1.05)) == ()


def test_rounds_that_differ_decide_on_an_effect_that_is_far_larger():
    apart = [-0.1, 0.0, 0.1] * 5
    for effect, doubted in ((0.3, True), (0.4, False), (-0.4, False), (-0.3, True)):
        assert bool(restless([effect + one for one in apart], math.log(1.05))) == doubted


def test_throughput_that_grows_and_throughput_that_does_not():
    growing = judged(throughput, Timed(penalty=lambda size: 1.0))
    flat = SimulatedCourt(step=lambda size: 0.001 * size)
    proportional = judged(throughput, flat)

    assert growing["bigger-is-faster", ""].word == "HOLDS"
    assert growing["bigger-is-faster", ""].estimate == pytest.approx(
        math.log(4 * (1 + 0.02 * 32) / (1 + 0.02 * 128)), abs=0.02
    )
    assert proportional["bigger-is-faster", ""].word == "DOES NOT HOLD"
    assert proportional["as-large-as-possible", "throughput"].word == "DOES NOT HOLD"


def test_one_case_that_fails_is_enough_against_a_claim_about_every_case():
    """No seed has chosen anything there: a contest of sizes would stay open."""
    cases = {"effects": (1.0, 1.1, 0.9) * 4, "rivals": ((-1.0, -1.1, -0.9) * 4,), "margin": 0.0}
    told = {"unit": "", "axis": "one gradient", "policy": "tuned", "finding": ""}

    found = Evidence("", **cases, **told, every=True)
    verdict = found.verdict("threshold")
    assert (verdict.word, verdict.estimate) == ("DOES NOT HOLD", pytest.approx(-1.0))
    assert found.shown_by(verdict) == cases["rivals"][0]
    assert Evidence("", **cases, **told).verdict("threshold").word == "INCONCLUSIVE"


CLAIM = Claim("T1", "test-claim", "It is so.", (Criterion("X1", "an effect"),))


def verdicts_of(*evidence, claims=(CLAIM,), missing=()):
    return Verdicts(
        run_dir=Path("run"),
        claims=claims,
        evidence=evidence,
        missing=missing,
        preset="tiny",
        seed=1,
        subject="a model on data",
        fingerprint={},
    )


def test_verdicts_are_written_as_json_and_as_a_table():
    effects = tuple(1.0 + 0.1 * k for k in range(10))
    found = verdicts_of(
        Evidence("test-claim", effects, 1.0, "points", "epochs", "tuned", "it was so")
    )

    (claim,) = json.loads(found.to_json())["claims"]
    assert claim["verdict"] == "HOLDS"
    assert claim["parts"][0]["evidence"]["effects"] == list(effects)
    assert claim["holm_p"] < 0.025
    assert found["T1"].verdict.estimate == pytest.approx(1.45)
    assert found.table().row_count == 1


def test_what_was_not_tried_says_why_and_what_is_open_says_what_it_takes():
    missing = verdicts_of(missing=(("X1", "the session ended before it"),))
    assert missing["T1"].verdict.word == "NOT TRIED YET"
    assert "the session ended before it" in missing.summary()

    effects = tuple(1.0 * (-1) ** k + 0.3 for k in range(10))
    open_one = verdicts_of(Evidence("test-claim", effects, 0.5, "points", "epochs", "tuned", ""))
    assert open_one["T1"].verdict.word == "INCONCLUSIVE"
    assert "would have been seen" in open_one.summary()
    assert "pairs" in open_one.summary()
