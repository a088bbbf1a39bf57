"""How a model is compiled: the loss and metrics of its task, or what its builder compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import keras

from tfbatch.errors import InputError, did_you_mean
from tfbatch.pipeline.trainable_data import Data
from tfbatch.request.execution import AUTOMATIC, JitCompile
from tfbatch.schema import JsonObject
from tfbatch.training.by_value import copied
from tfbatch.training.class_weights import check_class_weight
from tfbatch.training.content_checks import text_targets

_ALIASES = ("accuracy", "acc", "crossentropy", "ce")
"""Metrics that `Model.compile` resolves by the loss."""


@dataclasses.dataclass(frozen=True)
class Compilation:
    """What a user gives beside a model that is not compiled.

    Attributes:
        loss: A Keras loss, its name, or a function; None for classification by logits.
        metrics: Keras metrics, their names, or functions, in a list, or in a dict of lists by the
            model's outputs; None for accuracy with the default loss.
        class_weight: Weight of each class in the training loss, as `Model.fit` takes it.
    """

    loss: object = None
    metrics: Sequence[object] | Mapping[str, object] | None = None
    class_weight: dict[int, float] | None = None

    def arguments(self, data: Data) -> JsonObject:
        """Loss and metrics as `Model.compile` takes them; new objects at every call."""
        metrics = None if self.metrics is None else _copied(self.metrics)
        if self.loss is not None:
            return {"loss": _copied(self.loss), "metrics": metrics or []}
        loss: Any = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        if data.soft_labels:
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"] if metrics is None else metrics}


def _copied(part: Any) -> Any:
    """A metric has variables, which two models must not share; functions and names are shared."""
    kerass = keras.metrics.Metric | keras.losses.Loss
    structure = dict(part) if isinstance(part, Mapping) else part
    structure = list(structure) if isinstance(structure, tuple) else structure
    if any(isinstance(leaf, kerass) for leaf in keras.tree.flatten(structure)):
        return copied(structure)
    return structure


def compile_with(
    model: keras.Model,
    optimizer: keras.optimizers.Optimizer,
    *,
    arguments: dict[str, object],
    jit_compile: JitCompile,
    steps_per_execution: int = 1,
) -> None:
    """Compiles a model; one that its builder compiled keeps all but the optimizer.

    Args:
        model: A built model.
        optimizer: The trial's optimizer.
        arguments: `Compilation.arguments`, for a model that is not compiled.
        jit_compile: Whether XLA compiles it; "auto" for Keras's own choice, or for that of a
            builder that compiles it.
        steps_per_execution: Updates in one call of the compiled function.
    """
    if not model.compiled:
        model.compile(
            optimizer=optimizer,
            jit_compile=jit_compile,
            steps_per_execution=steps_per_execution,
            **arguments,
        )
        return
    if settings := scaling_settings(model.optimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, **settings)
    model.optimizer = optimizer
    if jit_compile != AUTOMATIC:
        model.jit_compile = jit_compile
    model.steps_per_execution = steps_per_execution
    kept = getattr(model, "_compile_config", None)
    if kept is not None:  # what `save` writes
        kept.config["optimizer"] = optimizer


def scaling_settings(optimizer: object) -> dict[str, float]:
    """The numbers of an optimizer that scales the loss; nothing for any other."""
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return {}
    names = ("initial_scale", "dynamic_growth_steps")
    return {name: getattr(optimizer, name) for name in names}


def uses_xla(model: keras.Model, jit_compile: JitCompile) -> bool:
    """Whether XLA compiles a build, as `compile_with` leaves it.

    `Trainer.jit_compile` of a model that is not compiled is what Keras makes of "auto": XLA unless
    the machine has only CPUs, a tf.distribute strategy is set, operations are deterministic or a
    layer does not support it.
    """
    return bool(model.jit_compile if jit_compile == AUTOMATIC else jit_compile)


def check_is_model(model: object) -> None:
    """Refuses a builder's result that is not a Keras model.

    Raises:
        InputError: It is something else.
    """
    if not isinstance(model, keras.Model):
        raise InputError(
            f"The model builder must return a keras.Model. Received: {type(model).__name__}."
        )


def check_model(model: keras.Model, data: Data, compilation: Compilation) -> None:
    """Refuses a model that cannot be trained as it is.

    Raises:
        InputError: It is not a Keras model, has several optimizers, or does not fit data and loss;
            a loss, a metric or a class that does not exist.
    """
    check_is_model(model)
    _refuse_one_batch_size(model)
    optimizers = {
        id(value): type(value).__name__
        for value in vars(model).values()
        if isinstance(value, keras.optimizers.Optimizer)
    }
    if len(optimizers) > 1:
        raise InputError(
            "A model with several optimizers has several learning rates, and tfbatch searches one: "
            f"train it with one optimizer. Received: {', '.join(sorted(optimizers.values()))}."
        )
    check_class_weight(compilation.class_weight, data)
    if model.compiled:
        _refuse_given(compilation)
        _check_names("loss", "losses", keras.tree.flatten(model.loss))
        _check_names("metrics", "metrics", keras.tree.flatten(_compiled_metrics(model)))
        return
    _check_names("loss", "losses", keras.tree.flatten(compilation.loss))
    _check_names("metrics", "metrics", keras.tree.flatten(compilation.metrics))
    if compilation.loss is None:
        _check_classifier(model, data)


def _refuse_one_batch_size(model: keras.Model) -> None:
    fixed = [s[0] for s in _input_shapes(model) if s and s[0] is not None]
    recurrent = keras.layers.RNN | keras.layers.Bidirectional
    stateful = [
        layer.name
        for layer in model._flatten_layers()
        if isinstance(layer, recurrent) and layer.stateful
    ]
    if not fixed and not stateful:
        return
    alone = f"The model is built for batches of {fixed[0]} examples alone" if fixed else ""
    alone = alone or f"The layer `{stateful[0]}` builds the model for batches of one size alone"
    raise InputError(
        f"{alone}, and the batch size is what is searched. Leave the batch dimension open: "
        "keras.Input(shape=...), and no recurrent layer with stateful=True."
    )


def loss_of(model: keras.Model, data: Data, compilation: Compilation) -> object:
    """The loss that a model is or will be compiled with, as `Model.compile` takes it."""
    return model.loss if model.compiled else compilation.arguments(data)["loss"]


def compiled_parts(model: keras.Model) -> dict[str, object]:
    """The loss, its weights and the metrics that a model's builder compiled, as it gave them."""
    kept = getattr(model, "_compile_loss", None)
    return {
        "loss": model.loss,
        "loss_weights": getattr(kept, "_user_loss_weights", None),
        "metrics": _compiled_metrics(model),
    }


