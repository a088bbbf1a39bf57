"""A whole run: data, checks, search, verification, final evaluation, files, words."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.pipeline import PreparedData, prepare_records
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.fingerprint import hardware, software
from tfbatch.run_folder.folder import RunFolder
from tfbatch.schema import content_hash
from tfbatch.search import results
from tfbatch.search.answer import Answer, Contender, Measured, find_answer, summarise
from tfbatch.search.clock import SearchClock
from tfbatch.search.columns import declare_columns
from tfbatch.search.confirmation import choose_candidates, run_rounds
from tfbatch.search.loop import Search
from tfbatch.search.progress import Progress
from tfbatch.search.request import Request
from tfbatch.search.result import Result
from tfbatch.search.results import RECOMMENDATION
from tfbatch.search.snippet import keras_snippet
from tfbatch.search.space import SearchSpace
from tfbatch.search.trial_book import InterruptedTrialError, TrialBook
from tfbatch.training.derived import Derived
from tfbatch.training.evaluation import evaluate_weights, save_model, untrained_metrics
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import BuildModel, Workload


def run_search(
    request: Request,
    build_model: BuildModel,
    *,
    progress: Progress,
    stop_requested: Callable[[], bool],
    started: float | None = None,
) -> Result:
    """Runs or continues a search.

    Args:
        request: What is asked.
        build_model: The model's builder.
        progress: Told of everything.
        stop_requested: When true, the run ends with the best answer so far.
        started: `time.monotonic()` of the command's start, from which the time limit counts.

    Raises:
        InputError: Something asked for cannot be used; nothing was trained.
        DataError: Data absent or damaged.
        RunFolderError: The run folder is in use, or full.
        SearchError: No trial completed.
    """
    started = time.monotonic() if started is None else started
    workload = Workload(_load(request, progress), build_model)
    space = SearchSpace(request.search.space, num_examples=workload.data.num_examples("train"))
    _check_baseline(request, workload.data.num_examples("train"))
    untrained = untrained_metrics(workload, request.baseline_configuration(space.scaling_rule))
    request.objective.check([*untrained, *(f"val_{name}" for name in untrained)])
    folder = RunFolder(
        request.run_dir,
        identity=request.identity(
            records=workload.data.folder.name,
            model_source=_source_hash(build_model),
            trial_examples=request.trial_length.examples(workload.data.num_examples("train")),
        ),
        budget=request.budget(),
        overwrite=request.overwrite,
    )
    with folder:
        run = _Run(request, workload, space, folder, progress, stop_requested, started)
        return run.complete(untrained)


class _Run:
    """A run with its folder open."""

    def __init__(
        self,
        request: Request,
        workload: Workload,
        space: SearchSpace,
        folder: RunFolder,
        progress: Progress,
        stop_requested: Callable[[], bool],
        started: float,
    ):
        self.request = request
        self.workload = workload
        self.space = space
        self.folder = folder
        self.progress = progress
        self.stop_requested = stop_requested
        self.total_examples = request.trial_length.examples(workload.data.num_examples("train"))
        spent = self._spent_seconds()
        self.clock = SearchClock(
            request.max_minutes, spent_seconds=spent + time.monotonic() - started
        )
        self.book = TrialBook(
            folder,
            run_trial=lambda spec: run_trial(workload, spec, stop_requested=self._must_stop),
            derive=self.derive,
            objective=request.objective,
            total_examples=self.total_examples,
            progress=progress,
        )

    def complete(self, untrained: dict[str, float]) -> Result:
        """Search, verification, answer."""
        self._write_settings(untrained)
        search = Search(
            self.request.search,
            space=self.space,
            objective=self.request.objective,
            book=self.book,
            clock=self.clock,
            seed=self.request.seed,
            untrained=untrained[self.request.objective.name.removeprefix("val_")],
            progress=self.progress,
        )
        baseline = self.request.baseline_configuration(self.space.scaling_rule)
        try:
            search.run(baseline, stop_requested=self.stop_requested)
            self._verify()
        except InterruptedTrialError as trial:
            self.progress.say(f"{trial} was stopped before its end; it is not counted.")
        interrupted = self.stop_requested()
        answer = find_answer(self._candidates(), book=self.book, objective=self.request.objective)
        test = {} if interrupted else self._test_metrics(answer)
        return self._finish(answer, test, interrupted=interrupted)

    def _spent_seconds(self) -> float:
        """What earlier sessions used: their trials, and if one came to an end, all its work."""
        trials = sum(row["seconds"] for row in self.folder.journal.rows)
        path = self.folder.path / RECOMMENDATION
        recorded = json.loads(path.read_text(encoding="utf-8"))["seconds"] if path.exists() else 0.0
        return float(max(trials, recorded))

    def derive(self, configuration: Configuration) -> Derived:
        """Derived values of a configuration, for this run's length of trials."""
        return self.workload.derive(configuration, self.total_examples)

    def _must_stop(self) -> bool:
        return self.stop_requested() or self.clock.expired()

    def _candidates(self) -> list[Any]:
        return choose_candidates(
            [t for t in self.book.trials if t.phase != "confirmation"],
            objective=self.request.objective,
            batch_sizes=self.request.search.confirmation.batch_sizes,
        )

    def _verify(self) -> None:
        candidates = self._candidates()
        confirmation = self.request.search.confirmation
        if self.stop_requested() or not candidates or not confirmation.seeds:
            return
        self.progress.say(
            f"Verifying {len(candidates)} configurations, the baseline among them, on up to "
            f"{confirmation.seeds} fresh seeds."
        )
        run_rounds(
            candidates,
            confirmation=confirmation,
            book=self.book,
            clock=self.clock,
            seed=self.request.seed,
            stop_requested=self.stop_requested,
        )

    def _test_metrics(self, answer: Answer) -> results.TestMetrics:
        """Reads the test split, once for each answer: here and nowhere else."""
        known = self._known_answer(answer)
        if known is not None:
            return known
        self.progress.say("Evaluating the recommendation and the baseline on the test split.")
        test: results.TestMetrics = {}
        for contender in filter(None, (answer.recommended, answer.baseline)):
            files = [(t, self.book.weights_file(t.trial)) for t in contender.trials]
            measured = [
                evaluate_weights(self.workload, t.configuration, file, split="test", seed=t.seed)
                for t, file in files
                if file.exists()
            ]
            if measured:
                test[contender.key] = summarise(measured)
        return test

    def _known_answer(self, answer: Answer) -> results.TestMetrics | None:
        """The test metrics of an earlier session, if its answer rests on the same trials."""
        path = self.folder.path / RECOMMENDATION
        if not path.exists() or not (self.folder.path / "best.keras").exists():
            return None
        before = json.loads(path.read_text(encoding="utf-8"))
        contenders = [c for c in (answer.recommended, answer.baseline) if c]
        evidence = sorted(t.trial for c in contenders for t in c.trials)
        if before["evidence"] != evidence or before["metrics"]["test"] is None:
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

    def _finish(self, answer: Answer, test: results.TestMetrics, *, interrupted: bool) -> Result:
        derived = self.derive(answer.recommended.configuration)
        content = results.recommendation(
            answer,
            derived,
            request=self.request,
            test=test,
            trials=len(self.book.trials),
            seconds=self.clock.elapsed,
            status="interrupted" if interrupted else "complete",
        )
        first = answer.recommended.trials[0]
        self._save_best(answer.recommended)
        results.write_answer(
            self.folder.path, content, results.best_yaml(answer, request=self.request)
        )
        return Result(
            run_dir=self.folder.path,
            recommendation=content,
            table=results.table_by_batch_size(self.book.trials, answer, self.request.objective),
            snippet=keras_snippet(
                first.configuration,
                derived,
                dataset=self.request.dataset,
                data_dir=str(self.request.data_dir) if self.request.data_dir else None,
                model=self.request.model,
                seed=first.seed,
            ),
            answer=answer,
            rows=self.folder.journal.rows,
            interrupted=interrupted,
        )

    def _save_best(self, contender: Contender) -> None:
        """Saves the model of the first verification seed: not the luckiest one."""
        first = contender.trials[0]
        weights = self.book.weights_file(first.trial)
        if weights.exists():
            save_model(
                self.workload,
                first.configuration,
                weights,
                seed=first.seed,
                total_examples=first.row["total_examples"],
                path=self.folder.path / "best.keras",
            )

    def _write_settings(self, untrained: dict[str, float]) -> None:
        devices = [d.name for d in tf.config.list_physical_devices() if d.device_type != "CPU"]
        fingerprint = {"software": software(), "hardware": hardware(devices)}
        write_whole(self.folder.path / "fingerprint.json", json.dumps(fingerprint, indent=1))
        declare_columns(
            self.folder.tensorboard,
            space=self.space,
            objective=self.request.objective,
            metrics=[*untrained, *(f"val_{name}" for name in untrained)],
        )


