"""A session of the court: opens model, data and folder, runs the cards, and judges."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import json
import math
import random
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate

from tfbatch.claims import Card
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._changed_training import Curve, changed_programs, train_changed
from tfbatch.claims._claim import Evidence, UntestableError
from tfbatch.claims._court import Court, P, R, Run, Training, Workload
from tfbatch.claims._measurements import Measurements
from tfbatch.claims._preset import Preset
from tfbatch.claims._request import CourtRequest
from tfbatch.claims._verdicts import Verdicts, fingerprint_of
from tfbatch.configuration import Configuration
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import RunFolderError, SearchError, StoppedError, TfbatchError
from tfbatch.exporters._trial import read_curves
from tfbatch.instruments.open_bench import DEFAULT_OPTIMIZER
from tfbatch.interleaved_rounds import first_visit, measure_round
from tfbatch.models import MODELS
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.oracles import Part
from tfbatch.pipeline.user_data import OwnSplit
from tfbatch.process.limits import usable_cores
from tfbatch.process.out_of_memory import is_out_of_memory
from tfbatch.request.model_and_data import baseline_configuration
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import EVIDENCE, JOURNAL
from tfbatch.run_folder.fingerprint import hardware, record_load, write_fingerprint
from tfbatch.run_folder.folder import RunFolder, RunLock
from tfbatch.run_folder.machine_load import load_between, sample_load
from tfbatch.run_folder.wall_time import WallTime, spent_seconds
from tfbatch.schema import Named
from tfbatch.search.answer_writer import tell_failure
from tfbatch.search.clock import SearchClock
from tfbatch.search.preparation import (
    Prepared,
    check_baseline,
    check_comparable,
    check_length,
    prepared,
)
from tfbatch.search.progress import Progress
from tfbatch.search.trial_runner import InterruptedTrialError, TrialRunner
from tfbatch.training.context import TaskContext, UserCode
from tfbatch.training.evaluation import Untrained, measure_untrained
from tfbatch.training.given_objects import code_identity
from tfbatch.training.step_times import (
    StepTime,
    step_time_of,
    steps_at_once,
    time_training,
)
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.objective import Objective

if TYPE_CHECKING:
    from tfbatch.search.engine import Engine
    from tfbatch.training.devices import Devices
    from tfbatch.trial.outcome import TrialSpec
    from tfbatch.workers import Slot

_EVIDENCE_VERSION = 12
"""Raised where a statistic changes: a card of an older version runs again, and trains nothing anew.

1: sizes were chosen by the seeds that judge; files had no version. 2: they named no machine.
3: pilot runs that diverged set the target, and nothing asked whether it can be reached. 4: a target
reached at once was no bound, and pairs that diverged were left out of an oscillation in silence.
5: injected noise was taken for that of batches also where these did better. 6: losses at X9's floor
counted as values, C28 took the smallest good batch of each seed, networks that began at no batch
size showed in X10 that a larger one helps, and X6 compared losses of unequal training losses.
7: in X7N what has no noise had three rates, and what has noise one. 8: X6 judged at one of several
rates that tuning does not tell apart. 9: there was no knee where the largest size was the fastest
by ever so little. 10: what was read before the first evaluation was a line from the untrained
model, runs that diverged were at rest, a metric that does not change oscillated by its rounding,
and plain descent that diverged counted as descent that never lowers the loss. 11: a claim about
every case stayed open where another case than the first one refuted it, and rounds of timing that
differ by more than the margin decided on effects of that size.
"""
LONGEST_STEP_SECONDS = 2.0
"""Batch sizes from the first one on whose step takes longer are not timed."""
_NO_WHOLE_RUN = 1
"""The runner keeps the weights of trials of the run's length: here of none."""
_FAILED = ("killed", "timeout", "error")
"""Endings that say nothing of the training itself: it is run once more."""
_AGAIN = "-again"


