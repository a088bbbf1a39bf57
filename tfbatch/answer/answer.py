"""What a run has found, as one value: Python, recommendation.json and every table read the same."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic

from tfbatch.answer.edges import Edges
from tfbatch.answer.longer_run import LongerRun
from tfbatch.answer.memory_limits import MemoryLimit, MemoryUsedUp
from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.configuration import Configuration
from tfbatch.estimators.interval import mean_and_deviation
from tfbatch.estimators.recommendation import Choice
from tfbatch.metric_direction import Goal
from tfbatch.quantities import four_decimals
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import RECOMMENDATION
from tfbatch.schema import JsonObject, Named, Strict
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.objective import Objective
from tfbatch.trial.outcome import Phase
from tfbatch.trial_status import Status

Number = Annotated[
    float,
    pydantic.Field(allow_inf_nan=True),
    pydantic.BeforeValidator(lambda value: math.nan if value is None else value),
]
"""A measured number; pydantic writes one that is not finite as null, which is read as NaN."""


class Measured(Strict):
    """A metric over seeds.

    Attributes:
        mean: Its mean.
        standard_deviation: Between seeds (n - 1); None for one seed.
        seeds: Number of seeds.
    """

    mean: Number
    standard_deviation: Number | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Measured:
        """Mean and deviation of a metric's values, one for each seed."""
        mean, deviation = mean_and_deviation(values)
        spread = deviation if len(values) > 1 else None
        return cls(mean=mean, standard_deviation=spread, seeds=len(values))

    def __str__(self) -> str:
        """Such as "0.6812 ± 0.0034 (n=3)"."""
        deviation = self.standard_deviation
        if deviation is None:
            return f"{four_decimals(self.mean)} (n={self.seeds})"
        mean, spread = (four_decimals(v, self.mean, deviation) for v in (self.mean, deviation))
        return f"{mean} ± {spread} (n={self.seeds})"


def measured_metrics(metrics: Sequence[Mapping[str, float]]) -> dict[str, Measured]:
    """Every metric that all of several trainings have: a callback may report one now and then."""
    names = [name for name in metrics[0] if all(name in m for m in metrics)] if metrics else []
    return {name: Measured.of([m[name] for m in metrics]) for name in names}


class Metrics(Strict):
    """The metrics of one configuration.

    Attributes:
        validation: On the validation split.
        test: On the test split; None where it was not read.
    """

    validation: dict[str, Measured]
    test: dict[str, Measured] | None = None


class TrainingSeconds(Strict):
    """Seconds of all training steps of one training.

    Attributes:
        mean: Their mean.
        standard_deviation: Between measurements; None for one.
        measurements: Rounds of step times, or trials.
        alone_on_the_device: Whether nothing else ran; else they are those of the trials.
        device: Where they were measured alone, such as "CPU, 2 threads"; or None.
    """

    mean: Number
    standard_deviation: Number | None
    measurements: int
    alone_on_the_device: bool
    device: str | None


class ValidationSeconds(Strict):
    """Seconds of all evaluations of one training.

    Attributes:
        mean: Alone on the device; None where they were not measured.
        evaluations: Their number; the mean where callbacks stop seeds at different epochs.
    """

    mean: Number | None
    evaluations: int


class ContenderTrial(Strict):
    """A trial that speaks for a configuration; its metrics are in the journal.

    Attributes:
        trial: Its name.
        phase: What it was for.
        seed: Its seed.
        status: How it ended.
        score: The objective's final value; None unless it completed.
        steps: Updates made.
    """

    trial: str
    phase: Phase
    seed: int
    status: Status
    score: Number | None
    steps: int


