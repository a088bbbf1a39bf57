"""What the runs of all engines come to: medians, ranges, ratios within a round."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterable

OURS, LOOPS = "tfbatch", ("bare", "bare_side_by_side")


@dataclasses.dataclass(frozen=True)
class Run:
    """One engine in one round.

    Attributes:
        engine: Its name.
        round: Number of the round.
        trials: Listed trials.
        trained: Trials that were run; more than the listed ones where an engine adds its own.
        seconds: From the process's start to its end.
        start_seconds: Of these, until everything was imported.
        processor_seconds: Of all its processes, user and system: what a busy machine changes least.
        peak_rss: Largest resident set of all its processes together, in bytes; shared pages count
            once for each process.
        final_rss: The last one before the end.
        peak_pss: The largest one with shared pages divided among their processes; 0 where the
            system does not tell.
        accuracies: Final validation accuracy of each trial, as [batch size, schedule, accuracy].
    """

    engine: str
    round: int
    trials: int
    trained: int
    seconds: float
    start_seconds: float
    processor_seconds: float
    peak_rss: int
    final_rss: int
    peak_pss: int
    accuracies: tuple[tuple[int, str, float], ...]

    @property
    def seconds_a_trial(self) -> float:
        """Everything, over the listed trials."""
        return self.seconds / self.trials

    @property
    def seconds_a_trial_started(self) -> float:
        """Without start-up and imports."""
        return (self.seconds - self.start_seconds) / self.trials


def spread(values: Iterable[float], unit: str = "") -> str:
    """Median, range and number."""
    found = list(values)
    middle, low, high = statistics.median(found), min(found), max(found)
    return f"{middle:.2f}{unit} ({low:.2f}-{high:.2f}, n={len(found)})"


def ratios(
    runs: list[Run], engine: str, reference: str, value: Callable[[Run], float]
) -> list[float]:
    """`value` of an engine over that of another one, round by round."""
    by_round = {run.round: value(run) for run in runs if run.engine == reference}
    return [
        value(run) / by_round[run.round]
        for run in runs
        if run.engine == engine and run.round in by_round
    ]


def lines(runs: list[Run]) -> list[str]:
    """The report, for people; ratios of this package to all, and of all to the bare loop."""
    engines = list(dict.fromkeys(run.engine for run in runs))
    text = []
    for engine in engines:
        mine = [run for run in runs if run.engine == engine]
        last = mine[-1]
        hourly = statistics.median(3600 / run.seconds_a_trial for run in mine)
        accuracies = [accuracy for _, _, accuracy in last.accuracies]
        text += [
            f"{engine}",
            f"  seconds a trial: {spread(run.seconds_a_trial for run in mine)}; without start-up "
            f"{spread(run.seconds_a_trial_started for run in mine)}",
            f"  {hourly:,.0f} trials an hour on the whole machine; {last.trained} trained for "
            f"{last.trials} listed; start-up {statistics.median(r.start_seconds for r in mine):.1f}"
            f" s; median validation accuracy {statistics.median(accuracies):.3f}",
            f"  processor seconds a trial: {spread(r.processor_seconds / r.trials for r in mine)}",
            f"  memory of all processes: RSS peak {_gib(mine, 'peak_rss')}, final "
            f"{_gib(mine, 'final_rss')}; PSS peak {_gib(mine, 'peak_pss')}",
        ]
    text.append("seconds a trial over those of another engine, within the same round:")
    for engine in engines:
        for reference in engines:
            if engine != reference and (engine == OURS or reference in LOOPS):
                whole = ratios(runs, engine, reference, lambda run: run.seconds_a_trial)
                started = ratios(runs, engine, reference, lambda run: run.seconds_a_trial_started)
                processor = ratios(runs, engine, reference, lambda run: run.processor_seconds)
                text.append(
                    f"  {engine} / {reference}: {spread(whole)}; without start-up {spread(started)}"
                    f"; processor seconds {spread(processor)}"
                )
    return text


def _gib(runs: list[Run], name: str) -> str:
    return f"{statistics.median(getattr(run, name) for run in runs) / 2**30:.2f} GiB"
