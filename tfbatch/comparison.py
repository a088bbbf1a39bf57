"""Is the difference between two configurations noise? Of one run, or of two runs alike."""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from tfbatch.answer.candidates import groups_of_rounds
from tfbatch.answer.chance import read_chance_level
from tfbatch.answer.stored import answer_of, read_answer
from tfbatch.errors import InputError, did_you_mean
from tfbatch.estimators.difference import Difference, Verdict, difference
from tfbatch.estimators.error_budget import LOOKS
from tfbatch.notebook import preformatted
from tfbatch.quantities import four_decimals
from tfbatch.run_folder.reader import read_settings
from tfbatch.schema import Strict
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.trials import Trials

RECOMMENDED = "recommended"
"""Stands for the trial that a run recommends."""
_SAME = ("dataset", "records", "objective")
"""What two runs must have in common for their scores to be comparable."""
_ENDED = (
    "The same tfbatch tune trains no more seeds of both: its verification has decided what it "
    "asks, with its own band, or one of them is not in it."
)
_WORTH_A_NOTE = ("model", "model_arguments", "trial_length", "precision", "strategy")


class ComparedRow(Strict):
    """One side of a comparison.

    Attributes:
        run: The run folder.
        trial: The trial of the search that its configuration comes from.
        batch_size: Examples in one update.
        learning_rate: Peak learning rate.
        schedule: The schedule's name.
        mean: Mean score.
        deviation: Standard deviation of one training: its own, or of one seed what others show;
            None where nothing is known of it.
        seeds: Number of seeds.
        on_fresh_seeds: Whether its scores come from the verification.
    """

    run: str
    trial: str
    batch_size: int
    learning_rate: float
    schedule: str
    mean: float
    deviation: float | None
    seeds: int
    on_fresh_seeds: bool


class RunComparison(Strict):
    """The first row against the second.

    Attributes:
        objective: What is compared.
        first: The first row.
        second: The second row.
        gain: How far the first mean lies above the second, positive where better.
        low: Lower end of the gain's interval; None where nothing is known of the noise.
        high: Its upper end; None likewise.
        level: Coverage of the interval.
        band: Differences up to this do not matter.
        shared_seeds: Number of seeds that both have.
        pairs: Number of these that were compared in pairs; 0 where the means were.
        verdict: Which one is better ("first", "second"), "as good" where the whole interval lies
            within the band, or "undecided": then the difference can be noise.
        seeds_to_decide: Number of seeds for each that is expected to decide it; None where it is
            decided, or where more than 80 would be needed.
        command: What decides it; None likewise.
        notes: What else to know.
    """

    objective: str
    first: ComparedRow
    second: ComparedRow
    gain: float
    low: float | None
    high: float | None
    level: float
    band: float
    shared_seeds: int
    pairs: int = 0
    verdict: Verdict
    seeds_to_decide: int | None
    command: str | None
    notes: tuple[str, ...]

    def _repr_html_(self) -> str:
        """For a notebook."""
        return preformatted(str(self))

    def __str__(self) -> str:
        """For a terminal, at most 80 columns but for paths and commands."""
        lines = [f"{self.objective}: is the difference noise?", ""]
        for letter, row in (("A", self.first), ("B", self.second)):
            means = [row.mean] if row.deviation is None else [row.mean, row.deviation]
            measured = " ± ".join(four_decimals(value, *means) for value in means)
            fresh = "fresh seeds" if row.on_fresh_seeds else "the search's own seed"
            lines.append(
                f"{letter}  {row.trial}: batch size {row.batch_size}, learning rate "
                f"{row.learning_rate:.4g}, {row.schedule}"
            )
            lines.append(f"   {measured} (n={row.seeds}, {fresh})")
        lines += ["", *_wrapped(self.sentence())]
        lines += [line for note in self.notes for line in _wrapped(note)]
        return "\n".join(lines)

    def sentence(self) -> str:
        """The verdict in a sentence or two."""
        ends: tuple[float, ...] = ()
        if self.low is None or self.high is None:
            interval = "nothing is known of the noise"
        else:  # of what the sentence says: B's lead, where B is better
            ends = (self.low, self.high) if self.gain >= 0 else (-self.high, -self.low)
            low, high = (four_decimals(end, self.gain, *ends, sign="+") for end in ends)
            interval = f"{100 * self.level:.10g}% interval {low} to {high}"
        how = f", {self.pairs} seeds in pairs" if self.pairs else ", not paired"
        gain = four_decimals(abs(self.gain), *ends)
        better = f"{'A' if self.gain >= 0 else 'B'} is better by {gain}"
        found = f"{better} ({interval}{how}; differences up to {self.band:.4g} do not matter)."
        if self.verdict == "as good":
            return f"The difference does not matter. {found}"
        if self.verdict != "undecided":
            return f"The difference is not noise. {found}"
        if self.seeds_to_decide is None:
            more = "More seeds than 80 would be needed to decide it"
            known = self.low is not None
            more = more if known else "Train both with more seeds (--verification_seeds)"
            return f"The difference can be noise. {found} {more}."
        command = f" ({self.command})" if self.command else ""
        return (
            f"The difference can be noise. {found} {self.seeds_to_decide} seeds for each are "
            f"expected to decide it{command}."
        )


