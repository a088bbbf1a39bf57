"""Sentences of unequal length, as strings, and a compiled model that begins with a tokenizer.

Run it with `python examples/text.py`. The vocabulary is learned once, outside the builder: the
builder is called for each trial and must not read the data again. `TextVectorization` is a layer
of the model, so the saved model takes plain strings.

The task: film reviews from a small grammar. A negation turns the word after it ("not good"), so
counting words is not enough, and one label in ten is wrong, so no model can exceed 90 %.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

import tfbatch

GOOD = ["good", "lovely", "clever", "funny", "moving"]
BAD = ["bad", "dull", "silly", "slow", "empty"]
THINGS = ["plot", "cast", "music", "dialogue", "ending"]
FILLERS = ["i think", "frankly", "on the whole", "as one expects", "for a sequel"]


def write_reviews(count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Reviews of one to five clauses, and whether most of their clauses praise: 0 or 1."""
    rng = np.random.default_rng(seed)
    texts, labels = [], []
    for _ in range(count):
        clauses, praise = [], 0
        for _ in range(rng.choice([1, 3, 5])):
            good, negated = rng.integers(2), rng.integers(2)
            opening = rng.choice(FILLERS) + " " if rng.random() < 0.4 else ""
            verdict = ("not " if negated else "") + rng.choice(GOOD if good else BAD)
            clauses.append(f"{opening}the {rng.choice(THINGS)} is {verdict}")
            praise += 1 if good != negated else -1
        wrong = rng.random() < 0.1
        texts.append(", ".join(clauses))
        labels.append((praise > 0) != wrong)
    return np.array(texts), np.array(labels, dtype=np.int64)


TRAIN = write_reviews(4_000, seed=0)
vectorize = keras.layers.TextVectorization(output_mode="int")
vectorize.adapt(TRAIN[0])
VOCABULARY = vectorize.get_vocabulary(include_special_tokens=False)


def build_model() -> keras.Model:
    """Embedding, convolution over neighboring words, and the mean over all of them."""
    texts = keras.Input((), dtype="string")
    tokens = keras.layers.TextVectorization(vocabulary=VOCABULARY)(texts)
    x = keras.layers.Embedding(len(VOCABULARY) + 2, 16)(tokens)
    x = keras.layers.Conv1D(32, 3, padding="same", activation="relu")(x)
    x = keras.layers.GlobalAveragePooling1D()(x)
    model = keras.Model(texts, keras.layers.Dense(1, activation="sigmoid")(x))
    model.compile(
        optimizer=keras.optimizers.Adam(0.003),
        loss="binary_crossentropy",
        metrics=["accuracy", keras.metrics.AUC(name="auc")],
    )
    return model


def main(
    *, max_trials: int = 9, trial_length: str = "4 epochs", **options: Any
) -> tfbatch.Result | tfbatch.NothingLearned:
    """Searches; `options` are further arguments of `find_batch_size`."""
    return tfbatch.find_batch_size(
        build_model,
        {"train": TRAIN, "validation": write_reviews(1_000, seed=1)},
        search="quick",
        objective="val_auc",
        max_trials=max_trials,
        trial_length=trial_length,
        **options,
    )


if __name__ == "__main__":
    result = main()
    print(result.summary())
    model = keras.saving.load_model(result.run_dir / "best.keras")
    print(f"{result.run_dir / 'best.keras'} takes plain strings:")
    review = "the plot is not good"
    print(f"    P(praise | {review!r}) = {model.predict(np.array([review]), verbose=0)[0, 0]:.2f}")
