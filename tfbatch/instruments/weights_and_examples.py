"""At which weights, and on which examples, gradients are looked at."""

from __future__ import annotations

import copy
import dataclasses
import io
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from tfbatch.bench import Bench
from tfbatch.callbacks import StopAfterSteps
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.layers import GhostBatchNormalization
from tfbatch.layers._momentum_in_examples import batch_normalizations
from tfbatch.pipeline.recipe_data import PreparedData
from tfbatch.pipeline.trainable_data import Data
from tfbatch.training.class_weights import weighted_by_class, with_class_weight
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import Heartbeat
from tfbatch.training.workload import Workload

_BATCH_SIZE = 128
_MOST_INITIAL = 0.05
_NO_WEIGHTS = {"optimizer", "metrics", "seed_generator"}
"""Parts of a file that a model of the same layers need not have."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """Which weights.

    Attributes:
        trained_steps: Updates that the configuration makes first; 0 for initial weights.
        file: Kept weights, as `Model.save_weights` writes them, instead; or None.
        seed: Seed of the build, and of the training.
    """

    trained_steps: int = 0
    file: Path | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        if self.trained_steps < 0 or (self.trained_steps and self.file):
            raise InputError(
                "`trained_steps` must be >= 0, and 0 if `weights_file` is given. "
                f"Received: {self.trained_steps} and {self.file}."
            )
        if self.file and not Path(self.file).is_file():
            raise InputError(f"`weights_file` must be a file. Received: {self.file}.")

    @property
    def untrained(self) -> bool:
        """Whether nothing was trained."""
        return not self.trained_steps and self.file is None

    @property
    def remedy(self) -> str:
        """What to look at where a gradient at these weights is not finite."""
        if self.trained_steps:
            return (
                "The training may have diverged: make its learning rate smaller, "
                "--baseline=learning_rate=..., in Python baseline='learning_rate=...'."
            )
        kept = f"the weights in {self.file.name} and " if self.file else ""
        return f"Look at {kept}the inputs: they may be too large, or not finite themselves."

    def __str__(self) -> str:
        """For a sentence, e.g. "after 100 updates"."""
        if self.file:
            return f"at the weights of {Path(self.file).name}"
        return f"after {self.trained_steps} updates" if self.trained_steps else "at initial weights"


def model_at(
    programs: ProgramCache,
    configuration: Configuration,
    weights: Weights,
    *,
    heartbeat: Callable[[], None] = lambda: None,
) -> keras.Model:
    """See model_and_initial_at: the model alone."""
    return model_and_initial_at(programs, configuration, weights, heartbeat=heartbeat)[0]


def model_and_initial_at(
    programs: ProgramCache,
    configuration: Configuration,
    weights: Weights,
    *,
    heartbeat: Callable[[], None] = lambda: None,
) -> tuple[keras.Model, list[keras.layers.BatchNormalization]]:
    """A compiled model on one device in float32 with these weights, and its optimizer's slots.

    Whatever the precision of the training: squared norms of gradients are subtracted from each
    other, which 16 bits would drown in rounding.

    Args:
        programs: Data and model.
        configuration: What the weights are trained with.
        weights: Which weights.
        heartbeat: Called after each update: many of them take longer than a hang may.

    Returns:
        The model, and those of its layers that with_initial_statistics tells.

    Raises:
        InputError: Weights of another model.
    """
    own = on_one_device_in_float32(programs)
    steps = max(weights.trained_steps, 1)
    examples = steps * configuration.batch_size
    model = own.begin(
        configuration, total_examples=examples, seed=weights.seed, steps_per_execution=1
    )
    if weights.file:
        load_weights(model, Path(weights.file))
    initial = with_initial_statistics(model, weights, batch_size=configuration.batch_size)
    if weights.trained_steps:
        workload = own.workload
        stream = workload.data.training(
            batch_size=configuration.batch_size, seed=weights.seed, num_examples=examples
        )
        model.fit(
            weighted_by_class(stream, workload.class_weight),
            steps_per_epoch=steps,
            callbacks=[
                StopAfterSteps(steps),
                Heartbeat(lambda done, total, within: heartbeat()),
            ],
            shuffle=False,
            verbose=0,
        )
    return model, initial


def with_initial_statistics(
    model: keras.Model, weights: Weights, *, batch_size: int
) -> list[keras.layers.BatchNormalization]:
    """The batch normalizations whose statistics will, for a good part, be those of no data.

        momentum ** updates > 0.05

    With Keras's 0.99 that is so before 299 updates, with 0.9 before 29. Only a mean of 0 and a
    variance of 1 throughout are of no data: a builder may have loaded others. Kept weights are
    taken to have had many updates, and statistics of a frozen layer are those that its training
    uses too.

    Args:
        model: The model before these updates; they replace what tells whether it has seen data.
        weights: Which weights.
        batch_size: Of these updates.
    """
    if weights.file:
        return []
    new = [layer for layer in batch_normalizations(model) if _is_new(layer)]
    if weights.untrained:
        return new
    return [
        layer
        for layer in new
        if layer.trainable
        and layer.momentum ** (weights.trained_steps * _updates(layer, batch_size)) > _MOST_INITIAL
    ]


def _is_new(layer: keras.layers.BatchNormalization) -> bool:
    if not layer.built:
        return False  # the model does not call it
    mean, variance = (
        keras.ops.convert_to_numpy(one) for one in (layer.moving_mean, layer.moving_variance)
    )
    return bool((mean == 0).all() and (variance == 1).all())


def _updates(layer: keras.layers.BatchNormalization, batch_size: int) -> int:
    """Of its statistics, in one of the model."""
    ghosts = isinstance(layer, GhostBatchNormalization)
    return max(batch_size // layer.ghost_size, 1) if ghosts else 1


def on_one_device_in_float32(programs: ProgramCache) -> ProgramCache:
    """The same where one device trains in float32; else another with the same data and builder.

    A strategy shares the batches, and their mean gradient is the same.
    """
    workload = programs.workload
    if workload.strategy is None and workload.precision == "float32":
        return programs
    single: Workload = copy.copy(workload)
    single.precision, single.strategy = "float32", None
    return ProgramCache(single)


def training_batches(
    workload: Workload, *, batch_size: int, batches: int, seed: int, augmented: bool
) -> tf.data.Dataset:
    """Full batches of the training stream, weighted by class as in training.

    Args:
        workload: Data and model.
        batch_size: Examples in a batch.
        batches: Number of batches.
        seed: Of the order and the augmentation.
        augmented: Whether a recipe's augmentation is applied. A function in a user's own pipeline
            always is.

    Raises:
        InputError: Class weights for data that has sample weights or several targets.
    """
    data: Data = workload.data if augmented else without_augmentation(workload.data)
    stream = data.training(batch_size=batch_size, seed=seed, num_examples=batch_size * batches)
    if workload.data.soft_labels and not data.soft_labels:
        classes = data.num_classes
        stream = stream.map(lambda x, y: (x, tf.one_hot(y, classes)))
    weights = workload.class_weight
    if not weights:
        return stream
    spec = stream.element_spec
    if len(spec) > 2 or tf.nest.is_nested(spec[1]):
        raise InputError(
            "`class_weight` needs data of inputs and one target, without sample weights. Received: "
            f"{len(spec)} parts of an example. Leave it out, or put it into the sample weights."
        )
    return stream.map(lambda *batch: with_class_weight(batch, weights))


def without_augmentation(data: Data) -> Data:
    """The same examples as they are, where a recipe says what is changed in training."""
    if not isinstance(data, PreparedData) or not data.recipe.augmentation:
        return data
    plain = data.recipe.model_copy(update={"augmentation": ()})
    bare: Data = PreparedData(plain, data.folder)
    return bare


def load_weights(model: keras.Model, file: Path) -> None:
    """Loads what `Model.save_weights` or `Model.save` has written.

    Keras looks for each of the model's layers in the file, and says nothing of what is left over:
    the first layers of a deeper model would be taken for the whole one.

    Raises:
        InputError: No such file, or weights of another model.
    """
    try:
        with warnings.catch_warnings():
            # Its state is of no use here: a program's optimizer has its learning rate elsewhere.
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            model.load_weights(file)
        kept = _arrays_in(file)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = " ".join(str(error).split("Target variable:", maxsplit=1)[0].split())
        raise InputError(
            f"`weights_file` must hold weights of this model. Received: {file}: {reason}"
        ) from error
    if kept is not None and kept > len(model.weights):
        raise InputError(
            f"`weights_file` must hold weights of this model, which has {len(model.weights)} "
            f"arrays of them. Received: {file} with {kept}. Build the model "
            "these weights were saved from."
        )


def _arrays_in(file: Path) -> int | None:
    """Number of a file's arrays of weights; None for a format whose loading counts them itself."""
    if file.suffix == ".keras":
        with zipfile.ZipFile(file) as archive:
            return _counted(io.BytesIO(archive.read("model.weights.h5")))
    return _counted(file) if file.name.endswith(".weights.h5") else None


def _counted(source: Path | io.BytesIO) -> int:
    import h5py  # type: ignore[import-untyped]  # Keras reads such a file by it too

    found: list[str] = []
    with h5py.File(source, "r") as opened:
        opened.visititems(
            lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None
        )
    return sum(1 for name in found if not _NO_WEIGHTS & set(name.split("/")))


def size_of_updates(bench: Bench, asked: int | None) -> int:
    """The batch size that is asked for, or 128 or all examples.

    Raises:
        InputError: It exceeds the training examples, is below 1, or no whole number.
    """
    examples = bench.data.splits["train"]
    size = min(_BATCH_SIZE, examples) if asked is None else asked
    if not (float(size).is_integer() and 1 <= size <= examples):
        raise InputError(
            "`batch_size` must be a whole number from 1 to the number of training examples, "
            f"{examples}. Received: {size}."
        )
    return int(size)
