"""A court whose trainings have a closed form and whose timer is synthetic: the truth is known."""

from __future__ import annotations

import hashlib

import numpy as np

from tfbatch.claims import claims
from tfbatch.claims._claim import Evidence
from tfbatch.claims._court import Court, Run, Workload
from tfbatch.claims._preset import PRESETS
from tfbatch.configuration import Configuration
from tfbatch.schema import Named
from tfbatch.training.step_times import StepTime

EVALUATIONS = 40


def make_workload(**changes):
    written = {
        "baseline": Configuration(
            batch_size=32, base_batch_size=32, base_learning_rate=0.05, scaling_rule="linear"
        ),
        "num_examples": 1024,
        "examples": 20_000,
        "metric": "val_loss",
        "untrained": -1.0,
        "smallest_margin": 0.005,
    }
    return Workload(**{**written, **changes})


def noise_of(*parts):
    """A generator that depends on what it is for, and on nothing else."""
    text = repr(parts).encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text).digest()[:8], "big"))


class SimulatedCourt(Court):
    """Trainings by a function, step times by another.

    Args:
        curve: `curve(training, examples)` -> oriented scores at these numbers of examples.
        step: `step(batch_size)` -> seconds of a step without noise.
        timing_noise: Standard deviation of the log of a measured time.
        seed: Of the court.
        preset: Its name.
    """

    def __init__(
        self, curve=None, *, step=None, timing_noise=0.01, seed=1, preset="tiny", **workload
    ):
        super().__init__(make_workload(**workload), PRESETS[preset], seed)
        self._curve, self._step, self._noise = curve, step, timing_noise
        self.trained = {}
        self.asked = 0

    def train(self, trainings):
        self.asked += len(trainings)
        for training in trainings:
            if training.name not in self.trained:
                x = np.linspace(0, training.examples, EVALUATIONS + 1)
                scores = (self.workload.untrained, *self._curve(training, x[1:]))
                self.trained[training.name] = Run(training, tuple(x), tuple(map(float, scores)))
        return [self.trained[training.name] for training in trainings]

    def step_times(self, batch_sizes, change=None):
        found = []
        drift = noise_of(self._seed, "drift").normal(0, 5 * self._noise, self.preset.rounds)
        for size in sorted(set(batch_sizes)):
            rounds = noise_of(self._seed, "time", size).normal(0, self._noise, self.preset.rounds)
            times = self._step(size) * np.exp(rounds + drift)
            found.append(StepTime(size, float(np.median(times)), tuple(map(float, times))))
        return tuple(found)

    def measure(self, function, *arguments, **options):
        raise NotImplementedError(function.__name__)

    def measure_each(self, function, cases, *, seconds, examples=0):
        del seconds, examples
        first = ("configuration", "batch_sizes")
        return [
            self.measure(
                function,
                *(case[name] for name in first if name in case),
                **{name: value for name, value in case.items() if name not in first},
            )
            for case in cases
        ]


def judged(card, simulated):
    """The word on every part that a card tells something of, by claim and part."""
    parts = {(c.name, part.name): part for c in claims() for part in c.parts}
    found = {}
    for one in card.collect(simulated):
        assert parts[one.claim, one.part].card == card.CARD
        found[one.claim, one.part] = one.verdict(parts[one.claim, one.part].kind)
    return found


def word_of(contest, *, margin, kind="difference"):
    """The word on what a contest has found."""
    evidence = Evidence(
        "",
        effects=tuple(map(float, contest.effects)),
        rivals=contest.rivals,
        alternatives=contest.alternatives,
        margin=margin,
        unit="",
        axis="epochs",
        policy="tuned",
        finding="",
    )
    return evidence.verdict(kind).word


def hashable(configuration):
    return (configuration.batch_size, configuration.base_learning_rate)


class NoisyQuadratic:
    """SGD on a quadratic, in expectation, with independent noise of each seed's end.

    Every coordinate of curvature h and gradient variance c has, after t updates at the rate r,

        E x^2 = (1 - r h)^2t x0^2 + (1 - (1 - r h)^2t) r^2 c / (B (1 - (1 - r h)^2))

    so that a larger batch needs fewer updates, and at the same epochs is farther from the end.
    """

    def __init__(self, *, curvatures=(1.0, 0.3, 0.1), variance=2.0, deviation=0.01):
        self.h = np.array(curvatures)
        self.c = variance
        self.deviation = deviation

    def __call__(self, training, examples):
        size, rate = hashable(training.configuration)
        updates = np.asarray(examples) / size
        shrink = (1 - rate * self.h) ** 2
        with np.errstate(over="ignore", invalid="ignore"):
            kept = shrink[:, None] ** updates
            floor = rate**2 * self.c / (size * np.abs(1 - shrink))
            loss = 0.5 * (self.h[:, None] * (kept + (1 - kept) * floor[:, None])).sum(0)
        loss = np.where(np.isfinite(loss), loss, 1e6) / (0.5 * self.h.sum())
        generator = noise_of(training.seed)
        offset = generator.normal(0, self.deviation)
        return -(loss * np.exp(offset))


RULE_OF = {"sgd": Named(name="linear")}
