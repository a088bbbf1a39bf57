"""The picture of a run: throughput, memory and the tuned metric over one axis of batch sizes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from tfbatch.answer.answer import Contender
from tfbatch.charts import Band, Chart, Mark, Role, Series, Stack
from tfbatch.errors import InputError
from tfbatch.estimators.interval import mean_and_deviation, t_half_width
from tfbatch.estimators.knee import Knee, find_knee
from tfbatch.reporting.fixed_rate import at_the_baselines_rate, fixed_rate_series
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial

FEWEST_SIZES = 3
"""Of fewer timed sizes no knee is named."""
_TIMES_RANGE = 5.0


def by_batch_size(run: RecordedRun) -> Stack | None:
    """Throughput, memory where it was measured, and the tuned metric; None without a batch size."""
    sizes = tuple(map(float, run.trials.batch_sizes()))
    if not sizes:
        return None
    charts = [throughput_chart(run, sizes), memory_chart(run, sizes), metric_chart(run, sizes)]
    found = tuple(chart for chart in charts if chart is not None)
    return Stack("By batch size", found) if found else None


def notes(run: RecordedRun) -> list[str]:
    """What the picture cannot show."""
    found = []
    knee = knee_of(run)
    if knee is not None and knee.edge:
        found.append(
            f"No knee is named: it would be the {knee.edge} batch size that was timed alone, "
            f"{knee.batch_size}, and may lie beyond it."
        )
    elif knee is not None:
        found.append(
            f"Knee: from batch size {knee.batch_size} {knee.interval} on the device has 90 % of "
            f"its best measured throughput ({max(knee.throughput):,.0f} examples/s)"
            + (
                "; the largest size that was timed alone is the fastest, so that larger ones may "
                "be faster still."
                if knee.open_ended
                else "."
            )
        )
    elif run.step_seconds.rounds:
        found.append("No knee is named: fewer than 3 batch sizes were timed alone.")
    else:
        found.append(
            "Throughput is that of the trials, beside whatever else ran: step times are measured "
            "alone with the verification."
        )
    if run.step_seconds.rounds:
        beside = "; open circles are medians of trials beside others, not comparable with it"
        found.append(
            "Throughput alone on the device: the median round, bars from the slowest to the "
            f"fastest{beside if _in_trials(run) else ''}."
        )
    if run.memory_limit is None:
        found.append(
            "Memory by batch size was not measured; --memory_budget=auto measures it before the "
            "search."
        )
    elif not run.memory_limit.settled:
        found.append(run.memory_limit.conclusion)
    found += _metric_notes(run)
    at_one_rate = at_the_baselines_rate(run)
    without = "Without a baseline there is no line at a fixed learning rate."
    found.append(at_one_rate.source if at_one_rate else without)
    return [*found, *_outside(run)]


def _metric_notes(run: RecordedRun) -> list[str]:
    """What a point of the tuned metric is, and which of them can still become better."""
    tuned = tuned_by_size(run)
    if not tuned:
        return []
    searched = run.trials.searched().of_phase("search")
    sizes = [t.configuration.batch_size for t in tuned]
    counts = ", ".join(f"{size:,}: {len(searched.of_batch_size(size))}" for size in sizes)
    found = [
        "Best of the search: one training, the best of so many trials of the run's length "
        f"({counts}), and too good on average for that reason."
    ]
    if on_fresh_seeds(run):
        found[0] += " Diamonds: means on fresh seeds, with 95 % t intervals."
    closed = {one.batch_size for one in run.brackets if one.closed}
    if unbounded := [size for size in sizes if size not in closed]:
        found.append(
            "Not tuned to an end: at batch size "
            f"{', '.join(f'{size:,}' for size in unbounded)} the best learning rate has no lower "
            "or no higher one that is no better, so that a better metric may lie beyond it."
        )
    return found


def _outside(run: RecordedRun) -> list[str]:
    """Names what lies beyond the ends of the metric's axis: a legend alone would hide it."""
    chart = metric_chart(run, ())
    if chart is None or chart.y_limits is None:
        return []
    low, high = chart.y_limits
    found = []
    for series in chart.series:
        beyond = [
            f"{x:,.0f} ({y:.4g})"
            for x, y in zip(series.x, series.y, strict=True)
            if not low <= y <= high
        ]
        if beyond:
            found.append(f"{series.name}: batch size {', '.join(beyond)}")
    return [f"Outside the picture, as too far from the best: {'; '.join(found)}."] if found else []


def knee_of(run: RecordedRun) -> Knee | None:
    """The knee of the step times measured alone; None of fewer than three sizes."""
    rounds = dict(sorted(run.step_seconds.rounds.items()))
    if len(rounds) < FEWEST_SIZES:
        return None
    fewest = min(map(len, rounds.values()))
    table = [[times[number] for times in rounds.values()] for number in range(fewest)]
    try:
        return find_knee(list(rounds), table)
    except InputError:  # a time of 0, as a coarse clock gives it
        return None


