"""M3: gradient accumulation against the large batch, trained on the same examples in pairs.

Both make one update from 4 B0 examples, one of them in micro-batches of B0. The pairs share the
initial weights and the order of the examples; what differs is rounding, and what a layer does to a
batch as a whole, such as batch normalization.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tfbatch.claims._claim import Claim, Criterion, Evidence, UntestableError
from tfbatch.claims._pairs import differences
from tfbatch.errors import InputError

if TYPE_CHECKING:
    from tfbatch.claims._court import Court
    from tfbatch.configuration import Configuration
    from tfbatch.training.context import TaskContext

CARD = "M3"
TITLE = "gradient accumulation against the large batch"
ORDER = 70.0
CLAIMS = (
    Claim(
        "M3",
        "accumulation-equals-large-batch",
        "Accumulating gradients over micro-batches equals training with the large batch.",
        (Criterion("M3", "metric accumulated less metric of the large batch", "equivalence"),),
    ),
)
_MICRO_BATCHES = 4
_SECONDS = 1.0


def collect(court: Court) -> Iterator[Evidence]:
    """See tfbatch.claims.Card."""
    study = court.study
    micro = study.base
    size = min(_MICRO_BATCHES * micro, court.workload.num_examples)
    rate = study.rate(study.base, "fixed", "epochs")
    configuration = study.configuration(size, rate.value)
    name = court.workload.metric.removeprefix("val_")
    untestable, pairs = "", []
    try:
        study.apart(size, micro)
        cases: list[dict[str, object]] = [
            {
                "configuration": configuration,
                "micro_batch_size": micro,
                "examples": court.workload.examples,
                "seed": seed,
                "metric": name,
            }
            for seed in court.seeds("verdict", court.preset.seeds)
        ]
        pairs = court.measure_each(train_both_ways, cases, seconds=_SECONDS)
    except (InputError, UntestableError) as error:
        untestable = str(error)
    yield Evidence(
        "accumulation-equals-large-batch",
        effects=differences(*zip(*pairs, strict=True)) if pairs and not untestable else (),
        margin=study.margin,
        unit="of the metric",
        axis="epochs",
        policy="fixed",
        finding=f"metric at batch size {size} in micro-batches of {micro} less that of whole ones",
        doubts=rate.doubts,
        untestable=untestable,
    )


def train_both_ways(
    task: TaskContext,
    configuration: Configuration,
    *,
    micro_batch_size: int,
    examples: int,
    seed: int,
    metric: str,
) -> tuple[float, float]:
    """Inside the process that trains: the metric with accumulation and without.

    Raises:
        InputError: The model cannot accumulate.
    """
    from tfbatch.accumulation import accumulated
    from tfbatch.training.trial import fit

    workload = task.programs.workload
    derived = workload.derive(configuration, examples)
    found = []
    for micro in (micro_batch_size, None):
        task.heartbeat_or_stop()
        model = workload.compiled(configuration, total_examples=examples, seed=seed)
        with warnings.catch_warnings():  # of batch normalization: the verdict tells
            warnings.simplefilter("ignore")
            accumulated(model, micro_batch_size=micro)
        history = fit(model, workload, derived, seed=seed, callbacks=[])
        found.append(float(history.history[f"val_{metric}"][-1]))
    return found[0], found[1]
