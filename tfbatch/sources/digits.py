"""scikit-learn's embedded digits: 1,797 images of 8 x 8, no download."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tfbatch.dataset_info.recipe import Example
from tfbatch.errors import InputError
from tfbatch.sources._source import Description, SourceBase

_ORDER_SEED = 20181206  # the original order follows the writers


class Source(SourceBase):
    """One split, "train", with all images; pixels 0-16 become 0-255."""

    def identity(self, data_dir: Path | None) -> dict[str, object]:
        """See SourceBase."""
        del data_dir
        return {"dataset": "sklearn digits", "order_seed": _ORDER_SEED}

    def describe(self, data_dir: Path | None) -> Description:
        """See SourceBase."""
        count = self.num_examples("train", data_dir)
        return Description(
            num_classes=10, splits={"train": count}, size=(8, 8), channels=1, encoded=False
        )

    def num_examples(self, split: str, data_dir: Path | None) -> int:
        """See SourceBase."""
        del data_dir
        if split != "train":
            raise InputError(f"The source digits has only the split `train`. Received: {split!r}.")
        return 1797

    def examples(self, split: str, data_dir: Path | None) -> Iterator[tuple[str, Example]]:
        """See SourceBase."""
        from sklearn.datasets import load_digits

        count = self.num_examples(split, data_dir)
        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
        for index in np.random.default_rng(_ORDER_SEED).permutation(count):
            yield (
                f"digits-{index:04d}",
                {
                    "image": pixels[index],
                    "label": int(digits.target[index]),
                },
            )
