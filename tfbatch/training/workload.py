"""Data and model of a run: what all its trials have in common."""

from __future__ import annotations

import contextlib
import copy
import inspect
import random
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras.src.utils.naming import reset_uids  # no public name does this alone

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.optimizers import build_optimizer, parameters_of
from tfbatch.pipeline.device_data import HeldData
from tfbatch.pipeline.elements import InputShape
from tfbatch.pipeline.trainable_data import EVALUATION_BATCH_SIZE, Data
from tfbatch.request.execution import JitCompile
from tfbatch.schedules import LearningRateInExamples, follow_momentum
from tfbatch.training.class_weights import every_class_weight
from tfbatch.training.compilation import (
    Compilation,
    check_is_model,
    check_model,
    compile_with,
    loss_of,
)
from tfbatch.training.content_checks import check_real, check_targets
from tfbatch.training.model_builder import BuildModel, asks_for_classes, call_builder
from tfbatch.training.own_optimizer import optimizer_like
from tfbatch.trial.derived import Derived, derive
from tfbatch.trial.optimizer_numbers import settings_beside


class Workload:
    """A model builder and a prepared data set.

    Args:
        data: The data.
        build_model: Returns a `keras.Model`: uncompiled, or compiled with its own loss; called
            anew for every trial. It gets `input_shape`, `num_classes` or `hp` if it asks for them.
        compilation: Loss and metrics of a model that is not compiled; class weights.
        precision: Keras's dtype policy: "float32", "mixed_float16" or "mixed_bfloat16".
        jit_compile: Whether XLA compiles the model; "auto" as Keras chooses.
        strategy: A tf.distribute.Strategy that every model is built under, or None. The batch size
            is the global one: that of all replicas together.
        held: The data in the device's memory, for programs; or None.
    """

    def __init__(
        self,
        data: Data,
        build_model: BuildModel,
        *,
        compilation: Compilation = Compilation(),  # noqa: B008 - frozen
        precision: str = "float32",
        jit_compile: JitCompile = False,
        strategy: tf.distribute.Strategy | None = None,
        held: HeldData | None = None,
    ):
        self.data = data
        self.held = held
        self.build_model = build_model
        self.compilation = compilation
        self.last_hyperparameters: Any = None
        self._inputs: Any = None
        self._spec: Any = None
        self.precision = precision
        self.jit_compile = jit_compile
        self.strategy = strategy

    def with_jit_compile(self, jit_compile: JitCompile) -> Workload:
        """The same data and model, compiled otherwise."""
        other = copy.copy(self)
        other.jit_compile = jit_compile
        return other

    def with_precision(self, precision: str) -> Workload:
        """The same data and model under another dtype policy."""
        other = copy.copy(self)
        other.precision = precision
        return other

    def scope(self) -> AbstractContextManager[object]:
        """Where variables must be made: the strategy's scope, if there is one."""
        scope: AbstractContextManager[Any] = (
            self.strategy.scope() if self.strategy else contextlib.nullcontext()
        )
        return scope

    def derive(self, configuration: Configuration, total_examples: int) -> Derived:
        """See tfbatch.trial.derived."""
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

    @property
    def class_weight(self) -> dict[int, float] | None:
        """What `Model.fit` is given as `class_weight`; None without any."""
        classes = self.data.content.weighted_classes(self.data.num_classes)
        return every_class_weight(self.compilation.class_weight, classes)

    def evaluation(self, split: str) -> tf.data.Dataset:
        """Every example of a split once, in batches that the replicas can share.

        Keras adds up the replicas' parts of the first batch, which must be of equal size, and a
        replica without an example in the last one would make the loss no number.

        Raises:
            InputError: The replicas cannot share a split.
        """
        if self.replicas == 1:
            return self.data.evaluation(split)
        size = shared_batch_size(split, self.data.num_examples(split), self.replicas)
        return self.data.evaluation(split, batch_size=size)

    def build(
        self,
        seed: int,
        *,
        arguments: Mapping[str, object] | None = None,
        seed_tensorflow: bool = True,
    ) -> keras.Model:
        """Builds a model under a seed.

        Args:
            seed: The seed.
            arguments: What a configuration gives the builder beside shape and classes.
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
            model = call_builder(
                self.build_model,
                input_shape=self.data.input_shape,
                num_classes=self.data.num_classes,
                arguments=arguments or {},
                hp=lambda: self._hyperparameters(arguments or {}),
            )
            check_model(model, self.data, self.compilation)
            outputs = getattr(model, "outputs", None)
            if not all(layer.built for layer in model._flatten_layers()):
                # A subclass or a Sequential that has not seen a shape yet.
                outputs = model(self._sample())
            check_real(model, self._element_spec())
            loss = loss_of(model, self.data, self.compilation)
            check_targets(model, self.data, loss, outputs=outputs)
        return model

    def _element_spec(self) -> Any:
        """What the data gives at a time."""
        if self._spec is None:
            self._spec = self.data.evaluation("validation").element_spec
        return self._spec

    def _sample(self) -> Any:
        """The inputs of a few validation examples."""
        if self._inputs is None:
            dataset = self.data.evaluation("validation", batch_size=2)
            self._inputs = next(iter(dataset))[0]
        return self._inputs

    def _hyperparameters(self, values: Mapping[str, Any]) -> Any:
        """KerasTuner's hyperparameters with a trial's values; what is asked of them is kept."""
        import keras_tuner  # only where a builder asks for them: importing takes a second

        self.last_hyperparameters = keras_tuner.HyperParameters()
        self.last_hyperparameters.values.update(values)
        return self.last_hyperparameters

    def optimizer(
        self, configuration: Configuration, derived: Derived, model: keras.Model
    ) -> keras.optimizers.Optimizer:
        """Makes a configuration's optimizer with its schedule.

        Args:
            configuration: The configuration.
            derived: What follows from it for the length of the training.
            model: The trial's build: a compiled one's optimizer keeps its class and settings.

        Raises:
            InputError: A plug-in's name or parameter.
        """
        schedule = LearningRateInExamples(
            configuration.schedule.name,
            learning_rate=derived.learning_rate,
            batch_size=derived.batch_size,
            total_examples=derived.total_examples,
            warmup_examples=derived.warmup_examples,
            parameters=configuration.schedule.arguments,
        )
        with self.scope():
            if model.compiled:
                numbers = settings_beside(configuration.optimizer, derived.optimizer)
                optimizer = optimizer_like(model.optimizer, numbers, schedule)
            else:
                optimizer = make_optimizer(configuration, schedule, derived)
        follow_momentum(optimizer)
        return optimizer

    def compile(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        *,
        steps_per_execution: int = 1,
    ) -> None:
        """Compiles a build with a trial's optimizer; see tfbatch.training.compilation."""
        with self.scope():
            compile_with(
                model,
                optimizer,
                arguments={} if model.compiled else self.compilation.arguments(self.data),
                jit_compile=self.jit_compile,
                steps_per_execution=steps_per_execution,
            )

    def compiled(
        self, configuration: Configuration, *, total_examples: int, seed: int
    ) -> keras.Model:
        """Builds and compiles a model as plain Keras, sharing nothing with any other.

        Raises:
            InputError: The builder's result cannot be used, or a plug-in's name or parameter.
        """
        model = self.build(seed, arguments=configuration.model)
        derived = self.derive(configuration, total_examples)
        optimizer = self.optimizer(configuration, derived, model)
        self.compile(model, optimizer, steps_per_execution=derived.steps_per_execution)
        return model


