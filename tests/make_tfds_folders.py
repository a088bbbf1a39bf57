"""Writes two data sets as TensorFlow Datasets folders, whose builders nobody else knows.

usage: python tests/make_tfds_folders.py DIR

DIR/unequal_signs/1.0.0: 43 unbalanced classes, images of 20 to 70 pixels, splits train and test.
DIR/fifty_patterns/fine/2.1.0: 50 classes, images of 64 x 64, the split train alone, two configs.

Each class has a pattern of its own, so that a model can learn them. The builders are local to the
functions and not registered: another process can read the folders, but not make them.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

SIGN_CLASSES = 43
PATTERN_CLASSES = 50


def sign_counts(scale=1):
    """Examples of each class, the largest with 25 times as many as the smallest."""
    return [
        scale * round(50 * 25 ** (-label / (SIGN_CLASSES - 1))) for label in range(SIGN_CLASSES)
    ]


def make_unequal_signs(data_dir, *, scale=1):
    """Writes `unequal_signs`; returns the folder of its version."""
    import tensorflow_datasets as tfds

    def generate(counts, seed):
        generator = np.random.default_rng(seed)
        for label, count in enumerate(counts):
            for number in range(count):
                height, width = (int(size) for size in generator.integers(20, 71, 2))
                image = _pattern(label, height, width, generator)
                yield f"{label:02d}-{number:04d}", {"sign": image, "kind": label}

    with tfds.core.registered.skip_registration():

        class UnequalSigns(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                features = {
                    "sign": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "kind": tfds.features.ClassLabel(num_classes=SIGN_CLASSES),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features)
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                counts = sign_counts(scale)
                few = [max(1, count // 4) for count in counts]
                return {"train": generate(counts, 1), "test": generate(few, 2)}

            def _generate_examples(self):
                raise NotImplementedError  # the generators above are its splits

    return _write(UnequalSigns(data_dir=data_dir))


def make_fifty_patterns(data_dir, *, per_class=12):
    """Writes `fifty_patterns/fine` and `/coarse`; returns the folder of the first one's version."""
    import tensorflow_datasets as tfds

    def generate(shift):
        generator = np.random.default_rng(shift)
        for number in range(PATTERN_CLASSES * per_class):
            label = number % PATTERN_CLASSES
            image = _pattern(label + shift, 64, 64, generator)
            yield number, {"image": image, "label": label, "number": number}

    with tfds.core.registered.skip_registration():

        class FiftyPatterns(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("2.1.0")
            BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=name) for name in ("fine", "coarse")]

            def _info(self):
                features = {
                    "image": tfds.features.Image(shape=(64, 64, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=PATTERN_CLASSES),
                    "number": np.int64,
                }
                return tfds.core.DatasetInfo(
                    builder=self,
                    features=tfds.features.FeaturesDict(features),
                    supervised_keys=("image", "label"),
                )

            def _split_generators(self, dl_manager):
                del dl_manager
                return {"train": generate(0 if self.builder_config.name == "fine" else 100)}

            def _generate_examples(self):
                raise NotImplementedError  # the generator above is its split

    _write(FiftyPatterns(data_dir=data_dir, config="coarse"))
    return _write(FiftyPatterns(data_dir=data_dir, config="fine"))


def _write(builder):
    import tensorflow_datasets as tfds

    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=2, compute_stats="skip")
    )
    return Path(builder.data_dir)


def _pattern(label, height, width, generator):
    """A class's 4 x 4 cells of colour, stretched to a size, under noise: uint8 [h, w, 3]."""
    cells = np.random.default_rng(label).uniform(40, 215, (4, 4, 3))
    rows, columns = (np.arange(size) * 4 // size for size in (height, width))
    noise = generator.normal(0, 20, (height, width, 3))
    return np.clip(cells[rows][:, columns] + noise, 0, 255).astype(np.uint8)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    print(make_unequal_signs(root))
    print(make_fifty_patterns(root))
