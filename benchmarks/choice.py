"""How often the choice of `tune` is right: its operating characteristics, simulated.

    python benchmarks/choice.py --races=4000

Whole races, as the product runs them: rounds of fresh seeds, the baseline twice in each, the band
from the pilot, candidates that leave, looks that spend the error budget, the recommendation, and
the mean that is reported for it. Scores are drawn; one deviation between seeds is 1.

Result: with equal noise among four the baseline is kept in 98 % of races of equal ones,
"better" is wrong in at most 2 %, a gain of 2 deviations is missed in 29 % with 5 seeds and 3 %
with 10, and the reported mean is off by less than 0.1 deviations. An equal one twice as fast is
recommended in 12, 41 and 76 % with 5, 10 and 20 seeds; it is so, or named with the number of seeds
that decides and with which probability, in 99 % (95 were promised), and the probabilities hold.
With deviations from 1 to 4 "better" is wrong in up to 3.4 %, and more is missed.
Evidence: benchmarks/results/choice.md
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from tfbatch.estimators.chosen_mean import ChosenMean, chosen_mean
from tfbatch.estimators.error_budget import LOOKS
from tfbatch.estimators.race import EVEN, Race

Array = npt.NDArray[np.float64]
NOISES = ("equal", "unequal", "1 to 4", "shared", "heavy")


@dataclasses.dataclass(frozen=True)
class Case:
    """A situation.

    Attributes:
        gains: True gains of the candidates over the baseline, in deviations between seeds.
        costs: What they cost, as multiples of the baseline's.
        seeds: The most seeds.
        noise: "equal"; "unequal", deviations from 1 to 2; "1 to 4"; "shared", correlation 0.7
            between the configurations; "heavy", t with 3 degrees of freedom.
        costs_matter: Whether ties are broken by the cost (--goal=time).
        tolerance: The band; None for the pilot's.
    """

    gains: tuple[float, ...]
    costs: tuple[float, ...] = ()
    seeds: int = 5
    noise: str = "equal"
    costs_matter: bool = True
    tolerance: float | None = None


@dataclasses.dataclass(frozen=True)
class Rates:
    """What came of it: shares of races, and means over them.

    Attributes:
        kept: The baseline is kept.
        wrongly_better: Something is called better than the baseline and is not.
        worse: What is recommended lies below the baseline by more than the band.
        behind: What replaces the baseline lies behind the best by more than the band.
        fast: The first candidate is recommended.
        fast_or_n_named: It is recommended, or the number of seeds is named that decides about it
            as likely as not.
        fast_or_named: Or 80 are named, and with which smaller probability they do.
        bias: Of the reported mean, in deviations.
        raw_bias: Of the plain mean of the recommended one.
        covered: Of the reported mean's interval.
        gain_covered: Of the gain's interval, which holds for all and at every look, where the
            baseline is replaced.
        width: Of the mean's interval, over that of the plain t interval.
        trainings: Trainings of a race.
        band: Median.
    """

    kept: float
    wrongly_better: float
    worse: float
    behind: float
    fast: float
    fast_or_n_named: float
    fast_or_named: float
    bias: float
    raw_bias: float
    covered: float
    gain_covered: float
    width: float
    trainings: float
    band: float


NOTHING_REPORTED = ChosenMean(*[np.array([np.nan])] * 2)


def draw(case: Case, races: int, random: np.random.Generator) -> tuple[Array, Array]:
    """Scores of the rounds [races, configurations, seeds], and the baseline's others."""
    means = np.array([0.0, *case.gains])

    def noise(*shape: int) -> Array:
        if case.noise == "heavy":
            return random.standard_t(3, shape) / np.sqrt(3)
        return random.normal(size=shape)

    deviations = np.ones((races, len(means), 1))
    if case.noise in ("unequal", "1 to 4"):
        each = np.geomspace(1, 2 if case.noise == "unequal" else 4, len(means))
        each /= np.sqrt((each**2).mean())
        deviations = random.permuted(np.tile(each, (races, 1)), axis=1)[:, :, None]
    common = 0.7 if case.noise == "shared" else 0.0
    scores = np.sqrt(1 - common) * noise(races, len(means), case.seeds)
    scores += np.sqrt(common) * noise(races, 1, case.seeds)
    again = noise(races, 1, case.seeds)
    return means[:, None] + deviations * scores, means[0] + deviations[:, :1] * again


