"""Trains for a while and stops at given points, where something can be measured."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tfbatch.callbacks import StopAfterSteps
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.training.program_cache import ProgramCache

_SEED = 1


def train_for(
    programs: ProgramCache,
    configuration: Configuration,
    examples: Sequence[int],
    *,
    sign_of_life: Callable[[], None],
) -> Iterator[tuple[int, Any]]:
    """Yields (examples trained on, model) at each point, rounded up to whole batches.

    Args:
        programs: Data, model builder and traced programs.
        configuration: What to train with.
        examples: The points, ascending; 0 for the untrained model.
        sign_of_life: Called now and then.

    Raises:
        InputError: Points that do not ascend.
    """
    points = [-(-count // configuration.batch_size) for count in examples]
    if not points or points[0] < 0 or any(b <= a for a, b in itertools.pairwise(points)):
        raise InputError(
            "The points of a training must ascend, by a batch at least. Received: "
            f"{', '.join(map(str, examples))} examples in batches of {configuration.batch_size}."
        )
    total = max(points[-1], 1) * configuration.batch_size
    model = programs.begin(configuration, total_examples=total, seed=_SEED, steps_per_execution=1)
    done = 0
    for point in points:
        if point > done:
            model.fit(
                programs.workload.data.training(
                    batch_size=configuration.batch_size,
                    seed=_SEED,
                    num_examples=total,
                    start=done * configuration.batch_size,
                ),
                steps_per_epoch=point - done,
                callbacks=[StopAfterSteps(point - done)],
                class_weight=programs.workload.compilation.class_weight,
                shuffle=False,
                verbose=0,
            )
            model.stop_training = False
            done = point
        sign_of_life()
        yield point * configuration.batch_size, model