@dataclasses.dataclass(frozen=True)
class _Side:
    """A row with what its run tells of the noise."""

    run_dir: Path
    trials: Trials
    trial: FinishedTrial
    scores: Mapping[int, float]
    fresh: bool
    failed: int


def compare_runs(
    run: str | Path,
    other: str | Path | None = None,
    *,
    rows: Sequence[str] = (),
    tolerance: float | None = None,
    level: float = 0.95,
) -> RunComparison:
    """Compares two configurations of one run, or of two runs on the same data.

    Scores on fresh seeds are used where there are any, else the one score of the search. Four
    shared seeds and more are paired. Nothing is trained and no TensorFlow imported.

    Example:
        ```python
        print(tfbatch.compare_runs("run", rows=["baseline", "search-0002"]))
        ```

    Args:
        run: A run folder.
        other: Another run folder with the same data and objective. Default: the same.
        rows: Two names of trials, of the first and the second row; "recommended" stands for what
            a run recommends. Default: both are, and in one run the second is the baseline; where
            that is what the run recommends, the first is the best of the others that were
            verified, or of the search where none of them completed on every fresh seed.
        tolerance: Differences up to this do not matter. Default: the band of the runs' answers,
            the wider one.
        level: Coverage of the interval.

    Returns:
        The difference with its interval, and what would decide it.

    Raises:
        InputError: A folder is no run folder, the runs have other data or another objective, a row
            is unknown, has no score, or is both rows.
        RunFolderError: A file in a folder is damaged.
    """
    first_dir = Path(run).expanduser()
    second_dir = first_dir if other is None else Path(other).expanduser()
    one_run = first_dir.resolve() == second_dir.resolve()
    if one_run:  # by one name: what it tells of the noise is counted once
        second_dir = first_dir
    if rows and len(rows) != 2:
        raise InputError(
            "`rows` must name two trials, such as --rows=baseline,search-0024. Received: "
            f"{','.join(rows)}."
        )
    names = rows or _default_rows(first_dir, one_run=one_run)
    notes = [] if one_run else _differing(first_dir, second_dir)
    first, second = _side(first_dir, names[0]), _side(second_dir, names[1])
    if one_run and first.trial.configuration == second.trial.configuration:
        raise InputError(
            f"`rows` must be two configurations. Received: {first.trial.trial} and "
            f"{second.trial.trial}, which are the same. Name another trial with --rows."
        )
    objective = first.trials.objective
    others = _others(first, second)
    found = difference(
        first.scores,
        second.scores,
        direction=objective.direction,
        band=_band(first, second) if tolerance is None else tolerance,
        others=others,
        level=level,
    )
    goes_on = one_run and tolerance is None and _goes_on(first, second)
    return RunComparison(
        objective=str(objective),
        first=_row(first, found, 0),
        second=_row(second, found, 1),
        gain=found.gain,
        low=_finite(found.interval.low),
        high=_finite(found.interval.high),
        level=level,
        band=found.band,
        shared_seeds=found.shared,
        pairs=found.pairs,
        verdict=found.verdict,
        seeds_to_decide=found.seeds_to_decide,
        command=_command(found.seeds_to_decide) if goes_on else None,
        notes=(
            *notes,
            *_notes_of_noise(found),
            *_notes(first),
            *_notes(second),
            *(_note_of_choice(rows, first, others) if one_run else ()),
            *([_ENDED] if one_run and found.seeds_to_decide and not goes_on else ()),
        ),
    )