def simulate(case: Case, *, races: int, seed: int = 0, estimate: bool = True) -> Rates:
    """Runs the races of one case; the reported mean takes most of the time and can be left out."""
    means = np.array([0.0, *case.gains])
    costs = np.tile([1.0, *(case.costs or (1.0,) * len(case.gains))], (races, 1))
    drawn, again = draw(case, races, np.random.default_rng(seed))
    shape = drawn.shape[:2]
    race = Race(
        costs if case.costs_matter else None, shape=shape, again=True, tolerance=case.tolerance
    )
    scores = np.full((*shape, 2 * case.seeds), np.nan)
    going, trainings = np.ones(races, bool), 0
    for number in range(1, case.seeds + 1):
        takes_part = going[:, None] & ~race.out
        scores[:, :, number - 1] = np.where(takes_part, drawn[:, :, number - 1], np.nan)
        second = np.where(going, again[:, 0, number - 1], np.nan)
        scores[:, 0, case.seeds + number - 1] = second
        trainings += takes_part.sum() + going.sum()
        race.judge(number, scores, takes_part)
        if number >= 2:
            going &= ~race.decided()
    each, chosen = np.arange(races), race.recommended()
    truth, replaced = means[chosen], chosen != 0
    reported = chosen_mean(race) if estimate else NOTHING_REPORTED
    taken = scores[each, chosen]
    counts = (~np.isnan(taken)).sum(1)
    plain = np.nanstd(taken, axis=1, ddof=1) / np.sqrt(counts) * stats.t.isf(0.025, counts - 1)
    raw = np.nanmean(taken, axis=1) - truth
    covered = np.abs(reported.mean - truth) <= reported.half_width
    gain, width = race.gains[each, chosen], race.gain_widths[each, chosen]
    of_gain = np.abs(gain - truth) <= width
    named, likely = race.undecided()[:, 1], race.outlook_for_as_good().probability[:, 1]
    return Rates(
        kept=float((~replaced).mean()),
        wrongly_better=float((race.better & (means <= 0)).any(1).mean()),
        worse=float((truth < -race.band).mean()),
        behind=float((replaced & (truth < means.max() - race.band)).mean()),
        fast=float((chosen == 1).mean()),
        fast_or_n_named=float(((chosen == 1) | (named & (likely >= EVEN))).mean()),
        fast_or_named=float(((chosen == 1) | named).mean()),
        bias=float((reported.mean - truth).mean()),
        raw_bias=float(raw.mean()),
        covered=float(covered.mean()),
        gain_covered=float(of_gain[replaced].mean()) if replaced.any() else np.nan,
        width=float(reported.half_width.mean() / plain.mean()),
        trainings=float(trainings / races),
        band=float(np.median(race.band)),
    )


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Of races in which the first candidate was named with a number of seeds: one row for each.

    Attributes:
        seeds: The number.
        probability: With which that was to decide.
        decided: Whether it was decided by then.
    """

    seeds: Array
    probability: Array
    decided: npt.NDArray[np.bool_]


def predictions(
    gaps: Sequence[float] | Array, *, seeds: int, races: int, noise: str = "equal"
) -> Predictions:
    """What is named after some seeds, and what came of it in the same races up to 80.

    Args:
        gaps: True gains of a candidate that is twice as fast; as many races of each.
        seeds: After which the number is named.
        races: For each gap.
        noise: See Case.
    """
    last = LOOKS[-1]
    parts = [
        draw(Case((gap, 0.0, 0.0), seeds=last, noise=noise), races, np.random.default_rng(number))
        for number, gap in enumerate(gaps)
    ]
    drawn, again = (np.concatenate(each) for each in zip(*parts, strict=True))
    shape = drawn.shape[:2]
    race = Race(np.tile([1.0, 0.5, 1.0, 1.0], (shape[0], 1)), shape=shape, again=True)
    scores = np.full((*shape, 2 * last), np.nan)
    going, open_until = np.ones(shape[0], bool), np.zeros(shape[0])
    for number in range(1, last + 1):
        takes_part = going[:, None] & ~race.out
        scores[:, :, number - 1] = np.where(takes_part, drawn[:, :, number - 1], np.nan)
        scores[:, 0, last + number - 1] = np.where(going, again[:, 0, number - 1], np.nan)
        if number in (1, seeds, *LOOKS):
            race.judge(number, scores, takes_part)
            going &= ~race.decided() | (number < min(LOOKS))
            open_until = np.where(race.undecided()[:, 1], number, open_until)
        if number == seeds:
            named = race.undecided()[:, 1] & going
            look, probability = (each[:, 1] for each in race.outlook_for_as_good())
    return Predictions(look[named], probability[named], open_until[named] < look[named])


GAINS = (0.5, 1.0, 1.5, 2.0, 3.0)
GAPS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def situations() -> dict[str, list[Case]]:
    """What is simulated for all seeds and noises; the rates of several cases are averaged."""
    found = {"all equal": [Case((0.0, 0.0, 0.0))]}
    found |= {f"one {gain:+g}": [Case((gain, 0.0, 0.0))] for gain in GAINS}
    found["three +2"] = [Case((2.0, 2.0, 2.0))]
    found["an equal one twice as fast"] = [Case((0.0, 0.0, 0.0), (0.5, 1.0, 1.0))]
    found["that, and a slow one 0 to 3 better"] = [
        Case((0.0, gap, 0.0), (0.5, 2.0, 1.0)) for gap in GAPS
    ]
    return found


def _print_predictions(races: int) -> None:
    """How often a named number of seeds decides, by the probability that is named with it."""
    for seeds, noise in ((3, "equal"), (5, "equal"), (10, "equal"), (5, "1 to 4")):
        found = predictions(np.linspace(-2.0, 1.0, 13), seeds=seeds, races=races // 10, noise=noise)
        for low, high in ((0.0, EVEN), (EVEN, 0.7), (0.7, 1.01)):
            among = (found.probability >= low) & (found.probability < high)
            if not among.any():
                continue
            print(
                f"| {seeds} | {noise} | named with a probability from {low:.1f} to {high:.1f} | "
                f"{among.sum()} races | stated {found.probability[among].mean():.2f} | "
                f"decided {found.decided[among].mean():.2f} |",
                flush=True,
            )


def main() -> None:
    """Prints the table of benchmarks/results/choice.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--races", type=int, default=2000, help="Races of each case.")
    races = parser.parse_args().races
    names = [field.name for field in dataclasses.fields(Rates)]
    print(f"| seeds | noise | situation | {' | '.join(names)} |")
    print(f"| --- | --- | --- |{' ---: |' * len(names)}")

    def row(seeds: int, noise: str, name: str, cases: list[Case]) -> None:
        each = [
            dataclasses.astuple(
                simulate(dataclasses.replace(c, seeds=seeds, noise=noise), races=races)
            )
            for c in cases
        ]
        figures = [f"{x:.3f}" for x in np.nanmean(each, axis=0)]
        print(f"| {seeds} | {noise} | {name} | {' | '.join(figures)} |", flush=True)
        if len(cases) > 1:
            worst = max(rates[names.index("behind")] for rates in each)
            print(f"| {seeds} | {noise} | {name}: worst `behind` | {worst:.3f} |", flush=True)

    for seeds in (3, 5, 10):
        for noise in NOISES:
            for name, cases in situations().items():
                row(seeds, noise, name, cases)
    for seeds in (20, 40, 80):
        for noise in NOISES:
            fast = Case((0.0, 0.0, 0.0), (0.5, 1.0, 1.0))
            row(seeds, noise, "an equal one twice as fast", [fast])
    for seeds in (3, 5, 10, 20, 80):
        for noise in NOISES:
            behind = Case((-1.01,) * 3, (0.5, 0.4, 0.3), tolerance=1.0)
            row(seeds, noise, "three fast ones 1.01 behind, tolerance 1", [behind])
    _print_predictions(races)
    for candidates in (1, 2, 4, 5):
        none = (0.0,) * (candidates - 1)
        row(5, "equal", f"all equal, {candidates + 1} configurations", [Case((0.0, *none))])
        row(5, "equal", f"one +2 of {candidates + 1} configurations", [Case((2.0, *none))])


if __name__ == "__main__":
    main()
