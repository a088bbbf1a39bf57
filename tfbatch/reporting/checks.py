"""What a strict reviewer asks of a comparison of batch sizes, each with a verdict and its evidence.

The questions are those of the Deep Learning Tuning Playbook (Godbole et al. 2023), of Shallue et
al. 2019 (JMLR 20(112)) and of Choi et al. 2019 (arXiv 1910.05446): a comparison of tuned systems is
only as good as their tuning.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from tfbatch.answer.answer import Answer, Contender
from tfbatch.answer.best_learning_rates import Bracket, bracket_of
from tfbatch.answer.candidates import again_name, round_of
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.trials import Trials

Verdict = Literal["PASS", "FAIL", "NOT APPLICABLE"]


@dataclasses.dataclass(frozen=True)
class Check:
    """One question of a reviewer.

    Attributes:
        name: What is asked.
        verdict: PASS, FAIL, or NOT APPLICABLE where the run makes no such claim.
        evidence: What was looked at, with numbers.
    """

    name: str
    verdict: Verdict
    evidence: str


def checks_of(answer: Answer | None, trials: Trials) -> list[Check]:
    """All checks of a run.

    Args:
        answer: What the run has found; None where there is no answer: then nothing is claimed.
        trials: All its trials.
    """
    if answer is None:
        return []
    return [check(answer, trials) for check in CHECKS]


def learning_rate_bracketed(answer: Answer, trials: Trials) -> Check:
    """Whether lower and higher rates bound the best one of every compared batch size."""
    name = "The learning rate is bracketed at every batch size that was compared"
    compared = compared_sizes(answer)
    if not compared:
        return Check(name, "NOT APPLICABLE", "Nothing but the baseline was compared.")
    brackets = {size: bracket_of(trials, size) for size in searched_sizes(trials)}
    missing = [size for size in compared if size not in brackets]
    open_ones = [size for size in compared if size in brackets and not brackets[size].closed]
    evidence = [_bracket(brackets[size]) for size in compared if size in brackets]
    evidence += [f"{size}: no trial of the search" for size in missing]
    if dropped := [size for size in brackets if size not in compared]:
        words = "; ".join(_bracket(brackets[size]) for size in dropped)
        evidence.append(f"Of no finalist, and not claimed to be tuned: {words}")
    return Check(name, "FAIL" if missing or open_ones else "PASS", ". ".join(evidence) + ".")


def _bracket(one: Bracket) -> str:
    if one.best is None:
        return f"{one.batch_size}: none of {one.trials} trials completed"
    if one.below is None and one.above is None:
        return f"{one.batch_size}: best {one.best:.3g}, with no bound below or above"
    low = "no bound below" if one.below is None else f"{one.below:.3g}"
    high = "no bound above" if one.above is None else f"{one.above:.3g}"
    return f"{one.batch_size}: best {one.best:.3g} between {low} and {high}"


def tuning_shown(answer: Answer, trials: Trials) -> Check:
    """Whether the tuning of every contender is in the journal, and how much of it there was."""
    name = "The tuning that each batch size has had is shown"
    searched = trials.of_phase("search")
    counts = {size: len(searched.of_batch_size(size)) for size in searched.batch_sizes()}
    absent = [
        one.key
        for one in answer.contenders
        if trials.find(one.key) is None or any(trials.find(t.trial) is None for t in one.trials)
    ]
    shown = ", ".join(f"{size}: {count}" for size, count in counts.items()) or "none"
    evidence = (
        f"Trials of the search by batch size: {shown}. A search need not give each the same; the "
        "finalists are compared on fresh seeds for that reason."
    )
    if absent:
        evidence += f" Not in the journal: {', '.join(absent)}."
    if changed := _other_than_in_the_journal(answer, trials):
        evidence += f" Other than in the journal: {', '.join(changed)}."
    if answer.trials > len(trials):
        evidence += f" The answer rests on {answer.trials} trials; the journal has {len(trials)}."
    failed = bool(absent or changed or answer.trials > len(trials))
    return Check(name, "FAIL" if failed else "PASS", evidence)


def _other_than_in_the_journal(answer: Answer, trials: Trials) -> list[str]:
    """Contenders and trials of which the answer says what the journal does not give."""
    found = []
    for one in answer.contenders:
        did = [trial for t in one.trials if (trial := trials.find(t.trial)) is not None]
        if len(did) < len(one.trials):
            continue  # absent, which is named already
        again = Contender.of(one.key, did, answer.step_times)
        found += [] if _same_figures(one, again) else [one.key]
        found += [
            said.trial
            for said, now in zip(one.trials, again.trials, strict=True)
            if (said.seed, said.status) != (now.seed, now.status)
            or not _same(said.score, now.score)
        ]
    return found


def _same_figures(said: Contender, now: Contender) -> bool:
    means = said.metrics.validation, now.metrics.validation
    return (
        said.configuration == now.configuration
        and _same(said.learning_rate, now.learning_rate)
        and means[0].keys() == means[1].keys()
        and all(_same(means[0][name].mean, means[1][name].mean) for name in means[0])
    )


def _same(one: float | None, other: float | None) -> bool:
    """JSON has null for what is not finite, and a sum depends on its order."""
    known = [value for value in (one, other) if value is not None and math.isfinite(value)]
    return not known or (len(known) == 2 and math.isclose(*known, rel_tol=1e-9))


def fresh_seeds(answer: Answer, trials: Trials) -> Check:
    """Whether the comparison is on seeds that no trial of the search had, the same for all."""
    name = "The comparison is on fresh seeds, the same for every finalist"
    if answer.verification is None:
        return Check(
            name,
            "FAIL",
            "Nothing was trained on fresh seeds: the best of the search is too good on average.",
        )
    used = {t.seed for t in trials if t.phase in ("baseline", "search")}
    verified = [one for one in answer.contenders if one.on_fresh_seeds]
    again = sorted({t.seed for one in verified for t in one.trials} & used)
    rounds = [_seeds_by_round(one, trials) for one in verified]
    unpaired = sorted(
        {
            number
            for seeds in rounds
            for other in rounds
            for number in seeds.keys() & other.keys()
            if seeds[number] != other[number]
        }
    )
    repeated = [one.key for one in verified if len({t.seed for t in one.trials}) < len(one.trials)]
    counts = ", ".join(f"{one.key}: {len(one.trials)}" for one in verified) or "none"
    recommended = answer.recommended
    evidence = [f"Trainings on fresh seeds: {counts}"]
    evidence += [] if recommended in verified else [f"the recommended {recommended.key} has none"]
    evidence += [f"seeds that the search had: {_listed(again)}"] if again else []
    evidence += [f"rounds whose seeds differ: {_listed(unpaired)}"] if unpaired else []
    evidence += [f"a seed counted twice: {_listed(repeated)}"] if repeated else []
    of_journal = (trials.find(t.trial) for one in verified for t in one.trials)
    lengths = sorted({t.total_examples for t in of_journal if t is not None})
    apart = len(lengths) > 1
    evidence += [f"trained on different numbers of examples: {_listed(lengths)}"] if apart else []
    lost = [t.trial for t in recommended.trials if recommended in verified and t.score is None]
    evidence += [f"the recommended one failed on a seed: {_listed(lost)}"] if lost else []
    failed = bool(again or unpaired or repeated or apart or lost or recommended not in verified)
    return Check(name, "FAIL" if failed else "PASS", "; ".join(evidence) + ".")


def _seeds_by_round(one: Contender, trials: Trials) -> dict[int, int]:
    found = {}
    for trained in one.trials:
        trial = trials.find(trained.trial)
        if trial is None:
            continue
        number = round_of(trial)
        if trial.trial != again_name(trial.configuration, number):
            found[number] = trained.seed
    return found


def test_split_read_once(answer: Answer, trials: Trials) -> Check:
    """Whether the test split was read for verified configurations alone, once a training."""
    name = "The test split is read once for each verified configuration, and chooses nothing"
    read = [one for one in answer.contenders if one.metrics.test]
    early = [t.trial for t in trials if any(_of_test_split(name, t.metrics) for name in t.metrics)]
    if not read and not early:
        return Check(name, "NOT APPLICABLE", "The test split was not read.")
    verified = {one.key for one in answer.tested()}
    others = [one.key for one in read if one.key not in verified]
    often = [
        one.key
        for one in read
        if any(m.seeds > len(one.completed) for m in (one.metrics.test or {}).values())
    ]
    chosen_by = trials.objective.name
    chooses = chosen_by.startswith("test") and any(
        _of_test_split(chosen_by, t.metrics) for t in trials.completed()
    )
    evidence = [f"Read for {_listed(one.key for one in read)}; chosen by {chosen_by}"]
    evidence += [f"not verified, and read: {_listed(others)}"] if others else []
    evidence += [f"read more often than trained: {_listed(often)}"] if often else []
    evidence += [f"read by a trial, before the answer: {_listed(early)}"] if early else []
    failed = bool(others or often or chooses or early)
    return Check(name, "FAIL" if failed else "PASS", "; ".join(evidence) + ".")


def _of_test_split(name: str, metrics: Mapping[str, float]) -> bool:
    """Not where validation has it too: then it is of a model's output of that name."""
    return name.startswith("test_") and f"val_{name}" not in metrics


