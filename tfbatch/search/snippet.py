"""What a user does next: the recommended training as a script in plain Keras."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import DataDescription, OwnData
from tfbatch.models import is_keras_application
from tfbatch.optimizers import OPTIMIZERS, keras_arguments, module_of
from tfbatch.plug_ins import is_importable
from tfbatch.request.execution import AUTOMATIC, Execution
from tfbatch.request.model_and_data import ModelAndData
from tfbatch.request.task import IN_PYTHON, Task
from tfbatch.schedules import make_family
from tfbatch.training.class_weights import every_class_weight
from tfbatch.training.model_builder import named_arguments, required_parameters
from tfbatch.trial.derived import Derived
from tfbatch.trial.optimizer_numbers import settings_beside

if TYPE_CHECKING:
    import keras


def keras_snippet(
    configuration: Configuration,
    derived: Derived,
    *,
    subject: ModelAndData,
    execution: Execution,
    data: DataDescription,
    build_model: Callable[..., keras.Model],
    compiled: bool,
    has_callbacks: bool,
    seed: int,
    threads: int | None = None,
) -> str:
    """A whole script: data, model, schedule, `compile`, `fit`, `evaluate`.

    Args:
        configuration: The recommended configuration.
        derived: Its derived values.
        subject: Model and data.
        execution: Precision, XLA and strategy.
        data: What the data holds.
        build_model: The model's builder, for the arguments that it asks for.
        compiled: Whether the builder compiles the model.
        has_callbacks: Whether the trials ran with callbacks of the user's own.
        seed: Seed of weights, order and augmentation.
        threads: Threads of the trials on a CPU, which the script takes too; None: all there are.
    """
    batch_size = configuration.batch_size
    imports, model = _model(subject.model, build_model, configuration.model, data.num_classes)
    folders = {"data_dir": subject.data_dir, "records_dir": subject.records_dir}
    where = "".join(f", {name}={str(path)!r}" for name, path in folders.items() if path)
    dataset = "recipe" if subject.dataset == IN_PYTHON else repr(subject.dataset)
    if isinstance(subject.data, OwnData) and subject.data.kind == "function":
        where += "" if subject.batched is None else f", batched={subject.batched}"
        where += f", classes={data.num_classes is not None}"
    made = f"""\
{model}
learning_rate = tfbatch.schedules.LearningRateInExamples(
    {configuration.schedule.name!r},
    learning_rate={derived.learning_rate!r},
    batch_size={batch_size},
    total_examples={derived.total_examples},
    warmup_examples={derived.warmup_examples},
    parameters={configuration.schedule.arguments!r},
)
"""
    if compiled:
        made += _replace_optimizer(configuration, derived, execution)
    else:
        made += _compile(configuration, derived, subject.task, execution, data)
    if execution.strategy:  # batches of the global size, shared by all devices
        made = "with tf.distribute.MirroredStrategy().scope():\n" + textwrap.indent(made, "    ")
        imports.append("import tensorflow as tf")
    few = ""
    if threads is not None:
        imports = list(dict.fromkeys([*imports, "import tensorflow as tf"]))
        few = _THREADS.format(threads=threads)
    imports += _own(subject, compiled=compiled, has_callbacks=has_callbacks)
    policy = ""
    if execution.precision != "float32":
        policy = f"keras.config.set_dtype_policy({execution.precision!r})\n"
    own = ["*your_callbacks"] if has_callbacks else []
    weights = every_class_weight(
        subject.task.class_weight, data.weighted_classes or data.num_classes
    )
    test = """\
print("test:", model.evaluate(data.evaluation("test"), return_dict=True))
"""
    return f"""\
import keras
import tfbatch
{chr(10).join(imports)}

