"""The folklore court: what is said about batch size, tried on the user's own machine.

A file that declares `CARD` is a card: one experiment that tells something of one claim or more. It
declares:

- `CARD`, its short name, such as "X3";
- `TITLE`, what it does, in a few words;
- `ORDER`, a number: cards run from the smallest to the largest;
- `CLAIMS`, a tuple of the claims that it brings along; those of the founding document are in
  `_founding_document` already;
- `collect(court)`, which yields an `Evidence` for each part of a claim that it tests.

Adding a claim is one such file. A card measures; it never judges: the rule does, the same for all
(tfbatch.estimators.verdict). Its module imports no TensorFlow before it runs, so that the claims
are listed at once.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, cast

from tfbatch.claims._claim import Claim, Evidence
from tfbatch.claims._founding_document import FOUNDING_DOCUMENT
from tfbatch.errors import InputError, did_you_mean
from tfbatch.plug_ins import Registry

if TYPE_CHECKING:
    from tfbatch.claims._court import Court


class _Cards(Registry):
    """The files of this folder that declare `CARD`."""

    def names(self) -> list[str]:
        """See Registry."""
        texts = {name: (self._folder / f"{name}.py").read_text("utf-8") for name in super().names()}
        return [name for name, text in texts.items() if "\nCARD = " in text]


CARD_FILES = _Cards(__name__, kind="card", folder=__path__)


class Card(Protocol):
    """What a file that is a card declares; see above."""

    __name__: str
    CARD: str
    TITLE: str
    ORDER: float
    CLAIMS: tuple[Claim, ...]

    def collect(self, court: Court) -> Iterator[Evidence]:
        """Runs the experiment, or takes what was run already.

        Args:
            court: Trains and measures; see tfbatch.claims._court.
        """


@functools.cache
def cards() -> tuple[Card, ...]:
    """All cards, in the order in which they run."""
    found = [cast("Card", CARD_FILES.load(name)) for name in CARD_FILES.names()]
    return tuple(sorted(found, key=lambda card: (card.ORDER, card.CARD)))


@functools.cache
def claims() -> tuple[Claim, ...]:
    """All claims: those of the founding document, then what the cards bring along."""
    return (*FOUNDING_DOCUMENT, *(claim for card in cards() for claim in card.CLAIMS))


def can_be_tried(claim: Claim) -> bool:
    """Whether all cards that the claim needs are there."""
    return set(claim.cards) <= {card.CARD for card in cards()}


def find_claim(name: str) -> Claim:
    """A claim by its name or its number.

    Raises:
        InputError: There is none.
    """
    for claim in claims():
        if name in (claim.name, claim.number):
            return claim
    known = [claim.name for claim in claims()]
    raise InputError(
        f"Unknown claim `{name}`.{did_you_mean(name, known)} `python -m tfbatch.claims --list` "
        "lists all claims."
    )


def find_card(name: str) -> Card:
    """A card by its short name, such as "X3", or its file's name.

    Raises:
        InputError: There is none.
    """
    for card in cards():
        if name in (card.CARD, card.__name__.rpartition(".")[2]):
            return card
    known = [card.CARD for card in cards()]
    raise InputError(
        f"Unknown card `{name}`.{did_you_mean(name, known)} Available: {', '.join(known)}."
    )
