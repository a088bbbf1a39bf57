"""Which hyperparameters separate the best trials from all: PED-ANOVA."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence

from tfbatch.charts import Chart, Series
from tfbatch.reporting.hyperparameters import Hyperparameter, varied
from tfbatch.reporting.recorded import RecordedRun, at_the_end_of_a_decay
from tfbatch.trial.finished_trial import FinishedTrial

FEWEST_TRIALS = 20
"""The best tenth is compared with all: of fewer trials it is a single one or two."""
_FEW = 5
"""Of fewer best trials, another seed can change the order of the bars."""


@dataclasses.dataclass(frozen=True)
class Importance:
    """The share of each hyperparameter.

    Attributes:
        shares: By name, largest first; they add up to 1. Empty where it is not computed.
        trials: Number of trials that it rests on.
        length: Their length in examples.
        reason: Why it is not computed; empty where it is.
        left_out: Hyperparameters that vary, but not every trial of the search has them.
    """

    shares: tuple[tuple[str, float], ...]
    trials: int
    length: int
    reason: str = ""
    left_out: tuple[str, ...] = ()


def importance_of(run: RecordedRun) -> Importance:
    """PED-ANOVA of the completed trials of one length, the most frequent one.

    How much the density of a hyperparameter among the best tenth differs from that among all
    (Watanabe, Bansal and Hutter 2023, arXiv 2304.10255), as Optuna computes it.
    """
    ended = at_the_end_of_a_decay(run.trials.of_phase("search", "baseline"))
    lengths = Counter(trial.length for trial in ended)
    if not lengths:
        return Importance((), 0, 0, "no trial has completed")
    length = max(lengths, key=lambda n: (lengths[n], n))
    found = varied([trial for trial in ended if trial.length == length])
    trials = list(found.trials)
    if len(trials) < FEWEST_TRIALS:
        count = "1 completed trial" if len(trials) == 1 else f"{len(trials)} completed trials"
        why = f"{count} of one length, and it needs {FEWEST_TRIALS}"
        return Importance((), len(trials), length, why)
    if len(found.hyperparameters) < 2:
        return Importance((), len(trials), length, "fewer than 2 hyperparameters vary")
    if len({t.score for t in trials}) < 2:
        return Importance((), len(trials), length, "all scores are equal")
    shares = _ped_anova(trials, found.hyperparameters, run.trials.objective.direction == "max")
    ordered = sorted(shares.items(), key=lambda item: -item[1])
    return Importance(tuple(ordered), len(trials), length, left_out=found.left_out)


def _ped_anova(
    trials: list[FinishedTrial], hyperparameters: Sequence[Hyperparameter], maximize: bool
) -> dict[str, float]:
    import optuna  # a second of imports that no other figure needs
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

    def distribution(one: Hyperparameter) -> BaseDistribution:
        numbers = one.numbers
        if not numbers:
            return CategoricalDistribution(sorted({*one.texts}))
        return FloatDistribution(min(numbers), max(numbers), log=one.logarithmic)

    columns = {one.name: one.numbers or one.texts for one in hyperparameters}
    distributions = {one.name: distribution(one) for one in hyperparameters}
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.create_study(direction="maximize" if maximize else "minimize")
        for place, trial in enumerate(trials):
            study.add_trial(
                optuna.trial.create_trial(
                    params={name: column[place] for name, column in columns.items()},
                    distributions=distributions,
                    value=trial.score,
                )
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    finally:
        optuna.logging.set_verbosity(before)
    return {name: float(share) for name, share in found.items() if math.isfinite(share)}


def importance_sentence(found: Importance) -> str:
    """Which trials it rests on, or why it is not computed."""
    if not found.shares:
        return f"Importance of hyperparameters is not computed: {found.reason}."
    best = math.ceil(found.trials / 10)  # as Optuna takes it
    few = f": with {best} of them the order of the bars is weak" if best < _FEW else ""
    without = (
        f" Not every trial of the search has {', '.join(found.left_out)}: no bar shows it."
        if found.left_out
        else ""
    )
    return (
        f"Importance by PED-ANOVA (Watanabe et al. 2023), over {found.trials} completed trials of "
        f"{found.length:,} examples: what distinguishes the best tenth, {best} trials, from all. "
        f"An association, not an effect{few}.{without}"
    )


def importance_chart(found: Importance) -> Chart | None:
    """A bar for each hyperparameter, as a row; None where it is not computed."""
    if not found.shares:
        return None
    names, shares = zip(*found.shares, strict=True)
    return Chart(
        "Importance of hyperparameters",
        "share",
        "",
        (
            Series(
                "PED-ANOVA",
                tuple(shares),
                tuple(float(n) for n in range(len(names))),
                low=(0.0,) * len(names),
                high=tuple(shares),
                kind="points",
                role="candidate",
            ),
        ),
        log_x=False,
        log_y=False,
        y_names=tuple(names),
    )
