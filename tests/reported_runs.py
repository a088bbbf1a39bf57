"""Run folders as `tune` leaves them, made without training: the loss has a closed form."""

from __future__ import annotations

import itertools
import json
import math

from search_fixtures import BASELINE, NUM_EXAMPLES, TOTAL_EXAMPLES, make_config

from tfbatch.answer.candidates import again_name, trial_name
from tfbatch.answer.chance import write_chance_level
from tfbatch.answer.stored import answer_of
from tfbatch.configuration import Configuration
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.run_folder.folder import RunFolder
from tfbatch.run_folder.journal import SCHEMA_VERSION, encode_row
from tfbatch.schema import Named
from tfbatch.trial.finished_trial import make_row
from tfbatch.trial.outcome import Outcome, TrialSpec

SIZES = (8, 16, 32, 64, 128)
STEP_SECONDS = {8: 0.0011, 16: 0.0013, 32: 0.0018, 64: 0.0031, 128: 0.0062}
IDENTITY = {
    "dataset": {"name": "digits"},
    "model": "mlp",
    "seed": 7,
    "objective": "val_loss:min",
    "search": make_config(batch_size=list(SIZES)).model_dump(
        mode="json", include={"oracle", "space"}
    ),
}
BUDGET = {"confirmation": {"batch_sizes": 2, "seeds": 3, "goal": "time", "tolerance": None}}
SCHEDULES = (Named(name="linear"), Named(name="wsd", cooldown=0.2))


def loss_of(configuration, seed=0):
    """Smallest at batch size 32 and a rate of 0.1 * sqrt(B / 32); little noise between seeds."""
    size = configuration.batch_size
    rate = configuration.base_learning_rate * size / 32
    far = math.log2(rate / (0.1 * math.sqrt(size / 32)))
    wrong = 0.02 if configuration.schedule.name == "linear" else 0.0
    return 0.3 + 0.03 * far**2 + 0.03 * abs(math.log2(size / 32)) + wrong + 2e-3 * math.sin(seed)


def configuration(size, rate, schedule=SCHEDULES[1], warmup=0.0):
    """One with a peak learning rate at its own batch size, by the linear rule."""
    return Configuration(
        batch_size=size,
        base_learning_rate=rate * 32 / size,
        schedule=schedule,
        warmup_fraction=warmup,
    )


def row_of(name, phase, seed, configuration, *, status="completed", message="", **part):
    """A row of the journal."""
    spec = TrialSpec(name, phase, seed, configuration, TOTAL_EXAMPLES, NUM_EXAMPLES, **part)
    loss = loss_of(configuration, seed) if status == "completed" else math.nan
    seconds = STEP_SECONDS[configuration.batch_size] * spec.steps
    metrics = {"loss": loss / 2, "val_loss": loss, "val_accuracy": 1 / (1 + loss)}
    outcome = Outcome(
        status=status,
        metrics={} if status in ("oom", "error") else metrics,
        examples=spec.end_examples,
        steps=spec.steps_before + spec.steps,
        seconds=1.5 + seconds,
        training_seconds=1.2 * seconds,
        message=message or ("" if status == "completed" else f"{status} of {name}"),
        device="CPU",
    )
    score = loss if status == "completed" else None
    return make_row(spec, outcome, score=score, finished_at="2026-01-01T00:00:00+00:00")


def searched(count):
    """Configurations around the best rates, of all sizes in turn."""
    octaves = (-2.0, -1.0, 0.0, 1.0, 2.0, -0.5, 0.5, 1.5)
    grid = itertools.cycle(itertools.product(octaves, SCHEDULES, SIZES))
    for number, (octave, schedule, size) in zip(range(count), grid, strict=False):
        turn = 2.0 ** (octave + 0.01 * (number // 80))
        yield configuration(size, 0.1 * math.sqrt(size / 32) * turn, schedule, 0.1 * (number % 2))


def verified(keys):
    """Rows of three fresh seeds for some configurations and, twice, for the baseline."""
    for number in (1, 2, 3):
        for one in keys:
            yield row_of(trial_name(one, number), "confirmation", 1000 + number, one)
        again = again_name(BASELINE, number)
        yield row_of(trial_name(BASELINE, number), "confirmation", 1000 + number, BASELINE)
        yield row_of(again, "confirmation", 2000 + number, BASELINE)


def write_run(path, rows, *, chance=True, timed=SIZES, answer=True):
    """A run folder with these rows; returns its path.

    Args:
        path: The folder.
        rows: Of the journal.
        chance: Whether the level without learning is known.
        timed: Batch sizes whose step times were measured alone.
        answer: Whether recommendation.json is written.
    """
    rows = list(rows)
    with RunFolder(path, identity=IDENTITY, budget=BUDGET) as folder:
        folder.journal.append(rows[0])
    with (path / "trials.jsonl").open("a") as journal:  # a journal flushes each line to the disk
        lines = (encode_row({"schema_version": SCHEMA_VERSION} | row) for row in rows[1:])
        journal.writelines(f"{json.dumps(line)}\n" for line in lines)
    if chance:
        write_chance_level(path, ChanceLevel(untrained=2.3))
    if timed:
        seconds = {
            size: [STEP_SECONDS[size] * factor for factor in (1.0, 1.02, 0.99)] for size in timed
        }
        content = {"device": "CPU, 2 threads", "seconds": seconds, "validation_seconds": 0.01}
        (path / "step_times.json").write_text(json.dumps(content))
    if answer:
        found = answer_of(path)
        update = {"status": "complete", "seconds": 123.4, "trials": len(rows)}
        found.model_copy(update=update).write(path)
    return path


def clean_run(path, count=80):
    """A complete run: baseline, a search that brackets every size, three fresh seeds."""
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    rows += [
        row_of(f"search-{number:04d}", "search", number, one)
        for number, one in enumerate(searched(count), start=1)
    ]
    best = {}
    for row in sorted(rows[1:], key=lambda row: row["score"]):
        best.setdefault(row["batch_size"], Configuration.from_flat(row))
    rows += verified(list(best.values())[:2])
    return write_run(path, rows)