def ranking_stable(answer: Answer, trials: Trials) -> Check:
    """Whether the best batch size of shorter trainings is as good in the longest ones."""
    name = "The ranking of batch sizes does not depend on the length of the trials"
    by_length: dict[int, dict[int, float]] = {}
    for trial in trials.of_phase("search", "baseline").completed():
        if trial.length == trial.total_examples and trial.score is not None:
            sizes = by_length.setdefault(trial.length, {})
            size = trial.configuration.batch_size
            if size not in sizes or trials.objective.better(trial.score, sizes[size]):
                sizes[size] = trial.score
    several = {n: sizes for n, sizes in by_length.items() if len(sizes) > 1}
    if len(several) < 2:
        return Check(
            name,
            "NOT APPLICABLE",
            "Batch sizes were compared at one length of training alone: the answer is for that "
            "length.",
        )
    lengths = sorted(several)
    before, last = several[lengths[-2]], several[lengths[-1]]
    shared = before.keys() & last.keys()
    if len(shared) < 2:
        return Check(name, "NOT APPLICABLE", "No 2 batch sizes were trained at 2 lengths.")
    sign = 1.0 if trials.objective.direction == "min" else -1.0
    best_before = min(shared, key=lambda size: sign * before[size])
    best_last = min(shared, key=lambda size: sign * last[size])
    behind = sign * (last[best_before] - last[best_last])
    evidence = (
        f"Best after {lengths[-2]:,} examples: {best_before}; after {lengths[-1]:,}: {best_last}, "
        f"where the former lies behind by {behind:.4g}"
    )
    if answer.verification is None and behind > 0:
        unknown = "nothing was verified, so that it can be the seeds' noise"
        return Check(name, "NOT APPLICABLE", f"{evidence}; {unknown}.")
    margin = answer.verification.margin if answer.verification else 0.0
    return Check(name, "PASS" if behind <= margin else "FAIL", f"{evidence} (band {margin:.4g}).")


