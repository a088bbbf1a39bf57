"""Takes validation and test examples out of a training split, class by class, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np

from tfbatch.dataset_info.class_balance import LEAST_SHARE, apportion
from tfbatch.errors import InputError

_TIES = 20150504


class StratifiedAssignment:
    """Assigns each example of a stream to a split, so that each class is divided alike.

    Of every class with n examples, the first split with its fraction f gets floor(n * f) and each
    further one floor(n * f) or one more, spread evenly over the stream. The stream's order does
    not depend on what an example shows (a contract of sources), so the choice is a random one, it
    is the same each time, and it needs neither a second pass nor memory that grows with the data.

    Where classes are so small that rounding down would leave a split below `LEAST_SHARE` of its
    fraction (1 of 19 examples at a tenth), `counts` makes each split as large as its fraction says,
    and its classes as even as they can be (`class_balance.apportion`), as for arrays of a user's.

    Args:
        fractions: Share of each carved split, e.g. {"test": 0.2, "validation": 0.2}.
        rest: The split that gets everything else.
        counts: Number of examples of each class in the whole stream, or None.

    Raises:
        InputError: So few examples that nothing is left for `rest`.
    """

    def __init__(
        self, fractions: Mapping[str, float], *, rest: str, counts: Mapping[int, int] | None = None
    ):
        self._rest = rest
        self._shares: dict[str, Fraction] = {}
        left = Fraction(1)
        for split, fraction in fractions.items():
            share = Fraction(str(fraction))
            self._shares[split] = share / left  # of what the splits before it have left over
            left -= share
        self._apportioned: dict[tuple[str, int], Fraction] = {}
        if counts is not None and self._are_too_small(fractions, counts):
            self._apportioned = _apportioned(fractions, counts, rest)
        self._seen: dict[tuple[str, int], int] = {}

    def assign(self, label: int) -> str:
        """The split of the next example, which has this class index."""
        for split, share in self._shares.items():
            share = self._apportioned.get((split, label), share)
            place = self._seen.get((split, label), 0)
            self._seen[split, label] = place + 1
            if (place + 1) * share // 1 > place * share // 1:
                return split
        return self._rest

    def _are_too_small(self, fractions: Mapping[str, float], counts: Mapping[int, int]) -> bool:
        total = sum(counts.values())
        pairs = zip(fractions.values(), self._floors(counts), strict=True)
        return any(taken < LEAST_SHARE * fraction * total for fraction, taken in pairs)

    def _floors(self, counts: Mapping[int, int]) -> Iterable[int]:
        """The size of each carved split without `counts`."""
        left = dict(counts)
        for share in self._shares.values():
            taken = {label: count * share // 1 for label, count in left.items()}
            left = {label: count - taken[label] for label, count in left.items()}
            yield sum(taken.values())


def _apportioned(
    fractions: Mapping[str, float], counts: Mapping[int, int], rest: str
) -> dict[tuple[str, int], Fraction]:
    """Each split's share of what the splits before it have left over, for each class."""
    labels = sorted(counts)
    left = np.array([counts[label] for label in labels], np.int64)
    total = int(left.sum())
    sizes = {split: max(1, round(fraction * total)) for split, fraction in fractions.items()}
    if sum(sizes.values()) >= total:
        raise InputError(
            f"{total} examples are too few to take {' and '.join(sizes)} examples from them and "
            f"leave any for {rest}. Give more, or data that already has these splits."
        )
    shares = {}
    for number, (split, size) in enumerate(sizes.items()):
        taken = apportion(left, size, seed=[_TIES, number])
        for label, part, whole in zip(labels, taken.tolist(), left.tolist(), strict=True):
            shares[split, label] = Fraction(part, max(1, whole))
        left -= taken
    return shares