def throughput_chart(run: RecordedRun, ticks: Sequence[float]) -> Chart | None:
    """Examples per second by batch size: alone on the device, and in the trials."""
    series = [*_alone(run), *_in_trials(run)]
    if not series:
        return None
    knee, marks = knee_of(run), wall_marks(run)
    if knee is not None and not knee.edge:
        more = " or larger" if knee.open_ended else ""
        marks.insert(0, Mark(float(knee.batch_size), f"knee {knee.batch_size}{more}"))
    return Chart(
        "Throughput",
        "batch size",
        "examples / s",
        tuple(series),
        marks=tuple(marks),
        log_y=False,
        x_ticks=tuple(ticks),
    )


def wall_marks(run: RecordedRun) -> list[Mark]:
    """Where memory ended, or where it was measured to end, as a line; nothing if it never did."""
    device = run.trials[-1].device if run.trials else ""  # as it is now, if it was changed
    wall = run.trials.memory_wall(device)
    if wall is not None:
        return [Mark(float(wall), f"out of memory at {wall}", "failed")]
    return _limit_marks(run)


def _limit_marks(run: RecordedRun) -> list[Mark]:
    """The largest batch that was measured to fit, unless it is all that was asked for.

    Where the measurement was not settled: what does not fit, for larger ones may fit.
    """
    limit = run.memory_limit
    if limit is not None and not limit.settled:
        failed = limit.smallest_that_failed
        return [] if failed is None else [Mark(float(failed), f"does not fit: {failed}", "failed")]
    if limit is None or not 0 < limit.largest_batch_size < limit.largest_asked:
        return []
    largest = limit.largest_batch_size
    return [Mark(float(largest), f"largest that fits: {largest}", "failed")]


def _alone(run: RecordedRun) -> list[Series]:
    rounds = {size: times for size, times in sorted(run.step_seconds.rounds.items()) if times}
    if not rounds:
        return []
    return [
        Series(
            "alone on the device",
            tuple(map(float, rounds)),
            tuple(size / statistics.median(times) for size, times in rounds.items()),
            low=tuple(size / max(times) for size, times in rounds.items()),
            high=tuple(size / min(times) for size, times in rounds.items()),
            role="best",
        )
    ]


def _in_trials(run: RecordedRun) -> list[Series]:
    """Medians over the trials of each size, where it was not measured alone."""
    found: dict[int, list[float]] = {}
    for trial in run.trials.completed():
        size, did = trial.configuration.batch_size, run.trials.own(trial)
        if did.training_seconds > 0 and size not in run.step_seconds.rounds:
            found.setdefault(size, []).append(did.examples / did.training_seconds)
    if not found:
        return []
    sizes = sorted(found)
    return [
        Series(
            "in trials, beside others",
            tuple(map(float, sizes)),
            tuple(statistics.median(found[size]) for size in sizes),
            kind="points",
            role="other",
            symbol="circle-open",
        )
    ]


def memory_chart(run: RecordedRun, ticks: Sequence[float]) -> Chart | None:
    """Peak memory by batch size where it was measured, with the budget."""
    limit = run.memory_limit
    if limit is None or not limit.peaks:
        return None
    peaks = sorted(limit.peaks, key=lambda peak: peak.batch_size)
    return Chart(
        "Memory",
        "batch size",
        "peak memory (MB)",
        (
            Series(
                "peak memory",
                tuple(float(peak.batch_size) for peak in peaks),
                tuple(float(peak.megabytes) for peak in peaks),
                role="candidate",
            ),
        ),
        marks=tuple(_limit_marks(run)),
        log_y=False,
        x_ticks=tuple(ticks),
    )


def metric_chart(run: RecordedRun, ticks: Sequence[float]) -> Chart | None:
    """The tuned metric by batch size: best of the search, fresh seeds, and at one learning rate."""
    tuned = tuned_by_size(run)
    if not tuned:
        return None
    series = [
        Series(
            "best of the search",
            tuple(float(t.configuration.batch_size) for t in tuned),
            tuple(t.score or 0.0 for t in tuned),
            role="candidate",
            about=tuple(describe(t) for t in tuned),
        ),
        *fixed_rate_series(at_the_baselines_rate(run)),
        *_shorter(run),
        *_fresh(run),
    ]
    bands, limits = _tied(run), _limits(run, series)
    return Chart(
        "Tuned metric",
        "batch size",
        run.objective_name,
        tuple(series),
        bands=tuple(bands),
        log_y=False,
        from_zero=False,
        y_limits=limits,
        x_ticks=tuple(ticks),
    )


def tuned_by_size(run: RecordedRun) -> list[FinishedTrial]:
    """The best completed trial of the search at each batch size, of the run's full length."""
    searched = run.trials.searched().of_phase("search")
    best = [searched.of_batch_size(size).best() for size in searched.batch_sizes()]
    return [trial for trial in best if trial is not None]


