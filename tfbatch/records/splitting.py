"""Takes validation and test examples out of a training split, class by class, in one pass."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction


class StratifiedAssignment:
    """Assigns each example of a stream to a split, so that each class is divided alike.

    Of every class with n examples, the first split with its fraction f gets floor(n * f) and each
    further one floor(n * f) or one more, spread evenly over the stream. The stream's order does
    not depend on what an example shows (a contract of sources), so the choice is a random one, it
    is the same each time, and it needs neither a second pass nor memory that grows with the data.

    Args:
        fractions: Share of each carved split, e.g. {"test": 0.2, "validation": 0.2}.
        rest: The split that gets everything else.
    """

    def __init__(self, fractions: Mapping[str, float], *, rest: str):
        self._rest = rest
        self._shares: dict[str, Fraction] = {}
        left = Fraction(1)
        for split, fraction in fractions.items():
            share = Fraction(str(fraction))
            self._shares[split] = share / left  # of what the splits before it have left over
            left -= share
        self._seen: dict[tuple[str, int], int] = {}

    def assign(self, label: int) -> str:
        """The split of the next example, which has this class index."""
        for split, share in self._shares.items():
            place = self._seen.get((split, label), 0)
            self._seen[split, label] = place + 1
            if (place + 1) * share // 1 > place * share // 1:
                return split
        return self._rest
