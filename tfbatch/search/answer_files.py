"""Writes an answer down: recommendation.json, best.yaml, the best model; and a table to read."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from rich.table import Table

from tfbatch.own_data import OwnData
from tfbatch.request.request import Request
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import BEST_CONFIGURATION, RECOMMENDATION
from tfbatch.schema import write_yaml
from tfbatch.search.answer import Answer, Contender, Measured
from tfbatch.search.edges import Edges
from tfbatch.trial.derived import Derived
from tfbatch.trial.finished import FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.trials import Trials

TestMetrics = dict[str, dict[str, Measured]]
"""Metrics on the test split, by the contender's key."""


def recommendation(
    answer: Answer,
    derived: Derived,
    *,
    objective: str,
    test: TestMetrics,
    trials: int,
    seconds: float,
    status: str,
    memory: dict[str, Any] | None = None,
    memory_limit: dict[str, Any] | None = None,
    edges: Edges = Edges(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """The content of recommendation.json.

    Args:
        answer: The answer.
        derived: Derived values of the recommended configuration.
        objective: What was compared.
        test: Test metrics of the recommendation and the baseline; empty if not read.
        trials: Number of trials in the journal.
        seconds: Wall-clock seconds of all of them and of this session's other work.
        status: "complete", or "interrupted" when somebody ended the run early.
        memory: Where memory was used up, or None if it never was.
        memory_limit: What was measured to fit, or None if nothing was.
        edges: Batch sizes whose best learning rate lies at an edge of the searched range.
    """
    c = answer.recommended.configuration
    return {
        "status": status,
        "verified_on_fresh_seeds": answer.verified,
        "objective": objective,
        "batch_size": c.batch_size,
        "learning_rate": derived.learning_rate,
        "keeps_baseline": answer.keeps_baseline,
        "schedule": {
            "name": c.schedule.name,
            **c.schedule.arguments,
            "warmup_fraction": c.warmup_fraction,
            "warmup_examples": derived.warmup_examples,
            "total_examples": derived.total_examples,
        },
        "optimizer": {"name": c.optimizer.name, **c.optimizer.arguments, **derived.numbers()},
        "metrics": _metrics(answer.recommended, test),
        "training_seconds": _seconds(answer.recommended),
        "validation_seconds": _validation_seconds(answer.recommended),
        "trial_seconds": answer.recommended.trial_seconds(),
        "baseline": None
        if answer.baseline is None
        else {
            "batch_size": answer.baseline.configuration.batch_size,
            "learning_rate": answer.baseline.learning_rate,
            "metrics": _metrics(answer.baseline, test),
            "training_seconds": _seconds(answer.baseline),
            "validation_seconds": _validation_seconds(answer.baseline),
            "trial_seconds": answer.baseline.trial_seconds(),
            "failures": answer.baseline.failures,
        },
        "evidence": sorted(
            {  # once each, also where the baseline is what is recommended
                t.trial
                for contender in (answer.recommended, answer.baseline)
                if contender
                for t in contender.trials
            }
        ),
        "tied_with_best": []
        if answer.choice is None
        else [x.key for x in answer.choice.comparisons if x.tied],
        "margin": None if answer.choice is None else answer.choice.margin,
        "memory_used_up": memory,
        "memory_limit": memory_limit,
        "best_learning_rate_at_edge": {"low": list(edges.low), "high": list(edges.high)},
        "trials": trials,
        "seconds": round(seconds, 1),
    }


def best_yaml(answer: Answer, *, request: Request, threads: int | None) -> str:
    """The content of best.yaml, which `python -m tfbatch.train --config` reads.

    Args:
        answer: The answer.
        request: What was asked.
        threads: Threads of each trial on a CPU; None on another device.
    """
    reported = answer.recommended.validation()[request.objective.name]
    content = {
        "dataset": request.dataset,
        **_batched(request),
        "data_dir": str(request.data_dir) if request.data_dir else None,
        "model": request.model,
        "trial_length": str(request.trial_length),
        "seed": answer.recommended.trials[0].seed,
        "precision": request.execution.precision,
        "jit_compile": request.execution.jit_compile,
        "strategy": request.execution.strategy,
        "threads": threads,
        **{key: _plain(value) for key, value in request.task.identity().items()},
        "configuration": answer.recommended.configuration.model_dump(mode="json"),
        "reported": {
            "metric": request.objective.name,
            "mean": reported.mean,
            "deviation": None if math.isnan(reported.deviation) else reported.deviation,
            "seeds": reported.seeds,
        },
    }
    return write_yaml(content, comment="The recommended training: python -m tfbatch.train --config")


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def write_answer(folder: Path, content: dict[str, Any], best: str) -> None:
    """Writes recommendation.json and best.yaml, each whole or not at all."""
    write_whole(folder / BEST_CONFIGURATION, best)
    write_whole(folder / RECOMMENDATION, json.dumps(content, indent=1) + "\n")


def table_by_batch_size(trials: Trials, answer: Answer) -> Table:
    """One row for each batch size, and the baseline's."""
    objective = trials.objective
    table = Table(title=f"By batch size ({objective.name}, {_better(objective)})")
    for column in ("batch size", "trials", "best of search", "learning rate", "schedule"):
        table.add_column(column, justify="left" if column == "schedule" else "right")
    table.add_column("fresh seeds", justify="right")
    table.add_column("train s", justify="right")
    table.add_column("")
    first, searched = trials.of_phase("baseline"), trials.of_phase("search")
    groups = [(f"{t.configuration.batch_size} (baseline)", first) for t in first]
    groups += [(str(b), searched.of_batch_size(b)) for b in searched.batch_sizes()]
    rows = [_row(name, group, answer) for name, group in groups]
    for row in rows:
        table.add_row(*row)
    if any(row[_SECONDS].endswith(_AS_IN_TRIAL) for row in rows):
        table.caption = (
            f"train s: seconds of training steps, alone on the device;{_AS_IN_TRIAL} as they were "
            "in the trial, beside others"
        )
    return table


_SECONDS = 6
_AS_IN_TRIAL = " *"
"""Marks seconds that other trials slowed down."""


def _row(name: str, group: Trials, answer: Answer) -> list[str]:
    scored = group.ranked()
    if not scored:
        ends = ", ".join(sorted({t.status for t in group}))
        return [name, str(len(group)), f"none ({ends})", "", "", "", "", ""]
    best = next((t for t in scored if t.trial in answer.contenders), scored[0])
    contender = answer.contenders.get(best.trial)
    fresh, seconds = "", f"{best.training_seconds:.3g}{_AS_IN_TRIAL}"
    if contender and _on_fresh_seeds(contender):
        measured = contender.validation()
        fresh = contender.failures or shown_as(measured[group.objective.name])
        mark = "" if contender.alone else _AS_IN_TRIAL
        seconds = f"{contender.training_seconds().mean:.3g}{mark}"
    return [
        name,
        str(len(group)),
        f"{best.score:.4f}",
        f"{best.learning_rate:.3g}",
        describe_schedule(best),
        fresh,
        seconds,
        _mark(best.trial, answer),
    ]


def describe_schedule(trial: FinishedTrial) -> str:
    """Such as "cosine, final_fraction 0.01, 3 % warm-up"."""
    c = trial.configuration
    parts = [c.schedule.name, *(f"{k} {v}" for k, v in c.schedule.arguments.items())]
    if c.warmup_fraction:
        parts.append(f"{c.warmup_fraction:.0%} warm-up")
    return ", ".join(parts)


def shown_as(measured: Measured) -> str:
    """Such as "0.6812 ± 0.0034 (n=3)"."""
    if measured.seeds == 1:
        return f"{measured.mean:.4f} (n=1)"
    return f"{measured.mean:.4f} ± {measured.deviation:.4f} (n={measured.seeds})"


def _on_fresh_seeds(contender: Contender) -> bool:
    return contender.trials[0].phase == "confirmation"


def _mark(key: str, answer: Answer) -> str:
    marks = []
    if key == answer.recommended.key:
        marks.append("recommended")
    if answer.choice:
        marks += ["best mean"] if key == answer.choice.best else []
        comparison = next((c for c in answer.choice.comparisons if c.key == key), None)
        if comparison and comparison.tied and key != answer.choice.best:
            marks.append("tied with best")
        elif comparison and not comparison.tied:
            marks.append(f"behind by {comparison.deficit:.4f}")
    return ", ".join(marks)


def _metrics(contender: Contender, test: TestMetrics) -> dict[str, Any]:
    validation = {
        name.removeprefix("val_"): _as_json(value)
        for name, value in contender.validation().items()
        if name.startswith("val_")
    }
    measured = test.get(contender.key)
    return {
        "validation": validation,
        "test": None if measured is None else {k: _as_json(v) for k, v in measured.items()},
    }


def _seconds(contender: Contender) -> dict[str, Any]:
    measured = contender.training_seconds()
    return {
        "mean": measured.mean,
        "standard_deviation": None if math.isnan(measured.deviation) else measured.deviation,
        "measurements": measured.seeds,
        "alone_on_the_device": bool(contender.alone),
        "device": contender.device or None,
    }


def _validation_seconds(contender: Contender) -> dict[str, Any]:
    """Of all evaluations of a training together; null where they were not measured alone."""
    return {"mean": contender.validation_alone, "evaluations": contender.validations}


def _as_json(measured: Measured) -> dict[str, Any]:
    deviation = None if math.isnan(measured.deviation) else measured.deviation
    return {"mean": measured.mean, "standard_deviation": deviation, "seeds": measured.seeds}


def _better(objective: Objective) -> str:
    return "higher is better" if objective.direction == "max" else "lower is better"


def _batched(request: Request) -> dict[str, bool]:
    """What the user says of the batches of a Dataset."""
    declared = request.data.batched if isinstance(request.data, OwnData) else None
    return {} if declared is None else {"batched": declared}