class Contender(Strict):
    """One configuration with what was measured of it.

    Attributes:
        key: The trial of the search that it comes from.
        configuration: The configuration.
        learning_rate: Peak learning rate at its batch size.
        total_examples: Length of the training that its schedule is made for; callbacks may stop it
            before.
        warmup_examples: Length of the warm-up.
        derived_numbers: The optimizer's numbers that follow from the batch size.
        trials: Its verification trials, or, if there are none, its trial of the search.
        metrics: Means over its completed trials.
        training_seconds: Of its training steps.
        validation_seconds: Of its evaluations.
        trial_seconds: Mean of its whole trials as measured: beside others, building included.
    """

    key: str
    configuration: Configuration
    learning_rate: float
    total_examples: int
    warmup_examples: int
    derived_numbers: JsonObject
    trials: tuple[ContenderTrial, ...]
    metrics: Metrics
    training_seconds: TrainingSeconds
    validation_seconds: ValidationSeconds
    trial_seconds: Number

    @classmethod
    def of(
        cls,
        key: str,
        trials: Sequence[FinishedTrial],
        times: StepSeconds,
        *,
        beside: Mapping[int, Sequence[float]] | None = None,
    ) -> Contender:
        """The contender that some trials of one configuration speak for.

        Args:
            key: What it is called.
            trials: Its trials.
            times: Step times, each batch size alone.
            beside: Training seconds beside other trials, by batch size, where none are known alone:
                of one batch size they differ by what else ran. Default: its own.
        """
        completed = [t for t in trials if t.score is not None] or list(trials)
        first = completed[0]  # one that failed has not made all steps
        batch_size = first.configuration.batch_size
        # Each seed may be stopped elsewhere by a callback.
        alone = times.of_steps(statistics.fmean(t.steps for t in completed), batch_size)
        pooled = (beside or {}).get(batch_size)
        seconds = Measured.of(alone or pooled or [t.training_seconds for t in completed])
        evaluations = statistics.fmean(math.ceil(t.steps / t.steps_per_epoch) for t in completed)
        validation = [
            {k.removeprefix("val_"): v for k, v in t.metrics.items() if k.startswith("val_")}
            for t in trials
            if t.score is not None
        ]
        return cls(
            key=key,
            configuration=first.configuration,
            learning_rate=first.learning_rate,
            total_examples=_end_of_schedule(first),
            warmup_examples=first.warmup_examples,
            derived_numbers=first.derived_numbers,
            trials=tuple(
                ContenderTrial(
                    trial=t.trial,
                    phase=t.phase,
                    seed=t.seed,
                    status=t.status,
                    score=t.score,
                    steps=t.steps,
                )
                for t in trials
            ),
            metrics=Metrics(validation=measured_metrics(validation)),
            training_seconds=TrainingSeconds(
                mean=seconds.mean,
                standard_deviation=seconds.standard_deviation,
                measurements=seconds.seeds,
                alone_on_the_device=bool(alone),
                device=times.device or None,
            ),
            validation_seconds=ValidationSeconds(
                mean=None if times.validation is None else evaluations * times.validation,
                evaluations=round(evaluations),
            ),
            trial_seconds=mean_and_deviation([t.seconds for t in completed])[0],
        )

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def batch_size(self) -> int:
        """Examples in one update."""
        return self.configuration.batch_size

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def schedule(self) -> Named:
        """The schedule, its arguments, and its lengths in examples."""
        return Named(
            name=self.configuration.schedule.name,
            **self.configuration.schedule.arguments,
            warmup_fraction=self.configuration.warmup_fraction,
            warmup_examples=self.warmup_examples,
            total_examples=self.total_examples,
        )

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def optimizer(self) -> Named:
        """The optimizer, its arguments, and its numbers at this batch size."""
        optimizer = self.configuration.optimizer
        return Named(name=optimizer.name, **optimizer.arguments, **self.derived_numbers)

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def failures(self) -> str:
        """Such as "diverged on 1 of 3 fresh seeds"; empty if every trial completed."""
        ends = Counter(t.status for t in self.trials if t.score is None)
        return ", ".join(f"{s} on {n} of {len(self.trials)} fresh seeds" for s, n in ends.items())

    @property
    def completed(self) -> list[ContenderTrial]:
        """Its trials with a score."""
        return [t for t in self.trials if t.score is not None]

    def objective(self) -> Measured:
        """The objective over its completed trials, of which there is one at least."""
        return Measured.of([t.score for t in self.trials if t.score is not None])

    @property
    def on_fresh_seeds(self) -> bool:
        """Whether its figures come from the verification."""
        return self.trials[0].phase == "confirmation"