def _load(request: Request, progress: Progress) -> PreparedData:
    folder, written = prepare_records(
        request.recipe,
        data_dir=request.data_dir,
        records_dir=request.records_dir,
        progress=progress.preparing,
    )
    data = PreparedData(request.recipe, folder)
    counts = ", ".join(f"{data.num_examples(s):,} {s}" for s in ("train", "validation", "test"))
    progress.say(
        f"{request.recipe.name}: {counts} examples; records "
        f"{'written to' if written else 'in'} {folder}; "
        f"{'resident in memory' if data.resident else 'streamed from disk'}."
    )
    return data


def _check_baseline(request: Request, num_examples: int) -> None:
    if request.baseline.batch_size > num_examples:
        raise InputError(
            f"The baseline's batch size must not exceed the {num_examples} training examples of "
            f"{request.recipe.name}. Received: {request.baseline.batch_size}. "
            "Give another one with --baseline=batch_size=N."
        )


def _source_hash(build_model: BuildModel) -> str:
    """Changes when the builder's text changes: its old trials are another model's."""
    try:
        return content_hash(inspect.getsource(build_model))
    except (OSError, TypeError):  # typed at a prompt, or not a function
        return "unknown"


def _as_measured(part: dict[str, Any]) -> dict[str, Measured]:
    return {
        name: Measured(
            value["mean"],
            float("nan") if value["standard_deviation"] is None else value["standard_deviation"],
            value["seeds"],
        )
        for name, value in part.items()
    }