{few}data = tfbatch.load_data({dataset}{where})
{policy}keras.utils.set_random_seed({seed})
{made}model.fit(
    data.training(batch_size={batch_size}, seed={seed}, num_examples={derived.total_examples}),
    epochs={derived.epochs},
    steps_per_epoch={derived.steps_per_epoch},
    validation_data=data.evaluation("validation"),
    callbacks=[{", ".join([*own, *_callbacks(configuration, derived)])}],
{f"    class_weight={weights!r},{chr(10)}" if weights else ""}\
    shuffle=False,  # the stream is shuffled already
)
{test if "test" in data.splits else ""}"""


_THREADS = """\
# As in the trials: another number of threads rounds sums differently, and results differ.
tf.config.threading.set_intra_op_parallelism_threads({threads})
tf.config.threading.set_inter_op_parallelism_threads({threads})
"""


def _own(subject: ModelAndData, *, compiled: bool, has_callbacks: bool) -> list[str]:
    """Comments on names that the script uses and only the reader can define."""
    found, task = [], subject.task
    is_function = isinstance(subject.data, OwnData) and subject.data.kind == "function"
    if is_function and not is_importable(subject.dataset):
        found.append(f"# {subject.dataset} is your own: name it here as package.module:function")
    if subject.dataset == IN_PYTHON:
        found.append("# recipe is your own: the tfbatch recipe that the search was given")
    if not compiled and task.loss == IN_PYTHON:
        found.append("# loss is your own")
    if not compiled and IN_PYTHON in (task.metrics or ()):
        found.append("# metrics are your own")
    if has_callbacks:
        found.append("# your_callbacks is your own list of callbacks, as in the trials")
    return found


def _model(
    model: str,
    build_model: Callable[..., Any],
    arguments: Mapping[str, Any],
    num_classes: int | None,
) -> tuple[list[str], str]:
    """The lines that import a builder, and the lines that call it."""
    extra = [f"{name}={value!r}" for name, value in arguments.items()]
    if is_keras_application(model):
        call = ["weights=None", "input_shape=data.input_shape", "classes=data.num_classes"]
        call.append("classifier_activation=None")
        return [], f"model = keras.applications.{model}({', '.join(call)})"
    if ":" not in model:
        both = ["data.input_shape", "data.num_classes"]
        imported = f"from tfbatch.models.{model} import build"
        return [imported], f"model = build({', '.join([*both, *extra])})"
    module, function = model.split(":")
    imported = f"from {module} import {function}"
    if not is_importable(model):
        imported, function = f"# build_model is your own {function}", "build_model"
    asked = list(inspect.signature(build_model).parameters)
    # Without classes the builder's own default stands, as in the trials.
    offered = [name for name in _OF_THE_DATA if num_classes is not None or name != "num_classes"]
    given = [f"{name}=data.{name}" for name in asked if name in offered]
    if "hp" in asked:
        lines = f"hp = keras_tuner.HyperParameters()\nhp.values.update({dict(arguments)!r})\n"
        named = named_arguments(build_model, arguments)
        given += [f"{name}={value!r}" for name, value in named.items()]
        lines += f"model = {function}({', '.join([*given, 'hp=hp'])})"
        return ["import keras_tuner", imported], lines
    if not given and len(required_parameters(build_model)) == 2:  # (shape, classes)
        given = [f"data.{name}" for name in _OF_THE_DATA]
    return [imported], f"model = {function}({', '.join([*given, *extra])})"


_OF_THE_DATA = ("input_shape", "num_classes")


def _compile(
    configuration: Configuration,
    derived: Derived,
    task: Task,
    execution: Execution,
    data: DataDescription,
) -> str:
    kind = "CategoricalCrossentropy" if data.soft_labels else "SparseCategoricalCrossentropy"
    loss = f"keras.losses.{kind}(from_logits=True)"
    metrics = '["accuracy"]' if task.metrics is None else repr(list(task.metrics))
    if task.loss is not None:
        loss, metrics = repr(task.loss), repr(list(task.metrics or ()))
    if task.loss == IN_PYTHON:
        loss = "loss"
    if IN_PYTHON in (task.metrics or ()):
        metrics = "metrics"
    return f"""\
model.compile(
    optimizer={optimizer_call(configuration, derived)},
    loss={loss},
    metrics={metrics},
    steps_per_execution={derived.steps_per_execution},
    jit_compile={execution.jit_compile!r},
)
"""


def _replace_optimizer(configuration: Configuration, derived: Derived, execution: Execution) -> str:
    """A compiled model keeps everything but its optimizer's learning rate and numbers."""
    numbers = settings_beside(configuration.optimizer, derived.optimizer)
    changes = "".join(f", {k!r}: {v!r}" for k, v in numbers.items())
    scaled = execution.precision == "mixed_float16"
    old = "model.optimizer.inner_optimizer" if scaled else "model.optimizer"
    new = "type(optimizer).from_config(settings)"
    if scaled:
        new = f"""\
keras.optimizers.LossScaleOptimizer(
    {new},
    initial_scale=model.optimizer.initial_scale,
    dynamic_growth_steps=model.optimizer.dynamic_growth_steps,
)"""
    # "auto" keeps the builder's own; as an attribute it would be taken for True.
    own = execution.jit_compile == AUTOMATIC
    xla = "" if own else f"model.jit_compile = {execution.jit_compile}\n"
    return f"""\
optimizer = {old}
settings = optimizer.get_config() | {{"learning_rate": learning_rate{changes}}}
model.optimizer = {new}
model.steps_per_execution = {derived.steps_per_execution}
{xla}"""


def _callbacks(configuration: Configuration, derived: Derived) -> list[str]:
    schedule = configuration.schedule
    callbacks = []
    if derived.optimizer.get("ema_momentum"):
        # As in the trials, the average of the weights is what is evaluated.
        callbacks.append("keras.callbacks.SwapEMAWeights()")
    if make_family(schedule.name, **schedule.arguments).sets_momentum():
        callbacks.append("tfbatch.callbacks.ScheduledMomentum()")
    return [*callbacks, f"tfbatch.callbacks.StopAfterSteps({derived.steps})"]


def optimizer_call(configuration: Configuration, derived: Derived) -> str:
    """Such as "keras.optimizers.SGD(learning_rate, momentum=0.9, nesterov=False)"."""
    name = configuration.optimizer.name
    arguments = keras_arguments(name, derived.optimizer)
    written = "".join(f", {k}={v!r}" for k, v in arguments.items() if v is not None)
    return f"{module_of(name)}.{OPTIMIZERS.load(name).KERAS_NAME}(learning_rate{written})"
