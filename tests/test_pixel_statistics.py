"""Normalization that a recipe leaves out: exact, kept in the manifest, used by the pipeline."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tensorflow as tf

from tfbatch.errors import DataError
from tfbatch.pipeline import PreparedData
from tfbatch.pipeline.normalization import make_normalize
from tfbatch.records.manifest import load_manifest
from tfbatch.records.writer import write_records


@pytest.fixture
def write(make_recipe, tiny_examples, tmp_path):
    """Writes the tiny records, with one change of each training image; returns recipe, folder."""

    def write_changed(change=lambda image: image, **changes):
        def examples():
            for split, key, e in tiny_examples(train=11):
                image = change(e["image"]) if split == "train" else e["image"]
                if recipe.features.image.stored == "encoded":
                    image = tf.io.encode_png(image).numpy()
                yield split, key, {**e, "image": image}

        recipe = make_recipe(**{"normalization": None, **changes})
        folder = tmp_path / "records" / recipe.records_hash({})
        write_records(folder, recipe=recipe, examples=examples)
        return recipe, folder

    return write_changed


def training_images(tiny_examples):
    return np.stack([e["image"] for s, _, e in tiny_examples(train=11) if s == "train"]) / 255


@pytest.mark.parametrize("stored", ["raw", "encoded"])
def test_mean_and_deviation_are_those_of_the_training_split_alone(write, tiny_examples, stored):
    features = {
        "image": {"kind": "image", "shape": [4, 6, 3], "stored": stored},
        "label": {"kind": "label", "num_classes": 3},
    }
    _, folder = write(features=features)

    measured = load_manifest(folder).normalization

    pixels = training_images(tiny_examples)
    np.testing.assert_allclose(measured.mean, pixels.mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(measured.standard_deviation, pixels.std(axis=(0, 1, 2)), rtol=1e-12)


def test_batches_are_normalized_with_what_was_measured(write, tiny_examples):
    recipe, folder = write()

    images = np.concatenate(
        [x for x, _ in PreparedData(recipe, folder).evaluation("test").as_numpy_iterator()]
    )

    pixels = training_images(tiny_examples)
    test = np.stack([e["image"] for s, _, e in tiny_examples() if s == "test"]) / 255
    want = (test - pixels.mean(axis=(0, 1, 2))) / pixels.std(axis=(0, 1, 2))
    np.testing.assert_allclose(images, want, rtol=1e-4, atol=1e-5)


def test_a_channel_whose_pixels_are_all_alike_becomes_0_and_not_nan(write):
    def blank(image):
        return np.where([False, True, False], np.uint8(51), image)

    recipe, folder = write(blank)
    data = PreparedData(recipe, folder)

    assert data.manifest.normalization.mean[1] == pytest.approx(0.2)
    assert data.manifest.normalization.standard_deviation[1] == 1.0
    images = np.concatenate([x for x, _ in data.evaluation("train").as_numpy_iterator()])
    np.testing.assert_allclose(images[..., 1], 0, atol=1e-6)


def test_what_a_recipe_gives_is_used_and_nothing_is_measured(write, make_recipe):
    given = {"mean": [0, 0, 0], "standard_deviation": [1, 1, 1]}
    recipe, folder = write(normalization=given)

    assert load_manifest(folder).normalization is None
    images = np.concatenate(
        [x for x, _ in PreparedData(recipe, folder).evaluation("test").as_numpy_iterator()]
    )
    assert images.min() >= 0


def test_records_with_a_measured_normalization_are_other_records(make_recipe):
    given, measured = make_recipe(), make_recipe(normalization=None)

    assert given.records_hash({}) != measured.records_hash({})


def test_a_manifest_from_before_there_was_a_measured_normalization_is_still_read(write):
    given = {"mean": [0, 0, 0], "standard_deviation": [1, 1, 1]}
    recipe, folder = write(normalization=given)
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["normalization"], manifest["features"]["image"]["resize"]
    (folder / "manifest.json").write_text(json.dumps(manifest))

    assert PreparedData(recipe, folder).num_examples("train") == 11
    without = recipe.model_copy(update={"normalization": None})
    with pytest.raises(
        DataError, match="contain no measured normalization, and its recipe has none"
    ):
        PreparedData(without, folder)


def test_images_of_one_channel_take_the_short_way(make_recipe):
    """One number for all channels is applied by one operation."""
    recipe = make_recipe(normalization=None)
    measured = make_recipe(
        normalization={"mean": [0.5] * 3, "standard_deviation": [0.25] * 3}
    ).normalization

    got = make_normalize(recipe, measured)(tf.zeros([1, 4, 6, 3], tf.uint8))

    np.testing.assert_allclose(got, -2.0, rtol=1e-6)
