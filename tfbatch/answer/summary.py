"""An answer in a few lines of text."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from tfbatch.answer.answer import Answer, Compared, Contender, Open, Verification
from tfbatch.estimators.error_budget import LOOKS
from tfbatch.estimators.race import EVEN, SAME_COST
from tfbatch.quantities import four_decimals, plain_digits
from tfbatch.run_folder.files import JOURNAL
from tfbatch.schema import Named
from tfbatch.trial.finished_trial import BASELINE


@dataclasses.dataclass(frozen=True)
class Words:
    """An answer in sentences, for everyone who tells it.

    Attributes:
        recommendation: What to train with.
        better: Whether anything is shown to be better than the baseline.
        reasons: What the recommendation rests on, and what to expect of it.
        changes: What would change it: more seeds, a wider range.
        memory: What is known of the memory.
        longer: What is predicted for a longer training, where that was asked for.
    """

    recommendation: str
    better: str
    reasons: tuple[str, ...]
    changes: tuple[str, ...]
    memory: tuple[str, ...]
    longer: tuple[str, ...]


def words_of(answer: Answer) -> Words:
    """The sentences of an answer."""
    one = answer.recommended
    if answer.keeps_baseline:
        lead = "Keep your baseline"
    else:
        lead = "Recommended" if answer.verified else "Best of the search, not verified"
    better, *reasons = _certainty(answer)
    undecided = (_open_line(open_one, answer) for open_one in answer.undecided)
    return Words(
        recommendation=f"{lead}: batch size {one.batch_size}, learning rate "
        f"{one.learning_rate:.4g}, {_schedule(one.schedule)}, {_optimizer(one.optimizer)}",
        better=better,
        reasons=tuple(reasons),
        changes=(*undecided, *answer.best_learning_rate_at_edge.lines()),
        memory=tuple(_memory_lines(answer)),
        longer=answer.longer_run.lines() if answer.longer_run else (),
    )


def summary(answer: Answer) -> str:
    """What is better than the baseline, what is recommended, and what is not decided yet."""
    one, words = answer.recommended, words_of(answer)
    lines = [words.recommendation, f"  {_figures(one)}"]
    if answer.keeps_baseline:
        lines += [f"  {one.failures}"] if one.failures else []
    else:
        lines += _baseline_lines(answer.baseline)
    more = (*words.reasons, *words.changes, *words.memory, *words.longer)
    return "\n".join([*lines, words.better, *more])


def _memory_lines(answer: Answer) -> list[str]:
    limit, memory = answer.memory_limit, answer.memory_used_up
    measured = [limit.conclusion] if limit else []
    if not memory:
        return measured
    fits = "none" if memory.largest_that_fits is None else memory.largest_that_fits
    return [
        *measured,
        f"Memory ({memory.device}): used up at batch size {memory.smallest_that_failed}; the "
        f"largest that was trained is {fits}.",
    ]


def _baseline_lines(base: Contender | None) -> list[str]:
    if base is None:
        return ["Baseline:    did not complete"]
    lines = [
        f"Baseline:    batch size {base.batch_size}, learning rate {base.learning_rate:.4g}, "
        "constant",
        f"  {_figures(base)}",
    ]
    return [*lines, f"  {base.failures}"] if base.failures else lines


def _certainty(answer: Answer) -> list[str]:
    verification = answer.verification
    if verification is None:
        lines = [_not_verified(answer)]
        return [*lines, f"The search so far: {answer.belief}."] if answer.belief else lines
    lines = [_better(answer, verification), _why(answer, verification)]
    return [*lines, *_expected(answer, verification)]


def _not_verified(answer: Answer) -> str:
    """Why there are no fresh seeds, and whether the same command trains some."""
    figures = (
        "the figures are of the search itself, whose best result is too good on average, so "
        "nothing is shown to be better than your baseline."
    )
    failed = _failures(one for one in answer.contenders if one.on_fresh_seeds)
    if failed:
        return (
            f"Not verified on fresh seeds: {figures} What was verified failed: {failed}. "
            f"{JOURNAL} of the run folder has the messages."
        )
    return (
        f"Not verified on fresh seeds: {figures} The same command verifies it, if the time and "
        "--verification_seeds allow."
    )


def _failures(contenders: Iterable[Contender]) -> str:
    """Such as "batch size 64 diverged on 1 of 3 fresh seeds; ..."."""
    return "; ".join(
        f"{'your baseline' if one.key == BASELINE else f'batch size {one.batch_size}'} "
        f"{one.failures}"
        for one in contenders
        if one.failures
    )


def _better(answer: Answer, verification: Verification) -> str:
    """Whether anything is better than the baseline."""
    others = [c for c in verification.comparisons if c.key != BASELINE]
    own = answer.baseline
    if verification.of_key(BASELINE) is None and own and own.on_fresh_seeds and not own.failures:
        return _of_no_use(answer, own.objective().mean)
    if verification.of_key(BASELINE) is None:
        lead = "Without a baseline that completed on every fresh seed, the best mean leads."
        return f"{lead}{_worse_than_what_completed(answer, verification)}"
    if not others:
        return _none_to_compare(answer)
    shown = verification.better_than_baseline
    best = shown or others[0]
    base = verification.of_key(BASELINE)
    if base is not None and base.gain is None and base.seeds is not None:
        return _of_no_use(answer, base.mean)
    if best.seeds is None:
        return "An earlier version has verified this; the same command judges it anew."
    if best.gain_half_width is None:
        return "Whether anything is better than your baseline one fresh seed cannot show."
    name = f"batch size {answer.find(best.key).batch_size}"  # type: ignore[union-attr]
    figures = f"{name}, {_signed(answer, best.gain or 0.0, best.gain_half_width)}"
    several = f"for all {len(others)} compared, " if len(others) > 1 else ""
    of_all = f"on {_seeds(best)}; the interval holds {several}at every look"
    if shown:
        return f"Better than your baseline: {figures} ({of_all})."
    return f"Nothing is shown to be better than your baseline. The nearest: {figures} ({of_all})."


def _of_no_use(answer: Answer, mean: float) -> str:
    return (
        f"Your baseline has learned nothing on fresh seeds ({answer.objective.name} "
        f"{four_decimals(mean)}): the best mean leads."
    )


def _none_to_compare(answer: Answer) -> str:
    """Why the baseline is compared with nothing."""
    others = [one for one in answer.contenders if one.key != BASELINE]
    failed = _failures(others)
    unlearned = [one for one in others if one.on_fresh_seeds and not one.failures]
    if unlearned:
        sizes = ", ".join(f"batch size {one.batch_size}" for one in unlearned)
        more = f" What else was verified failed: {failed}." if failed else ""
        return f"Nothing else has learned anything on fresh seeds: {sizes}.{more}"
    if not failed:
        return "Nothing else was verified: no other whole training of the search came near it."
    return f"Nothing else completed on every fresh seed: {failed}."


def _worse_than_what_completed(answer: Answer, verification: Verification) -> str:
    """Of a baseline that failed on a seed: whether the others of its seeds were better."""
    base, best = answer.baseline, verification.of_key(verification.best)
    if base is None or best is None or not base.completed:
        return ""
    mean, direction = base.objective().mean, answer.objective.direction
    if not base.on_fresh_seeds or (mean > best.mean) != (direction == "max"):
        return ""
    return (
        f" Where it completed your baseline was better: {answer.objective.name} "
        f"{four_decimals(mean, best.mean)}, and {four_decimals(best.mean, mean)} of batch size "
        f"{answer.find(best.key).batch_size}."  # type: ignore[union-attr]
    )


def _why(answer: Answer, verification: Verification) -> str:
    """What the recommendation rests on."""
    key, margin = answer.recommended_trial, verification.margin
    one = verification.of_key(key)
    band = f"{answer.objective.name} by no more than {four_decimals(margin)}"
    if answer.keeps_baseline:
        if verification.better_than_baseline and one is not None and one.tied:
            return f"It is kept as the cheaper one: behind in {band}."
        as_good = "" if answer.goal == "metric" else ", or as good and cheaper"
        return f"It is kept, since nothing is shown to be better{as_good}."
    if one is not None and one.better and key == _leader(verification):
        return "It is recommended as the best of those that are shown to be better."
    if one is not None and one.tied:
        return f"It is recommended as the cheapest that is shown to be as good: behind in {band}."
    return "It is recommended for its mean on the fresh seeds."


def _leader(verification: Verification) -> str | None:
    found = verification.better_than_baseline
    return found.key if found else None


def _expected(answer: Answer, verification: Verification) -> list[str]:
    """Both sides of the recommendation: the metric and the time."""
    expected, base = verification.expected, answer.baseline
    if expected is None or expected.half_width is None:
        return []
    low, high = expected.mean - expected.half_width, expected.mean + expected.half_width
    mean, low_end, high_end = (
        four_decimals(value, expected.mean, low, high) for value in (expected.mean, low, high)
    )
    line = f"Expected {answer.objective.name}, freed of the choice: {mean} [{low_end}, {high_end}]"
    if answer.keeps_baseline:
        measured = answer.recommended.objective().mean
        moved = four_decimals(measured, expected.mean, low, high) != mean
        count = len(verification.comparisons)
        kept = f" (the mean above, less what being kept among {count} adds to it)"
        return [f"{line}{kept if moved else ''}."]
    if base is None or expected.gain is None:
        return [f"{line}."]
    gain = _signed(answer, expected.gain, expected.gain_half_width or 0.0)
    speed = _speed(_ratio(verification, base, answer.recommended))
    return [f"{line}. Against your baseline: {speed}, {gain}."]


def _ratio(verification: Verification, slow: Contender, fast: Contender) -> float:
    """How many times as long the first one takes, by the seconds that the race went by."""
    compared = verification.of_key(slow.key), verification.of_key(fast.key)
    if compared[0] is None or compared[1] is None:
        return slow.training_seconds.mean / fast.training_seconds.mean
    return compared[0].seconds / compared[1].seconds


def _open_line(one: Open, answer: Answer) -> str:
    contender, baseline = answer.find(one.key), answer.recommended
    if contender is None or answer.verification is None:
        return ""
    name = f"batch size {contender.batch_size}"
    if one.question == "better":
        what = f"whether {name} is better than your baseline"
    else:
        ratio = _ratio(answer.verification, baseline, contender)
        cheaper = (
            f"{plain_digits(contender.batch_size / baseline.batch_size, 2)} x the batch"
            if answer.goal == "memory"
            else _speed(ratio)
        )
        margin = four_decimals(answer.verification.margin)
        what = f"whether {name} ({cheaper}) is as good within {margin}"
    return f"Not decided: {what}. {_what_decides(one)}{_enough_tolerance(one, answer.verification)}"


def _what_decides(one: Open) -> str:
    """How many seeds, at what price and with which probability."""
    if one.option is None:
        if one.at_most is None:
            return "With so few fresh seeds no number of them can be named that would decide."
        return f"{LOOKS[-1]} seeds are not enough."
    minutes = plain_digits(one.minutes or 0.0, 2)
    command = f"about {minutes} minutes of training: the same command with {one.option}."
    if one.probability is None:
        return f"{one.seeds} seeds are expected to decide, {command}"
    probability = f"{min(max(one.probability, 0.01), 0.99):.0%}"
    return f"{one.seeds} seeds decide with a probability of {probability}, {command}"


def _enough_tolerance(one: Open, verification: Verification) -> str:
    """The tolerance that decides at once, where seeds are not expected to."""
    likely = one.option is not None and (one.probability is None or one.probability >= EVEN)
    if likely or one.question == "better" or one.at_most is None:
        return ""
    if one.at_most <= verification.margin:
        return ""
    taken = _rounded_up(one.at_most)
    return (
        f" It is shown to lie behind by no more than {taken}: with --tolerance={taken} it is as "
        "good."
    )


def _rounded_up(value: float) -> str:
    """To two digits."""
    unit = 10.0 ** (math.floor(math.log10(value)) - 1)
    return f"{math.ceil(value / unit) * unit:.2g}"


def _signed(answer: Answer, gain: float, half_width: float) -> str:
    """Such as "0.0020 lower [-0.0010, 0.0050]"; a gain is positive where better."""
    up = (gain >= 0) == (answer.objective.direction == "max")
    low, high = abs(gain) - half_width, abs(gain) + half_width
    name, side = answer.objective.name, "higher" if up else "lower"
    shown, *ends = (four_decimals(value, gain, low, high) for value in (abs(gain), low, high))
    return f"{name} {shown} {side} [{ends[0]}, {ends[1]}]"


def _speed(ratio: float) -> str:
    if 1 / (1 + SAME_COST) <= ratio <= 1 + SAME_COST:
        return "as fast"
    if ratio > 1:
        return f"{plain_digits(ratio, 2)} x faster"
    return f"{plain_digits(1 / ratio, 2)} x slower"


def _seeds(compared: Compared) -> str:
    count = compared.looked_at or compared.seeds or 0
    return "one fresh seed" if count == 1 else f"{count} fresh seeds"


def _schedule(schedule: Named) -> str:
    known = schedule.arguments
    shown = {"warmup_fraction", "warmup_examples", "total_examples"}
    parts = [schedule.name, *(f"{k} {v}" for k, v in known.items() if k not in shown)]
    if known["warmup_fraction"]:
        parts.append(f"warm-up {known['warmup_examples']:,} examples")
    return f"{', '.join(parts)} over {known['total_examples']:,} examples"


def _optimizer(optimizer: Named) -> str:
    return " ".join([optimizer.name, *(f"{k} {v}" for k, v in optimizer.arguments.items())])


def _figures(contender: Contender) -> str:
    parts = []
    for split, metrics in contender.metrics:
        if metrics:
            figures = ", ".join(f"{name} {value}" for name, value in metrics.items())
            parts.append(f"{split} {figures}")
        else:
            parts.append(f"{split} not measured")
    return "; ".join([*parts, _duration(contender)])


def _duration(contender: Contender) -> str:
    """What a training takes, and what that holds."""
    steps, validation = contender.training_seconds, contender.validation_seconds
    training = plain_digits(steps.mean)
    if not steps.alone_on_the_device:
        return (
            f"{plain_digits(contender.trial_seconds)} s as it was in the search, its start "
            f"included; {training} s of it are training steps"
        )
    where = f"alone on {steps.device or 'the device'}"
    if validation.mean is None:
        return f"{training} s of training steps {where}, validation not included"
    count = validation.evaluations
    return (
        f"{plain_digits(steps.mean + validation.mean)} s {where}: {training} s of training steps, "
        f"{plain_digits(validation.mean)} s of {count} validation{'' if count == 1 else 's'}"
    )