def _default_rows(run_dir: Path, *, one_run: bool) -> tuple[str, str]:
    """What is recommended against the baseline, or the best rival where the baseline is kept.

    Raises:
        InputError: The baseline is all that there is.
    """
    if not one_run:
        return RECOMMENDED, RECOMMENDED
    answer = read_answer(run_dir) or answer_of(run_dir)
    if not answer.keeps_baseline:
        return RECOMMENDED, BASELINE
    verified = answer.verification.comparisons if answer.verification else ()
    rivals = [one.key for one in verified if one.key != BASELINE]
    rivals = rivals or _of_the_search(run_dir)  # those that failed on a fresh seed are not verified
    if not rivals:
        raise InputError(
            f"{run_dir} has nothing to compare: it keeps the baseline, and no other trial of full "
            "length has completed. Search further with the same tfbatch tune and a larger "
            "--max_trials."
        )
    return rivals[0], BASELINE


def _of_the_search(run_dir: Path) -> list[str]:
    """Completed trials of the search with other configurations than the baseline, best first."""
    trials = Trials.read(run_dir).searched()
    kept = trials.find(BASELINE)
    ranked = trials.of_phase("search").ranked()
    return [one.trial for one in ranked if kept is None or one.identity != kept.identity]


def _note_of_choice(
    rows: Sequence[str], first: _Side, others: Sequence[Mapping[int, float]]
) -> list[str]:
    """An interval for one comparison decided upon beforehand does not allow for a choice."""
    if (rows and RECOMMENDED not in rows) or not (first.fresh and others):
        return []
    if first.failed:  # by the search's score: what fails on a fresh seed was never verified
        return []
    return [
        f"{first.trial.trial} was picked among {len(others) + 2} by the same scores: this interval "
        "does not allow for that. That of the run's answer does (tfbatch report)."
    ]


def _notes_of_noise(found: Difference) -> list[str]:
    """What difference and interval rest on, where it is not on all scores of both."""
    if not found.interval.bounded:
        return []
    if found.without_spread:
        return [
            "No seed changed a score or a difference: no spread was seen, which few seeds miss."
        ]
    if found.pairs and max(found.seeds) > found.pairs:
        return [f"The difference is that of the {found.pairs} shared seeds, not that of the means."]
    if 1 in found.seeds:
        return [
            "One of both has one seed: the interval assumes that its noise is that of the others."
        ]
    return []


def _differing(first: Path, second: Path) -> list[str]:
    """What two runs do not have in common, where it only deserves a note.

    Raises:
        InputError: Their scores cannot be compared.
    """
    one, other = read_settings(first), read_settings(second)
    for key in _SAME:
        if _comparable(one, key) != _comparable(other, key):
            raise InputError(
                f"Two runs are compared on the same {key} only. Received: {first} with "
                f"{_short(one.get(key))}, {second} with {_short(other.get(key))}. Run the same "
                "command on both, or compare two rows of one run with --rows."
            )
    return [
        f"The runs differ in `{key}`: {_short(one.get(key))} and {_short(other.get(key))}."
        for key in _WORTH_A_NOTE
        if one.get(key) != other.get(key)
    ]


def _comparable(settings: Mapping[str, object], key: str) -> object:
    """Stored arrays are what they hold (`records`), not the folder that they lie in."""
    value = settings.get(key)
    if isinstance(value, dict) and value.get("kind") == "stored" and "records" in settings:
        return {name: one for name, one in value.items() if name not in ("where", "name")}
    return value


def _short(value: object) -> str:
    if isinstance(value, dict) and "name" in value:
        value = value["name"]
    return textwrap.shorten(str(value), 60)


