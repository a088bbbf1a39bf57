"""A model with its own `train_step`: an autoencoder that must remove noise.

Run it with `python examples/custom_train_step.py`. tfbatch trains with the model's own
`train_step`, under its own optimizer class, and searches batch size, learning rate and schedule.

`@tfbatch.reusable` promises that the class behaves as its arguments and weights say: all of what
`train_step` depends on is in `get_config`. Trials of one batch size then share one traced program.
Without the promise, tfbatch cannot see what your methods depend on, and traces the model anew in
each trial: the results are the same, each trial only begins some seconds later. Do not promise it
for a class whose methods read a global or a counter that changes between trials.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from sklearn.datasets import load_digits

import tfbatch

images = (load_digits().data / 16).astype("float32")


@tfbatch.reusable
class DenoisingAutoencoder(keras.Model):
    """Sees the input with noise added, and must give it back without.

    Args:
        units: Size of the code in the middle.
        noise: Standard deviation of the noise.
    """

    def __init__(self, units: int, noise: float, **arguments: Any):
        super().__init__(**arguments)
        self.units, self.noise = units, noise
        self.encoder = keras.layers.Dense(units, activation="relu")
        self.decoder = keras.layers.Dense(images.shape[1])

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """The input, through the narrow code."""
        return self.decoder(self.encoder(inputs))

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """One update; the learning rate is the optimizer's."""
        x, y = data
        noisy = x + self.noise * tf.random.normal(tf.shape(x))
        with tf.GradientTape() as tape:
            y_pred = self(noisy, training=True)
            loss = self.compute_loss(x=x, y=y, y_pred=y_pred)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return self.compute_metrics(x, y, y_pred)

    def get_config(self) -> dict[str, Any]:
        """The arguments, from which Keras makes the model again."""
        return {**super().get_config(), "units": self.units, "noise": self.noise}


def build_model() -> keras.Model:
    """A compiled autoencoder."""
    model = DenoisingAutoencoder(units=24, noise=0.2)
    model.compile(optimizer=keras.optimizers.Adam(0.003), loss="mse")
    return model


def main(
    *, max_trials: int = 9, trial_length: str = "20 epochs", **options: Any
) -> tfbatch.Result | tfbatch.NothingLearned:
    """Searches; `options` are further arguments of `find_batch_size`."""
    return tfbatch.find_batch_size(
        build_model,
        (images, images),
        search="quick",
        objective="val_loss",
        max_trials=max_trials,
        trial_length=trial_length,
        **options,
    )


if __name__ == "__main__":
    result = main()
    print(result.summary())
    print(f"The trained model: keras.saving.load_model('{result.run_dir / 'best.keras'}',")
    print("    custom_objects={'DenoisingAutoencoder': DenoisingAutoencoder})")
