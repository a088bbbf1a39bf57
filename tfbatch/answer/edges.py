"""Whether the best learning rate of a batch size lies where the searched range ends.

A best value at a boundary says that the range was too narrow (Godbole et al. 2023, Deep Learning
Tuning Playbook, "identifying bad search space boundaries"; Shallue et al. 2019, JMLR 20(112)).
"""

from __future__ import annotations

import math

from tfbatch.schema import Strict
from tfbatch.trial.trials import Trials

OUTER_SHARE = 0.1
"""Share of the range, in octaves, at either end that counts as its edge."""
FEWEST_TRIALS = 3
"""Of so few completed trials of a batch size, one is at an edge by chance."""


class Edges(Strict):
    """Batch sizes whose best learning rate of the search lies at an edge of the range.

    Attributes:
        low: Those at its lower end.
        high: Those at its upper end.
    """

    low: tuple[int, ...] = ()
    high: tuple[int, ...] = ()

    def lines(self) -> list[str]:
        """What a reader should know; nothing if no batch size is at an edge."""
        return [
            f"At batch size {', '.join(map(str, sizes))} the best learning rate lies at the {end} "
            f"end of what was searched: {wider} `base_learning_rate` may do better "
            "(a search of your own, --search=FILE.yaml, sets its range)."
            for sizes, end, wider in (
                (self.low, "lower", "a lower"),
                (self.high, "upper", "a higher"),
            )
            if sizes
        ]


def edges_of(trials: Trials, learning_rates: tuple[float, float]) -> Edges:
    """Looks at the best completed trial of the search at each batch size.

    The place in the range is that of base learning rate and offset together: the rule moves the
    range of each batch size as a whole.

    Args:
        trials: The trials of a run.
        learning_rates: Lowest and highest searched base learning rate, the offset around the rule
            included.
    """
    low, high = map(math.log2, learning_rates)
    if low == high:
        return Edges()
    found: dict[str, list[int]] = {"low": [], "high": []}
    searched = trials.searched().of_phase("search")
    for size in searched.batch_sizes():
        own = searched.of_batch_size(size).ranked()
        if len(own) < FEWEST_TRIALS:
            continue
        c = own[0].configuration
        place = (math.log2(c.base_learning_rate) + c.learning_rate_octaves - low) / (high - low)
        if place <= OUTER_SHARE:
            found["low"].append(size)
        elif place >= 1 - OUTER_SHARE:
            found["high"].append(size)
    return Edges(low=tuple(found["low"]), high=tuple(found["high"]))
