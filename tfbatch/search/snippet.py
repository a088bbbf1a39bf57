"""What a user does next: the commands, and the recommended training in plain Keras."""

from __future__ import annotations

import textwrap
from typing import Any

from tfbatch.configuration import Configuration
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.schedules import make_family
from tfbatch.search.request import Execution
from tfbatch.training.derived import Derived


def keras_snippet(
    configuration: Configuration,
    derived: Derived,
    *,
    dataset: str,
    data_dir: str | None,
    model: str,
    seed: int,
    execution: Execution = Execution(),  # noqa: B008 - frozen
) -> str:
    """A whole script: data, model, schedule, `compile`, `fit`, `evaluate`.

    Args:
        configuration: The recommended configuration.
        derived: Its derived values.
        dataset: Name of the recipe.
        data_dir: The source's data folder, or None.
        model: A model's name or `package.module:function`.
        seed: Seed of weights, order and augmentation.
        execution: Precision, XLA and strategy.
    """
    imported, function = _model_import(model)
    callbacks = f"tfbatch.callbacks.StopAfterSteps({derived.steps})"
    if make_family(configuration.schedule.name, **configuration.schedule.arguments).sets_momentum():
        callbacks = f"tfbatch.callbacks.ScheduledMomentum(), {callbacks}"
    where = f", data_dir={data_dir!r}" if data_dir else ""
    batch_size = configuration.batch_size
    made = f"""\
model = {function}(data.input_shape, data.num_classes)
learning_rate = tfbatch.schedules.LearningRateInExamples(
    {configuration.schedule.name!r},
    learning_rate={derived.learning_rate!r},
    batch_size={batch_size},
    total_examples={derived.total_examples},
    warmup_examples={derived.warmup_examples},
    parameters={configuration.schedule.arguments!r},
)
model.compile(
    optimizer={optimizer_call(configuration)},
    loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    metrics=["accuracy"],
    steps_per_execution={derived.steps_per_execution},
    jit_compile={execution.jit_compile},
)
"""
    if execution.strategy:  # batches of the global size, shared by all devices
        made = "with tf.distribute.MirroredStrategy().scope():\n" + textwrap.indent(made, "    ")
        imported = f"import tensorflow as tf\n{imported}"
    policy = ""
    if execution.precision != "float32":
        policy = f"keras.config.set_dtype_policy({execution.precision!r})\n"
    return f"""\
import keras
import tfbatch
{imported}

data = tfbatch.load_data({dataset!r}{where})
{policy}keras.utils.set_random_seed({seed})
{made}model.fit(
    data.training(batch_size={batch_size}, seed={seed}, num_examples={derived.total_examples}),
    epochs={derived.epochs},
    steps_per_epoch={derived.steps_per_epoch},
    validation_data=data.evaluation("validation"),
    callbacks=[{callbacks}],
    shuffle=False,  # the stream is shuffled already
)
print("test:", model.evaluate(data.evaluation("test"), return_dict=True))
"""


def _model_import(model: str) -> tuple[str, str]:
    """The line that imports a builder, and the builder's name in the script."""
    if ":" not in model:
        return f"from tfbatch.models.{model} import build", "build"
    module, function = model.split(":")
    if module == "__main__" or not function.isidentifier():
        return f"# build_model is your own {function}", "build_model"
    return f"from {module} import {function}", function


def optimizer_call(configuration: Configuration) -> str:
    """Such as "keras.optimizers.SGD(learning_rate, momentum=0.9)"."""
    chosen = configuration.optimizer
    module = OPTIMIZERS.load(chosen.name)
    arguments: dict[str, Any] = {**module.PARAMETERS, **chosen.arguments}
    written = "".join(
        f", {name}={float(value)!r}" for name, value in arguments.items() if value is not None
    )
    return f"keras.optimizers.{module.KERAS_NAME}(learning_rate{written})"