def _compiled_metrics(model: Any) -> list[Any]:
    """The metrics that a model's builder compiled, as it gave them; Keras has no public name."""
    kept = getattr(model, "_compile_metrics", None)
    return [getattr(kept, name, None) for name in ("_user_metrics", "_user_weighted_metrics")]


def _input_shapes(model: Any) -> list[tuple[int | None, ...]]:
    """Shapes of a functional model's inputs; nothing for a subclass, which has none."""
    try:
        return [tuple(x.shape) for x in model.inputs or []]
    except (AttributeError, ValueError):  # a Sequential that is not built
        return []


def _refuse_given(compilation: Compilation) -> None:
    given = [name for name in ("loss", "metrics") if getattr(compilation, name) is not None]
    if given:
        raise InputError(
            f"The model is compiled in its builder, so `{given[0]}` cannot be given too. Leave it "
            "out, or remove `compile` from the builder."
        )


def _check_names(argument: str, where: str, names: Iterable[Any]) -> None:
    """Keras would say it where the model is compiled, in every trial, with a traceback."""
    module = getattr(keras, where)
    for name in names:
        if not isinstance(name, str) or name in _ALIASES:
            continue
        try:
            module.get(name)
        except ValueError as error:
            aliases = _ALIASES if argument == "metrics" else ()
            close = did_you_mean(name, [*aliases, *dir(module)])
            raise InputError(
                f"`{argument}` must be known to Keras. Received: {name!r}.{close} "
                f"It is one of keras.{where}, or the object itself in Python."
            ) from error


def _check_classifier(model: Any, data: Data) -> None:
    if data.num_classes is None:
        if text := text_targets(data):
            raise InputError(f"Without a loss, the targets of {data.name} must be classes. {text}")
        raise InputError(
            f"The targets of {data.name} are not classes (neither whole numbers from 0 nor "
            "one-hot rows), so the loss must be given: compile the model in its builder, or give "
            'loss= (--loss), such as "mse".'
        )
    expected = (None, data.num_classes)
    if getattr(model, "output_shape", expected) != expected:
        raise InputError(
            f"The model must return logits of shape {expected} for {data.name}. "
            f"Received: output shape {model.output_shape}. For another task compile the model in "
            'its builder, or give loss= (--loss), such as "mse".'
        )
    last = model.layers[-1] if model.layers else None
    activation = getattr(last, "activation", None)
    if activation is keras.activations.softmax or isinstance(last, keras.layers.Softmax):
        raise InputError(
            "The model must return logits, but its last layer is a softmax. Remove it: the "
            "loss applies it. (Or compile the model in its builder, with a loss of your own.)"
        )
