"""Evaluates and saves models from kept weights; measures an untrained one."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from tfbatch.configuration import Configuration
from tfbatch.errors import TfbatchError
from tfbatch.estimators.chance_level import ChanceLevel
from tfbatch.metric_direction import Direction, direction_of
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE
from tfbatch.schema import as_plain, content_hash
from tfbatch.training.chance import chance_levels
from tfbatch.training.content_checks import check_finite_loss
from tfbatch.training.context import TaskContext
from tfbatch.training.data_place import evaluation_stream
from tfbatch.training.misfit import refusal
from tfbatch.training.single_values import several_values, single_values
from tfbatch.training.training_loss import measure_training_loss
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import TrainingLoss

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Untrained:
    """An untrained model, measured before a search.

    Attributes:
        metrics: Every metric of one value on the validation split: the names that there are, and a
            floor.
        seconds: What building and evaluating takes once the device is open and all is traced.
        model_hash: Changes when the model that is built changes.
        batch_dependent: Metrics whose value depends on the batch that it is computed on, such as a
            contrastive loss or a sum over the batch, each with its value at two batch sizes.
        training_loss: The loss that `fit` would report for it, weights included; None if that is
            not finite.
        directions: Whether a good value of each metric is small or large, where that is known.
        chance: The value of each metric without learning.
        several: Names of metrics of several values, such as an F1 score of each class.
        notes: A sentence for the user on each value that could not be computed or is left out.
    """

    metrics: dict[str, float]
    seconds: float
    model_hash: str
    batch_dependent: dict[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    directions: dict[str, Direction | None] = dataclasses.field(default_factory=dict)
    training_loss: TrainingLoss | None = None
    chance: dict[str, ChanceLevel] = dataclasses.field(default_factory=dict)
    several: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def measure_untrained(task: TaskContext, configuration: Configuration) -> Untrained:
    """Builds the model and evaluates it: on one batch, then, timed, on the validation split.

    Raises:
        InputError: The model cannot be used.
        RecordError: Validation or training records are damaged.
    """
    programs, workload = task.programs, task.programs.workload
    spec = workload.evaluation("validation").element_spec  # reading is not the model's time
    model: Any = None
    notes: list[str] = []
    try:
        # The first time opens the device and traces (for the trials too): what it
        # takes says nothing about any later evaluation.
        model = programs.begin(configuration, total_examples=1, seed=1)
        check_finite_loss(evaluate(model, workload, "validation", batches=1), workload.data)
        start = time.perf_counter()
        model = programs.begin(configuration, total_examples=1, seed=1)
        measured = _evaluated(model, workload, "validation")
        seconds = time.perf_counter() - start
        metrics, several = single_values(measured), several_values(measured)
        check_finite_loss(metrics, workload.data)
        dependent = _batch_dependent(model, workload)
        training_loss = measure_training_loss(model, workload)
        chance = chance_levels(model, workload, metrics, notes.append)
    except TfbatchError:
        raise
    except Exception as error:  # of the user's own code: shown whole, before any trial
        raise refusal(error, "The model cannot be built and evaluated", model, spec) from error
    directions = {name: direction_of(name, model.metrics) for name in metrics}
    return Untrained(
        metrics,
        seconds,
        hash_of_model(model),
        batch_dependent=dependent,
        directions=directions,
        training_loss=training_loss,
        chance=chance,
        several=several,
        notes=(*notes, *map(_left_out, several)),
    )


def _left_out(name: str) -> str:
    return (
        f"`{name}` has several values, and is left out: trials are compared by one number. Give it "
        'one, such as keras.metrics.F1Score(average="macro").'
    )


def _batch_dependent(model: Any, workload: Workload) -> dict[str, tuple[float, float]]:
    """Evaluates the same examples in large and in small batches: a mean comes to the same."""
    if workload.replicas > 1:
        return {}
    large = min(EVALUATION_BATCH_SIZE, workload.data.num_examples("validation") // 8 * 8)
    if not large:
        return {}
    values = []
    for size, batches in ((large, 1), (large // 8, 8)):
        dataset = workload.data.evaluation("validation", batch_size=size).take(batches)
        values.append(single_values(model.evaluate(dataset, verbose=0, return_dict=True)))
    return {
        name: (value, values[1][name])
        for name, value in values[0].items()
        if abs(value - values[1][name]) > _SAME * max(abs(value), _SAME)
    }


_SAME = 1e-3
"""Values within this share of each other are the same: float32 sums differ in their order."""


def hash_of_model(model: keras.Model) -> str:
    """Layers, their plain settings and the weights' shapes; not names, which Keras counts up.

    It stands in every run folder: if it saw more, no earlier run could be continued.
    `hash_of_settings` does, for what is kept for the length of one training.
    """
    layers = []
    for layer in model.layers:
        settings: dict[str, Any] = {}
        with contextlib.suppress(NotImplementedError):  # a layer without get_config
            settings = {k: v for k, v in layer.get_config().items() if k != "name"}
        plain = {k: v for k, v in settings.items() if isinstance(v, int | float | str | tuple)}
        layers.append([type(layer).__name__, plain])
    return content_hash([layers, [list(w.shape) for w in model.weights]])


_COUNTED = frozenset(
    {
        *("name", "inbound_nodes", "input_layers", "output_layers"),
        *("registered_name", "shared_object_id", "build_config", "compile_config"),
    }
)
"""What two equal builds may differ in, or what follows from the rest."""
_UNSEEN = ("__lambda__", "__numpy__", "__tensor__")
"""As Keras writes them down: code whose bytes differ between processes, and millions of numbers."""


def hash_of_settings(model: keras.Model) -> str:
    """As `hash_of_model`, with what is in a setting, such as a regularizer, and in a layer.

    The code of a lambda, arrays and other values that are not plain are not seen.
    """
    described = []
    for layer in model._flatten_layers(include_self=True, recursive=True):
        settings: dict[str, Any] = {}
        with contextlib.suppress(Exception):  # a layer without get_config, or with a broken one
            settings = as_plain(layer.get_config())
        described.append([type(layer).__name__, _settings(settings)])
    return content_hash([described, [list(w.shape) for w in model.weights]])


def _settings(value: object, *, named: bool = False) -> object:
    """Plain values at any depth; of others their class.

    Args:
        value: A part of a configuration.
        named: Whether its name is a setting, as that of a dtype policy is.
    """
    if isinstance(value, dict):
        if value.get("class_name") in _UNSEEN:
            return value["class_name"]
        return {
            str(key): _settings(part, named=named or key == "dtype")
            for key, part in value.items()
            if key not in _COUNTED or (named and key == "name")
        }
    if isinstance(value, list | tuple):
        return [_settings(part, named=named) for part in value]
    return value if isinstance(value, bool | int | float | str | None) else type(value).__name__


def evaluate_weights(
    task: TaskContext, configuration: Configuration, weights: Path, *, split: str, seed: int
) -> dict[str, float]:
    """Metrics of kept weights on a split."""
    programs = task.programs
    model = programs.begin(configuration, total_examples=1, seed=seed)
    with programs.workload.scope():
        _load_weights(model, weights)
    return evaluate(model, programs.workload, split)


def save_model(
    task: TaskContext,
    configuration: Configuration,
    weights: Path,
    *,
    seed: int,
    total_examples: int,
    path: Path,
) -> None:
    """Writes a compiled model with kept weights as a `.keras` file, whole or not at all.

    A model whose loss or metrics Keras cannot write down, such as a functools.partial, is saved
    without its compilation, with a warning.
    """
    model = plain_model(
        task.programs.workload, configuration, weights, seed=seed, total_examples=total_examples
    )
    drop_unsavable_compilation(model)
    partial = path.with_name(f".partial-{path.name}")
    model.save(partial)
    partial.replace(path)


def plain_model(
    workload: Workload,
    configuration: Configuration,
    weights: Path,
    *,
    seed: int,
    total_examples: int,
) -> keras.Model:
    """A compiled model of plain Keras, which knows nothing of programs, with kept weights."""
    model = workload.compiled(configuration, total_examples=total_examples, seed=seed)
    with workload.scope():
        _load_weights(model, weights)
    return model


def drop_unsavable_compilation(model: keras.Model) -> None:
    """Lets a compiled model be saved as one that is not, where Keras cannot write down how."""
    try:
        model.get_compile_config()
    except Exception as error:  # of a user's own objects
        model.compiled = False
        warnings.warn(
            "The model is saved without its loss, metrics and optimizer, since Keras cannot write "
            f"them down: {error} Compile it again after `keras.models.load_model`.",
            stacklevel=2,
        )


def evaluate(
    model: keras.Model, workload: Workload, split: str, *, batches: int | None = None
) -> dict[str, float]:
    """Every metric of one value of a compiled model on a whole split, or on its first batches.

    Raises:
        RecordError: The split's records are damaged.
    """
    return single_values(_evaluated(model, workload, split, batches=batches))


def _evaluated(
    model: keras.Model, workload: Workload, split: str, *, batches: int | None = None
) -> dict[str, Any]:
    examples = evaluation_stream(model, workload, split)
    if batches is not None:
        examples = examples.take(batches)
    try:
        measured: dict[str, Any] = model.evaluate(examples, verbose=0, return_dict=True)
    except tf.errors.OpError:
        workload.data.raise_damage(split)
        raise
    return measured


def _load_weights(model: Any, weights: Path) -> None:
    # An optimizer without variables would not take its state, and restart momentum and schedule.
    model.optimizer.build(model.trainable_variables)
    model.load_weights(weights)
