"""A session of the court: what has ended is kept, what fails costs its own claims."""

from __future__ import annotations

import dataclasses
import json
import re
import types

import pytest

from tests.court_fixtures import SimulatedCourt
from tfbatch import claims as court
from tfbatch.claims import __main__ as command
from tfbatch.claims._claim import Claim, Criterion, Evidence
from tfbatch.claims._page import verdict_page
from tfbatch.claims._request import make_court_request
from tfbatch.claims._session import Session
from tfbatch.errors import InputError
from tfbatch.search.progress import Progress

NEW_CARD = '''"""T1: a card of a newcomer."""

from tfbatch.claims._claim import Claim, Criterion, Evidence

CARD = "T1"
TITLE = "a card of a newcomer"
ORDER = 1.0
CLAIMS = (
    Claim("N1", "newcomers-claim", "It is so.", (Criterion("T1", "an effect"),)),
)


def collect(court):
    effects = tuple(1.0 + 0.01 * k for k in range(court.preset.seeds))
    yield Evidence("newcomers-claim", effects, 0.5, "points", "epochs", "tuned", "it was so")
'''


class Card:
    """A card that counts how often it was asked, and fails if told to."""

    TITLE, ORDER, __name__ = "a test", 1.0, "tests.card"

    def __init__(self, name, claims, *, fails=False):
        self.CARD, self.CLAIMS, self.fails = name, claims, fails
        self.collected = 0

    def collect(self, simulated):
        self.collected += 1
        for claim in self.CLAIMS:
            if self.fails:
                raise ValueError("a bug")
            if simulated.asks(claim.name):
                effects = tuple(2.0 + 0.1 * k for k in range(10))
                yield Evidence(claim.name, effects, 1.0, "points", "epochs", "tuned", "so")


def claim_of(name, card):
    return Claim(name.upper(), name, "It is so.", (Criterion(card, "an effect"),))


ONE, OTHER = claim_of("one", "A"), claim_of("other", "A")
FAILING = claim_of("failing", "B")


def hold(folder, cards, claims, *, stops=False):
    request = types.SimpleNamespace(
        claims=claims,
        cards=cards,
        preset=types.SimpleNamespace(name="tiny"),
        seed=1,
        subject=types.SimpleNamespace(model="model", data=types.SimpleNamespace(name="data")),
    )
    simulated = SimulatedCourt()
    simulated._asked = {claim.name for claim in claims}
    seen = []
    session = Session(request, simulated, folder, Progress(None), lambda: stops, seen.append)
    return session.run(), seen


def test_a_card_that_has_ended_is_not_run_again_and_another_claim_adds_to_it(tmp_path):
    card = Card("A", (ONE, OTHER))

    first, _ = hold(tmp_path, [card], (ONE,))
    hold(tmp_path, [card], (ONE,))
    assert card.collected == 1
    assert first["one"].verdict.word == "HOLDS"

    both, _ = hold(tmp_path, [card], (ONE, OTHER))
    assert card.collected == 2
    assert both.count("HOLDS") == 2
    hold(tmp_path, [card], (OTHER,))
    assert hold(tmp_path, [card], (ONE, OTHER))[0].count("HOLDS") == 2
    assert card.collected == 2


def test_a_card_that_fails_costs_its_own_claims(tmp_path):
    cards = [Card("A", (ONE,)), Card("B", (FAILING,), fails=True)]

    found, seen = hold(tmp_path, cards, (ONE, FAILING))
    assert found["one"].verdict.word == "HOLDS"
    assert found["failing"].verdict.word == "NOT TRIED YET"
    assert "ValueError: a bug" in found.summary()
    assert len(seen) == 2


def test_a_session_that_is_stopped_says_which_cards_are_missing(tmp_path):
    found, _ = hold(tmp_path, [Card("A", (ONE,))], (ONE,), stops=True)

    assert found["one"].verdict.word == "NOT TRIED YET"
    assert "Card A is missing: the session ended before it." in found.summary()


def test_the_page_has_a_row_of_the_forest_for_every_test(tmp_path):
    names = ("bigger-is-faster", "same-epochs-large-is-worse")
    claims = tuple(court.find_claim(name) for name in names)
    evidence = tuple(
        Evidence(claim.name, (1.0, 2.0, 3.0), 1.0, "points", "epochs", "tuned", "so", part.name)
        for claim in claims
        for part in claim.parts
    )
    found, _ = hold(tmp_path, [], claims)
    text = verdict_page(dataclasses.replace(found, evidence=evidence))

    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    (figure,) = data["figures"].values()
    assert len(figure["layout"]["yaxis"]["ticktext"]) == 4
    assert "Is a bigger batch faster here?" in text
    assert "Claims that contradict each other" in text


def test_a_new_card_is_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(court, "__path__", [str(tmp_path), *court.__path__])
    monkeypatch.setattr(court.CARD_FILES, "_folder", tmp_path)
    (tmp_path / "newcomers.py").write_text(NEW_CARD, encoding="utf-8")
    (tmp_path / "_helper.py").write_text("", encoding="utf-8")
    court.cards.cache_clear()
    court.claims.cache_clear()
    try:
        assert [card.CARD for card in court.cards()] == ["T1"]
        assert court.find_claim("newcomers-claim").number == "N1"
        assert "newcomers-claim" in command.listing()
        found, _ = hold(tmp_path, court.cards(), (court.find_claim("N1"),))
        assert found["N1"].verdict.word == "HOLDS"
    finally:
        court.cards.cache_clear()
        court.claims.cache_clear()


def test_a_request_is_checked_before_any_work(tmp_path):
    subject = {"dataset": "digits", "model": "small_cnn", "run_dir": tmp_path}

    request = make_court_request(**subject, claim=["bigger-is-faster"], preset="tiny")
    assert [card.CARD for card in request.cards] == ["X1"]
    assert str(request.trial_length) == "10 epochs"
    assert "X1" in command.plan(request)
    with pytest.raises(InputError, match="`preset` must be one of"):
        make_court_request(**subject, preset="huge")
    with pytest.raises(InputError, match="`max_minutes` must be > 0"):
        make_court_request(**subject, max_minutes=0)
