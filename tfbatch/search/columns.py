"""Which columns the HParams view shows for a search: searched and derived, what matters first."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tfbatch.configuration import Configuration
from tfbatch.curves_log import write_layout
from tfbatch.hparams_log import (
    Choices,
    Column,
    Metric,
    RealInterval,
    write_experiment,
)
from tfbatch.metric_direction import Direction
from tfbatch.request.search_config import Range
from tfbatch.search.space import SearchSpace
from tfbatch.trial.objective import Objective


def declare_columns(
    log_dir: Path,
    *,
    space: SearchSpace,
    objective: Objective,
    metrics: Mapping[str, Direction | None],
    baseline: Configuration,
    in_parts: bool = False,
) -> None:
    """Writes the columns of a search.

    Args:
        log_dir: The run's TensorBoard folder.
        space: The search space.
        objective: The objective, the first metric column.
        metrics: Validation metrics of the model, each with its direction.
        baseline: Its values belong to the domains too: a filter must be able to show its row.
        in_parts: Whether trials may be parts of trainings, whose scores must be told apart.
    """
    batch_sizes: Choices = tuple(sorted({*space.batch_sizes, baseline.batch_size}))
    schedules = tuple(dict.fromkeys([*space.schedule_names, baseline.schedule.name]))
    columns = [
        Column("batch_size", "batch size", "Examples in one update.", batch_sizes),
        Column(
            "learning_rate", "learning rate", "Peak, at this batch size (derived).", RealInterval()
        ),
        Column("schedule", "schedule", "Decay schedule.", schedules),
        Column("phase", "phase", "What the trial is for.", ("baseline", "search", "confirmation")),
        Column("training_seconds", "training s", "Seconds of training steps.", RealInterval()),
        _number(space, "warmup_fraction", "warm-up", "Share of the training that is warm-up."),
        _number(space, "base_learning_rate", "base rate", "Learning rate at the base batch size."),
        _number(space, "learning_rate_octaves", "octaves", "Offset from the rule, factors of two."),
    ]
    if in_parts:
        columns += [
            Column("from_examples", "from example", "Where it began (0: anew).", RealInterval()),
            Column("to_examples", "to example", "Where it ended.", RealInterval()),
        ]
    columns += [
        Column("steps", "steps", "Updates (derived).", RealInterval()),
        Column("steps_per_epoch", "steps per epoch", "Updates (derived).", RealInterval()),
        Column("warmup_steps", "warm-up steps", "Updates (derived).", RealInterval()),
    ]
    columns += [
        Column(name, name.replace("_", " "), _of_what(name), RealInterval())
        for name in space.parameter_names()
    ]
    columns += [
        Column(name, name.replace("_", " "), _of_what(name), choices)
        for name, choices in space.model_choices().items()
    ]
    columns += [
        Column(
            f"derived_{name}",
            name.replace("_", " "),
            "At this batch size (derived).",
            RealInterval(),
        )
        for name in space.derived_numbers()
    ]
    shown = [Metric(objective.name, objective.direction)]
    shown += [
        Metric(name, direction) for name, direction in metrics.items() if name != objective.name
    ]
    write_experiment(log_dir, columns=columns, metrics=shown)
    write_layout(log_dir, _charts(objective, metrics))


def _charts(objective: Objective, metrics: Mapping[str, Direction | None]) -> dict[str, list[str]]:
    """The charts of the CUSTOM SCALARS page: both splits of a metric in one."""
    charts = {f"{objective.name} (compared)": [objective.name]}
    for name in metrics:
        trained = name.removeprefix("val_")
        charts[trained] = list(dict.fromkeys([trained, name]))
    return {**charts, "learning rate": ["learning_rate"]}


_PARTS = {
    "schedule_": "Only with some schedules.",
    "scaling_rule_": "Of the scaling rule.",
    "optimizer_": "Of the optimizer.",
    "model_": "Argument of the model's builder.",
}


def _of_what(name: str) -> str:
    return next((words for part, words in _PARTS.items() if name.startswith(part)), "")


def _number(space: SearchSpace, name: str, shown: str, description: str) -> Column:
    searched = space.range_of(name)
    if isinstance(searched, Range):
        return Column(name, shown, description, RealInterval(searched.min, searched.max))
    if isinstance(searched, tuple):
        return Column(name, shown, description, searched)
    return Column(name, shown, description, RealInterval())
