"""What one training is, as best.yaml describes it. Imports no TensorFlow."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLengthText, four_decimals
from tfbatch.request.task import IN_PYTHON
from tfbatch.schema import Strict, load


class Reported(Strict):
    """What the search measured: mean and standard deviation over fresh seeds."""

    metric: str
    mean: float
    deviation: float | None
    seeds: int

    def __str__(self) -> str:
        """Such as "val_accuracy 0.6812 ± 0.0034 (n=3)"."""
        values = [self.mean] if self.deviation is None else [self.mean, self.deviation]
        shown = " ± ".join(four_decimals(value, *values) for value in values)
        return f"{self.metric} {shown} (n={self.seeds})"


class TrainingConfig(Strict):
    """One training.

    Attributes:
        dataset: What `--dataset` or `--data` takes.
        data_dir: The source's data folder, or None.
        batched: Whether a user's own Dataset gives batches, if the user states it; or None.
        model: A model's name or `package.module:function`.
        trial_length: Length of the training.
        seed: Seed of weights, order and augmentation.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model, or "auto" as Keras chooses.
        data_on: Where batches are made of the examples: "device", "host" or "auto"; see
            tfbatch.training.data_place.
        strategy: "mirrored" to train on all GPUs of the machine, or None.
        threads: Threads of the trials on a CPU; None: as many as there are cores.
        callbacks: `package.module:function` that makes Keras callbacks; "(given in Python)" where
            the trials had some that no name stands for; or None.
        loss: Name of a Keras loss, for a model that its builder does not compile; or None.
        metrics: Names of Keras metrics, for the same; or None.
        class_weight: Weight of each class in the training loss, or None.
        configuration: What to train with.
        reported: What to expect.
    """

    dataset: str
    data_dir: str | None = None
    batched: bool | None = None
    model: str
    trial_length: TrainingLengthText
    seed: int = Field(ge=0)
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    jit_compile: bool | Literal["auto"] = False
    data_on: Literal["auto", "device", "host"] = "host"
    strategy: Literal["mirrored"] | None = None
    threads: int | None = Field(default=None, ge=1)
    callbacks: str | None = None
    loss: str | None = None
    metrics: tuple[str, ...] | None = None
    class_weight: dict[int, float] | None = None
    configuration: Configuration
    reported: Reported | None = None

    @property
    def lacks_callbacks(self) -> bool:
        """Whether the trials had callbacks that this training cannot have."""
        return self.callbacks == IN_PYTHON


def check_names(config: TrainingConfig, *, where: str) -> None:
    """Refuses a training of which something was given in Python and has no name to find it by.

    Args:
        config: The training.
        where: Its file, for the message.

    Raises:
        InputError: Its loss, metrics, data or model have none.
    """
    script = "or train with the script in plain Keras that the search gave (`result.snippet`)"
    given = {"loss": [config.loss], "metrics": config.metrics or (), "dataset": [config.dataset]}
    lacking = [name for name, parts in given.items() if IN_PYTHON in parts]
    if "dataset" in lacking:
        raise InputError(
            f"{where}: `dataset` must name data that a command can find. Received: {IN_PYTHON}, a "
            f"recipe of your own. Write it into a YAML file and name that as `dataset`, {script}."
        )
    if lacking:
        raise InputError(
            f"{where}: `loss` and `metrics` must be names that Keras knows. Received: "
            f"{', '.join(f'{name} {IN_PYTHON}' for name in lacking)}, for the search had objects. "
            f"Compile the model in its builder and search again, {script}."
        )
    for name, text in (("model", config.model), ("dataset", config.dataset)):
        if text.startswith("__main__:") or (name == "model" and not _may_be_found(text)):
            raise InputError(
                f"{where}: `{name}` must be package.module:function that a command can import. "
                f"Received: {text}, which is known to one script or notebook alone. Move the "
                f"function into a module and name that as `{name}`, {script}."
            )


def _may_be_found(model: str) -> bool:
    """Whether a model is no lambda and no function inside another one."""
    return ":" not in model or not any(mark in model for mark in ("<", ">"))


def load_training_config(path: Path) -> TrainingConfig:
    """Loads one training's YAML.

    Raises:
        ConfigurationError: The file is absent, or a key in it cannot be used.
    """
    return load(TrainingConfig, path)
