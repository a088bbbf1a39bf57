"""The end of a run: the answer as files, its test metrics, its model, and its words."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfbatch.answer.answer import Answer, Contender, Measured, measured_metrics
from tfbatch.answer.longer_run import LongerRun
from tfbatch.answer.memory_limits import read_memory_limit
from tfbatch.answer.stored import read_answer
from tfbatch.answer.table import table_by_batch_size
from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.errors import RecordError, RunFolderError, StoppedError, TfbatchError
from tfbatch.quantities import TrainingLength
from tfbatch.request.request import Request
from tfbatch.request.task import IN_PYTHON
from tfbatch.request.training_config import Reported, TrainingConfig
from tfbatch.run_folder.durable import cannot_be_written, write_whole
from tfbatch.run_folder.files import (
    BEST_CONFIGURATION,
    BEST_MODEL,
    JOURNAL,
    RECOMMENDATION,
    REPORT,
)
from tfbatch.run_folder.fingerprint import software
from tfbatch.run_folder.folder import RunFolder
from tfbatch.schema import write_yaml
from tfbatch.search.clock import SearchClock
from tfbatch.search.engine import Engine
from tfbatch.search.progress import Progress
from tfbatch.search.result import Result
from tfbatch.search.snippet import keras_snippet
from tfbatch.search.trial_runner import TrialRunner
from tfbatch.training.evaluation import evaluate_weights, save_model
from tfbatch.trial.derived import Derived

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class AnswerWriter:
    """Writes an answer down, tests it, and tells it.

    Attributes:
        request: What was asked.
        data: What the data holds.
        engine: Evaluates and saves models.
        folder: The run folder.
        runner: The trials and their weights.
        clock: What the run has used.
        progress: Receives the progress.
        derive: Derived values of a configuration, for the run's length of trials or another one.
        stop_requested: Whether the user has asked to stop.
        build_model: The model's builder, for the snippet.
        compiled: Whether it compiles the model.
        callbacks: `package.module:function` that makes the callbacks of the user's own with which
            the trials ran, "(given in Python)" where that has no name, or None.
    """

    request: Request
    data: DataDescription
    engine: Engine
    folder: RunFolder
    runner: TrialRunner
    clock: SearchClock
    progress: Progress
    derive: Callable[[Configuration, TrainingLength | None], Derived]
    stop_requested: Callable[[], bool]
    build_model: Callable[..., keras.Model]
    compiled: bool
    callbacks: str | None

    def keep(self, answer: Answer) -> None:
        """Writes the answer so far, unless the files hold a complete one of the same trials.

        It is marked as interrupted: a run that completes writes another one.

        Raises:
            RunFolderError: It cannot be written.
        """
        before = self._before()
        earlier = self._earlier(answer, before)
        if earlier is None:
            self._replace(self._as_of_now(answer, interrupted=True))
        elif before is not None and before.status == "interrupted":  # what is believed may differ
            self._write(self._as_of_now(earlier, interrupted=True))

    def withdraw(self) -> None:
        """Removes the files of an answer that turned out to be none; a failure is told."""
        with told(self.progress, "The files of the earlier answer could not be removed"):
            for name in (RECOMMENDATION, BEST_CONFIGURATION, BEST_MODEL):
                (self.folder.path / name).unlink(missing_ok=True)

    def finish(self, answer: Answer, *, failure: Exception | None = None) -> Result:
        """Writes the answer, then reads test and saves the model: their failure loses nothing.

        Args:
            answer: The answer.
            failure: What has ended the run early, or None.
        """
        early = failure is not None or self.stop_requested()
        failures = [failure] if failure else []
        before = self._before()
        earlier = self._earlier(answer, before)
        is_new = earlier is None or before is None or before.status != "complete"
        # Whole once its test metrics and its model are there: a run may be killed before.
        answer = self._as_of_now(earlier or answer, interrupted=True)
        untested = self._untested(answer)
        if is_new and not early and "test" not in self.data.splits:
            self.progress.say("There is no test split: the answer rests on validation alone.")
        with told(self.progress, "The answer could not be written", failures):
            (self._write if earlier else self._replace)(answer)
        if untested and not early:
            with told(self.progress, "The test split could not be evaluated", failures):
                for key, metrics in self._test_metrics(untested):
                    answer = answer.with_test(key, metrics)  # on disk as soon as it is measured
                    self._write(self._as_of_now(answer, interrupted=True))
        with told(self.progress, f"{BEST_MODEL} could not be written", failures):
            self._save_best(answer.recommended)
        early = early or (self.stop_requested() and bool(untested))
        answer = self._as_of_now(answer, interrupted=early)
        with told(self.progress, "The answer could not be written", failures):
            self._write(answer)
        snippet = ""
        with told(self.progress, "The script in plain Keras could not be written", failures):
            snippet = self._snippet(answer.recommended)
        return Result(
            run_dir=self.folder.path,
            answer=answer,
            table=table_by_batch_size(self.runner.trials, answer),
            snippet=snippet,
            rows=self.folder.journal.rows,
            interrupted=self.stop_requested(),
            failure=next((e for e in failures if _ends_a_run(e, failure)), None),
        )

    @property
    def _threads(self) -> int | None:
        """Threads of each trial on a CPU; None on another device."""
        devices = self.engine.devices
        return devices.threads if devices.kind == "CPU" else None

    def _snippet(self, recommended: Contender) -> str:
        return keras_snippet(
            recommended.configuration,
            self.derive(recommended.configuration, None),
            subject=self.request.subject,
            execution=self.request.execution,
            data=self.data,
            build_model=self.build_model,
            compiled=self.compiled,
            has_callbacks=self.callbacks is not None,
            seed=recommended.trials[0].seed,
            threads=self._threads,
        )

    def _as_of_now(self, answer: Answer, *, interrupted: bool) -> Answer:
        budget = self.request.execution.memory_budget
        return answer.model_copy(
            update={
                "status": "interrupted" if interrupted else "complete",
                "trials": len(self.runner.trials),
                "seconds": round(self.clock.elapsed, 1),
                "memory_limit": None if budget is None else read_memory_limit(self.folder.path),
                "versions": software(),
                "longer_run": self._longer_run(answer),
            }
        )

    def _longer_run(self, answer: Answer) -> LongerRun | None:
        length, one = self.request.for_length, answer.recommended
        if length is None:
            return None
        examples = self.data.splits["train"]
        both = self.derive(one.configuration, None), self.derive(one.configuration, length)
        return LongerRun.predict(
            length,
            times=length.examples(examples) / self.request.trial_length.examples(examples),
            batch_size=one.batch_size,
            learning_rate=one.learning_rate,
            metric=answer.objective.name,
            run_dir=self.folder.path,
            records_dir=self.request.subject.records_dir,
            in_script=None if self._has_command else both,
        )

    @property
    def _has_command(self) -> bool:
        """Whether `train` can import all that the trials were made with."""
        return self.request.subject.is_importable and self.callbacks != IN_PYTHON

    def _write(self, answer: Answer) -> None:
        """Writes recommendation.json and best.yaml, each whole or not at all."""
        best = best_yaml(
            answer,
            request=self.request,
            threads=self._threads,
            data_on=self.data.data_on,
            callbacks=self.callbacks,
        )
        write_whole(self.folder.path / BEST_CONFIGURATION, best)
        answer.write(self.folder.path)

    def _replace(self, answer: Answer) -> None:
        """Writes an answer in the place of another one, whose model goes first.

        So a model that is there is always that of the answer beside it, whenever a run ends.
        """
        model = self.folder.path / BEST_MODEL
        try:
            model.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_be_written(model, error) from error
        self._write(answer)

    def _test_metrics(
        self, untested: Sequence[Contender]
    ) -> Iterator[tuple[str, dict[str, Measured]]]:
        """Reads the test split, once for each verified configuration: here and nowhere else."""
        self.progress.say(
            "Evaluating the recommendation and all that was verified on the test split."
        )
        for one in untested:
            measured = [
                self.engine.call(evaluate_weights, one.configuration, file, split="test", seed=seed)
                for seed, file in self._kept_weights(one)
            ]
            yield one.key, measured_metrics(measured)

    def _untested(self, answer: Answer) -> list[Contender]:
        """Those whose test metrics are to be read."""
        if "test" not in self.data.splits:
            return []
        return [
            one
            for one in answer.tested()
            if one.metrics.test is None and list(self._kept_weights(one))
        ]

    def _kept_weights(self, one: Contender) -> Iterator[tuple[int, Path]]:
        """Seed and file of each training of a contender whose weights are kept."""
        for trial in one.completed:
            file = self.runner.weights_file(trial.trial)
            if file.exists():
                yield trial.seed, file

    def _before(self) -> Answer | None:
        """The answer that the files hold, or None."""
        try:
            return read_answer(self.folder.path)
        except RunFolderError as error:  # it must not cost the answer that is in its place now
            tell_failure(self.progress, "The earlier answer is replaced", error)
            return None

    @staticmethod
    def _earlier(answer: Answer, before: Answer | None) -> Answer | None:
        """The answer with an earlier session's test metrics, if that rested on the same trials.

        A session that was stopped or has failed meanwhile may have read some of them only.
        """
        if before is None:
            return None
        same = before.recommended_trial == answer.recommended_trial and (
            [one.trials for one in before.tested()] == [one.trials for one in answer.tested()]
        )
        if not same:
            return None
        for one in before.tested():
            if one.metrics.test is not None:
                answer = answer.with_test(one.key, one.metrics.test)
        return answer

    def _save_best(self, recommended: Contender) -> None:
        """Saves the model of the first verification seed: not the luckiest one."""
        name, file = recommended.trials[0].trial, self.folder.path / BEST_MODEL
        first, weights = self.runner.trials.find(name), self.runner.weights_file(name)
        if first is None or not weights.exists():
            if not file.exists():  # else an earlier session has written it
                self.progress.say(
                    f"{BEST_MODEL} is not there: the weights of {name} were not kept. "
                    f"{self._trained_again()} trains the model again."
                )
            return
        self.engine.call(
            save_model,
            first.configuration,
            weights,
            seed=first.seed,
            total_examples=first.total_examples,
            path=file,
        )

    def _trained_again(self) -> str:
        """A command; the printed script where none can import what was given in Python."""
        if not self._has_command:
            return "The script in plain Keras"
        flags = [f"--config={self.folder.path / BEST_CONFIGURATION}"]
        if records := self.request.subject.records_dir:
            flags.append(f"--records_dir={records}")
        return f"`{shlex.join(['tfbatch', 'train', *flags])}`"


def best_yaml(
    answer: Answer,
    *,
    request: Request,
    threads: int | None,
    data_on: str,
    callbacks: str | None = None,
) -> str:
    """The content of best.yaml, which `python -m tfbatch.train --config` reads.

    Args:
        answer: The answer.
        request: What was asked.
        threads: Threads of each trial on a CPU; None on another device.
        data_on: Where the trials' batches were made: "host" or "device".
        callbacks: What makes the trials' callbacks; see AnswerWriter.
    """
    recommended, subject, execution = answer.recommended, request.subject, request.execution
    reported = recommended.objective()
    config = TrainingConfig(
        dataset=subject.dataset,
        batched=subject.batched,
        data_dir=str(subject.data_dir) if subject.data_dir else None,
        model=subject.model,
        trial_length=request.trial_length,
        seed=recommended.trials[0].seed,
        precision=execution.precision,
        jit_compile=execution.jit_compile,
        data_on=data_on,
        strategy=execution.strategy,
        threads=threads,
        callbacks=callbacks,
        **subject.task.identity(),
        configuration=recommended.configuration,
        reported=Reported(
            metric=answer.objective.name,
            mean=reported.mean,
            deviation=reported.standard_deviation,
            seeds=reported.seeds,
        ),
    )
    absent = {"batched", "callbacks", "loss", "metrics", "class_weight"}
    written = config.model_dump(mode="json") | {"class_weight": config.class_weight}
    content = {k: v for k, v in written.items() if v is not None or k not in absent}
    if data_on == "host":  # the default, and older versions do not know the key
        del content["data_on"]
    comment = "The recommended training: python -m tfbatch.train --config"
    return write_yaml(content, comment=comment)


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


@contextlib.contextmanager
def report_at_the_end(run_dir: Path, progress: Progress) -> Iterator[None]:
    """Draws report.html when the block ends, also by an error of its own; a failure is told.

    Args:
        run_dir: The run folder. Where no trial is in its journal, nothing is drawn.
        progress: Receives the failure.
    """
    try:
        yield
    except Exception:
        _draw(run_dir, progress)
        raise
    _draw(run_dir, progress)


def _draw(run_dir: Path, progress: Progress) -> None:
    from tfbatch.reporting.page import write_report  # its imports take no time of the search

    with told(progress, f"{REPORT} could not be drawn"):
        if (run_dir / JOURNAL).stat().st_size:
            progress.doing(f"drawing {REPORT}")
            write_report(run_dir)


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
