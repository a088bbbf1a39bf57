"""The search loop: baseline, then propose, run, tell."""

from __future__ import annotations

import contextlib
import itertools
import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence

from tfbatch.answer.candidates import to_verify
from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, SearchError
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.oracles import (
    MOST_SEEDS,
    NO_PRICES,
    Belief,
    Oracle,
    Part,
    Premises,
    Prices,
    Proposal,
    Setting,
    Stage,
    StagedOracle,
    Stop,
    Told,
)
from tfbatch.request.search_config import SearchConfig
from tfbatch.run_folder.files import JOURNAL, OPEN_TRIALS
from tfbatch.schema import Named
from tfbatch.search.clock import SearchClock, side_by_side
from tfbatch.search.open_trials import OpenTrials
from tfbatch.search.progress import Progress
from tfbatch.search.space import SearchSpace
from tfbatch.search.trainings import Trainings
from tfbatch.search.trial_runner import InterruptedTrialError, TrialRunner
from tfbatch.search.verification import Verification
from tfbatch.seeds import derive_seed
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import TrialSpec
from tfbatch.trial.trials import Trials

HOPELESS_AFTER = 3
"""A search whose first trials all fail is ended: the model cannot be trained."""
RESULTS = ("completed", "diverged")
"""Of what can be trained."""
TEACHES_NOTHING = ("killed",)
"""A process that ended for an unknown reason says nothing of its configuration."""


