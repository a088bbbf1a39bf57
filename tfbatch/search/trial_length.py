"""How long a trial is where nobody says: as the data's recipe has it, or as the time allows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, SearchError
from tfbatch.quantities import TrainingLength
from tfbatch.request.request import CHOSEN_LENGTH, Request
from tfbatch.run_folder.files import JOURNAL
from tfbatch.run_folder.journal import read_rows
from tfbatch.run_folder.reader import read_budget, read_settings
from tfbatch.search.budget import Budget
from tfbatch.search.clock import FINISHING_SECONDS
from tfbatch.search.engine import Engine
from tfbatch.search.progress import Progress
from tfbatch.training.evaluation import Untrained
from tfbatch.training.step_times import expected_trial_seconds

FEWEST_UPDATES = 50
"""A chosen length has so many of the baseline's: fewer show nothing of a learning rate."""


def expected_test_seconds(
    request: Request, splits: Mapping[str, int], untrained: Untrained
) -> float:
    """What evaluating what was verified on test may take, from the untrained model."""
    share = splits.get("test", 0) / splits["validation"]
    confirmation = request.search.confirmation
    models = max((confirmation.batch_sizes + 2) * confirmation.seeds, 1)
    return models * untrained.seconds * share


def shortest_length(
    request: Request, batch_sizes: Sequence[int], num_examples: int, *, updates: int = 0
) -> TrainingLength:
    """One batch of the largest size: no trial may be shorter.

    Args:
        request: Its length has the unit.
        batch_sizes: Those of the search.
        num_examples: Size of the training split.
        updates: And so many of the baseline's.
    """
    baseline = request.subject.baseline.batch_size
    examples = max(*batch_sizes, baseline, updates * baseline)
    if request.trial_length.unit == "examples":
        return TrainingLength(amount=examples, unit="examples")
    return TrainingLength(amount=examples / num_examples, unit="epochs")


def budget_of(
    request: Request,
    *,
    trial_seconds: float,
    left: float,
    finishing: float,
    at_once: int,
    shortest: TrainingLength,
) -> Budget:
    """The time limit of a run beside what its trials take; see Budget."""
    search = request.search
    return Budget(
        trial_seconds=trial_seconds,
        left=left,
        finishing=finishing,
        at_once=at_once,
        max_trials=search.max_trials,
        # The baseline twice; a round of nothing where nothing is verified.
        to_verify=search.confirmation.batch_sizes + 2 if search.confirmation.seeds else 0,
        length=request.trial_length,
        shortest=shortest,
        max_minutes=math.inf if request.max_minutes is None else request.max_minutes,
        needed_trainings=search.oracle.needed_trainings(search.max_trials),
    )


def settle_length(
    request: Request,
    *,
    engine: Engine,
    baseline: Configuration,
    batch_sizes: Sequence[int],
    splits: Mapping[str, int],
    untrained: Untrained,
    left: float,
    progress: Progress,
) -> tuple[Request, float | None]:
    """The request with the length that its trials will have.

    Where none is given and too few trials of the recipe's length fit into the time, it is the
    longest with which enough do. A run that is resumed keeps the one that was chosen.

    Args:
        request: What is asked.
        engine: Runs no trial.
        baseline: The user's configuration.
        batch_sizes: Those of the search.
        splits: Examples of each split.
        untrained: The untrained model.
        left: Seconds left of the time limit.
        progress: Told of a length that is chosen.

    Returns:
        The request, and the predicted seconds of a trial; None where they were not needed.

    Raises:
        RunFolderError: A file of the run folder is damaged.
        StoppedError: The user requested a stop.
    """
    found = _length_of_folder(request)
    if not request.has_default_length:
        # Named once, the length that was chosen stays the one of the command without it.
        if found is not None and found == dataclasses.replace(request, has_chosen_length=True):
            return found, None
        return request, None
    if found is not None:
        return found, None
    if request.max_minutes is None:
        return request, None
    num_examples = splits["train"]
    try:
        seconds = engine.call(
            expected_trial_seconds,
            baseline,
            total_examples=request.trial_length.examples(num_examples),
            validation_seconds=untrained.seconds,
        )
    except SearchError:  # it is predicted once more, and that failure is told
        return request, None
    budget = budget_of(
        request,
        trial_seconds=seconds,
        left=left,
        finishing=FINISHING_SECONDS + expected_test_seconds(request, splits, untrained),
        at_once=engine.devices.workers,
        shortest=shortest_length(request, batch_sizes, num_examples, updates=FEWEST_UPDATES),
    )
    length = None if budget.has_room else budget.fitting_length()
    if length is None:
        return request, seconds
    chosen = dataclasses.replace(request, trial_length=length, has_chosen_length=True)
    progress.say(
        f"Trials of {length}: of the usual {request.trial_length}, which take about "
        f"{budget.trial_minutes} each here, {budget.shortage}. The run keeps this length when it "
        "is resumed; --trial_length sets another."
    )
    return chosen, seconds * length.amount / request.trial_length.amount


def _length_of_folder(request: Request) -> Request | None:
    """The request as the run folder has begun it; None where it holds no trial."""
    if request.overwrite:
        return None
    try:
        settings, budget = read_settings(request.run_dir), read_budget(request.run_dir)
    except InputError:  # no run folder yet
        return None
    journal = request.run_dir / JOURNAL
    if not journal.exists() or not read_rows(journal):  # a kill may have left the settings alone
        return None
    if not budget.get(CHOSEN_LENGTH):
        return request
    length = TrainingLength.parse(str(settings["trial_length"]))
    return dataclasses.replace(request, trial_length=length, has_chosen_length=True)
