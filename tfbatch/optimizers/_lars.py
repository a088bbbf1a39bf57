"""The Keras class behind the plug-in `lars`."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfbatch.errors import InputError


@keras.saving.register_keras_serializable(package="tfbatch")
class LARS(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Layer-wise adaptive rate scaling: SGD whose step is a fixed share of each layer's weights.

    Example:
        ```python
        optimizer = tfbatch.optimizers.LARS(learning_rate=2.0, momentum=0.9, weight_decay=1e-4)
        model.compile(optimizer=optimizer, loss="sparse_categorical_crossentropy")
        model.fit(x, y, batch_size=4096)
        ```

    For each weight tensor w with gradient g:

    ```python
    trust_ratio = trust_coefficient * norm(w) / (norm(g) + weight_decay * norm(w))
    velocity = momentum * velocity + learning_rate * trust_ratio * (g + weight_decay * w)
    w -= velocity
    ```

    The trust ratio is 1 where the norm of w or the denominator is 0. Without weight decay a step
    does not depend on the scale of the gradient. The velocity contains the learning rate, as in
    the paper and in Keras's SGD. Norms are computed in float32 or wider.

    Source: You, Gitman, Ginsburg 2017, "Large Batch Training of Convolutional Networks", arXiv
    1708.03888, algorithm 1. The paper adapts every tensor. As is common practice since, biases and
    the gains and offsets of normalization layers are left out by default, since their norms say
    little: they get plain SGD with momentum, without trust ratio and weight decay. Mind that the
    learning rate of LARS is large: beyond about 1, biases of a small network can diverge by it, and
    `exclude_vectors=False` is the safe choice.

    Args:
        learning_rate: A float, a schedule, or a callable without arguments.
        momentum: Decay of the velocity in each step, in [0, 1).
        trust_coefficient: The share of a layer's norm that a step with learning rate 1 moves it;
            positive.
        weight_decay: L2 coefficient, part of the gradient and of the trust ratio: not decoupled.
            None or 0 is off. What `exclude_from_weight_decay` names has none.
        exclude_vectors: Whether tensors of fewer than two dimensions (biases, gains, offsets) get
            plain SGD with momentum. False is the paper's algorithm.
        clipnorm: See `keras.optimizers.Optimizer`, as all that follow.
        clipvalue: A gradient's elements are clipped to +- this.
        global_clipnorm: The norm of all gradients together is clipped to this.
        use_ema: Whether to keep an average of the weights.
        ema_momentum: Its decay in each step.
        ema_overwrite_frequency: The average replaces the weights every this many steps.
        loss_scale_factor: The loss is multiplied, the gradient divided by it.
        gradient_accumulation_steps: Keras's own accumulation; rather use `tfbatch.accumulated`.
        name: Name of the optimizer.

    Raises:
        InputError: A number out of its range.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1.0,
        momentum: float = 0.9,
        trust_coefficient: float = 0.001,
        weight_decay: float | None = None,
        exclude_vectors: bool = True,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        use_ema: bool = False,
        ema_momentum: float = 0.99,
        ema_overwrite_frequency: int | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "lars",
        **kwargs: object,
    ):
        if not 0 <= momentum < 1:
            raise InputError(f"`momentum` must be in [0, 1). Received: {momentum=}.")
        if not trust_coefficient > 0:
            raise InputError(f"`trust_coefficient` must be > 0. Received: {trust_coefficient=}.")
        if weight_decay is not None and not weight_decay >= 0:
            raise InputError(f"`weight_decay` must be >= 0 or None. Received: {weight_decay=}.")
        super().__init__(
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            use_ema=use_ema,
            ema_momentum=ema_momentum,
            ema_overwrite_frequency=ema_overwrite_frequency,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
            **kwargs,
        )
        self.momentum = float(momentum)
        self.trust_coefficient = float(trust_coefficient)
        self.exclude_vectors = exclude_vectors

    def build(self, variables: list[keras.Variable]) -> None:
        """Makes one velocity for each weight tensor."""
        if self.built:
            return
        super().build(variables)
        self._velocities = self.add_optimizer_variables(variables, "velocity")

    def update_step(
        self,
        gradient: keras.KerasTensor,
        variable: keras.Variable,
        learning_rate: keras.KerasTensor,
    ) -> None:
        """Updates one weight tensor and its velocity."""
        dtype = variable.dtype
        learning_rate = ops.cast(learning_rate, dtype)
        if isinstance(gradient, tf.IndexedSlices):  # of an embedding: a row for each occurrence
            gradient = tf.convert_to_tensor(gradient)
        gradient = ops.cast(gradient, dtype)
        velocity = self._velocities[self._get_variable_index(variable)]
        if not (self.exclude_vectors and len(variable.shape) < 2):
            weight = ops.convert_to_tensor(variable)
            decay = (self.weight_decay or 0.0) if self._use_weight_decay(variable) else 0.0
            ratio = ops.cast(self._trust_ratio(weight, gradient, decay), dtype)
            gradient = ratio * (gradient + decay * weight if decay else gradient)
        self.assign(velocity, self.momentum * velocity + learning_rate * gradient)
        self.assign_sub(variable, velocity)

    def _trust_ratio(self, weight: Any, gradient: Any, decay: float) -> Any:
        weight_norm, gradient_norm = _norm(weight), _norm(gradient)
        below = gradient_norm + decay * weight_norm
        defined = ops.logical_and(weight_norm > 0, below > 0)
        ratio = self.trust_coefficient * weight_norm / ops.where(defined, below, 1.0)
        return ops.where(defined, ratio, 1.0)

    def _apply_weight_decay(self, variables: list[Any]) -> None:
        """Keras's decoupled decay: here the decay is part of the gradient."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "trust_coefficient": self.trust_coefficient,
            "exclude_vectors": self.exclude_vectors,
        }


def _norm(tensor: Any) -> Any:
    """The Euclidean norm of all elements; float16 would overflow at 256 elements of 16."""
    wide = ops.cast(tensor, keras.backend.result_type(tensor.dtype, "float32"))
    return ops.sqrt(ops.sum(ops.square(wide)))
