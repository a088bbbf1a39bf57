"""An answer in a few lines of text."""

from __future__ import annotations

from tfbatch.answer.answer import Answer, Contender
from tfbatch.schema import Named


def summary(answer: Answer) -> str:
    """The recommendation beside the baseline, how sure it is, and what limits it."""
    one = answer.recommended
    what = (
        f"batch size {one.batch_size}, learning rate {one.learning_rate:.4g}, "
        f"{_schedule(one.schedule)}, {_optimizer(one.optimizer)}"
    )
    if answer.keeps_baseline:
        lines = [f"Keep your baseline: {what}", f"  {_figures(one)}"]
    else:
        lines = [f"Recommended: {what}", f"  {_figures(one)}", *_baseline_lines(answer.baseline)]
    lines += [_certainty(answer), *_memory_lines(answer)]
    return "\n".join([*lines, *answer.best_learning_rate_at_edge.lines()])


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


def _certainty(answer: Answer) -> str:
    if answer.verification is None:
        return (
            "Not verified on fresh seeds: the figures are of the search itself, whose best "
            "result is too good on average. More time or trials verify it."
        )
    tied, count = answer.verification.tied, len(answer.recommended.trials)
    seeds = (
        f"{count} fresh seeds" if count > 1 else "one fresh seed (one seed gives no noise estimate)"
    )
    if len(tied) == 1:
        return f"It is the best on {seeds}, and no other one is tied with it."
    recommended = answer.verification.of_key(answer.recommended_trial)
    where = "and has the best mean"
    if recommended and recommended.key != answer.verification.best:
        spread = "" if recommended.half_width is None else f" ± {recommended.half_width:.4f}"
        where = f"behind the best mean by {recommended.deficit:.4f}{spread}"
    return (
        f"{len(tied)} configurations are tied with the best on {seeds} (not shown to be worse, and "
        f"behind by at most {answer.verification.margin:.4f}); this is the fastest of them, "
        f"{where}."
    )


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
    if not steps.alone_on_the_device:
        return (
            f"{contender.trial_seconds:.3g} s beside other trials, of which {steps.mean:.3g} s are "
            "training steps"
        )
    where = f"alone on {steps.device or 'the device'}"
    if validation.mean is None:
        return f"{steps.mean:.3g} s of training steps {where}, validation not included"
    count = validation.evaluations
    return (
        f"{steps.mean + validation.mean:.3g} s {where}: {steps.mean:.3g} s of training steps, "
        f"{validation.mean:.3g} s of {count} validation{'' if count == 1 else 's'}"
    )
