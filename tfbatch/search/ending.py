"""The end of a run: the answer as files, its test metrics, its model, and its words."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.errors import RecordError
from tfbatch.own_data import DataDescription
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search import answer_files
from tfbatch.search.answer import Answer, Contender, Measured, summarize
from tfbatch.search.answer_files import RECOMMENDATION, TestMetrics
from tfbatch.search.clock import SearchClock
from tfbatch.search.edges import edges_of
from tfbatch.search.memory_limit import read_memory_limit
from tfbatch.search.opening import AnyEngine
from tfbatch.search.progress import Progress
from tfbatch.search.request import Request
from tfbatch.search.result import Result
from tfbatch.search.snippet import keras_snippet
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_book import TrialBook
from tfbatch.training.derived import Derived


@dataclasses.dataclass(frozen=True)
class Ending:
    """What an answer is written, tested and told with.

    Attributes:
        request: What was asked.
        data: What the data holds.
        engine: Evaluates and saves models.
        space: What was searched.
        folder: The run folder.
        book: The trials and their weights.
        clock: What the run has used.
        progress: Told what is done.
        derive: Derived values of a configuration, for the run's length of trials.
        stop_requested: Whether the user has asked to stop.
        build_model: The model's builder, for the snippet.
        compiled: Whether it compiles the model.
    """

    request: Request
    data: DataDescription
    engine: AnyEngine
    space: SearchSpace
    folder: RunFolder
    book: TrialBook
    clock: SearchClock
    progress: Progress
    derive: Callable[[Configuration], Derived]
    stop_requested: Callable[[], bool]
    build_model: Callable[..., Any]
    compiled: bool

    def finish(self, answer: Answer) -> Result:
        """Writes the answer, then reads test and saves the model: their failure loses nothing."""
        interrupted = self.stop_requested()
        known = self._known_answer(answer)
        content = self._write(answer, known or {}, interrupted=interrupted)
        if known is None and not interrupted:
            with self._told("The test split could not be evaluated"):
                content = self._write(answer, self._test_metrics(answer), interrupted=False)
        with self._told("best.keras could not be written"):
            self._save_best(answer.recommended)
        first = answer.recommended.trials[0]
        return Result(
            run_dir=self.folder.path,
            recommendation=content,
            table=answer_files.table_by_batch_size(
                self.book.trials, answer, self.request.objective
            ),
            snippet=keras_snippet(
                first.configuration,
                self.derive(first.configuration),
                request=self.request,
                data=self.data,
                build_model=self.build_model,
                compiled=self.compiled,
                seed=first.seed,
            ),
            answer=answer,
            rows=self.folder.journal.rows,
            interrupted=interrupted,
        )

    def _write(self, answer: Answer, test: TestMetrics, *, interrupted: bool) -> dict[str, Any]:
        content = answer_files.recommendation(
            answer,
            self.derive(answer.recommended.configuration),
            objective=str(self.request.objective),
            test=test,
            trials=len(self.book.trials),
            seconds=self.clock.elapsed,
            status="interrupted" if interrupted else "complete",
            memory=self.book.memory_used_up(),
            memory_limit=read_memory_limit(self.folder.path)
            if self.request.execution.memory_budget is not None
            else None,
            edges=edges_of(self.book.trials, space=self.space, objective=self.request.objective),
        )
        best = answer_files.best_yaml(answer, request=self.request)
        answer_files.write_answer(self.folder.path, content, best)
        return content

    def _test_metrics(self, answer: Answer) -> TestMetrics:
        """Reads the test split, once for each answer: here and nowhere else."""
        if "test" not in self.data.splits:
            self.progress.say("There is no test split: the answer rests on validation alone.")
            return {}
        self.progress.say("Evaluating the recommendation and the baseline on the test split.")
        test: TestMetrics = {}
        for contender in _distinct(answer):
            kept = [(t, self.book.weights_file(t.trial)) for t in contender.completed]
            measured = [
                self.engine.call("evaluate_weights", t.configuration, file, "test", t.seed)
                for t, file in kept
                if file.exists()
            ]
            if measured:
                test[contender.key] = summarize(measured)
        return test

    def _known_answer(self, answer: Answer) -> TestMetrics | None:
        """The test metrics of an earlier session, if its answer rests on the same trials."""
        path = self.folder.path / RECOMMENDATION
        if not path.exists() or not (self.folder.path / "best.keras").exists():
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

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """The answer stands whatever fails after it: the failure is told, and the run goes on."""
        try:
            yield
        except RecordError:
            raise
        except Exception as error:  # of the user's own layers, or a lack of memory
            self.progress.say(f"{what}: {type(error).__name__}: {error}")

    def _save_best(self, contender: Contender) -> None:
        """Saves the model of the first verification seed: not the luckiest one."""
        first = contender.trials[0]
        weights = self.book.weights_file(first.trial)
        if weights.exists():
            self.engine.call(
                "save_model",
                first.configuration,
                weights,
                first.seed,
                first.row["total_examples"],
                self.folder.path / "best.keras",
            )


def _distinct(answer: Answer) -> list[Contender]:
    """Recommendation and baseline, once each."""
    both = [answer.recommended, *([answer.baseline] if answer.baseline else [])]
    return list({contender.key: contender for contender in both}.values())


def _as_measured(part: dict[str, Any]) -> dict[str, Measured]:
    return {
        name: Measured(
            value["mean"],
            float("nan") if value["standard_deviation"] is None else value["standard_deviation"],
            value["seeds"],
        )
        for name, value in part.items()
    }