def not_at_an_edge(answer: Answer, trials: Trials) -> Check:
    """Whether the recommended batch size and its learning rate lie inside of what was searched."""
    name = "The recommended batch size and learning rate do not lie at an edge of what was searched"
    one = answer.recommended
    sizes = sorted({t.configuration.batch_size for t in _tried(trials)})
    found, ends = [], ""
    outside = bool(sizes) and not sizes[0] <= one.batch_size <= sizes[-1]
    if len(sizes) > 1 or outside:
        if one.batch_size == 1 and not outside:
            ends = "no batch is smaller than 1"
        elif one.batch_size <= sizes[0]:
            found.append(_at_the_end(one.batch_size, sizes, "smallest", "smaller"))
        elif one.batch_size >= sizes[-1]:
            ends = _where_memory_ends(answer, sizes)
            if not ends:
                found.append(_at_the_end(one.batch_size, sizes, "largest", "larger"))
    edges = answer.best_learning_rate_at_edge
    for side, at_edge in (("lower", edges.low), ("upper", edges.high)):
        if one.batch_size in at_edge:
            found.append(f"the best learning rate of {one.batch_size} is at the {side} end")
    shown = f"Batch sizes {_listed(sizes)}; recommended {one.batch_size}"
    if len(sizes) < 2 and not found:
        words = f"{'One' if sizes else 'No'} batch size was searched, so that none is at an edge."
        return Check(name, "NOT APPLICABLE", words)
    evidence = "; ".join([shown, *([ends] if ends else []), *found])
    return Check(name, "FAIL" if found else "PASS", f"{evidence}.")


