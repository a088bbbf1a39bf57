"""Made images that can be learned up to a known limit; no data, no download."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from tfbatch.dataset_info.recipe import SPLITS, Example
from tfbatch.errors import InputError
from tfbatch.schema import validate
from tfbatch.sources._source import Description, SourceBase, check_split

_CELLS = 4
"""A class's pattern is this many cells high and wide."""


class Source(SourceBase):
    """Each class is a pattern of 4 x 4 cells; an example is its pattern under noise.

    An example's label is replaced, with the probability `label_noise`, by another class drawn
    evenly, in all splits alike. So nothing can be more accurate than `best_accuracy`, and no mean
    cross entropy is expected below `least_loss`; the noise of the pixels hides no pattern of 16
    pixels or more:

        def best_accuracy():
            return 1 - label_noise

        def least_loss():
            p, others = label_noise, classes - 1
            return -(1 - p) * log(1 - p) - p * log(p / others)

    Attributes:
        classes: Number of classes.
        size: Height and width, in pixels.
        channels: 1, 3 or 4.
        train: Number of training examples.
        validation: Number of validation examples.
        test: Number of test examples.
        label_noise: Probability of a wrong label, in [0, 0.5].
        pixel_noise: Standard deviation of the pixels' noise, of 255.
        seed: Another seed gives other patterns, noise and labels.
    """

    classes: int = Field(default=10, ge=2, le=1000)
    size: int = Field(default=16, ge=4, le=1024)
    channels: Literal[1, 3, 4] = 3
    train: int = Field(default=4000, ge=1)
    validation: int = Field(default=1000, ge=1)
    test: int = Field(default=1000, ge=1)
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    pixel_noise: Annotated[float, Field(ge=0, le=128)] = 48.0
    seed: int = Field(default=0, ge=0)

    @classmethod
    def from_text(cls, text: str, *, data_dir: Path | None) -> SourceBase:
        """Reads `classes=10,size=16,train=4000`; what is left out has its default."""
        del data_dir
        arguments: dict[str, Any] = {}
        for part in filter(None, text.split(",")):
            key, equals, value = part.partition("=")
            if not equals:
                raise InputError(
                    "Synthetic data must be described as synthetic:KEY=VALUE,KEY=VALUE, such as "
                    f"synthetic:classes=10,size=16. Received: {part!r}."
                )
            arguments[key.strip()] = _number(value.strip())
        return validate(cls, arguments, where=f"synthetic:{text}")

    @property
    def best_accuracy(self) -> float:
        """The accuracy of a model that knows the patterns."""
        return 1 - self.label_noise

    @property
    def least_loss(self) -> float:
        """The mean cross entropy of a model that knows the patterns and the noise, in nats."""
        wrong = self.label_noise
        if wrong == 0:
            return 0.0
        right = 1 - wrong
        return -right * math.log(right) - wrong * math.log(wrong / (self.classes - 1))

    def identity(self, data_dir: Path | None) -> dict[str, object]:
        """See SourceBase."""
        del data_dir
        return {"dataset": "synthetic 1", **self.model_dump(mode="json")}

    def describe(self, data_dir: Path | None) -> Description:
        """See SourceBase."""
        return Description(
            num_classes=self.classes,
            splits={split: self.num_examples(split, data_dir) for split in SPLITS},
            size=(self.size, self.size),
            channels=self.channels,
            encoded=False,
        )

    def num_examples(self, split: str, data_dir: Path | None) -> int:
        """See SourceBase."""
        del data_dir
        check_split("synthetic", split, SPLITS)
        return int(getattr(self, split))

    def examples(self, split: str, data_dir: Path | None) -> Iterator[tuple[str, Example]]:
        """See SourceBase. Of each class there are equally many, or one more, before the noise."""
        shown, labels = self._shown_and_labels(split, self.num_examples(split, data_dir))
        patterns = self._patterns()
        generator = np.random.default_rng([self.seed, 2, SPLITS.index(split)])
        for index in range(len(labels)):
            noise = generator.normal(0.0, self.pixel_noise, patterns.shape[1:])
            pixels = np.clip(np.rint(patterns[shown[index]] + noise), 0, 255).astype(np.uint8)
            yield f"{split}-{index:08d}", {"image": pixels, "label": int(labels[index])}

    def labels(self, split: str, data_dir: Path | None) -> Iterator[int]:
        """See SourceBase. No image is made."""
        _, labels = self._shown_and_labels(split, self.num_examples(split, data_dir))
        return iter(labels.tolist())

    def _shown_and_labels(
        self, split: str, count: int
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The class whose pattern each example shows, and the one that it is given."""
        generator = np.random.default_rng([self.seed, 1, SPLITS.index(split)])
        shown = generator.permutation(np.arange(count) % self.classes)
        wrong = generator.random(count) < self.label_noise
        others = (shown + generator.integers(1, self.classes, count)) % self.classes
        return shown, np.where(wrong, others, shown)

    def _patterns(self) -> npt.NDArray[np.float64]:
        """float64 [classes, size, size, channels] in 0 to 255."""
        generator = np.random.default_rng([self.seed, 0])
        cells = generator.uniform(0, 255, (self.classes, _CELLS, _CELLS, self.channels))
        places = np.arange(self.size) * _CELLS // self.size
        return cells[:, places][:, :, places]


def _number(text: str) -> float | str:
    """A number, where the text is one."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