class Search:
    """One search.

    Args:
        config: The search's YAML.
        baseline: The user's own configuration.
        space: Its space for the data set.
        runner: Runs trials and keeps them.
        clock: The time limit.
        seed: The run's seed.
        untrained: The objective's value before any training.
        progress: Told of the search's progress.
        largest_batch_size: No larger one is tried; None where nothing was measured.
        chance: The objective's level without learning, where it is known.
        step_seconds: Gives the step times that are known; see Verification.
        prices: What training costs, as the oracle is told. A search that goes on needs the same.
        max_trainings: What all trials may cost, verification's too, in trainings of the baseline.
        on_trial: Called when the oracle has been told of a trial.
        around: Wraps the oracle, to watch it.
    """

    def __init__(
        self,
        config: SearchConfig,
        *,
        baseline: Configuration,
        space: SearchSpace,
        runner: TrialRunner,
        clock: SearchClock,
        seed: int,
        untrained: float,
        progress: Progress,
        largest_batch_size: int | None = None,
        chance: ChanceLevel | None = None,
        step_seconds: Callable[[], StepSeconds] = StepSeconds,
        prices: Prices = NO_PRICES,
        max_trainings: float = math.inf,
        on_trial: Callable[[Search], None] = lambda search: None,
        around: Callable[[Oracle], Oracle] = lambda oracle: oracle,
    ):
        self._config = config
        self._baseline = baseline
        self._space = space
        self._objective = runner.trials.objective
        self._runner = runner
        self._clock = clock
        self._seed = seed
        self._untrained = untrained
        self._progress = progress
        self._largest = math.inf if largest_batch_size is None else largest_batch_size
        self._chance = chance
        self._step_seconds = step_seconds
        self._scores: list[float] = []
        self._next = 0  # the baseline
        self._tried, self._ended = 0, False
        self._is_cut = False
        self._walls: dict[str, int | None] = {}
        self._seed_numbers = {_numbered_seed(seed, k): k for k in range(MOST_SEEDS, 0, -1)}
        self._running: dict[str, TrialSpec] = {}
        self._open: dict[str, Proposal] = {}
        self._open_trials = OpenTrials(runner.run_dir)
        self._prices = prices
        self._trainings = Trainings(prices, baseline, runner.total_examples, max_trainings)
        self._held: Proposal | None = None
        self._on_trial = on_trial
        made = config.oracle.make(
            space.hyperparameters(),
            direction=self._objective.direction,
            seed=derive_seed(seed, "oracle"),
            total_examples=runner.total_examples,
            premises=self._premises(),
        )
        self._oracle: Oracle = around(made)

    def _premises(self) -> Premises:
        space = self._space

        def setting(configuration: Configuration) -> Setting:
            return Setting(
                batch_size=configuration.batch_size,
                learning_rate=space.learning_rate(configuration),
                schedule=configuration.schedule,
                warmup_fraction=configuration.warmup_fraction,
            )

        return Premises(
            prices=self._prices,
            baseline=setting(self._baseline),
            setting=lambda values: setting(space.configuration(dict(values))),
            baseline_told=self._baseline_told,
            margin=self._objective.smallest_margin(self._chance_value()),
            max_trials=self._config.max_trials,
        )

    def _baseline_told(self) -> Told | None:
        trained = self._trials.find(BASELINE)
        return None if trained is None else self._told(trained)

    @property
    def _trials(self) -> Trials:
        return self._runner.trials

    def run(self, *, stop_requested: Callable[[], bool]) -> None:
        """Runs the baseline and the search's trials, as far as budget and time allow.

        Trials of an earlier session are replayed to the oracle in order, not run again. A
        second call goes on where the first one ended, if there is time again.

        Raises:
            InterruptedTrialError: Running trials were asked to stop.
            SearchError: The first trials all failed.
        """
        if stop_requested() and not self._trials:
            raise InterruptedTrialError(BASELINE)
        replayed = set[str]()
        if not self._next:
            self._announce()
            replayed = {trial.trial for trial in self._trials if trial.phase != "confirmation"}
        self._walls = self._trials.memory_walls_before()
        try:
            with contextlib.closing(self._runner.run_all(self._plan(stop_requested))) as ended:
                for trial in ended:
                    self._finished(trial)
                    is_new = trial.trial not in replayed
                    replayed.discard(trial.trial)
                    if is_new or not replayed:  # what was believed in the midst of them is no news
                        self._on_trial(self)
        finally:
            if replayed:
                self._on_trial(self)

    def belief(self) -> Belief | None:
        """What the oracle would answer now; None where it does not say."""
        return self._oracle.belief() if isinstance(self._oracle, StagedOracle) else None

    def stages(self) -> Sequence[Stage]:
        """The oracle's stages; none where it does not say."""
        return self._oracle.stages() if isinstance(self._oracle, StagedOracle) else ()

    @property
    def is_cut(self) -> bool:
        """Whether time or trainings ran out before the oracle had ended it, or its trials had."""
        return self._is_cut

    def _plan(self, stop_requested: Callable[[], bool]) -> Iterator[TrialSpec | None]:
        """Yields trial after trial, each when a place for it is free; None for none now."""
        if not self._next:
            self._next = 1
            seed = derive_seed(self._seed, BASELINE)
            baseline = self._runner.spec(BASELINE, "baseline", seed, self._baseline)
            self._running[BASELINE] = baseline
            yield baseline
        most, in_parts = self._config.max_trials, self._config.oracle.in_parts
        self._is_cut = False
        while not self._ended and (in_parts or self._tried < most):
            name = _name(self._next)
            known = self._trials.find(name)
            if known is None and (stop_requested() or not self._another_fits()):
                self._is_cut = True
                return
            begun = None if known else self._open_trials.begun.get(name)
            proposal = self._held or self._proposed(name, known, begun)
            if proposal is None and (self._open or self._trials.find(BASELINE) is None):
                yield None  # asked again when one of them has ended
                continue
            if proposal is None or isinstance(proposal, Stop):
                self._progress.say(proposal.reason if proposal else self._why_none())
                self._ended = True
                return
            spec = self._spec(name, proposal)
            over = spec.tries_another and self._tried == most
            self._held = proposal if over or (known is None and not self._fits(spec)) else None
            if self._held:  # a larger limit proposes it
                self._is_cut = not over
                return
            self._next += 1
            self._tried += spec.tries_another
            self._open[name], self._running[name] = proposal, spec
            if known is None:
                self._open_trials.keep(self._begun_before() | self._open)
            yield spec

    def _begun_before(self) -> dict[str, Proposal]:
        """What an earlier session has begun and nobody has ended: this one may end first."""
        begun = self._open_trials.begun
        return {name: one for name, one in begun.items() if self._trials.find(name) is None}

    def _spec(self, name: str, proposal: Proposal) -> TrialSpec:
        """The trial that is proposed.

        Raises:
            SearchError: It cannot be.
        """
        configuration = self._space.configuration(dict(proposal.values))
        part, seed = proposal.part, self._seed_of(name, proposal)
        if part and not self._config.oracle.in_parts:
            raise SearchError(
                f"The oracle {self._config.oracle.name} proposes parts of trainings, so its "
                "Settings must say `in_parts: ClassVar[bool] = True`."
            )
        parent = self._trials.find(part.parent) if part and part.parent else None
        if part and parent:  # the same order of examples, and the schedule that was begun
            seed = parent.seed
            begun, proposed = _schedule_of(parent.configuration), _schedule_of(configuration)
            if proposed != (first := _schedule_of(self._first_ancestor(parent).configuration)):
                # They follow from the journal when the search goes on.
                raise SearchError(
                    f"The values that the oracle {self._config.oracle.name} proposes for a trial "
                    f"with a parent must say the schedule and warm-up of the first ancestor; a "
                    f"branch's own is `schedule` of its part. Received: {_written(proposed)}, "
                    f"where {self._first_ancestor(parent).trial} has {_written(first)}."
                )
            own = {"schedule": part.schedule, "warmup_fraction": 0.0}
            configuration = configuration.model_copy(update=own if part.schedule else begun)
        try:
            return self._runner.spec(name, "search", seed, configuration, part)
        except InputError as error:
            raise SearchError(
                f"The oracle {self._config.oracle.name} proposes a part of a training that cannot "
                f"be: {error}"
            ) from error

    def _seed_of(self, name: str, proposal: Proposal) -> int:
        """The seed of a trial without a parent.

        Raises:
            SearchError: The oracle asks for one that it cannot have.
        """
        number = proposal.seed
        if number is None:
            return derive_seed(self._seed, name)
        if not 1 <= number <= MOST_SEEDS or (proposal.part and proposal.part.parent):
            raise SearchError(
                f"The oracle {self._config.oracle.name} must number seeds from 1 to {MOST_SEEDS}, "
                "and propose none for a trial with a parent, whose seed it has. Received: "
                f"seed={number}, {proposal.part}."
            )
        return _numbered_seed(self._seed, number)

    def _first_ancestor(self, trial: FinishedTrial) -> FinishedTrial:
        while trial.parent and (parent := self._trials.find(trial.parent)):
            trial = parent
        return trial

    def _known(self, trial: FinishedTrial) -> Proposal:
        """What was proposed for a trial of the journal."""
        begun = _schedule_of(self._first_ancestor(trial).configuration)
        values = self._space.values(trial.configuration.model_copy(update=begun))
        total = self._runner.total_examples
        branched = trial.course_from > 0 and trial.course_from == trial.from_examples
        part = Part(
            to_examples=(None if trial.to_examples == trial.total_examples else trial.to_examples),
            total_examples=None if trial.total_examples == total else trial.total_examples,
            parent=trial.parent,
            schedule=trial.configuration.schedule if branched else None,
        )
        number = self._seed_numbers.get(trial.seed) if trial.parent is None else None
        return Proposal(values, None if part == Part() else part, number)

    def _proposed(
        self, name: str, known: FinishedTrial | None, begun: Proposal | None
    ) -> Proposal | Stop | None:
        """The oracle's next proposal; what has finished or was begun is proposed as it was.

        Args:
            name: The trial.
            known: It, where it has finished.
            begun: What was proposed for it, where an earlier session has begun it.
        """
        bound = self._bound(known)
        if known is not None:
            return self._oracle.propose(name, known=self._known(known), bound=bound)
        if begun is not None and begun.fits(bound):
            return self._oracle.propose(name, known=begun, bound=bound)
        if bound <= min(self._space.batch_sizes):
            return None
        proposal = self._oracle.propose(name, known=None, bound=bound)
        if isinstance(proposal, Proposal) and not proposal.fits(bound):
            raise SearchError(
                f"The oracle {self._config.oracle.name} must propose batch sizes below {bound}, "
                f"which does not fit in memory. Received: {dict(proposal.values)}."
            )
        return proposal

    def _bound(self, known: FinishedTrial | None = None) -> float:
        """The smallest batch size that does not fit, as it was known when a trial began."""
        if known is None:
            wall = self._trials.memory_wall(self._runner.device)
        else:
            wall = self._walls[known.trial]
        return min(self._largest + 1, math.inf if wall is None else wall)

    def _why_none(self) -> str:
        if self._bound() <= min(self._space.batch_sizes):
            return "No batch size of the search fits in memory: it ends here."
        return f"The oracle finds no untried configuration after {self._next - 1} trials."

    def _sizes(self) -> list[int]:
        return [size for size in self._space.batch_sizes if size <= self._largest]

    def verification_reserve(self) -> float:
        """Seconds kept for verification.

        Where no further round of it fits, the search goes on, and the reserve is the time in
        which a better configuration would get the rounds that the others have.
        """
        verification = self._verification()
        rounds = verification.missing_seconds()
        if verification.fits(self._clock):
            return self._clock.verification_reserve(filter(None, rounds))
        expected = self._trials.median_seconds()
        return side_by_side([expected] * _whole(rounds), self._runner.at_once)

    def _trainings_reserve(self, spent: float) -> float:
        """The same in trainings of the baseline.

        A first round is taken to have as many candidates as there may be: the search finds them.
        Before any trial has completed so are all rounds: several workers begin trials then.
        """
        rounds = self._verification().missing_trainings()
        done = _whole(rounds)
        if not done:
            most = float(self._config.confirmation.batch_sizes + 2)  # the baseline twice
            planned = rounds or [0.0] * self._config.confirmation.seeds
            rounds = [max(one, most) for one in planned]
        if done < len(rounds) and self._trainings.fits(rounds[done], spent=spent):
            return self._trainings.verification_reserve(filter(None, rounds))
        return float(done)  # trainings as long as the baseline's

    def _verification(self) -> Verification:
        c = self._config.confirmation
        return Verification(
            to_verify(self._trials, batch_sizes=c.batch_sizes, chance=self._chance, seeds=c.seeds),
            c,
            self._runner,
            self._seed,
            self._chance_value(),
            self._step_seconds(),
            self._trainings,
        )

    def _chance_value(self) -> float | None:
        return self._chance.known() if self._chance else None

    def _finished(self, trial: FinishedTrial) -> None:
        self._running.pop(trial.trial)
        if trial.trial != BASELINE:
            self._tell(trial)
        if trial.score is not None:
            self._scores.append(trial.score)
        self._end_if_hopeless()

    def _tell(self, trial: FinishedTrial) -> None:
        proposal = self._open.pop(trial.trial)
        if trial.status in TEACHES_NOTHING:
            self._oracle.forget(trial.trial)
            return
        self._oracle.tell(trial.trial, proposal, self._told(trial))

    def _told(self, trial: FinishedTrial) -> Told:
        score = told_score(
            trial.score,
            objective=self._objective,
            untrained=self._untrained,
            others=self._scores,
        )
        return Told(score, trial.status)

    def _another_fits(self) -> bool:
        """Whether time and budget have room for a trial like the others.

        Parts are not like one another: each is judged when it is proposed.
        """
        if self._config.oracle.in_parts:
            return self._clock.fits(0.0, reserve=self.verification_reserve())
        # Without a limit all fits: what verification would take needs a look at all trials.
        if not math.isinf(self._clock.left) and not self._clock.fits(
            self._trials.median_seconds(), reserve=self.verification_reserve()
        ):
            return False
        if math.isinf(self._trainings.limit):
            return True
        spent = self._spent()
        return self._trainings.fits(
            self._median_trainings(), spent=spent, reserve=self._trainings_reserve(spent)
        )

    def _fits(self, spec: TrialSpec) -> bool:
        """Whether time and budget have room for a trial that is proposed."""
        if self._config.oracle.in_parts:
            pace = [
                self._trials.own(one).seconds / self._trainings.of_trial(one)
                for one in self._trials
                if one.score is not None and one.examples > one.from_examples
            ]
            seconds = statistics.median(pace or [0.0]) * self._trainings.of_spec(spec)
            if not self._clock.fits(seconds, reserve=self.verification_reserve()):
                return False
        if math.isinf(self._trainings.limit):
            return True
        spent = self._spent()
        cost, reserve = self._trainings.of_spec(spec), self._trainings_reserve(spent)
        return self._trainings.fits(cost, spent=spent, reserve=reserve)

    def _spent(self) -> float:
        """Trainings, those of running trials among them."""
        running = sum(map(self._trainings.of_spec, self._running.values()))
        return self._trainings.spent(self._trials) + running

    def _trainings_left(self) -> float:
        return self._trainings.limit - self._trainings.spent(self._trials)

    def _median_trainings(self) -> float:
        costs = [self._trainings.of_trial(one) for one in self._trials if one.score is not None]
        return statistics.median(costs) if costs else 1.0

    def _end_if_hopeless(self) -> None:
        """Judges by the trials that begin first: of several workers' the first to end failed.

        One that lacked memory says something of its size and nothing of the others: the next one
        stands in its place.

        Raises:
            SearchError: They all failed.
        """
        if any(trial.status in RESULTS for trial in self._trials):
            return
        first = set[str]()
        for name in itertools.chain([BASELINE], map(_name, itertools.count(1))):
            trial = self._trials.find(name)
            if trial is None:
                return
            if trial.status != "oom":
                first.add(name)
            if len(first) == HOPELESS_AFTER:
                break
        last = [trial for trial in self._trials if trial.trial in first][-1]
        raise SearchError(
            f"The first {HOPELESS_AFTER} trials, without those that lacked memory, all failed; the "
            f"last one ({last.status}):\n{last.message}"
        )

    def _announce(self) -> None:
        done = self._trials.of_phase("search").configurations()
        if self._trials:
            self._progress.say(f"Continuing: {len(self._trials)} trials are in the journal.")
            baseline = self._trials.find(BASELINE)
            if baseline is not None and baseline.status in TEACHES_NOTHING:
                self._progress.say(
                    "The baseline's process ended for an unknown reason, so that nothing is "
                    f"compared with it. Remove its line from {JOURNAL}, and the same command "
                    "trains it again."
                )
            if self._open_trials.is_damaged:
                self._progress.say(
                    f"{OPEN_TRIALS} cannot be read: what ran when the run was stopped may be "
                    "proposed anew, and begins anew then."
                )
        else:
            sizes = ", ".join(map(str, self._sizes()))
            better = "higher" if self._objective.direction == "max" else "lower"
            self._progress.say(
                f"Up to {self._config.max_trials} trials after the baseline, over batch sizes "
                f"{sizes}, by the final {self._objective.name} ({better} is better). Ctrl-C ends "
                "with the best answer so far; the same command continues."
            )
        size = self._oracle.size
        if size is not None and size > self._config.max_trials:
            self._progress.say(
                f"The grid has {size} configurations; with --max_trials={size} all of them run."
            )
        for name, held in self._space.held_numbers().items():
            self._progress.say(
                f"At batch size {', '.join(map(str, held))} the optimizer's {name} would leave its "
                "range and is held at the end of it."
            )
        self._progress.begin(
            done=done,
            total=self._config.max_trials,
            seconds_left=lambda: self._clock.left,
            trainings_left=self._trainings_left,
        )


