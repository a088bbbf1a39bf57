"""The memory finder runs what it recommends: `tfbatch.accumulated`."""

from __future__ import annotations

import tiny_model

from tfbatch.configuration import Configuration
from tfbatch.largest_batch.training_load import STEPS, TrainingLoad
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload


def test_a_size_with_accumulation_is_that_of_a_micro_batch(digits):
    programs = ProgramCache(Workload(digits, tiny_model.build))
    plain = Configuration(batch_size=1, base_learning_rate=0.01)
    load = TrainingLoad(programs, plain, lambda: None, validate=False, accumulation=3)
    load.begin()

    assert load.step(16) > 0
    model = load._fitted
    assert int(model.optimizer.iterations) == STEPS, "an update for each whole batch"
    assert model.train_step.args[1] == 16
