"""A run with its folder open: search, verification, step times, answer."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tfbatch.answer.answer import Answer
from tfbatch.answer.candidates import Candidate, to_verify, trial_name
from tfbatch.answer.chance import write_chance_level
from tfbatch.answer.find import AllFailedError, Left, RefutedError, find_answer
from tfbatch.answer.memory_limits import read_memory_limit
from tfbatch.answer.plan import Plan
from tfbatch.answer.step_seconds import read_step_seconds
from tfbatch.configuration import Configuration
from tfbatch.errors import (
    STOPPED_EARLY,
    InputError,
    NothingLearnedError,
    SearchError,
    StoppedError,
)
from tfbatch.estimators.race import FIRST_EXIT
from tfbatch.interleaved_rounds import FEWEST_ROUNDS
from tfbatch.oracles import Belief, Prices
from tfbatch.process.gpus import GpuMachine
from tfbatch.quantities import TrainingLength
from tfbatch.request.execution import AUTOMATIC
from tfbatch.request.request import Request
from tfbatch.run_folder.files import STEP_TIMES
from tfbatch.run_folder.fingerprint import write_fingerprint
from tfbatch.run_folder.folder import RunFolder
from tfbatch.run_folder.wall_time import WallTime, spent_seconds
from tfbatch.search.answer_so_far import AnswerSoFar
from tfbatch.search.answer_writer import AnswerWriter, tell_failure, told
from tfbatch.search.budget import Budget
from tfbatch.search.clock import FINISHING_SECONDS, SearchClock
from tfbatch.search.columns import declare_columns
from tfbatch.search.gpu_sharing import SharingRequest, share_gpus, workers_that_fit
from tfbatch.search.loop import Search
from tfbatch.search.plan import Planner
from tfbatch.search.preparation import Prepared, stop_if
from tfbatch.search.prices import prices_of
from tfbatch.search.progress import Progress
from tfbatch.search.result import Result
from tfbatch.search.space import SearchSpace
from tfbatch.search.trainings import Trainings
from tfbatch.search.trial_length import budget_of, expected_test_seconds, shortest_length
from tfbatch.search.trial_runner import InterruptedTrialError, TrialRunner
from tfbatch.search.verification import Verification
from tfbatch.training.evaluation import Untrained
from tfbatch.training.step_times import ROUNDS, expected_trial_seconds, keep_step_times
from tfbatch.trial.derived import Derived, derive
from tfbatch.trial.finished_trial import BASELINE
from tfbatch.trial.trials import Trials

if TYPE_CHECKING:
    import keras

SECONDS_EACH = 0.6 * ROUNDS
"""What measuring the step time of one batch size takes, beside starting up."""
STARTING_SECONDS = 15.0


class Run:
    """A run with its folder open."""

    def __init__(
        self,
        request: Request,
        ready: Prepared,
        space: SearchSpace,
        folder: RunFolder,
        progress: Progress,
        stop_requested: Callable[[], bool],
        started: float,
        untrained: Untrained,
        *,
        build_model: Callable[..., keras.Model],
        callbacks: str | None,
        largest_batch_size: int | None,
        trial_seconds: float | None = None,
    ):
        self._build_model, self._callbacks = build_model, callbacks
        self._compiled = ready.model.optimizer is not None
        self._largest_batch_size = largest_batch_size
        self._budget: Budget | None = None
        self._trial_seconds = trial_seconds
        self.request = request
        self.data, self.engine = ready.data, ready.engine
        self.gpu_settings = ready.gpu_settings
        self.space = space
        self.baseline = request.baseline_configuration(space.scaling_rule)
        self.prices = Prices()
        self.folder = folder
        self.progress = progress
        self.stop_requested = stop_requested
        self.untrained = untrained
        self.step_seconds = read_step_seconds(folder.path)
        self._timed: set[int] = set()
        self._belief: Belief | None = None
        name = request.objective.name  # of a training metric nothing is known without training
        self.chance = untrained.chance.get(name[4:]) if name.startswith("val_") else None
        self.num_examples = ready.data.splits["train"]
        self.total_examples = request.trial_length.examples(self.num_examples)
        spent = spent_seconds(folder.path, folder.journal.rows)
        self.wall_time = WallTime(folder.path, before=spent, started=started)
        self.clock = SearchClock(
            request.max_minutes,
            spent_seconds=spent + time.monotonic() - started,
            finishing_seconds=FINISHING_SECONDS
            + expected_test_seconds(request, self.data.splits, untrained),
        )
        self.runner = TrialRunner(
            folder,
            engine=ready.engine,
            objective=request.objective,
            num_examples=self.num_examples,
            total_examples=self.total_examples,
            progress=progress,
            training_loss=untrained.training_loss,
            # A trial that runs into the end of the time is stopped like one that is asked to.
            stop_requested=self._must_stop,
            max_state_gb=request.execution.max_state_gb,
        )

        margin = request.objective.smallest_margin(self._chance_value())
        self._so_far = AnswerSoFar(progress, self._keep_so_far, margin=margin)

    @property
    def trials(self) -> Trials:
        """The finished trials."""
        return self.runner.trials

    def complete(self) -> Result:
        """Search, verification, answer.

        A failure in a stage costs the measurements of that stage, not the answer.

        Raises:
            NothingLearnedError: No trial is better than chance.
            InputError: Only times are measured, and the time limit has no room for them.
            SearchError: No trial has completed, or all failed on fresh seeds; or only times are
                measured, and one is missing.
            StoppedError: A stop was requested before any trial had completed.
        """
        with self.wall_time:
            self._write_settings()
            try:
                return self._complete()
            except (NothingLearnedError, AllFailedError) as error:
                if isinstance(error, RefutedError) and self._has_more_to_verify():
                    self._withdraw_if_refuted()
                    more = self._what_continues()
                    raise RefutedError(
                        f"{error} Verification is incomplete: {more} continues it."
                    ) from error
                self._writer().withdraw()  # what was kept meanwhile, or by a session before
                raise

    def _complete(self) -> Result:
        if self.request.only_times:
            return self._decide_by_times_of_here()
        failure = self._search_and_verify()
        # From here on the end of the time stops nothing: time was kept for what is left.
        if self.trials.searched().best() is None and self.stop_requested():
            raise StoppedError(self._stopped_without_answer())
        answer = self._answer_beside(failure)
        if answer.verified:
            self._measure_step_times([one.configuration for one in answer.compared])
        return self._writer().finish(self._answer_beside(failure), failure=failure)

    def _stopped_without_answer(self) -> str:
        if not self.trials:
            return STOPPED_EARLY
        return (
            f"Stopped when none of {len(self.trials)} trials had completed as a whole training: "
            "there is no answer yet. The same command goes on where it stopped."
        )

    def _decide_by_times_of_here(self) -> Result:
        """The answer to trials of other hardware; seconds of that hardware never decide.

        Raises:
            InputError: The time limit has no room for measuring the step times.
            SearchError: A step time could not be measured.
            StoppedError: A stop was requested.
        """
        configurations = [one.configuration for one in self._answer().compared]
        sizes = {one.batch_size for one in configurations}
        missing = sizes - self._timed_here()
        needed = _timing_seconds(missing)
        if missing and not self.clock.fits(needed):
            used, kept = self.clock.elapsed, self.clock.finishing
            minutes = math.ceil((used + kept + needed) / 60) + 1
            raise InputError(
                "`max_minutes` must leave time to measure step times: "
                f"{needed:.0f} s for batch sizes {_listed(missing)}, beside {kept:.0f} s for the "
                f"end of the run. Received: {self.request.max_minutes:g} min, of which {used:.0f} "
                f"s are used. Give --max_minutes={minutes} or more."
            )
        self._measure_step_times([one for one in configurations if one.batch_size in missing])
        if missing := sizes - self._timed_here():
            stop_if(self.stop_requested)
            raise SearchError(
                f"Step times of batch sizes {_listed(missing)} are missing on "
                f"{self.engine.devices.name}, and without them nothing is decided: the trials' "
                "own seconds are those of the other hardware. The same command measures them "
                "again."
            )
        return self._writer().finish(self._answer())

    def _timed_here(self) -> set[int]:
        """Batch sizes with enough rounds of step times on this device."""
        times = self.step_seconds
        if times.device != self.engine.devices.name:
            return set()
        return {size for size, rounds in times.rounds.items() if len(rounds) >= FEWEST_ROUNDS}

    def plan(self) -> Plan:
        """What the run is going to take; nothing of it is trained.

        Raises:
            SearchError: No step time could be measured.
            StoppedError: A stop was requested.
        """
        self._share_gpus([size for size in self.space.batch_sizes if size <= self._largest()])
        return Planner(
            request=self.request,
            space=self.space,
            engine=self.engine,
            folder=self.folder.path,
            progress=self.progress,
            untrained=self.untrained,
            splits=dict(self.data.splits),
            largest_batch_size=self._largest_batch_size,
            begun_seconds=self.clock.elapsed,
        ).plan()

    def _search_and_verify(self) -> Exception | None:
        """Searches and verifies as long as there is time for both; what ended it early, or None."""
        try:
            self._check_budget()
            self._measure_prices()
            search = self._search()
            while True:
                before = len(self.trials)
                search.run(stop_requested=self.stop_requested)
                with self._while_open(before):
                    self._keep_answer()
                self._verify(before)
                with self._while_open(before):
                    self._keep_answer()
                if len(self.trials) == before or self.stop_requested():
                    return None
        except InterruptedTrialError as trial:
            self.progress.say(f"Stopped before its end, and not counted: {trial}.")
        except StoppedError:
            pass  # whoever asked for it has been told
        except (NothingLearnedError, AllFailedError, InputError):
            raise
        except Exception as error:
            if self.trials.searched().best() is None:
                raise
            tell_failure(self.progress, "The run ended early; what was measured stands", error)
            return error
        self._keep_answer()
        return None

    def _measure_prices(self) -> None:
        """What training costs, before the first trial of a search that proposes by it.

        A run that is resumed has the prices of its first session; without any it counts examples.
        """
        if self.stop_requested():
            return
        sizes = [size for size in self.space.batch_sizes if size <= self._largest()]
        if not self.request.search.oracle.prices:
            self._share_gpus(sizes)
            return
        priced = prices_of(
            self.engine,
            self.baseline,
            sizes,
            self.folder.path,
            self.progress,
            max_minutes=self.request.max_minutes,
        )
        self._share_gpus(priced.step_seconds)
        self.prices = priced.prices(self.num_examples)
        self.step_seconds = read_step_seconds(self.folder.path)

    def _share_gpus(self, sizes: Collection[int]) -> None:
        """With `--workers_per_gpu=auto`: as many workers on each GPU as are worth it.

        Args:
            sizes: Batch sizes that trials may have, and that fit where that is known.
        """
        execution = self.request.execution
        if execution.workers_per_gpu != AUTOMATIC:
            return
        limit = read_memory_limit(self.folder.path) if execution.memory_budget else None
        machine = self.gpu_settings.machine if self.gpu_settings else GpuMachine()
        gpu_bytes = min((gpu.memory_bytes for gpu in machine.gpus), default=math.inf)
        share_gpus(
            self.engine,
            SharingRequest(
                self.baseline,
                largest=max(sizes, default=self.baseline.batch_size),
                fit=workers_that_fit(limit, gpu_bytes),
                max_minutes=self.request.max_minutes,
            ),
            self.folder.path,
            self.progress,
        )

    def _largest(self) -> float:
        return math.inf if self._largest_batch_size is None else self._largest_batch_size

    def _search(self) -> Search:
        return Search(
            self.request.search,
            baseline=self.baseline,
            space=self.space,
            prices=self.prices,
            max_trainings=self._max_trainings(),
            runner=self.runner,
            clock=self.clock,
            seed=self.request.seed,
            untrained=self.untrained.metrics[self.request.objective.name.removeprefix("val_")],
            progress=self.progress,
            largest_batch_size=self._largest_batch_size,
            chance=self.chance,
            step_seconds=lambda: self.step_seconds,
            on_trial=self._look,
        )

    def _look(self, search: Search) -> None:
        """Shows and keeps the answer so far, if a trial has changed it."""
        self._belief = search.belief()
        self._so_far.look(self.trials, self._belief, search.stages())

    def _keep_so_far(self) -> None:
        with contextlib.suppress(SearchError):  # no answer yet
            self._keep_answer()

    def _must_stop(self) -> bool:
        """The first trial may take all the time that there is: without it there is no answer."""
        first = all(trial.score is None for trial in self.trials)
        return self.stop_requested() or self.clock.expired(keep_finish=not first)

    def _chance_value(self) -> float | None:
        """The objective's value without learning, where it is known."""
        return self.chance.known() if self.chance else None

    def _answer(self) -> Answer:
        try:
            found = self._found()
        except SearchError as error:
            if not self.data.findings:
                raise
            # Said at the start, far above: a NaN among the inputs may well be the reason.
            told = f"{error} Of the data was said: {' '.join(self.data.findings)}"
            raise type(error)(told) from error
        if found.verified or self._belief is None:
            return found
        return found.model_copy(update={"belief": self._belief.sentence})

    def _answer_beside(self, failure: Exception | None) -> Answer:
        """The answer; where there is none, what ended the run early says why.

        Raises:
            SearchError: There is none, although nothing else has ended the run.
            Exception: The failure, in place of that.
        """
        try:
            return self._answer()
        except SearchError as error:
            if failure is None or isinstance(failure, SearchError):
                raise
            raise failure from error

    def _found(self) -> Answer:
        return find_answer(
            self.trials,
            batch_sizes=self.request.search.confirmation.batch_sizes,
            step_seconds=self.step_seconds,
            chance=self.chance,
            learning_rates=self.request.search.space.learning_rate_range(),
            device=self.runner.device,
            goal=self.request.search.confirmation.goal,
            tolerance=self.request.search.confirmation.tolerance,
            planned=self.request.search.confirmation.seeds,
            left=self._left(),
            too_short=self._too_short(),
        )

    def _left(self) -> Left:
        """What is left for more verification."""
        trainings = self._trainings()
        return Left(
            seconds=self.clock.left - self.clock.finishing,
            at_once=self.runner.at_once,
            trainings=trainings.limit - trainings.spent(self.trials),
            price=trainings.of_whole,
        )

    def _keep_answer(self) -> None:
        """Writes the answer so far: a run that is killed later has it on disk."""
        if self.trials.searched().best() is not None:
            self._writer().keep(self._answer())

    def _writer(self) -> AnswerWriter:
        return AnswerWriter(
            request=self.request,
            data=self.data,
            engine=self.engine,
            folder=self.folder,
            runner=self.runner,
            clock=self.clock,
            progress=self.progress,
            derive=self.derive,
            stop_requested=self.stop_requested,
            build_model=self._build_model,
            compiled=self._compiled,
            callbacks=self._callbacks,
        )

    def _check_budget(self) -> None:
        """Says before the first trial how many fit, and which length would.

        Raises:
            InputError: Not even one trial fits.
        """
        if self.request.max_minutes is None or self.trials or self.stop_requested():
            return
        with told(self.progress, "The duration of a trial could not be predicted"):
            seconds = self._trial_seconds
            if seconds is None:
                seconds = self.engine.call(
                    expected_trial_seconds,
                    self.baseline,
                    total_examples=self.total_examples,
                    validation_seconds=self.untrained.seconds,
                )
            self._budget = budget_of(
                self.request,
                trial_seconds=seconds,
                left=self.clock.left,
                finishing=self.clock.finishing,
                at_once=self.runner.at_once,
                shortest=shortest_length(self.request, self.space.batch_sizes, self.num_examples),
            )
        if self._budget:
            self._budget.check()
            for line in self._budget.lines():
                self.progress.say(line)

    def _too_short(self) -> str:
        """What to do where the time was over before the first trial ended."""
        advice = self._budget.advice() if self._budget else ""
        return advice or "give more time with --max_minutes, or shorten the trials"

    def derive(self, configuration: Configuration, length: TrainingLength | None = None) -> Derived:
        """Derived values of a configuration, for this run's length of trials or another one."""
        examples = self.total_examples if length is None else length.examples(self.num_examples)
        return derive(
            configuration,
            num_examples=self.num_examples,
            total_examples=examples,
            replicas=self.engine.devices.replicas,
        )

    def _verify(self, trials_before: int) -> None:
        """Trains the candidates on fresh seeds.

        The step times are measured where they do not take the time of a round, before anybody
        can leave for what it costs.

        Args:
            trials_before: See `_while_open`.

        Raises:
            NothingLearnedError: There is nothing to verify.
            InterruptedTrialError: Running trials were asked to stop.
        """
        with self._while_open(trials_before):
            self._answer()  # of a search that has learned nothing there is none
        before = len(self.trials)
        if self.stop_requested() or not self._verification().fits(self.clock):
            return
        self.progress.say(self._announced(self._verification().candidates))
        self._verification().run(self.clock, stop_requested=self.stop_requested, rounds=FIRST_EXIT)
        verification = self._verification()
        left = sum(verification.missing_seconds())
        if left:
            if len(self.trials) > before:
                with self._while_open(trials_before):
                    self._keep_answer()
            self._measure_step_times([c.configuration for c in verification.candidates], left)
        self._verification().run(self.clock, stop_requested=self.stop_requested)

    @contextlib.contextmanager
    def _while_open(self, trials_before: int) -> Iterator[None]:
        """What fresh seeds refute is refuted for good where nothing is left to verify or search.

        What is refuted while the search may go on is no answer so far.

        Args:
            trials_before: Trials before the search went on: where it has added none, it has ended.
        """
        try:
            yield
        except (RefutedError, AllFailedError):
            if self._has_more_to_verify():
                self._withdraw_if_refuted()
                return
            if len(self.trials) == trials_before or self.stop_requested():
                raise
            self._writer().withdraw()

    def _withdraw_if_refuted(self) -> None:
        """Removes an answer of which all rounds have run, although others wait to be verified."""
        verification = self._verification()
        begun = [
            one
            for one in verification.candidates
            if self.trials.find(trial_name(one.configuration, 1)) is not None
        ]
        if not _has_more(dataclasses.replace(verification, candidates=begun)):
            self._writer().withdraw()

    def _has_more_to_verify(self) -> bool:
        return _has_more(self._verification())

    def _what_continues(self) -> str:
        """What the user does for the rounds of the verification that are missing."""
        limits = {
            "--max_minutes": self.request.max_minutes,
            "--max_trainings": self.request.max_trainings,
        }
        given = [option for option, limit in limits.items() if limit is not None]
        if not given or self._verification().fits(self.clock):
            return "the same command"
        return f"the same command with a larger {' or '.join(given)}"

    def _verification(self) -> Verification:
        """The race as it stands."""
        config = self.request.search.confirmation
        candidates = to_verify(
            self.trials, batch_sizes=config.batch_sizes, chance=self.chance, seeds=config.seeds
        )
        return Verification(
            candidates,
            config,
            self.runner,
            self.request.seed,
            self._chance_value(),
            self.step_seconds,
            self._trainings(),
        )

    def _trainings(self) -> Trainings:
        """What trainings cost, and the budget in them."""
        return Trainings(self.prices, self.baseline, self.total_examples, self._max_trainings())

    def _max_trainings(self) -> float:
        limit = self.request.max_trainings
        return math.inf if limit is None else limit

    def _announced(self, candidates: Sequence[Candidate]) -> str:
        seeds = self.request.search.confirmation.seeds
        with_baseline = any(one.key == BASELINE for one in candidates)
        if len(candidates) == 1:
            several = "the baseline" if with_baseline else "one configuration"
        else:
            among = ", the baseline among them," if with_baseline else ""
            several = f"{len(candidates)} configurations{among}"
        earlier = "; what is decided earlier ends earlier" if seeds > FIRST_EXIT else ""
        count = f"up to {seeds} fresh seeds" if seeds > 1 else "one fresh seed"
        found = self.trials.of_phase("search").searched()
        is_alone = with_baseline and all(trial.score is None for trial in found)
        why = "no whole training of the search has completed"
        alone = f" It is compared with nothing: {why}." if is_alone else ""
        return f"Verifying {several} on {count}{earlier}.{alone}"

    def _measure_step_times(
        self, configurations: Sequence[Configuration], reserve: float = 0.0
    ) -> None:
        """Each verified batch size alone on the device, while no trial runs; once in a session."""
        first = {c.batch_size: c for c in reversed(configurations)}
        known = first.keys() & self._timed_here()
        if known == first.keys() or first.keys() <= self._timed or self.stop_requested():
            return
        asked = first.keys()
        if self.prices.step_seconds:  # what was measured before the search stands
            first = {size: one for size, one in first.items() if size not in known}
        if not self.clock.fits(_timing_seconds(first), reserve=reserve):
            return
        self._timed |= asked
        self.progress.say(f"Measuring the step times of batch sizes {_listed(first)}, each alone.")
        with told(self.progress, "The step times could not be measured"):
            try:
                self.engine.call_alone(
                    keep_step_times,
                    [first[size] for size in sorted(first)],
                    self.folder.path / STEP_TIMES,
                    self.engine.devices.name,
                )
            finally:  # also what was measured before it failed
                self.step_seconds = read_step_seconds(self.folder.path)

    def _write_settings(self) -> None:
        # The trials' devices are not this machine's on a cluster: cluster.json has each node's.
        here = () if self.request.execution.cluster else self.engine.devices.accelerators
        write_fingerprint(self.folder.path, list(here), self.gpu_settings)
        if self.chance:
            write_chance_level(self.folder.path, self.chance)
        declare_columns(
            self.folder.tensorboard,
            space=self.space,
            objective=self.request.objective,
            metrics={f"val_{n}": d for n, d in self.untrained.directions.items()},
            in_parts=self.request.search.oracle.in_parts,
            baseline=self.baseline,
        )


def _has_more(verification: Verification) -> bool:
    return any(seconds > 0 for seconds in verification.missing_seconds())


def _timing_seconds(sizes: Collection[int]) -> float:
    """What measuring the step times of so many batch sizes takes."""
    return STARTING_SECONDS + SECONDS_EACH * len(sizes)


def _listed(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(sizes)))