def _whole(rounds: Sequence[float]) -> int:
    """Rounds of a verification of which nothing is missing."""
    return next((number for number, missing in enumerate(rounds) if missing), len(rounds))


def _name(number: int) -> str:
    """That of the search's trials."""
    return f"search-{number:04d}"


def _numbered_seed(seed: int, number: int) -> int:
    return derive_seed(seed, "search seed", number)


def _schedule_of(configuration: Configuration) -> dict[str, Named | float]:
    return {
        "schedule": configuration.schedule,
        "warmup_fraction": configuration.warmup_fraction,
    }


def _written(schedule: dict[str, Named | float]) -> str:
    return f"{schedule['schedule']} with a warm-up of {schedule['warmup_fraction']}"


def told_score(
    score: float | None, *, objective: Objective, untrained: float, others: Iterable[float]
) -> float:
    """What the oracle hears for a trial.

    A diverged trial, one out of memory, one that hung and one that raised are results: they teach
    the oracle to stay away. They count as no better than the untrained model and any trial so far.
    (KerasTuner accepts an infinite score, and its Gaussian process then fails; Optuna refuses one.)
    Where nothing is known, it is the worse end of what an accuracy or an error rate can be.

    Args:
        score: The trial's score, or None.
        objective: The objective.
        untrained: Its value before any training; NaN where the metric has none then.
        others: Scores of the completed trials so far.
    """
    if score is not None:
        return score
    known = [value for value in (untrained, *others) if math.isfinite(value)]
    return objective.worst(known or [0.0, 1.0])
