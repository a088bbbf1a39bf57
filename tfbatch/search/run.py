"""A run with its folder open: search, verification, step times, answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.own_data import DataDescription
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.fingerprint import hardware, software
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.answer import find_answer
from tfbatch.search.answer_files import RECOMMENDATION
from tfbatch.search.clock import FINISHING_SECONDS, SearchClock
from tfbatch.search.columns import declare_columns
from tfbatch.search.confirmation import choose_candidates, run_rounds
from tfbatch.search.ending import Ending
from tfbatch.search.loop import Search
from tfbatch.search.opening import (
    AnyEngine,
    stop_if,
)
from tfbatch.search.progress import Progress
from tfbatch.search.request import Request
from tfbatch.search.result import Result
from tfbatch.search.space import SearchSpace
from tfbatch.search.step_seconds import (
    SECONDS_EACH,
    STARTING_SECONDS,
    by_batch_size,
    device_name,
    read_step_seconds,
    write_step_seconds,
)
from tfbatch.search.trial_book import InterruptedTrialError, TrialBook
from tfbatch.training.derived import Derived, derive
from tfbatch.training.evaluation import Untrained


class Run:
    """A run with its folder open."""

    def __init__(
        self,
        request: Request,
        data: DataDescription,
        engine: AnyEngine,
        space: SearchSpace,
        folder: RunFolder,
        progress: Progress,
        stop_requested: Callable[[], bool],
        started: float,
        untrained: Untrained,
        *,
        build_model: Callable[..., Any],
        compiled: bool,
        largest_batch_size: int | None,
    ):
        self._build_model, self._compiled = build_model, compiled
        self._largest_batch_size = largest_batch_size
        self.request = request
        self.data = data
        self.engine = engine
        self.space = space
        self.folder = folder
        self.progress = progress
        self.stop_requested = stop_requested
        self.untrained = untrained
        self.step_seconds = read_step_seconds(folder.path)
        self.num_examples = data.splits["train"]
        self.total_examples = request.trial_length.examples(self.num_examples)
        spent = self._spent_seconds()
        self.clock = SearchClock(
            request.max_minutes,
            spent_seconds=spent + time.monotonic() - started,
            finishing_seconds=FINISHING_SECONDS + self._expected_test_seconds(),
        )
        # A trial that runs into the end of the time is stopped like one that is asked to.
        engine.stop_requested = lambda: stop_requested() or self.clock.expired()
        self.book = TrialBook(
            folder,
            engine=engine,
            derive=self.derive,
            objective=request.objective,
            total_examples=self.total_examples,
            progress=progress,
            untrained_loss=untrained.metrics.get("loss"),
        )

    def complete(self) -> Result:
        """Search, verification, answer."""
        self._write_settings()
        search = Search(
            self.request.search,
            space=self.space,
            objective=self.request.objective,
            book=self.book,
            clock=self.clock,
            seed=self.request.seed,
            untrained=self.untrained.metrics[self.request.objective.name.removeprefix("val_")],
            progress=self.progress,
            largest_batch_size=self._largest_batch_size,
        )
        baseline = self.request.baseline_configuration(self.space.scaling_rule)
        try:
            search.run(baseline, stop_requested=self.stop_requested)
            self._verify()
            self._measure_step_times()
        except InterruptedTrialError as trial:
            self.progress.say(f"{trial} was stopped before its end; it is not counted.")
        if self.book.best() is None:
            stop_if(self.stop_requested)
        answer = find_answer(
            self.book,
            objective=self.request.objective,
            batch_sizes=self.request.search.confirmation.batch_sizes,
            step_seconds=self.step_seconds,
        )
        return Ending(
            request=self.request,
            data=self.data,
            engine=self.engine,
            space=self.space,
            folder=self.folder,
            book=self.book,
            clock=self.clock,
            progress=self.progress,
            derive=self.derive,
            stop_requested=self.stop_requested,
            build_model=self._build_model,
            compiled=self._compiled,
        ).finish(answer)

    def _expected_test_seconds(self) -> float:
        """What evaluating recommendation and baseline on test will take, from the untrained one."""
        splits = self.data.splits
        share = splits.get("test", 0) / splits["validation"]
        models = 2 * max(self.request.search.confirmation.seeds, 1)
        return models * self.untrained.seconds * share

    def _spent_seconds(self) -> float:
        """What earlier sessions used: their trials, and if one came to an end, all its work."""
        trials = sum(row["seconds"] for row in self.folder.journal.rows)
        path = self.folder.path / RECOMMENDATION
        recorded = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else 0.0
        return float(max(trials, recorded))

    def derive(self, configuration: Configuration) -> Derived:
        """Derived values of a configuration, for this run's length of trials."""
        return derive(
            configuration,
            num_examples=self.num_examples,
            total_examples=self.total_examples,
            replicas=self.engine.devices.replicas,
        )

    def _verify(self) -> None:
        confirmation = self.request.search.confirmation
        candidates = choose_candidates(
            self.book.trials,
            objective=self.request.objective,
            batch_sizes=confirmation.batch_sizes,
        )
        if self.stop_requested() or not candidates or not confirmation.seeds:
            return
        self.progress.say(
            f"Verifying {len(candidates)} configurations, the baseline among them, on up to "
            f"{confirmation.seeds} fresh seeds."
        )
        run_rounds(
            candidates,
            rounds=confirmation.seeds,
            book=self.book,
            clock=self.clock,
            seed=self.request.seed,
            stop_requested=self.stop_requested,
        )

    def _measure_step_times(self) -> None:
        """Each candidate's batch size alone on the device, while no trial runs."""
        candidates = choose_candidates(
            self.book.trials,
            objective=self.request.objective,
            batch_sizes=self.request.search.confirmation.batch_sizes,
        )
        configurations = by_batch_size(c.configuration for c in candidates)
        verified = self.book.completed("confirmation")
        known = self.step_seconds.device == device_name(self.engine.devices) and all(
            self.step_seconds.median(c.batch_size) for c in configurations
        )
        expected = STARTING_SECONDS + SECONDS_EACH * len(configurations)
        if known or not verified or self.stop_requested() or not self.clock.fits(expected):
            return
        sizes = ", ".join(str(c.batch_size) for c in configurations)
        self.progress.say(f"Measuring the step times of batch sizes {sizes}, each alone.")
        measured = self.engine.call_alone("step_times", configurations)
        self.step_seconds = write_step_seconds(self.folder.path, measured, self.engine.devices)

    def _write_settings(self) -> None:
        accelerators = list(self.engine.devices.accelerators)
        fingerprint = {"software": software(), "hardware": hardware(accelerators)}
        write_whole(self.folder.path / "fingerprint.json", json.dumps(fingerprint, indent=1))
        declare_columns(
            self.folder.tensorboard,
            space=self.space,
            objective=self.request.objective,
            metrics={f"val_{n}": d for n, d in self.untrained.directions.items()},
            baseline=self.request.baseline_configuration(self.space.scaling_rule),
        )
