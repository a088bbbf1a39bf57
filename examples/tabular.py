"""Regression on a table: named columns, sample weights, and a compiled model.

Run it with `python examples/tabular.py`. The model keeps the Adam, the loss and the metrics that
it was compiled with; tfbatch replaces the learning rate and its schedule. Where no validation
split is given, tfbatch takes a fifth of the training data.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from sklearn.datasets import load_diabetes

import tfbatch

TABLE, PROGRESSION = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
COLUMNS = [name for name in TABLE.columns if name != "sex"]
inputs = {
    "numbers": TABLE[COLUMNS].to_numpy("float32"),
    "sex": TABLE["sex"].to_numpy("int64") - 1,
}
target = (PROGRESSION.to_numpy("float32") - PROGRESSION.mean()) / PROGRESSION.std()
# The patients over 60 are few; here each counts twice.
sample_weight = np.where(TABLE["age"] > 60, 2.0, 1.0).astype("float32")

normalization = keras.layers.Normalization()
normalization.adapt(inputs["numbers"])
MEAN, VARIANCE = np.ravel(normalization.mean), np.ravel(normalization.variance)


def build_model() -> keras.Model:
    """A small network; `Normalization` has the mean and the variance of the columns."""
    numbers = keras.Input((len(COLUMNS),), name="numbers")
    sex = keras.Input((), dtype="int64", name="sex")
    x = keras.layers.Normalization(mean=MEAN, variance=VARIANCE)(numbers)
    x = keras.layers.Concatenate()([x, keras.layers.CategoryEncoding(2, "one_hot")(sex)])
    x = keras.layers.Dense(32, activation="relu")(x)
    model = keras.Model({"numbers": numbers, "sex": sex}, keras.layers.Dense(1)(x))
    model.compile(
        optimizer=keras.optimizers.Adam(0.003, clipnorm=1.0),
        loss="mse",
        metrics=["mae"],
        weighted_metrics=[keras.metrics.MeanSquaredError(name="weighted_mse")],
    )
    return model


def main(
    *, max_trials: int = 9, trial_length: str = "40 epochs", **options: Any
) -> tfbatch.Result | tfbatch.NothingLearned:
    """Searches; `options` are further arguments of `find_batch_size`."""
    return tfbatch.find_batch_size(
        build_model,
        (inputs, target, sample_weight),
        search="quick",
        objective="val_mae",
        batch_sizes=[8, 16, 32],
        callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=15)],
        max_trials=max_trials,
        trial_length=trial_length,
        **options,
    )


if __name__ == "__main__":
    result = main()
    print(result.summary())
    print("All trials, best first:")
    trials = result.to_dataframe().sort_values("score")
    print(trials[["batch_size", "learning_rate", "score"]].head().to_string(index=False))