def _tried(trials: Trials) -> list[FinishedTrial]:
    """Trials of the search that say how good a batch size is."""
    return [t for t in trials.of_phase("search") if t.status in ("completed", "diverged")]


def _at_the_end(size: int, sizes: list[int], end: str, beyond: str) -> str:
    if size in sizes:
        return f"batch size {size} is the {end} that was searched"
    return f"batch size {size} is {beyond} than all that were searched"


def _where_memory_ends(answer: Answer, sizes: list[int]) -> str:
    """Why nothing above the recommended batch size was searched; empty if memory is not why.

    What was measured to fit explains it only where the next size, as far away as the two largest
    are from one another, does not fit.
    """
    size, used_up, limit = answer.recommended.batch_size, answer.memory_used_up, answer.memory_limit
    if used_up is not None and used_up.smallest_that_failed > size:
        return f"memory was used up at {used_up.smallest_that_failed}"
    step = sizes[-1] / sizes[-2] if len(sizes) > 1 else 2.0
    if limit is None or not limit.largest_possible < min(limit.largest_asked, size * step):
        return ""
    if limit.settled:
        return f"{limit.largest_batch_size} is the largest that fits into the memory"
    return f"{limit.smallest_that_failed} was measured not to fit into the memory"


def seconds_alone(answer: Answer, trials: Trials) -> Check:
    """Whether the compared seconds were measured with nothing beside."""
    del trials
    name = "Seconds that are compared were measured alone on the device"
    compared = answer.compared
    if len(compared) < 2:
        return Check(name, "NOT APPLICABLE", "No seconds are compared.")
    if answer.goal != "time":
        return Check(name, "NOT APPLICABLE", f"Seconds decide nothing: the goal is {answer.goal}.")
    beside = [c.key for c in compared if not c.training_seconds.alone_on_the_device]
    device = answer.step_times.device or "the device"
    if beside:
        return Check(name, "FAIL", f"Measured in trials, beside others: {_listed(beside)}.")
    rounds = {c.key: c.training_seconds.measurements for c in compared}
    counts = ", ".join(f"{key}: {count}" for key, count in rounds.items())
    return Check(name, "PASS", f"Rounds alone on {device}: {counts}.")


CHECKS: tuple[Callable[[Answer, Trials], Check], ...] = (
    learning_rate_bracketed,
    tuning_shown,
    fresh_seeds,
    test_split_read_once,
    ranking_stable,
    not_at_an_edge,
    seconds_alone,
)


def compared_sizes(answer: Answer) -> list[int]:
    """Batch sizes of all contenders but the user's own setting, which claims no tuning."""
    return sorted({one.batch_size for one in answer.contenders if one.key != BASELINE})


def searched_sizes(trials: Trials) -> list[int]:
    """Batch sizes of the search, smallest first."""
    return trials.of_phase("search").batch_sizes()


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"
