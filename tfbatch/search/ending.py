"""The end of a run: the answer as files, its test metrics, its model, and its words."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import traceback
from collections.abc import Callable, Iterator
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.errors import RecordError, RunFolderError, StoppedError, TfbatchError
from tfbatch.own_data import DataDescription
from tfbatch.request.request import Request
from tfbatch.run_folder.files import BEST_MODEL, RECOMMENDATION
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search import answer_files
from tfbatch.search.answer import Answer, Contender, Measured, summarize
from tfbatch.search.answer_files import TestMetrics
from tfbatch.search.clock import SearchClock
from tfbatch.search.edges import edges_of
from tfbatch.search.engine import Engine
from tfbatch.search.memory_limit import read_memory_limit
from tfbatch.search.progress import Progress
from tfbatch.search.result import Result
from tfbatch.search.snippet import keras_snippet
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_runner import TrialRunner
from tfbatch.training.evaluation import evaluate_weights, save_model
from tfbatch.trial.derived import Derived
from tfbatch.trial.trials import Trials


@dataclasses.dataclass(frozen=True)
class Ending:
    """What an answer is written, tested and told with.

    Attributes:
        request: What was asked.
        data: What the data holds.
        engine: Evaluates and saves models.
        space: What was searched.
        folder: The run folder.
        runner: The trials and their weights.
        clock: What the run has used.
        progress: Receives the progress.
        derive: Derived values of a configuration, for the run's length of trials.
        stop_requested: Whether the user has asked to stop.
        build_model: The model's builder, for the snippet.
        compiled: Whether it compiles the model.
    """

    request: Request
    data: DataDescription
    engine: Engine
    space: SearchSpace
    folder: RunFolder
    runner: TrialRunner
    clock: SearchClock
    progress: Progress
    derive: Callable[[Configuration], Derived]
    stop_requested: Callable[[], bool]
    build_model: Callable[..., Any]
    compiled: bool

    def keep(self, answer: Answer) -> None:
        """Writes the answer so far, unless the files hold one that rests on the same trials.

        It is marked as interrupted: a run that completes writes another one.

        Raises:
            RunFolderError: It cannot be written.
        """
        if self._known_answer(answer) is None:
            self._write(self._content(answer, {}, interrupted=True), answer)

    def finish(self, answer: Answer, *, failure: Exception | None = None) -> Result:
        """Writes the answer, then reads test and saves the model: their failure loses nothing.

        Args:
            answer: The answer.
            failure: What has ended the run early, or None.
        """
        early = failure is not None or self.stop_requested()
        failures = [failure] if failure else []
        known = self._known_answer(answer)
        test: TestMetrics = dict(known or {})
        content = self._content(answer, test, interrupted=early)
        with told(self.progress, "The answer could not be written", failures):
            self._write(content, answer)
        if known is None and not early:
            with told(self.progress, "The test split could not be evaluated", failures):
                for key, metrics in self._test_metrics(answer):
                    test[key] = metrics  # on disk as soon as it is measured
                    content = self._content(answer, test, interrupted=True)
                    self._write(content, answer)
        with told(self.progress, f"{BEST_MODEL} could not be written", failures):
            self._save_best(answer.recommended)
        early = early or (self.stop_requested() and known is None)
        content = self._content(answer, test, interrupted=early)
        with told(self.progress, "The answer could not be written", failures):
            self._write(content, answer)
        snippet = ""
        with told(self.progress, "The script in plain Keras could not be written", failures):
            snippet = self._snippet(answer)
        return Result(
            run_dir=self.folder.path,
            recommendation=content,
            table=answer_files.table_by_batch_size(self.runner.trials, answer),
            snippet=snippet,
            answer=answer,
            rows=self.folder.journal.rows,
            interrupted=self.stop_requested(),
            failure=next((e for e in failures if _ends_a_run(e, failure)), None),
        )

    def _snippet(self, answer: Answer) -> str:
        first = answer.recommended.trials[0]
        devices = self.engine.devices
        return keras_snippet(
            first.configuration,
            self.derive(first.configuration),
            request=self.request,
            data=self.data,
            build_model=self.build_model,
            compiled=self.compiled,
            seed=first.seed,
            threads=devices.threads if devices.kind == "CPU" else None,
        )

    def _content(self, answer: Answer, test: TestMetrics, *, interrupted: bool) -> dict[str, Any]:
        return answer_files.recommendation(
            answer,
            self.derive(answer.recommended.configuration),
            objective=str(self.request.objective),
            test=test,
            trials=len(self.runner.trials),
            seconds=self.clock.elapsed,
            status="interrupted" if interrupted else "complete",
            memory=_memory_used_up(self.runner.trials, self.runner.device),
            memory_limit=read_memory_limit(self.folder.path)
            if self.request.execution.memory_budget is not None
            else None,
            edges=edges_of(self.runner.trials, space=self.space),
        )

    def _write(self, content: dict[str, Any], answer: Answer) -> None:
        devices = self.engine.devices
        threads = devices.threads if devices.kind == "CPU" else None
        best = answer_files.best_yaml(answer, request=self.request, threads=threads)
        answer_files.write_answer(self.folder.path, content, best)

    def _test_metrics(self, answer: Answer) -> Iterator[tuple[str, dict[str, Measured]]]:
        """Reads the test split, once for each answer: here and nowhere else."""
        if "test" not in self.data.splits:
            self.progress.say("There is no test split: the answer rests on validation alone.")
            return
        self.progress.say("Evaluating the recommendation and the baseline on the test split.")
        for contender in _distinct(answer):
            kept = [(t, self.runner.weights_file(t.trial)) for t in contender.completed]
            measured = [
                self.engine.call(evaluate_weights, t.configuration, file, split="test", seed=t.seed)
                for t, file in kept
                if file.exists()
            ]
            if measured:
                yield contender.key, summarize(measured)

    def _known_answer(self, answer: Answer) -> TestMetrics | None:
        """The test metrics of an earlier session, if its answer rests on the same trials."""
        path = self.folder.path / RECOMMENDATION
        if not path.exists() or not (self.folder.path / BEST_MODEL).exists():
            return None
        before = json.loads(path.read_text(encoding="utf-8"))
        evidence = sorted(t.trial for c in _distinct(answer) for t in c.trials)
        untested = before["metrics"]["test"] is None and "test" in self.data.splits
        if before["evidence"] != evidence or untested:
            return None
        same = (
            before["batch_size"] == answer.recommended.configuration.batch_size
            and before["learning_rate"]
            == self.derive(answer.recommended.configuration).learning_rate
        )
        if not same:
            return None
        parts = {answer.recommended.key: before["metrics"]["test"]}
        if answer.baseline and before["baseline"]:
            parts[answer.baseline.key] = before["baseline"]["metrics"]["test"]
        return {key: _as_measured(part) for key, part in parts.items() if part}

    def _save_best(self, contender: Contender) -> None:
        """Saves the model of the first verification seed: not the luckiest one."""
        first = contender.trials[0]
        weights = self.runner.weights_file(first.trial)
        if weights.exists():
            self.engine.call(
                save_model,
                first.configuration,
                weights,
                seed=first.seed,
                total_examples=first.total_examples,
                path=self.folder.path / BEST_MODEL,
            )


@contextlib.contextmanager
def told(progress: Progress, what: str, failures: list[Exception] | None = None) -> Iterator[None]:
    """A stage on which nothing else depends: its failure is reported, and the run continues.

    Args:
        progress: Receives the failure.
        what: What could not be done, for a sentence.
        failures: Gets the failure.
    """
    try:
        yield
    except Exception as error:  # of a user's own layers, of a worker, of a disk
        if failures is not None:
            failures.append(error)
        tell_failure(progress, what, error)


def tell_failure(progress: Progress, what: str, error: Exception) -> None:
    """Reports it in one sentence; the traceback goes to the libraries' log."""
    lines = str(error).strip().splitlines()
    reason = lines[0] if lines else ""
    name = "" if isinstance(error, TfbatchError) else f"{type(error).__name__}: "
    progress.say(f"{what}: {name}{reason}")
    if not isinstance(error, StoppedError):
        traceback.print_exception(error)


def _ends_a_run(error: Exception, first: Exception | None) -> bool:
    """Whether a failure decides the exit code: damaged data and full disks do wherever they are."""
    return error is first or isinstance(error, (RecordError, RunFolderError))


def _distinct(answer: Answer) -> list[Contender]:
    """Recommendation and baseline, once each."""
    both = [answer.recommended, *([answer.baseline] if answer.baseline else [])]
    return list({contender.key: contender for contender in both}.values())


def _memory_used_up(trials: Trials, device: str) -> dict[str, Any] | None:
    """Where memory was used up on this kind of device, beside what fits; None if it never was."""
    wall = trials.memory_wall(device)
    if wall is None:
        return None
    return {
        "device": device,
        "smallest_that_failed": wall,
        "largest_that_fits": max(trials.completed().batch_sizes(), default=None),
    }


def _as_measured(part: dict[str, Any]) -> dict[str, Measured]:
    return {
        name: Measured(
            value["mean"],
            float("nan") if value["standard_deviation"] is None else value["standard_deviation"],
            value["seeds"],
        )
        for name, value in part.items()
    }
