"""What the tests of a search share: small spaces, and a stand-in for training."""

from __future__ import annotations

import math
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.request.request import make_request
from tfbatch.request.search_config import SearchConfig
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.progress import Progress
from tfbatch.search.serial_engine import SerialEngine
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_runner import TrialRunner
from tfbatch.trial.derived import derive
from tfbatch.trial.finished_trial import make_row, read_row
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import Outcome, TrialSpec
from tfbatch.trial.trials import Trials

NUM_EXAMPLES = 1000
TOTAL_EXAMPLES = 2500
LOSS = Objective("val_loss", "min")
ACCURACY = Objective("val_accuracy", "max")
BASELINE = Configuration(batch_size=32, base_learning_rate=0.01)


def make_config(*, oracle="random", max_trials=8, **space):
    """A search of at most 3 * 2 * 4 combinations for each learning rate."""
    written: dict[str, Any] = {
        "batch_size": [16, 32, 64],
        "base_learning_rate": {"min": 0.001, "max": 1.0, "sampling": "log"},
        "learning_rate_octaves": 0.0,
        "warmup_fraction": [0.0, 0.1],
        "schedules": [{"name": "linear"}, {"name": "wsd", "cooldown": [0.1, 0.2, 0.3]}],
        "optimizer": {"name": "sgd", "momentum": 0.9},
    }
    return SearchConfig.model_validate(
        {
            "description": "for tests",
            "oracle": {"name": oracle, "initial_trials": 3},
            "max_trials": max_trials,
            "space": written | space,
            "confirmation": {"batch_sizes": 2, "seeds": 2},
        }
    )


def make_space(**changes):
    return SearchSpace(make_config(**changes).space, num_examples=NUM_EXAMPLES)


def small_derive(configuration):
    return derive(configuration, num_examples=NUM_EXAMPLES, total_examples=TOTAL_EXAMPLES)


def loss_of(configuration, seed=0):
    """Smallest, 1, at batch size 32, learning rate 0.1 and the wsd schedule; little noise."""
    rate = small_derive(configuration).learning_rate
    far = abs(math.log10(rate / 0.1)) + abs(math.log2(configuration.batch_size / 32)) / 4
    far += 0.0 if configuration.schedule.name == "wsd" else 0.1
    return 1.0 + far + 1e-3 * math.sin(seed)


def outcome(spec, *, loss=1.0, seconds=2.0, status="completed"):
    """What a trial of `spec` could have come to."""
    return Outcome(
        status=status,
        metrics={"loss": loss / 2, "val_loss": loss, "val_accuracy": 1 / (1 + loss)},
        examples=spec.total_examples,
        steps=small_derive(spec.configuration).steps,
        seconds=seconds,
        training_seconds=seconds * 16 / spec.configuration.batch_size,
        message="" if status == "completed" else f"the {status} of {spec.trial}",
        device="CPU",
    )


def finished(trial, configuration, *, loss=1.0, seed=1, phase="search", status="completed"):
    """A trial as it is read from the journal; its score is the loss."""
    spec = TrialSpec(trial, phase, seed, configuration, TOTAL_EXAMPLES, NUM_EXAMPLES)
    row = make_row(
        spec,
        outcome(spec, loss=loss, status=status),
        score=loss if status == "completed" else None,
        finished_at="2026-01-01T00:00:00+00:00",
    )
    return read_row(row)


class Trainer:
    """Stands in for training: the loss has a closed form, and nothing takes any time.

    Attributes:
        ran: Every trial that was begun.
        ends: How trials of some names end, other than by completing.
    """

    def __init__(self, ends=None):
        self.ran: list[TrialSpec] = []
        self.ends = ends or {}
        self.interrupt_at: str | None = None

    def __call__(self, spec):
        self.ran.append(spec)
        assert spec.log_dir
        assert spec.weights_file
        spec.log_dir.mkdir(parents=True)
        (spec.log_dir / "curve").touch()
        if spec.trial == self.interrupt_at:
            return outcome(spec, status="interrupted")
        if spec.trial in self.ends:
            status = self.ends[spec.trial]
            loss = math.nan if status == "diverged" else 1.0
            return outcome(spec, loss=loss, status=status)
        spec.weights_file.write_text(spec.trial)
        return outcome(spec, loss=loss_of(spec.configuration, spec.seed))


def make_request_of(**changes):
    """A request as `tune` makes it without flags, but for the changes."""
    absent = ("objective", "trial_length", "batch_sizes", "optimizer", "max_trials", "max_minutes")
    written: dict[str, Any] = dict.fromkeys((*absent, "run_dir", "data_dir", "records_dir"))
    written |= {"dataset": "digits", "model": "small_cnn", "search": "joint", "baseline": ""}
    return make_request(**{**written, "seed": 1, "overwrite": False, **changes})


def make_runner(folder, trainer, **options):
    return runner_of(folder, SerialEngine(trainer), **options)


def runner_of(folder, engine, **options):
    return TrialRunner(
        folder,
        engine=engine,
        objective=LOSS,
        num_examples=NUM_EXAMPLES,
        total_examples=TOTAL_EXAMPLES,
        progress=Progress(None),
        **options,
    )


def trials_of(*trials, objective=LOSS):
    return Trials(trials, objective=objective, total_examples=TOTAL_EXAMPLES)


def open_folder(path):
    return RunFolder(path, identity={}, budget={})
