"""How often the interval of `tfbatch compare` covers the difference of two configurations.

usage: python benchmarks/compare.py [--repetitions=4000]

Scores are drawn from normal distributions without a difference, whose standard deviations and
correlation of shared seeds are given; the interval is that of tfbatch.estimators.difference.

Result: POSITIVE with limits, by 300 repetitions a cell (standard error 0.013): exact with four
pairs and more; wider than need be with two seeds on one side or few correlated pairs; 0.93 with
3 and 10 seeds, the 3 of the larger spread; one seed holds only where the noise is alike.
Evidence: benchmarks/results/compare.md
"""

from __future__ import annotations

import argparse

import numpy as np

from tfbatch.estimators.difference import difference

COUNTS = ((2, 2), (2, 3), (2, 5), (2, 10), (3, 3), (3, 5), (3, 10), (5, 5), (5, 10), (10, 10))
DEVIATIONS = ((1.0, 1.0), (2.0, 1.0), (3.0, 1.0), (1.0, 2.0), (1.0, 3.0))
CORRELATIONS = (0.0, 0.5, 0.95)


def coverage(
    counts: tuple[int, int],
    deviations: tuple[float, float],
    correlation: float | None,
    *,
    repetitions: int,
    seed: int = 0,
) -> float:
    """The share of intervals with the true difference, 0, in them.

    Args:
        counts: Seeds of both.
        deviations: Standard deviations of both.
        correlation: Of the scores of shared seeds; None: no seed is shared.
        repetitions: Comparisons.
        seed: Of the scores.
    """
    rng = np.random.default_rng(seed)
    most, covered = max(counts), 0
    common = rng.normal(size=(repetitions, most))
    own = rng.normal(size=(repetitions, most))
    share = correlation or 0.0
    second = share * common + (1 - share**2) ** 0.5 * own
    start = most if correlation is None else 0
    for one, other in zip(common * deviations[0], second * deviations[1], strict=True):
        found = difference(
            dict(enumerate(map(float, one[: counts[0]]))),
            dict(enumerate(map(float, other[: counts[1]]), start)),
            direction="max",
        )
        covered += 0.0 in found.interval
    return covered / repetitions


def main() -> None:
    """Prints both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=4000)
    repetitions = parser.parse_args().repetitions
    print("No shared seed; standard deviations of both:\n")
    print("| seeds | " + " | ".join(f"{a:g} and {b:g}" for a, b in DEVIATIONS) + " |")
    print("| --- |" + " --- |" * len(DEVIATIONS))
    for counts in (*((1, n) for n in (2, 5, 10)), *COUNTS):
        row = [coverage(counts, one, None, repetitions=repetitions) for one in DEVIATIONS]
        print(_line(counts, row))
    print("\nShared seeds, equal standard deviations; correlation:\n")
    print("| seeds | " + " | ".join(f"{c:g}" for c in CORRELATIONS) + " |")
    print("| --- |" + " --- |" * len(CORRELATIONS))
    for counts in COUNTS:
        row = [coverage(counts, (1.0, 1.0), c, repetitions=repetitions) for c in CORRELATIONS]
        print(_line(counts, row))


def _line(counts: tuple[int, int], row: list[float]) -> str:
    return f"| {counts[0]}, {counts[1]} | " + " | ".join(f"{one:.3f}" for one in row) + " |"


if __name__ == "__main__":
    main()
