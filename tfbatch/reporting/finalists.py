"""The finalists as a forest plot: each seed's paired difference, the interval, and the band."""

from __future__ import annotations

import dataclasses
import math

from tfbatch.answer.answer import Contender
from tfbatch.answer.candidates import again_name, round_of
from tfbatch.charts import Band, Chart, Role, Series
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.trial.finished_trial import BASELINE


@dataclasses.dataclass(frozen=True)
class Differences:
    """One finalist against the reference, positive where it is better.

    Attributes:
        key: The finalist.
        by_seed: The difference on each fresh seed that both completed.
        gain: The mean difference of its last look; NaN without one.
        half_width: Half of the interval that holds for all finalists and looks; infinite without
            one.
    """

    key: str
    by_seed: tuple[float, ...]
    gain: float
    half_width: float


def reference_of(run: RecordedRun) -> Contender | None:
    """What the finalists were compared with: the baseline, or the best mean where it failed."""
    answer = run.answer
    if answer is None or answer.verification is None:
        return None
    base = answer.baseline
    # One that failed on a seed was compared with nothing: there is no interval against it.
    if base is not None and answer.verification.of_key(BASELINE) is not None:
        return base
    return answer.find(answer.verification.best)


def paired_differences(run: RecordedRun) -> list[Differences]:
    """Every other finalist against the reference, best first."""
    reference, answer = reference_of(run), run.answer
    if reference is None or answer is None or answer.verification is None:
        return []
    sign = 1.0 if answer.objective.direction == "max" else -1.0
    against = scores_by_round(run, reference)
    found = []
    for one in answer.contenders:
        if one.key == reference.key or not one.on_fresh_seeds:
            continue
        own = scores_by_round(run, one)
        by_seed = tuple(sign * (own[n] - against[n]) for n in sorted(own) if n in against)
        compared = answer.verification.of_key(one.key)
        gain, half = math.nan, math.inf
        if compared is not None and reference.key == BASELINE:
            if compared.gain is not None and compared.gain_half_width is not None:
                gain, half = compared.gain, compared.gain_half_width
        elif compared is not None and compared.half_width is not None:
            gain, half = -compared.deficit, compared.half_width
        found.append(Differences(one.key, by_seed, gain, half))
    means = {d.key: sum(d.by_seed) / len(d.by_seed) if d.by_seed else -math.inf for d in found}
    return sorted(found, key=lambda d: -means[d.key])


def scores_by_round(run: RecordedRun, contender: Contender) -> dict[int, float]:
    """The score on each round's seed; the baseline's second trainings have seeds of their own."""
    found: dict[int, float] = {}
    for one in contender.trials:
        trial = run.trials.find(one.trial)
        if trial is None or one.score is None:
            continue
        number = round_of(trial)
        if trial.trial != again_name(trial.configuration, number):
            found[number] = one.score
    return found


def forest(run: RecordedRun) -> Chart | None:
    """The forest plot; None where nothing was compared on fresh seeds."""
    rows, reference, answer = paired_differences(run), reference_of(run), run.answer
    if not rows or reference is None or answer is None or answer.verification is None:
        return None
    margin = answer.verification.margin
    series = [_dots(rows), *_intervals(run, rows)]
    return Chart(
        f"Finalists against {reference.key}",
        f"difference in {run.objective_name}, right is better",
        "",
        tuple(series),
        log_x=False,
        log_y=False,
        y_names=tuple(_row_name(run, row.key) for row in rows),
        bands=(Band(-margin, 0.0, f"as good: within {margin:.4g}", across="x"),),
    )


def _row_name(run: RecordedRun, key: str) -> str:
    one = run.answer.find(key) if run.answer else None
    mark = "<b>recommended</b>,<br>" if run.recommends(key) else ""
    return f"{mark}B = {one.batch_size}, {one.learning_rate:.3g}" if one else key


def _dots(rows: list[Differences]) -> Series:
    places = [(value, float(n)) for n, row in enumerate(rows) for value in row.by_seed]
    return Series(
        "one seed",
        tuple(value for value, _ in places),
        tuple(place for _, place in places),
        kind="points",
        role="other",
        symbol="circle-open",
    )


def _intervals(run: RecordedRun, rows: list[Differences]) -> list[Series]:
    groups: dict[tuple[str, Role], list[tuple[float, Differences]]] = {}
    for place, row in enumerate(rows):
        known = math.isfinite(row.gain)
        part: tuple[str, Role] = ("mean and interval", "best")
        if run.recommends(row.key):
            part = "recommended: mean and interval", "recommended"
        if known:
            groups.setdefault(part, []).append((float(place), row))
    return [
        Series(
            name,
            tuple(row.gain for _, row in group),
            tuple(place for place, _ in group),
            low=tuple(row.gain - row.half_width for _, row in group),
            high=tuple(row.gain + row.half_width for _, row in group),
            kind="points",
            role=role,
            symbol="diamond",
            about=tuple(f"{row.key}: {row.gain:.4g} ± {row.half_width:.4g}" for _, row in group),
        )
        for (name, role), group in groups.items()
    ]
