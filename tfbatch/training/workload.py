"""Data and model of a run: what all its trials have in common."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import random
import sys
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils.naming import reset_uids  # no public name does this alone

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, did_you_mean
from tfbatch.models import MODELS, check_model_name
from tfbatch.optimizers import OPTIMIZERS
from tfbatch.pipeline import EVALUATION_BATCH_SIZE, PreparedData
from tfbatch.schedules import LearningRateInExamples, follow_momentum
from tfbatch.training.derived import Derived, derive

BuildModel = Callable[..., Any]


class Workload:
    """A model builder and a prepared data set.

    Args:
        data: The prepared data.
        build_model: `build_model(input_shape, num_classes)` returns an uncompiled `keras.Model`
            with logits [batch, num_classes]; called anew for every trial.
        precision: Keras's dtype policy: "float32", "mixed_float16" or "mixed_bfloat16".
        jit_compile: Whether XLA compiles the model.
        strategy: A tf.distribute.Strategy that every model is built under, or None. The batch size
            is the global one: that of all replicas together.
    """

    def __init__(
        self,
        data: PreparedData,
        build_model: BuildModel,
        *,
        precision: str = "float32",
        jit_compile: bool = False,
        strategy: Any = None,
    ):
        self.data = data
        self.build_model = build_model
        self.precision = precision
        self.jit_compile = jit_compile
        self.strategy = strategy

    def scope(self) -> AbstractContextManager[Any]:
        """Where variables must be made: the strategy's scope, if there is one."""
        scope: AbstractContextManager[Any] = (
            self.strategy.scope() if self.strategy else contextlib.nullcontext()
        )
        return scope

    def derive(self, configuration: Configuration, total_examples: int) -> Derived:
        """See tfbatch.training.derived."""
        return derive(
            configuration,
            num_examples=self.data.num_examples("train"),
            total_examples=total_examples,
            replicas=self.replicas,
        )

    @property
    def replicas(self) -> int:
        """Devices that share every batch."""
        return int(self.strategy.num_replicas_in_sync) if self.strategy else 1

    def evaluation(self, split: str) -> tf.data.Dataset:
        """Every example of a split once, in batches that the replicas can share.

        Keras adds up the replicas' parts of the first batch, which must be of equal size, and a
        replica without an example in the last one would make the loss no number.
        """
        if self.replicas == 1:
            return self.data.evaluation(split)
        examples, share = self.data.num_examples(split), self.replicas
        sizes = range(EVALUATION_BATCH_SIZE // share * share, 0, -share)
        fitting = (b for b in sizes if b <= examples and examples % b not in range(1, share))
        return self.data.evaluation(split, batch_size=next(fitting))

    def build(self, seed: int, *, seed_tensorflow: bool = True) -> Any:
        """Builds an uncompiled model under a seed.

        Args:
            seed: The seed.
            seed_tensorflow: Whether TensorFlow's own global generator gets the seed too. That
                forgets every compiled kernel, 0.3 s of each trial; Keras's layers do not need it.

        Raises:
            InputError: The builder's result cannot be used.
        """
        # Names begin anew, so that two builds have equal configurations.
        # (`clear_session` would also forget every compiled kernel, 0.3 s of each trial.)
        reset_uids()
        keras.config.set_dtype_policy(self.precision)
        if seed_tensorflow:
            keras.utils.set_random_seed(seed)
        else:
            random.seed(seed)
            np.random.seed(seed)
        with self.scope():
            model = self.build_model(self.data.input_shape, self.data.num_classes)
        self._check_model(model)
        return model

    def optimizer(self, configuration: Configuration, total_examples: int) -> Any:
        """Makes a configuration's optimizer with its schedule.

        Raises:
            InputError: A plug-in's name or parameter.
        """
        derived = self.derive(configuration, total_examples)
        schedule = LearningRateInExamples(
            configuration.schedule.name,
            learning_rate=derived.learning_rate,
            batch_size=configuration.batch_size,
            total_examples=derived.total_examples,
            warmup_examples=derived.warmup_examples,
            parameters=configuration.schedule.arguments,
        )
        with self.scope():
            optimizer = make_optimizer(configuration, schedule)
        follow_momentum(optimizer)
        return optimizer

    def compile_arguments(self) -> dict[str, Any]:
        """What `Model.compile` gets beside the optimizer; losses and metrics are new objects."""
        return {
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "metrics": ["accuracy"],
            # Off by default: XLA compiles every batch size anew, and the short last batch too.
            "jit_compile": self.jit_compile,
        }

    def compiled(self, configuration: Configuration, *, total_examples: int, seed: int) -> Any:
        """Builds and compiles a model as plain Keras, sharing nothing with any other.

        Raises:
            InputError: The builder's result cannot be used, or a plug-in's name or parameter.
        """
        model = self.build(seed)
        derived = self.derive(configuration, total_examples)
        with self.scope():
            model.compile(
                optimizer=self.optimizer(configuration, total_examples),
                steps_per_execution=derived.steps_per_execution,
                **self.compile_arguments(),
            )
        return model

    def _check_model(self, model: Any) -> None:
        if not isinstance(model, keras.Model):
            raise InputError(
                f"The model builder must return a keras.Model. Received: {type(model).__name__}."
            )
        if model.compiled:
            raise InputError(
                "The model builder must return an uncompiled model: the optimizer and its "
                "learning rate are what is searched. Remove `compile` from the builder."
            )
        expected = (None, self.data.num_classes)
        if tuple(model.output_shape) != expected:
            raise InputError(
                f"The model must return logits of shape {expected} for {self.data.recipe.name}. "
                f"Received: output shape {model.output_shape}."
            )
        activation = getattr(model.layers[-1], "activation", None)
        if activation is keras.activations.softmax or isinstance(
            model.layers[-1], keras.layers.Softmax
        ):
            raise InputError(
                "The model must return logits, but its last layer is a softmax. Remove it: the "
                "loss applies it."
            )


def make_optimizer(configuration: Configuration, learning_rate: Any) -> Any:
    """Makes a configuration's optimizer with a learning rate or schedule.

    Raises:
        InputError: An unknown optimizer or parameter, or a value that it refuses.
    """
    chosen = configuration.optimizer
    module = OPTIMIZERS.load(chosen.name)
    for key in chosen.arguments:
        if key not in module.PARAMETERS:
            raise InputError(
                f"The optimizer {chosen.name} has no parameter `{key}`."
                f"{did_you_mean(key, module.PARAMETERS)} "
                f"Available: {', '.join(module.PARAMETERS)}."
            )
    # Keras refuses a momentum of 0 that is not 0.0.
    numbers = {k: float(v) if isinstance(v, int) else v for k, v in chosen.arguments.items()}
    for key, value in numbers.items():
        if not isinstance(value, float):
            raise InputError(f"`{key}` of {chosen.name} must be a number. Received: {value!r}.")
    try:
        return module.build(learning_rate, **numbers)
    except ValueError as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in numbers.items())
        raise InputError(f"{chosen.name} refuses {shown}: {error}") from error


