"""The answer as a chart of characters: every compared configuration on one scale, 80 columns."""

from __future__ import annotations

import math

from tfbatch.answer.answer import Answer, Contender
from tfbatch.trial.finished_trial import BASELINE

_WIDTH = 36
"""Columns of the scale."""


def terminal_chart(answer: Answer) -> str:
    """A line for each contender, by batch size; "*" is the recommended mean, "o" another one.

    Dashes reach one standard deviation between seeds to both sides. Empty where fewer than two
    configurations have a score.

    Args:
        answer: What a run has found.
    """
    shown = [one for one in answer.contenders if one.completed]
    if len(shown) < 2:
        return ""
    ends = [_ends(one) for one in shown]
    low, high = min(end[0] for end in ends), max(end[1] for end in ends)
    best = "lower" if answer.objective.direction == "min" else "higher"
    lines = [f"{answer.objective.name}, {best} is better ({low:.4g} to {high:.4g})"]
    for one in sorted(shown, key=lambda one: (one.batch_size, one.learning_rate)):
        name = f"{one.batch_size}{' (baseline)' if one.key == BASELINE else ''}"
        mark = "*" if one.key == answer.recommended_trial else "o"
        measured = one.objective()
        lines.append(f"{name:>16} |{_bar(one, low, high, mark)}| {measured}")
    return "\n".join(lines)


def _ends(one: Contender) -> tuple[float, float]:
    measured = one.objective()
    spread = measured.standard_deviation or 0.0
    spread = spread if math.isfinite(spread) else 0.0
    return measured.mean - spread, measured.mean + spread


def _bar(one: Contender, low: float, high: float, mark: str) -> str:
    def place(value: float) -> int:
        share = (value - low) / (high - low) if high > low else 0.5
        return round(share * (_WIDTH - 1))

    begin, end = _ends(one)
    cells = ["-" if place(begin) <= n <= place(end) else " " for n in range(_WIDTH)]
    cells[place(one.objective().mean)] = mark
    return "".join(cells)