class LiveCourt(Court):
    """The court of a run folder: its journal holds the trainings.

    Args:
        workload: Model and data.
        preset: How large the experiments are.
        seed: Everything random derives from it.
        runner: Runs the trainings.
        engine: Runs functions.
        measurements: Keeps what they return.
        tensorboard: Folder of the curves.
        objective: The objective.
        progress: Told of everything.
        asked: See Court.
    """

    def __init__(
        self,
        workload: Workload,
        preset: Preset,
        seed: int,
        *,
        asked: Collection[str] | None = None,
        runner: TrialRunner,
        engine: Engine,
        measurements: Measurements,
        tensorboard: Path,
        objective: Objective,
        progress: Progress,
    ):
        super().__init__(workload, preset, seed, asked=asked)
        self._runner, self._engine = runner, engine
        self._measurements = measurements
        self._tensorboard, self._objective = tensorboard, objective
        self._progress = progress
        self._runs: dict[str, Run] = {}
        self._trials: dict[str, str] = {}  # of each training; its name, or that of its second run
        self._times: dict[tuple[tuple[int, ...], DataChange | None], tuple[StepTime, ...]] = {}

    def train(self, trainings: Sequence[Training]) -> list[Run]:
        """See Court.

        Raises:
            InterruptedTrialError: A stop was requested, or the time is over.
            RunFolderError: The curve of a training is gone.
            TfbatchError: A training failed twice.
            UntestableError: A batch size runs out of memory, or the data cannot be changed so.
        """
        names = {training.name: training for training in trainings}
        missing = {name: one for name, one in names.items() if name not in self._runs}
        parents = [one.parent for one in missing.values() if one.parent]
        if parents:
            self.train(parents)
        for name, one in list(missing.items()):
            parent = self._runs[one.parent.name] if one.parent else None
            if parent and parent.diverged:
                self._runs[name] = dataclasses.replace(parent, training=one)
                del missing[name]
        self._run_trials({name: one for name, one in missing.items() if one.change is None})
        if changed := [one for one in missing.values() if one.change is not None]:
            self._train_changed(changed)
        for training in trainings:
            if training.name not in self._runs:
                raise UntestableError(no_memory(training.configuration.batch_size))
        return [self._runs[training.name] for training in trainings]

    def _run_trials(self, trials: Mapping[str, Training]) -> None:
        """Runs trainings under these names, those that fail once more under another one.

        Raises:
            TfbatchError: One has failed twice.
        """
        asked, waiting = dict(trials), trials
        while waiting:
            again: dict[str, Training] = {}
            for finished in self._runner.run_all(self._specs(waiting, again)):
                training = asked[finished.trial]
                if finished.status == "oom":
                    self.too_large.add(training.configuration.batch_size)
                elif finished.status in _FAILED and finished.trial == training.name:
                    name = f"{training.name}{_AGAIN}"
                    asked[name] = again[name] = training
                else:
                    self._trials[training.name] = finished.trial
                    self._runs[training.name] = self._run(training, finished)
            waiting = again

    def _specs(
        self, trials: Mapping[str, Training], again: dict[str, Training]
    ) -> Iterator[TrialSpec]:
        """Of each; what is to be run again comes first, so that a bug does not fail all of them."""
        for name, training in trials.items():
            while again:
                yield self._spec(*again.popitem())
            yield self._spec(name, training)

    def _spec(self, name: str, training: Training) -> TrialSpec:
        parent = training.parent.name if training.parent else ""
        part = part_of(training, self._trials.get(parent, parent))
        return self._runner.spec(name, "claims", training.seed, training.configuration, part)

    def _train_changed(self, trainings: Sequence[Training]) -> None:
        """Trainings on changed data are measurements: they are no trials of the user's.

        Raises:
            UntestableError: The data cannot be changed so.
        """
        curves = self.measure_each(
            train_changed,
            [
                {
                    "configuration": one.configuration,
                    "change": one.change,
                    "examples": one.examples,
                    "seed": one.seed,
                    "metric": self._objective.name,
                    **self._evaluated(one),
                }
                for one in trainings
            ],
            seconds=0.0,
        )
        for training, curve in zip(trainings, curves, strict=True):
            if not curve.out_of_memory:
                self._runs[training.name] = self._of_curve(training, curve)

    def _evaluated(self, training: Training) -> dict[str, int]:
        """How often one on changed data is evaluated, if not after each pass over it.

        One on a share of the data is as much shorter, and evaluated as many times.
        """
        every = self.workload.evaluated_every
        if every is None or training.change is None:
            return {}
        return {"evaluated_every": max(1, round(training.change.share * every))}

    def _of_curve(self, training: Training, curve: Curve) -> Run:
        sign = 1.0 if self._objective.direction == "max" else -1.0
        return Run(
            training,
            (0.0, *curve.examples),
            (self.workload.untrained, *(sign * value for value in curve.values)),
            diverged=curve.diverged,
        )

    def _run(self, training: Training, finished: FinishedTrial) -> Run:
        """A finished trial with its curve.

        Raises:
            RunFolderError: The curve is gone, in whole or in part.
            TfbatchError: It failed for a reason that says nothing of the batch size.
        """
        if finished.status not in ("completed", "diverged"):
            raise TfbatchError(
                f"The training {training.name} failed twice; the second time it ended as "
                f"{finished.status!r}: {finished.message}. When what ended it is mended, remove "
                f"the lines of {finished.trial} from {JOURNAL} in the run folder: the same command "
                "runs it again."
            )
        sign = 1.0 if self._objective.direction == "max" else -1.0
        points = [
            (point.values["examples"], sign * point.values[self._objective.name])
            for point in read_curves(self._tensorboard, finished.row)
            if self._objective.name in point.values
        ]
        # A run without its curve would be read as the untrained model.
        if finished.status == "completed" and (not points or points[-1][0] < finished.examples):
            folder = self._tensorboard / finished.curves
            raise RunFolderError(
                f"The curves of {finished.trial} must reach its end, {finished.examples} examples. "
                f"Received: {len(points)} evaluations of {self._objective.name} in {folder}. "
                "Put the folder back, or begin anew with --overwrite."
            )
        before = self._runs[training.parent.name] if training.parent else None
        return Run(
            training,
            (*(before.examples if before else (0.0,)), *(x for x, _ in points)),
            (*(before.scores if before else (self.workload.untrained,)), *(y for _, y in points)),
            diverged=finished.status == "diverged",
        )

    def step_times(
        self, batch_sizes: Sequence[int], change: DataChange | None = None
    ) -> tuple[StepTime, ...]:
        """See Court.

        Raises:
            StoppedError: A stop was requested.
        """
        sizes = tuple(sorted(set(batch_sizes)))
        if (sizes, change) not in self._times:
            listed = ", ".join(map(str, sizes))
            self._progress.say(f"Timing steps of batch sizes {listed}, each alone on the device.")
            of_change = {} if change is None else {"change": change}
            self._times[sizes, change] = self.measure(
                time_steps,
                [self.workload.baseline.model_copy(update={"batch_size": b}) for b in sizes],
                rounds=self.preset.rounds,
                seconds=self.preset.timing_seconds,
                seed=self._seed,
                **of_change,
            )
        return self._times[sizes, change]

    def measure(
        self,
        function: Callable[Concatenate[TaskContext, P], R],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> R:
        """See Court."""
        call = functools.partial(self._engine.call_alone, function, *arguments, **options)
        with self._failures_told():
            return self._measurements.recall(function, arguments, options, call)

    def measure_each(
        self,
        function: Callable[..., R],
        cases: Sequence[Mapping[str, object]],
        *,
        seconds: float,
        examples: int = 0,
    ) -> list[R]:
        """See Court."""
        del seconds, examples
        call = functools.partial(self._engine.call_each, function)
        with self._failures_told():
            return self._measurements.recall_each(function, cases, call)

    @contextlib.contextmanager
    def _failures_told(self) -> Iterator[None]:
        """What a measurement failed by costs what it was for, and no card.

        Raises:
            UntestableError: It lacked memory, or its process has ended.
        """
        try:
            yield
        except SearchError as error:
            self.failures.add(str(error))
            raise UntestableError(str(error)) from error


def part_of(training: Training, parent: str) -> Part:
    """What a training is to the runner.

    All of them have a constant rate, so that it matters nothing how far beyond its end the schedule
    of a trunk would lead; that it leads beyond keeps its state.

    Args:
        training: The training.
        parent: The trial of what it branches from; empty where it begins anew.
    """
    beyond = training.configuration.batch_size if training.is_trunk else 0
    return Part(
        to_examples=training.examples if training.is_trunk else None,
        total_examples=training.examples + beyond,
        parent=parent or None,
        schedule=training.configuration.schedule if training.parent else None,
    )


def time_steps(
    task: TaskContext,
    configurations: Sequence[Configuration],
    *,
    rounds: int,
    seconds: float,
    seed: int,
    change: DataChange | None = None,
) -> tuple[StepTime, ...]:
    """Inside the process that trains: interleaved rounds of all batch sizes, each in another order.

    Args:
        task: Model and data.
        configurations: What is timed, ascending by batch size.
        rounds: Number of rounds; none is left out, a round is short instead.
        seconds: About what all rounds may take, tracing left out.
        seed: Of the orders.
        change: How the data differs from the user's.

    Raises:
        StoppedError: A stop was requested.
        UntestableError: The data cannot be changed so.
    """
    programs, kinds = task.programs, []
    if change is not None:
        programs = changed_programs(task, change)
    for configuration in configurations:
        task.heartbeat_or_stop()
        time_them = functools.partial(time_training, programs, configuration)
        most = steps_at_once(programs, configuration)
        try:
            kinds.append(first_visit(configuration.batch_size, time_them, most_at_once=most))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            programs.clear()
            break  # the larger ones would not fit either
        if kinds[-1].per_step > LONGEST_STEP_SECONDS:
            kinds.pop()
            break
    each = seconds / (rounds * len(kinds)) if kinds else 0.0
    generator = random.Random(seed)
    for _ in range(rounds):
        order = list(kinds)
        generator.shuffle(order)
        measure_round(order, each, heartbeat=task.heartbeat_or_stop)
    return tuple(step_time_of(paced) for paced in kinds)


def hold_court(
    request: CourtRequest,
    code: UserCode,
    *,
    splits: Mapping[str, OwnSplit] | None = None,
    progress: Progress,
    stop_requested: Callable[[], bool],
    lock: RunLock,
    warm: Slot | None = None,
    finished: Callable[[Verdicts], None] = lambda verdicts: None,
) -> Verdicts:
    """Runs the cards that are missing, and judges the claims.

    Args:
        request: What is asked.
        code: The model's builder, and what else a user gives as code.
        splits: Arrays or Datasets to be stored in the run folder.
        progress: Told of everything.
        stop_requested: When true, the session ends with what was judged.
        lock: The run folder's lock.
        warm: A slot whose process has imported TensorFlow, or None.
        finished: Called after each card with the verdicts so far.

    Raises:
        InputError: Something asked for cannot be used; nothing was trained.
        DataError: Data absent or damaged.
        RunFolderError: The run folder is in use, or full.
    """
    started = time.monotonic()
    must_stop = _Stop(stop_requested)
    progress.doing("starting the first worker process")
    with (
        lock,
        prepared(
            request.subject,
            request.execution,
            code,
            lock=lock,
            progress=progress,
            splits=splits,
            warm=warm,
            stop_requested=must_stop,
        ) as ready,
    ):
        request = dataclasses.replace(  # what was left to Keras is recorded as what it came to
            request,
            execution=dataclasses.replace(request.execution, jit_compile=ready.model.jit_compile),
        )
        workload, untrained = open_subject(request, ready, progress)
        folder = RunFolder(
            request.run_dir,
            identity=request.identity(
                records=ready.data.identity,
                **code_identity(code, ready.model.compiled_with),
                model_built=untrained.model_hash,
                trial_examples=workload.examples,
                # Not in the files of sessions before there was a choice.
                **({} if ready.data.data_on == "host" else {"data_on": ready.data.data_on}),
            ),
            budget={"max_minutes": request.max_minutes},
            overwrite=request.overwrite,
            lock=lock,
        )
        with folder:
            write_fingerprint(
                folder.path, list(ready.engine.devices.accelerators), ready.gpu_settings
            )
            machine = machine_of(ready.engine.devices)
            spent = spent_seconds(folder.path, folder.journal.rows)
            must_stop.clock = SearchClock(
                request.max_minutes, spent_seconds=spent + time.monotonic() - started
            )
            court = LiveCourt(
                workload,
                request.preset,
                request.seed,
                asked={claim.name for claim in request.claims},
                runner=TrialRunner(
                    folder,
                    engine=ready.engine,
                    objective=request.objective,
                    num_examples=workload.num_examples,
                    total_examples=_NO_WHOLE_RUN,
                    evaluated_every=workload.evaluated_every,
                    progress=progress,
                    training_loss=untrained.training_loss,
                    stop_requested=must_stop,
                ),
                engine=ready.engine,
                measurements=Measurements(folder.path, machine),
                tensorboard=folder.tensorboard,
                objective=request.objective,
                progress=progress,
            )
            session = Session(
                request, court, folder.path, progress, must_stop, finished, machine=machine
            )
            with WallTime(folder.path, before=spent, started=started):
                begun = sample_load()
                found = session.run()
                load = load_between(begun, sample_load(), cores=usable_cores())
                record_load(folder.path, during_run=load)
                if load.busy:
                    progress.say(
                        f"Other processes used {load.others:.1f} of {load.cores:.1f} cores: times "
                        "are longer and less certain than on an idle machine."
                    )
                return dataclasses.replace(found, fingerprint=fingerprint_of(folder.path))


def open_subject(
    request: CourtRequest, ready: Prepared, progress: Progress
) -> tuple[Workload, Untrained]:
    """Model and data in the court's terms, and the untrained model.

    Raises:
        InputError: Something asked for cannot be used.
    """
    num_examples = ready.data.splits["train"]
    optimizer = ready.model.optimizer or _optimizer(ready.subject.optimizer)
    rule = Named(name=OPTIMIZERS.load(optimizer.name).SCALING_RULE)
    baseline = baseline_configuration(ready.subject, optimizer=optimizer, scaling_rule=rule)
    check_baseline(ready.subject, num_examples)
    check_length(request.trial_length, [baseline.batch_size], num_examples)
    progress.doing("evaluating the untrained model")
    untrained = ready.engine.call(measure_untrained, baseline)
    names = [*untrained.metrics, *(f"val_{name}" for name in untrained.metrics)]
    request.objective.check(names, untrained.directions, several=untrained.several)
    check_comparable(request.objective, untrained, progress)
    return workload_of(request, baseline, untrained, ready), untrained


class _Stop:
    """Whether the session is to end: the user asks for it, or its time is over.

    Args:
        stop_requested: Whether the user asks for it.

    Attributes:
        clock: The session's clock, as soon as the folder says what earlier sessions have used.
    """

    def __init__(self, stop_requested: Callable[[], bool]):
        self._stop_requested = stop_requested
        self.clock: SearchClock | None = None

    def __call__(self) -> bool:
        return self._stop_requested() or (self.clock is not None and self.clock.expired())


class Session:
    """The cards of a request, one after the other; what each has found is on disk before the next.

    Args:
        request: What is asked.
        court: Trains and measures.
        folder: The run folder.
        progress: Told of everything.
        must_stop: When true, no further card begins.
        finished: Called after each card with the verdicts so far.
        machine: What measures; see `machine_of`. Evidence of another one is found anew, from the
            trainings that there are.
    """

    def __init__(
        self,
        request: CourtRequest,
        court: Court,
        folder: Path,
        progress: Progress,
        must_stop: Callable[[], bool],
        finished: Callable[[Verdicts], None],
        *,
        machine: str,
    ):
        self._request, self._court, self._machine = request, court, machine
        self._folder = folder / EVIDENCE
        self._progress = progress
        self._must_stop, self._finished = must_stop, finished
        self._missing: dict[str, str] = {}
        self._failure: Exception | None = None

    def run(self) -> Verdicts:
        """Judges; a card that fails costs its own claims.

        Raises:
            RunFolderError: A file of evidence is damaged; no card has run.
        """
        self._folder.mkdir(exist_ok=True)
        self._progress.on_begin()
        evidence: list[Evidence] = []
        # All of them before the first card runs: a file may be damaged.
        before = {card.CARD: self._read(card) for card in self._request.cards}
        for card in self._request.cards:
            known = before[card.CARD]
            if not self._asked_of(card) <= {(one.claim, one.part) for one in known}:
                if self._must_stop():
                    self._missing[card.CARD] = "the session ended before it"
                    evidence += known
                    continue
                self._progress.say(f"Card {card.CARD}: {card.TITLE}.")
                known = self._collect(card, known)
            evidence += known
            self._finished(self._verdicts(evidence))
        return self._verdicts(evidence)

    def _asked_of(self, card: Card) -> set[tuple[str, str]]:
        """The parts of claims that it is to tell something of."""
        return {
            (claim.name, part.name)
            for claim in self._request.claims
            for part in claim.parts
            if part.card == card.CARD
        }

    def _verdicts(self, evidence: Sequence[Evidence]) -> Verdicts:
        return Verdicts(
            run_dir=self._folder.parent,
            claims=self._request.claims,
            evidence=tuple(evidence),
            missing=tuple(self._missing.items()),
            preset=self._request.preset.name,
            seed=self._request.seed,
            subject=f"{self._request.subject.model} on {self._request.subject.data.name}",
            fingerprint=fingerprint_of(self._folder.parent),
            failure=self._failure,
        )

    def _collect(self, card: Card, known: Sequence[Evidence]) -> list[Evidence]:
        """What it finds now, and what it has found of other claims before.

        Each piece is on disk before the next, so that a card that fails or is stopped later keeps
        what it has yielded. Where a batch size has run out of memory the card begins again without
        it: what has ended is not trained again. What failed for a lack of memory is told and not
        kept: the next session measures it again.
        """
        found = {(one.claim, one.part): one for one in known}
        try:
            too_large = -1
            while too_large != len(self._court.too_large):
                too_large = len(self._court.too_large)
                try:
                    for one in card.collect(self._court):
                        found[one.claim, one.part] = _with_finite_effects(one)
                        self._write(card, [kept for kept in found.values() if self._is_final(kept)])
                    break
                except UntestableError:
                    if too_large == len(self._court.too_large):
                        raise
        except (InterruptedTrialError, StoppedError):
            self._missing[card.CARD] = "the session ended before its end"
        except Exception as error:
            self._missing[card.CARD] = f"it failed: {type(error).__name__}: {error}"
            tell_failure(self._progress, f"Card {card.CARD} failed", error)
            if not isinstance(error, UntestableError):  # of the machine: nothing is to be mended
                self._failure = self._failure or error
        return list(found.values())

    def _is_final(self, evidence: Evidence) -> bool:
        return not any(failure in evidence.untestable for failure in self._court.failures)

    def _write(self, card: Card, evidence: Sequence[Evidence]) -> None:
        content = {
            "version": _EVIDENCE_VERSION,
            "machine": self._machine,
            "card": card.CARD,
            "evidence": [dataclasses.asdict(one) for one in evidence],
        }
        write_whole(self._folder / f"{card.CARD}.json", json.dumps(content, indent=1))

    def _read(self, card: Card) -> list[Evidence]:
        """What earlier sessions have found on this machine, by the statistics of this version.

        Raises:
            RunFolderError: The file is damaged.
        """
        path = self._folder / f"{card.CARD}.json"
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content.get("version") != _EVIDENCE_VERSION or content["machine"] != self._machine:
                return []
            rows: list[dict[str, Any]] = content["evidence"]
            return [Evidence(**{key: _tuples(v) for key, v in row.items()}) for row in rows]
        except FileNotFoundError:
            return []
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise RunFolderError(
                f"{path} is damaged: {error!r}. Remove it: the same command finds it anew, and "
                "trains nothing."
            ) from error


def _with_finite_effects(evidence: Evidence) -> Evidence:
    """An effect that is no number forbids a decision, and costs no other verdict."""
    compared = (evidence.effects, *evidence.rivals, *evidence.alternatives)
    lost = sum(not math.isfinite(effect) for effects in compared for effect in effects)
    if not lost:
        return evidence

    def finite(effects: Sequence[float]) -> tuple[float, ...]:
        return tuple(filter(math.isfinite, effects))

    doubt = f"{lost} of {sum(map(len, compared))} effects are not finite: a training diverged"
    return dataclasses.replace(
        evidence,
        effects=finite(evidence.effects),
        rivals=tuple(map(finite, evidence.rivals)),
        alternatives=tuple(map(finite, evidence.alternatives)),
        doubts=(*evidence.doubts, doubt),
    )


def no_memory(batch_size: int) -> str:
    """Why a batch size is not tried, and what lets it be tried."""
    return (
        f"batch size {batch_size} does not fit into the memory of this device; take a device with "
        "more memory, a smaller --baseline=batch_size, or fewer --workers and another --run_dir: "
        "this one keeps what does not fit"
    )


def machine_of(devices: Devices) -> str:
    """What seconds depend on: the device and the processor."""
    return f"{devices.name}; {hardware(list(devices.accelerators))['processor']}"


def workload_of(
    request: CourtRequest,
    baseline: Configuration,
    untrained: Untrained,
    ready: Prepared,
) -> Workload:
    """The workload in the court's terms."""
    objective, num_examples = request.objective, ready.data.splits["train"]
    name = objective.name.removeprefix("val_")
    value = untrained.metrics[name]
    chance = untrained.chance.get(name)
    without = chance.without_knowledge() if chance else math.nan
    return Workload(
        baseline=baseline,
        num_examples=num_examples,
        examples=request.trial_length.examples(num_examples),
        metric=objective.name,
        untrained=value if objective.direction == "max" else -value,
        smallest_margin=objective.smallest_margin(without if math.isfinite(without) else value),
        device=ready.engine.devices.kind,
        precision=request.execution.precision,
        compiled=ready.model.optimizer is not None,
        normalizations=_normalizations(request.subject.model),
        augmented=isinstance(data := request.subject.data, Recipe) and bool(data.augmentation),
        larger_is_better=objective.direction == "max",
    )


def _normalizations(model: str) -> tuple[str, ...]:
    """What a model of tfbatch takes as `normalization`; nothing of any other one is known."""
    if model not in MODELS.names():
        return ()
    parameters = inspect.signature(MODELS.load(model).build).parameters
    return ("none", "batch", "group") if "normalization" in parameters else ()


def _optimizer(name: str | None) -> Named:
    return DEFAULT_OPTIMIZER if name in (None, DEFAULT_OPTIMIZER.name) else Named(name=str(name))


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