def shared_batch_size(split: str, examples: int, replicas: int) -> int:
    """The largest batch size that gives every replica examples of every batch of an evaluation.

    Raises:
        InputError: There is none: the split is too small.
    """
    for size in range(EVALUATION_BATCH_SIZE // replicas * replicas, 0, -replicas):
        if size <= examples and examples % size not in range(1, replicas):
            return size
    raise InputError(
        f"The {split} split must give each of the {replicas} replicas examples of every batch. "
        f"Received: {examples} examples, which no batch size divides so. Make it "
        f"{-(-examples // replicas) * replicas} examples, or train without `strategy`."
    )


def build_before_data(
    build_model: BuildModel,
    *,
    input_shape: InputShape,
    precision: str,
    strategy: tf.distribute.Strategy | None,
) -> keras.Model:
    """Builds a model before the data is read; two stands in for the number of classes.

    Raises:
        InputError: The builder does not return a model.
    """
    reset_uids()
    keras.config.set_dtype_policy(precision)
    keras.utils.set_random_seed(1)

    def hyperparameters() -> Any:
        import keras_tuner

        return keras_tuner.HyperParameters()

    optional = "num_classes" in inspect.signature(build_model).parameters
    stand_in = None if optional and not asks_for_classes(build_model) else 2
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = call_builder(
            build_model,
            input_shape=input_shape,
            num_classes=stand_in,
            arguments={},
            hp=hyperparameters,
        )
    check_is_model(model)
    return model


def make_optimizer(
    configuration: Configuration,
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule,
    derived: Derived,
) -> keras.optimizers.Optimizer:
    """Makes a configuration's optimizer with a learning rate or schedule.

    Raises:
        InputError: An unknown optimizer, or a value that it refuses.
    """
    name = configuration.optimizer.name
    try:
        return build_optimizer(name, learning_rate, **derived.optimizer)
    except ValueError as error:
        defaults = parameters_of(name)
        shown = ", ".join(f"{k}={v!r}" for k, v in derived.optimizer.items() if v != defaults[k])
        raise InputError(f"{name} refuses {shown}: {error}") from error