def describe(trial: FinishedTrial) -> str:
    """A trial for the pointer."""
    c = trial.configuration
    score = "no score" if trial.score is None else f"{trial.score:.4g}"
    return (
        f"{trial.trial}: {score}<br>batch size {c.batch_size}, learning rate "
        f"{trial.learning_rate:.3g}, {c.schedule.name}"
    )


def on_fresh_seeds(run: RecordedRun) -> list[Contender]:
    """What was verified, with at least one completed training."""
    contenders = run.answer.contenders if run.answer else ()
    return [one for one in contenders if one.on_fresh_seeds and one.completed]


def _fresh(run: RecordedRun) -> list[Series]:
    """Means over fresh seeds with 95 % t intervals, one series for each part in the answer."""
    groups: dict[tuple[str, Role], list[Contender]] = {}
    for one in on_fresh_seeds(run):
        part: tuple[str, Role] = ("other finalists, fresh seeds", "best")
        if run.recommends(one.key):
            both = one.key == BASELINE
            part = f"recommended{', the baseline' if both else ''}, fresh seeds", "recommended"
        elif one.key == BASELINE:
            part = "baseline, fresh seeds", "baseline"
        groups.setdefault(part, []).append(one)
    found = []
    for (name, role), contenders in groups.items():
        means, halves = zip(*map(mean_with_interval, contenders), strict=True)
        found.append(
            Series(
                name,
                tuple(float(one.batch_size) for one in contenders),
                tuple(means),
                low=tuple(m - h for m, h in zip(means, halves, strict=True)),
                high=tuple(m + h for m, h in zip(means, halves, strict=True)),
                kind="points",
                role=role,
                symbol="diamond",
                about=tuple(
                    f"{one.key}: {one.objective()}<br>batch size {one.batch_size}, learning rate "
                    f"{one.learning_rate:.3g}"
                    for one in contenders
                ),
            )
        )
    return found


def mean_with_interval(contender: Contender) -> tuple[float, float]:
    """Mean objective over its seeds, and half of the 95 % t interval; infinite of one seed."""
    scores = [t.score for t in contender.trials if t.score is not None]
    mean, deviation = mean_and_deviation(scores)
    if len(scores) < 2:
        return mean, math.inf
    return mean, t_half_width(deviation, len(scores), len(scores) - 1)


def _shorter(run: RecordedRun) -> list[Series]:
    """Of a search by parts: what trainings of another length came to at the end of their decay."""
    from tfbatch.reporting.recorded import at_the_end_of_a_decay

    full = run.trials.total_examples
    others: dict[int, dict[int, FinishedTrial]] = {}
    sign = 1.0 if run.trials.objective.direction == "min" else -1.0
    ended = sorted(at_the_end_of_a_decay(run.trials), key=lambda t: sign * (t.score or 0.0))
    for trial in ended:
        if trial.length != full:
            sizes = others.setdefault(trial.length, {})
            sizes.setdefault(trial.configuration.batch_size, trial)
    lengths = [length for length in sorted(others, reverse=True) if len(others[length]) > 1]
    found = []
    for length in lengths[:2]:
        best = [others[length][size] for size in sorted(others[length])]
        found.append(
            Series(
                f"best after {length:,} examples",
                tuple(float(t.configuration.batch_size) for t in best),
                tuple(t.score or 0.0 for t in best),
                role="other",
                symbol="circle-open",
                about=tuple(describe(t) for t in best),
            )
        )
    return found


def _tied(run: RecordedRun) -> list[Band]:
    """What counts as good as the leader: from its mean to the margin behind it."""
    verification = run.answer.verification if run.answer else None
    if verification is None:
        return []
    leader = verification.better_than_baseline or verification.of_key(BASELINE)
    leader = leader or verification.of_key(verification.best)
    if leader is None:
        return []
    behind = -1.0 if run.trials.objective.direction == "max" else 1.0
    ends = sorted((leader.mean, leader.mean + behind * verification.margin))
    name = "the baseline" if leader.key == BASELINE else leader.key
    name = "the recommended one" if run.recommends(leader.key) else name
    return [Band(ends[0], ends[1], f"as good as {name}: within {verification.margin:.4g}")]


def _limits(run: RecordedRun, series: Sequence[Series]) -> tuple[float, float] | None:
    """The vertical range of what matters: a size that learned nothing is outside the picture.

    Whatever was trained on fresh seeds is inside, and its interval; that of a prediction is not.
    """
    values = [v for s in series for v in s.y if math.isfinite(v)]
    best = max(values) if run.trials.objective.direction == "max" else min(values)
    reach = _TIMES_RANGE * statistics.median(abs(v - best) for v in values)
    inside = [v for v in values if abs(v - best) <= reach]
    fresh = (s for s in series if s.symbol == "diamond")
    inside += [v for s in fresh for part in (s.y, s.low, s.high) for v in part or ()]
    inside = [v for v in inside if math.isfinite(v)]
    low, high = min(inside), max(inside)
    room = 0.08 * (high - low) or 0.05 * abs(best) or 1.0
    return low - room, high + room
