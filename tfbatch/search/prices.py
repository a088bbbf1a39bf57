"""Prices first: what training costs at each batch size, before a search that proposes by it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from tfbatch.answer.prices import MeasuredPrices, read_prices
from tfbatch.answer.step_seconds import read_step_seconds
from tfbatch.configuration import Configuration
from tfbatch.errors import SearchError
from tfbatch.run_folder.files import STEP_TIMES
from tfbatch.search.engine import Engine
from tfbatch.search.progress import Progress
from tfbatch.training.prices import in_order, measure_prices

MEASURING_SECONDS = 10.0
"""After so many no further batch size is looked at."""
_SHARE = 0.05
"""But no more than this share of a time limit."""


def prices_of(
    engine: Engine,
    baseline: Configuration,
    sizes: Iterable[int],
    folder: Path,
    progress: Progress,
    *,
    max_minutes: float | None,
) -> MeasuredPrices:
    """The prices of a run: measured, kept and reported once, by its first session.

    A batch size that cannot be built, or ends its process, has none; its trials find out.

    Args:
        engine: Runs no trial.
        baseline: What is measured, at each batch size.
        sizes: The batch sizes of the search; the baseline's own is added.
        folder: The run folder.
        progress: Receives the progress.
        max_minutes: The run's time limit.

    Raises:
        RunFolderError: What was kept is damaged, or cannot be written.
        StoppedError: The user requested a stop.
    """
    found = read_prices(folder)
    if found is not None:
        return found
    order = in_order({*sizes, baseline.batch_size})
    progress.say(f"Measuring what an update costs at {len(order)} batch sizes, each alone.")
    seconds = MEASURING_SECONDS
    if max_minutes is not None:
        seconds = min(seconds, _SHARE * max_minutes * 60)
    found = _measured(engine, baseline, order, folder, seconds)
    found.write(folder)
    progress.say(in_words(found))
    return found


def _measured(
    engine: Engine,
    baseline: Configuration,
    order: Sequence[int],
    folder: Path,
    seconds: float,
) -> MeasuredPrices:
    """Measures; where a size ends the process, those that are smaller once more."""
    device = engine.devices.name
    left = list(order)
    ended: dict[int, str] = {}
    while left:
        try:
            found = engine.call_alone(
                measure_prices,
                [baseline.model_copy(update={"batch_size": size}) for size in left],
                folder / STEP_TIMES,
                device,
                seconds=seconds,
            )
        except SearchError as error:
            known = read_step_seconds(folder).rounds
            culprit = next((size for size in left if size not in known), max(left))
            reason = str(error).splitlines()[0]
            ended |= {size: reason for size in left if size >= culprit}
            left = [size for size in left if size < culprit]
            continue
        return found.model_copy(update={"missing": {**found.missing, **ended}})
    return MeasuredPrices(device=device, step_seconds={}, missing=ended)


def in_words(found: MeasuredPrices) -> str:
    """The prices in a sentence or two."""
    steps = found.step_seconds
    told = []
    if steps:
        sizes = ", ".join(f"{size}: {1e3 * steps[size]:.3g}" for size in sorted(steps))
        told.append(
            f"Milliseconds of an update by batch size, alone on {found.device}: {sizes}; an "
            f"evaluation takes {found.evaluation_seconds:.2g} s, a trial {found.start_seconds:.2g} "
            "s beside them."
        )
    if found.missing:
        why = "; ".join(f"{size} ({found.missing[size]})" for size in sorted(found.missing))
        told.append(f"Not measured: {why}.")
    if not steps:
        told.append("The search counts costs in examples instead.")
    return " ".join(told)
