"""KerasTuner, as its guide shows it: a HyperModel whose `fit` takes the batch size.

`keras_tuner.RandomSearch` is `keras_tuner.Tuner` with its random oracle; here that oracle gives
the listed pairs instead of drawing them, so that all engines train the same batch sizes. All else
is KerasTuner's own: its loop, its saving of each trial's weights, its files. Nothing is printed.
"""

from __future__ import annotations

from typing import Any

import keras
import keras_tuner

from trial_cost import keras_parts
from trial_cost.plan import BATCH_SIZES, SCHEDULES, Job, Pair, Trained


class Listed(keras_tuner.oracles.RandomSearchOracle):
    """The random oracle with a given list of pairs."""

    def __init__(self, pairs: tuple[Pair, ...], **options: Any):
        super().__init__(max_trials=len(pairs), **options)
        self._left = list(pairs)

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Gives the next pair."""
        del trial_id
        pair = self._left.pop(0)
        values = {"batch_size": pair.batch_size, "schedule": pair.schedule}
        return {"status": "RUNNING", "values": values}


class Network(keras_tuner.HyperModel):
    """The network with its two hyperparameters."""

    def __init__(self, make_data: keras_parts.MakeData):
        super().__init__()
        self._make_data = make_data

    def build(self, hp: keras_tuner.HyperParameters) -> keras.Model:
        """Builds and compiles; the schedule's length needs the batch size here already."""
        return keras_parts.compiled(
            Pair(hp.Choice("batch_size", list(BATCH_SIZES)), hp.Choice("schedule", list(SCHEDULES)))
        )

    def fit(
        self, hp: keras_tuner.HyperParameters, model: keras.Model, *args: Any, **kwargs: Any
    ) -> Any:
        """Trains with data of this batch size."""
        train, validation = self._make_data(hp.get("batch_size"))
        return model.fit(train, *args, validation_data=validation, **kwargs)


def make_tuner(job: Job, make_data: keras_parts.MakeData) -> keras_tuner.Tuner:
    """The tuner with its default options."""
    return keras_tuner.Tuner(
        oracle=Listed(job.pairs, objective="val_accuracy", seed=job.seed),
        hypermodel=Network(make_data),
        directory=str(job.folder),
        project_name="keras_tuner",
    )


def _run(job: Job, make_data: keras_parts.MakeData) -> list[Trained]:
    tuner = make_tuner(job, make_data)
    tuner.search(epochs=1, verbose=0)
    trials = tuner.oracle.get_best_trials(len(job.pairs))
    return [Trained(**t.hyperparameters.values, accuracy=float(t.score)) for t in trials]


def with_guide_data(job: Job) -> list[Trained]:
    """KerasTuner with the input pipeline of TensorFlow Datasets' guide."""
    return _run(job, keras_parts.as_the_guide_shows(job.data_dir))


def with_resident_data(job: Job) -> list[Trained]:
    """KerasTuner with data in memory and without tf.data's autotuning."""
    return _run(job, keras_parts.from_memory(job.data_dir))
