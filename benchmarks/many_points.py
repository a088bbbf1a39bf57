"""What a proposal loses where the Gaussian process is fitted to 128 of many trials, not to all.

usage: python benchmarks/many_points.py [--trials=200] [--proposals=3] [--repeats=5]

`trials` points of a made-up objective are drawn, a curved valley in six numbers and a choice of
eight with noise between repetitions. Then the oracle proposes, is told, and proposes again: once
fitted to all points by KerasTuner's own way (21 starts of the fit, 50 of the search for the lowest
bound), once to 128 of them (tfbatch/oracles/_many_points.py). Both are asked with the same draws.
Reported is by how much the proposals lie above the optimum, without the noise, and the processor
seconds of one.

Result: after 150 trials a proposal takes 0.1 s in place of 2.4 s, at a mean regret of 0.149 (0.148
  to 0.150) against 0.140 (0.120 to 0.161): no difference is shown (n = 2 of 3 proposals each, two
  busy cores of an Intel Xeon).
Evidence: benchmarks/results/many_trials.md
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import time

import keras_tuner
import numpy as np
import psutil

from tfbatch.oracles import KerasTunerOracle, Proposal, Told, _bayesian
from tfbatch.oracles._bayesian import SpreadBayesianOracle
from tfbatch.run_folder.fingerprint import hardware, software

NOISE = 0.02
WAYS = {"fitted to all": sys.maxsize, "fitted to 128": _bayesian.MOST_POINTS}


def space() -> keras_tuner.HyperParameters:
    """Six numbers and a choice of eight."""
    found = keras_tuner.HyperParameters()
    found.Choice("size", [2**k for k in range(3, 11)], ordered=True)
    for k in range(6):
        found.Float(f"x{k}", 0.0, 1.0)
    return found


def regret(values: dict[str, float]) -> float:
    """How far values lie above the optimum, which moves with the choice as a learning rate does."""
    size = (math.log2(values["size"]) - 3) / 7
    first = values["x0"] - 0.2 - 0.5 * size
    rest = sum((values[f"x{k}"] - 0.4) ** 2 / k for k in range(1, 6))
    return 2 * first**2 + (size - 0.5) ** 2 + 0.3 * rest


def ask(most: int, trials: int, proposals: int, seed: int) -> tuple[list[float], list[float]]:
    """Regrets and processor seconds of the proposals after so many drawn points."""
    _bayesian.MOST_POINTS = most
    rng = np.random.default_rng(seed)
    oracle = KerasTunerOracle(
        SpreadBayesianOracle, space(), direction="min", seed=seed + 1, num_initial_points=8
    )
    regrets, seconds = [], []
    for number in range(trials + proposals):
        known = None
        if number < trials:
            drawn = {f"x{k}": float(rng.uniform()) for k in range(6)}
            known = Proposal({"size": int(2 ** rng.integers(3, 11)), **drawn})
        begun = time.process_time()
        proposal = oracle.propose(str(number), known=known, bound=math.inf)
        if not isinstance(proposal, Proposal):
            raise RuntimeError("the oracle has ended")
        found = regret(dict(proposal.values))  # type: ignore[arg-type]
        if known is None:
            regrets.append(found)
            seconds.append(time.process_time() - begun)
        oracle.tell(str(number), proposal, Told(found + NOISE * rng.normal()))
    return regrets, seconds


def main() -> None:
    """Runs the benchmark and prints a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--proposals", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(f"load average of the last minute: {psutil.getloadavg()[0]:.1f}")
    print(f"{hardware([])}\n{software()}", flush=True)
    means: dict[str, list[float]] = {name: [] for name in WAYS}
    for seed in range(arguments.repeats):
        for name, most in WAYS.items():
            regrets, seconds = ask(most, arguments.trials, arguments.proposals, seed)
            means[name].append(statistics.mean(regrets))
            print(
                f"seed {seed}, {name}: regrets {', '.join(f'{one:.4f}' for one in regrets)}; "
                f"{statistics.median(seconds):.2f} s a proposal",
                flush=True,
            )
    for name, found in means.items():
        spread = f"{min(found):.4f} to {max(found):.4f}"
        print(f"{name}: mean regret {statistics.mean(found):.4f} ({spread}, n = {len(found)})")


if __name__ == "__main__":
    main()