def _side(run_dir: Path, name: str) -> _Side:
    trials = Trials.read(run_dir)
    if name == RECOMMENDED:
        answer = read_answer(run_dir) or answer_of(run_dir)
        name = answer.recommended_trial
    searched = trials.searched()
    trial = searched.find(name)
    if trial is None:
        known = [t.trial for t in searched.completed()]
        raise InputError(
            f"`--rows`: {run_dir} has no trial {name} of full length.{did_you_mean(name, known)} "
            f"Best first: {', '.join(t.trial for t in searched.ranked()[:5]) or 'none'}."
        )
    identity = trial.configuration.identity()
    groups = groups_of_rounds(trials)
    group = next((g for g in groups.values() if g[0].configuration.identity() == identity), ())
    scores = {t.seed: t.score for t in group if t.score is not None}
    fresh = bool(scores)
    if not fresh and trial.score is not None:
        scores = {trial.seed: trial.score}
    if not scores:
        raise InputError(
            f"`--rows`: {name} has no score, it ended as {trial.status}. Choose a completed trial."
        )
    failed = sum(t.score is None for t in group)
    return _Side(run_dir, trials, trial, scores, fresh, failed)


def _others(first: _Side, second: _Side) -> list[dict[int, float]]:
    """Further verified configurations, which tell of the noise between seeds."""
    used = {first.trial.configuration.identity(), second.trial.configuration.identity()}
    found = []
    for trials in (first.trials, *([] if first.run_dir == second.run_dir else [second.trials])):
        for group in groups_of_rounds(trials).values():
            scores = {t.seed: t.score for t in group if t.score is not None}
            if len(scores) > 1 and group[0].configuration.identity() not in used:
                found.append(scores)
    return found


def _band(first: _Side, second: _Side) -> float:
    """The wider of the bands of both answers, or what is known without one."""
    bands = []
    for side in (first, second):
        answer = read_answer(side.run_dir)
        chance = read_chance_level(side.run_dir)
        level = chance.without_knowledge() if chance else None
        smallest = side.trials.objective.smallest_margin(level)
        verified = answer.verification if answer else None
        bands.append(verified.margin if verified else smallest)
    return max(bands)


def _row(side: _Side, found: Difference, index: int) -> ComparedRow:
    trial = side.trial
    return ComparedRow(
        run=str(side.run_dir),
        trial=trial.trial,
        batch_size=trial.configuration.batch_size,
        learning_rate=trial.learning_rate,
        schedule=trial.configuration.schedule.name,
        mean=sum(side.scores.values()) / len(side.scores),
        deviation=_finite(found.deviation[index]),
        seeds=len(side.scores),
        on_fresh_seeds=side.fresh,
    )


def _goes_on(first: _Side, second: _Side) -> bool:
    """Whether more seeds for the run's verification are more seeds for both of these.

    They are not where it has decided what it asks, or where one of both has left it.
    """
    answer = read_answer(first.run_dir)
    if answer is None or answer.verification is None or not answer.undecided:
        return False
    standing = {c.key for c in answer.verification.comparisons if not c.out}
    trained_on = {c.configuration.identity() for c in answer.contenders if c.key in standing}
    return {one.trial.configuration.identity() for one in (first, second)} <= trained_on


def _command(seeds: int | None) -> str | None:
    if seeds is None:
        return None
    look = next((one for one in LOOKS if one >= seeds), seeds)  # between them it judges nothing
    return f"the same tfbatch tune with --verification_seeds={look}"


def _notes(side: _Side) -> list[str]:
    notes = []
    if not side.fresh and side.trial.phase == "search":
        notes.append(
            f"{side.trial.trial} was trained on the search's own seed alone: a trial that was "
            "picked for its score looks better than it is."
        )
    if side.failed:
        one = side.failed == 1
        seeds = "a fresh seed, which is" if one else f"{side.failed} fresh seeds, which are"
        notes.append(f"{side.trial.trial} failed on {seeds} not in its mean.")
    return notes


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 80, break_on_hyphens=False, break_long_words=False)
