"""Made data: what can be learned of it is exactly what its source says."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tfbatch.errors import ConfigurationError, InputError
from tfbatch.sources import SOURCES, make_source


def arrays(source, split="train"):
    examples = [e for _, e in source.examples(split, None)]
    return np.stack([e["image"] for e in examples]), np.array([e["label"] for e in examples])


@pytest.mark.parametrize(("classes", "label_noise"), [(10, 0.1), (2, 0.3), (7, 0.0)])
def test_who_knows_the_patterns_reaches_the_limits_and_no_more(classes, label_noise):
    source = make_source("synthetic", classes=classes, label_noise=label_noise, train=4000, size=8)
    images, labels = arrays(source)

    distances = ((images[:, None] - source._patterns()[None]) ** 2).sum(axis=(2, 3, 4))
    right = distances.argmin(axis=1) == labels

    error = math.sqrt(label_noise * (1 - label_noise) / 4000)
    assert abs(right.mean() - source.best_accuracy) <= 5 * error
    probability = np.where(right, 1 - label_noise, label_noise / (classes - 1))
    loss = -np.log(probability[probability > 0]).mean()
    odds = math.log((1 - label_noise) * (classes - 1) / label_noise) if label_noise else 0
    assert abs(loss - source.least_loss) <= 5 * error * odds + 1e-12


def test_the_least_loss_of_two_classes_is_the_entropy_of_the_noise():
    assert make_source("synthetic", classes=2, label_noise=0.5).least_loss == math.log(2)
    assert make_source("synthetic", label_noise=0).least_loss == 0


def test_classes_are_equally_large_before_the_noise():
    _, labels = arrays(make_source("synthetic", classes=3, train=100, label_noise=0))

    assert np.bincount(labels).tolist() == [34, 33, 33]


def test_splits_share_their_patterns_and_no_image():
    source = make_source("synthetic", train=50, validation=40, test=30, size=4)
    sets = {s: {e["image"].tobytes() for _, e in source.examples(s, None)} for s in SPLITS}

    assert [len(sets[split]) for split in SPLITS] == [50, 40, 30]
    assert not sets["train"] & sets["test"]
    assert not sets["validation"] & sets["test"]


SPLITS = ("train", "validation", "test")


def test_another_seed_gives_other_data():
    one, other = (arrays(make_source("synthetic", seed=seed, train=20)) for seed in (0, 1))

    assert (one[0] != other[0]).any()
    assert (one[1] != other[1]).any()


def from_text(text):
    return SOURCES.load("synthetic").Source.from_text(text, data_dir=None)


def test_a_text_gives_what_it_names_and_leaves_the_rest():
    source = from_text("classes=5, size=8,label_noise=0.25,channels=1")

    assert source == make_source("synthetic", classes=5, size=8, label_noise=0.25, channels=1)
    assert from_text("") == make_source("synthetic")


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("classes", InputError, r"KEY=VALUE, such as .* Received: 'classes'\."),
        ("clases=3", ConfigurationError, r"clases: is not a known key\. Did you mean `classes`\?"),
        ("classes=1", ConfigurationError, "classes: Input should be greater than or equal to 2"),
        ("channels=x", ConfigurationError, r"channels: Input should be 1, 3 or 4\. Received: 'x'"),
        ("label_noise=0.6", ConfigurationError, "label_noise: Input should be less than or equal"),
        ("size=8.5", ConfigurationError, "size: Input should be a valid integer"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        from_text(text)