class Compared(Strict):
    """One verified configuration against the best mean and the baseline.

    Deficit, gain and their intervals are those of its last look; see
    tfbatch.estimators.recommendation. What an earlier version wrote has no gain.

    Attributes:
        key: The contender's key.
        mean: Mean objective.
        deficit: How far its mean lies behind the best.
        half_width: Half width of the deficit's interval; None with one seed.
        tied: Cheaper than the baseline, or than the best of those that are shown to be better, and
            shown to lie behind that one by no more than the margin.
        seconds: Median training seconds.
        seeds: Number of its fresh seeds.
        gain: How far its mean lies above the baseline's, positive where better; None without one.
        gain_half_width: Half width of the gain's interval; None with one seed.
        better: Shown to be better than the baseline.
        out: Left the verification before its last round.
        looked_at: Number of its seeds at its last look; 0 before one.
    """

    key: str
    mean: float
    deficit: float
    half_width: float | None
    tied: bool
    seconds: float
    seeds: int | None = None
    gain: float | None = None
    gain_half_width: float | None = None
    better: bool = False
    out: bool = False
    looked_at: int | None = None


class Expected(Strict):
    """What to expect of the recommended configuration, freed of its having been chosen.

    Attributes:
        mean: Mean objective.
        half_width: Half width of its 95 % interval; None with one seed.
        gain: How far it lies above the baseline at the last look, positive where better; None
            without one.
        gain_half_width: Half width of the gain's interval, which holds for all that were compared
            and at every look; None with one seed.
    """

    mean: float
    half_width: float | None
    gain: float | None
    gain_half_width: float | None


class Open(Strict):
    """A configuration that more seeds would decide about.

    Attributes:
        key: The contender's key.
        question: "as good", of one that is cheaper than the recommended one; or "better", of one
            whose mean is above the baseline's.
        seeds: Fresh seeds for each configuration at which that is as likely as not to be decided;
            80 where no fewer are. None after 80, or with one seed.
        probability: That it is decided then, predicted from the scores so far; None like `seeds`,
            and in answers of earlier versions.
        minutes: Minutes of training that the further seeds take, one after another; None like
            `seeds`.
        option: What to add to the same command, such as "--verification_seeds=10", with "and a
            larger --max_minutes" where not enough of a limit is left; None likewise.
        at_most: What it is shown to lie behind by at most; None with one seed.
    """

    key: str
    question: Literal["as good", "better"]
    seeds: int | None
    minutes: float | None
    option: str | None
    probability: float | None = None
    at_most: float | None = None


