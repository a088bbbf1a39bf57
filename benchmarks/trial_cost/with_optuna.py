"""Optuna with Keras: its default sampler, a new model for each trial.

The pairs are enqueued (`Study.enqueue_trial`), so that all engines train the same batch sizes; the
loop is Optuna's own.
"""

from __future__ import annotations

import keras
import optuna

from trial_cost import keras_parts
from trial_cost.plan import BATCH_SIZES, SCHEDULES, Job, Pair, Trained


def make_study(job: Job) -> optuna.Study:
    """A study in memory with the pairs waiting."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.TPESampler(seed=job.seed)
    )
    for pair in job.pairs:
        study.enqueue_trial({"batch_size": pair.batch_size, "schedule": pair.schedule})
    return study


def suggest(trial: optuna.Trial) -> Pair:
    """The trial's pair."""
    return Pair(
        trial.suggest_categorical("batch_size", BATCH_SIZES),
        trial.suggest_categorical("schedule", SCHEDULES),
    )


def _run(job: Job, make_data: keras_parts.MakeData) -> list[Trained]:
    def objective(trial: optuna.Trial) -> float:
        keras.backend.clear_session()
        pair = suggest(trial)
        train, validation = make_data(pair.batch_size)
        model = keras_parts.compiled(pair)
        history = model.fit(train, validation_data=validation, epochs=1, verbose=0)
        return float(history.history["val_accuracy"][-1])

    study = make_study(job)
    study.optimize(objective, n_trials=len(job.pairs))
    return [Trained(**t.params, accuracy=float(t.values[0])) for t in study.trials]


def with_guide_data(job: Job) -> list[Trained]:
    """Optuna with the input pipeline of TensorFlow Datasets' guide."""
    return _run(job, keras_parts.as_the_guide_shows(job.data_dir))


def with_resident_data(job: Job) -> list[Trained]:
    """Optuna with data in memory and without tf.data's autotuning."""
    return _run(job, keras_parts.from_memory(job.data_dir))