def find_model_builder(name: str) -> BuildModel:
    """The builder of `name`: a file of tfbatch/models, or `package.module:function`.

    Modules are looked up as Python would from the current folder.

    Raises:
        InputError: There is no such model, module or function, or it cannot be called as
            `function(input_shape, num_classes)`.
    """
    check_model_name(name)
    if ":" not in name:
        by_name: BuildModel = MODELS.load(name).build
        return by_name
    module_name, function_name = name.split(":", 1)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise InputError(f"`--model={name}`: cannot import {module_name}: {error}.") from error
    except Exception as error:  # whatever the user's own module raises
        place = traceback.format_exc(limit=-1).splitlines()[1].strip()
        raise InputError(
            f"`--model={name}`: cannot import {module_name}: {type(error).__name__}: {error} "
            f"({place})."
        ) from error
    found = getattr(module, function_name, None)
    if not callable(found):
        functions = [key for key, value in vars(module).items() if callable(value)]
        raise InputError(
            f"`--model={name}`: {module_name} has no function `{function_name}`."
            f"{did_you_mean(function_name, functions)}"
        )
    check_builder(found)
    builder: BuildModel = found
    return builder


def check_builder(builder: BuildModel) -> None:
    """Refuses a builder that cannot be called as `builder(input_shape, num_classes)`.

    Raises:
        InputError: As it says.
    """
    try:
        inspect.signature(builder).bind((1, 1, 1), 2)
    except ValueError:  # some built-in callables do not tell
        return
    except TypeError as error:
        raise InputError(
            "A model builder must take (input_shape, num_classes). Received: "
            f"{getattr(builder, '__name__', builder)}{inspect.signature(builder)}."
        ) from error