class Verification(Strict):
    """The comparison on fresh seeds.

    Attributes:
        best: Key of the contender with the best mean.
        margin: The band: deficits up to this do not matter.
        noise: Standard deviation between seeds, pooled; None with one seed.
        comparisons: Every verified configuration without a failed trial, best first.
        expected: What to expect of the recommended one; None in what an earlier version wrote.
    """

    best: str
    margin: float
    noise: float | None
    comparisons: tuple[Compared, ...]
    expected: Expected | None = None

    @classmethod
    def of(cls, choice: Choice) -> Verification:
        """The comparison that a choice rests on."""
        chosen = next(c for c in choice.comparisons if c.key == choice.recommended)
        return cls(
            best=choice.best,
            margin=choice.margin,
            noise=_finite(choice.noise),
            comparisons=tuple(
                Compared(
                    key=c.key,
                    mean=c.mean,
                    deficit=c.deficit,
                    half_width=_finite(c.half_width),
                    tied=c.tied,
                    seconds=c.seconds,
                    seeds=c.seeds,
                    gain=_finite(c.gain),
                    gain_half_width=_finite(c.gain_half_width),
                    better=c.better,
                    out=c.out,
                    looked_at=c.looked_at,
                )
                for c in choice.comparisons
            ),
            expected=Expected(
                mean=choice.estimate.mean,
                half_width=_finite(choice.estimate.half_width),
                gain=_finite(chosen.gain),
                gain_half_width=_finite(chosen.gain_half_width),
            ),
        )

    def of_key(self, key: str) -> Compared | None:
        """The comparison of one contender, or None."""
        return next((c for c in self.comparisons if c.key == key), None)

    @property
    def tied(self) -> list[Compared]:
        """Those that are cheaper and shown to be as good, within the margin."""
        return [c for c in self.comparisons if c.tied]

    @property
    def better_than_baseline(self) -> Compared | None:
        """The best mean of those that are shown to be better than the baseline, or None."""
        return next((c for c in self.comparisons if c.better), None)


_FIGURES = (
    "batch_size",
    "learning_rate",
    "schedule",
    "optimizer",
    "metrics",
    "training_seconds",
    "validation_seconds",
    "trial_seconds",
)
"""What recommendation.json has of the recommended contender at its top."""


class Answer(Strict):
    """What a run has found.

    In JSON the recommended configuration's own figures stand at the top, beside those of the
    baseline; they follow from the contenders and are not read again.

    Attributes:
        status: "complete", or "interrupted" when the run ended early or still goes on.
        objective: What was compared.
        recommended_trial: Key of the recommended contender.
        contenders: All configurations that were compared.
        verification: The comparison on fresh seeds, or None where there was none: then the
            recommendation is the best of the search, chosen and measured on the same seed.
        goal: What decides among configurations that are as good as one another.
        undecided: What more fresh seeds would decide.
        memory_used_up: Where memory was used up, or None if it never was.
        memory_limit: What was measured to fit, or None if nothing was.
        best_learning_rate_at_edge: Batch sizes whose best learning rate lies at an edge of the
            searched range.
        step_times: Seconds of a step of each verified batch size, alone on the device.
        trials: Number of trials in the journal.
        seconds: Wall-clock seconds of the run, all sessions together.
        versions: Of Python and of the packages that shape a result.
        belief: What the search takes for best where nothing is verified yet, from trials that need
            not be whole trainings; None where it does not say.
        longer_run: What is predicted for a longer training, where that was asked for; or None.
    """

    status: Literal["complete", "interrupted"] = "interrupted"
    objective: Annotated[
        Objective,
        pydantic.BeforeValidator(lambda o: Objective.parse(o) if isinstance(o, str) else o),
        pydantic.PlainSerializer(str),
    ]
    recommended_trial: str
    contenders: tuple[Contender, ...]
    verification: Verification | None
    goal: Goal = "time"
    undecided: tuple[Open, ...] = ()
    memory_used_up: MemoryUsedUp | None = None
    memory_limit: MemoryLimit | None = None
    best_learning_rate_at_edge: Edges = Edges()
    step_times: StepSeconds = StepSeconds()
    trials: int
    seconds: float = 0.0
    versions: dict[str, str] = {}
    belief: str | None = None
    longer_run: LongerRun | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_what_follows(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        known = {key: value for key, value in data.items() if key in cls.model_fields}
        known["contenders"] = [
            {k: v for k, v in one.items() if k in Contender.model_fields}
            if isinstance(one, dict)
            else one
            for one in known.get("contenders", ())
        ]
        if isinstance(longer := known.get("longer_run"), dict):
            known["longer_run"] = {k: v for k, v in longer.items() if k in LongerRun.model_fields}
        return known

    @pydantic.model_validator(mode="after")
    def _recommends_a_contender(self) -> Answer:
        if self.find(self.recommended_trial) is None:
            raise ValueError(f"recommended_trial: {self.recommended_trial} is no contender")
        return self

    @pydantic.model_serializer(mode="wrap")
    def _headline_first(self, serialize: pydantic.SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = serialize(self)
        by_key = {contender["key"]: contender for contender in content["contenders"]}
        recommended = by_key[self.recommended_trial]
        headline = {
            "status": content["status"],
            "verified_on_fresh_seeds": self.verified,
            "objective": content["objective"],
            "keeps_baseline": self.keeps_baseline,
            **{key: recommended[key] for key in _FIGURES},
            "baseline": by_key.get(BASELINE),
            "evidence": sorted({t.trial for one in self.shown() for t in one.trials}),
            "tied_with_best": [c.key for c in self.verification.tied] if self.verification else [],
            "margin": self.verification.margin if self.verification else None,
            "better_than_baseline": self._better(content),
        }
        return headline | content

    @staticmethod
    def _better(content: dict[str, Any]) -> dict[str, Any] | None:
        found = content["verification"] or {"comparisons": ()}
        return next((one for one in found["comparisons"] if one["better"]), None)

    def find(self, key: str) -> Contender | None:
        """A contender by its key, or None."""
        return next((c for c in self.contenders if c.key == key), None)

    @property
    def recommended(self) -> Contender:
        """The recommended configuration."""
        return next(c for c in self.contenders if c.key == self.recommended_trial)

    @property
    def baseline(self) -> Contender | None:
        """The baseline, or None if it never completed."""
        return self.find(BASELINE)

    @property
    def verified(self) -> bool:
        """Whether the figures come from fresh seeds."""
        return self.verification is not None

    @property
    def keeps_baseline(self) -> bool:
        """Whether the recommendation is the baseline itself."""
        return self.recommended_trial == BASELINE

    @property
    def compared(self) -> tuple[Contender, ...]:
        """All but those that failed on a fresh seed, which are compared with nothing."""
        found = self.verification
        return tuple(
            one for one in self.contenders if not one.failures or (found and found.of_key(one.key))
        )

    def tested(self) -> list[Contender]:
        """Those whose test metrics are read: recommendation, baseline, and all verified ones."""
        verified = {c.key for c in self.verification.comparisons} if self.verification else set()
        others = [one for one in self.contenders if one.key in verified]
        return list({one.key: one for one in [*self.shown(), *others]}.values())

    def shown(self) -> list[Contender]:
        """Recommendation and baseline, once each."""
        both = [self.recommended, *([self.baseline] if self.baseline else [])]
        return list({contender.key: contender for contender in both}.values())

    def with_test(self, key: str, metrics: Mapping[str, Measured] | None) -> Answer:
        """The answer with a contender's metrics on the test split."""

        def tested(one: Contender) -> Contender:
            both = one.metrics.model_copy(update={"test": metrics and dict(metrics)})
            return one.model_copy(update={"metrics": both}) if one.key == key else one

        return self.model_copy(update={"contenders": tuple(map(tested, self.contenders))})

    def content(self) -> JsonObject:
        """The content of recommendation.json."""
        return self.model_dump(mode="json")

    def write(self, run_dir: Path) -> None:
        """Writes recommendation.json, whole or not at all.

        Raises:
            RunFolderError: It cannot be written.
        """
        write_whole(run_dir / RECOMMENDATION, json.dumps(self.content(), indent=1) + "\n")


def _end_of_schedule(trial: FinishedTrial) -> int:
    """Where its schedule ended: several devices leave out the short last batch.

    A training that a callback stopped has seen fewer examples, and its schedule was as long.
    """
    left_out = abs(trial.total_examples - trial.examples) < trial.configuration.batch_size
    return trial.examples if left_out and trial.score is not None else trial.total_examples


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
