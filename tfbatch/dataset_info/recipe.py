"""A recipe describes one data set: its source, splits, features, normalization, augmentation.

pipelines/NAME.yaml is the recipe of the data set NAME. This module imports no TensorFlow.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt
import pydantic
from pydantic import Field, model_serializer, model_validator

from tfbatch.errors import ConfigurationError
from tfbatch.plug_ins import YamlFolder
from tfbatch.quantities import TrainingLengthText
from tfbatch.schema import Named, Strict, content_hash, read_yaml, validate

SPLITS = ("train", "validation", "test")
RECIPES = YamlFolder("pipelines", kind="data set", variable="TFBATCH_RECIPE_DIR")


def _increasing(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("the first number must be below the second")
    return value


PixelRange = Annotated[tuple[float, float], pydantic.AfterValidator(_increasing)]
"""The values that become 0 and 255 of an image that has more than 8 bits a channel."""


class Example(TypedDict):
    """One example: an encoded image (bytes) or its pixels (uint8 [h, w, c]), and a class index."""

    image: bytes | npt.NDArray[np.uint8]
    label: int


class Carved(Strict):
    """A split that is taken out of the source's training split, class by class (stratified).

    Attributes:
        origin: The split it is taken from; written `from`. Only "train": a validation split that
            is taken from test would let the search see the test data.
        fraction: Share of each class's examples, in (0, 0.5].
    """

    model_config = pydantic.ConfigDict(populate_by_name=True)
    origin: Literal["train"] = Field(alias="from")
    fraction: float = Field(gt=0, le=0.5)


class Splits(Strict):
    """Where each split comes from: the name of a source's split, or a carved share of train."""

    train: str
    validation: str | Carved
    test: str | Carved

    @property
    def carved(self) -> dict[str, float]:
        """Name and fraction of the splits that are taken out of the training split."""
        both = {"test": self.test, "validation": self.validation}
        return {name: s.fraction for name, s in both.items() if isinstance(s, Carved)}

    @model_validator(mode="after")
    def _distinct(self) -> Splits:
        whole = [s for s in (self.train, self.validation, self.test) if isinstance(s, str)]
        if len(set(whole)) < len(whole):
            raise ValueError(
                "train, validation and test must be different splits of the source; take a part "
                f"of train with {{from: train, fraction: 0.1}}. Received: {', '.join(whole)}"
            )
        if sum(self.carved.values()) >= 1:
            raise ValueError("the fractions taken from train must sum to less than 1")
        return self


class ImageFeature(Strict):
    """An image.

    Attributes:
        shape: (height, width, channels) of the decoded uint8 image. Of encoded images, grey ones
            become colour ones where there are three channels, and the other way round.
        stored: "encoded" keeps JPEG or PNG bytes as the source has them; "raw" stores the pixels,
            for small images whose decoding would cost more than their reading.
        resize: Whether images of other sizes are brought to `shape` when the records are written:
            the largest centered part with the shape's aspect ratio is cut out and resized
            (bilinear, antialiased). Images that have the shape stay as they are. With
            "encoded", what was resized is stored as PNG.
        pixel_range: (low, high): the values that become 0 and 255 of encoded images of more than
            8 bits a channel, which are refused without it. Values outside are clipped.
    """

    kind: Literal["image"]
    shape: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)], Literal[1, 3, 4]]
    stored: Literal["encoded", "raw"] = "encoded"
    resize: bool = False
    pixel_range: PixelRange | None = None

    @model_serializer(mode="wrap")
    def _without_absent_range(self, serialize: Any) -> dict[str, Any]:
        """Records of before `pixel_range` keep their hash."""
        written: dict[str, Any] = serialize(self)
        if self.pixel_range is None:
            del written["pixel_range"]
        return written


class LabelFeature(Strict):
    """A class index in [0, num_classes)."""

    kind: Literal["label"]
    num_classes: int = Field(ge=2)


class Features(Strict):
    """The features of one example; `image` is the model's input and `label` its target."""

    image: ImageFeature
    label: LabelFeature


class Normalization(Strict):
    """(pixel / 255 - mean) / standard_deviation, one number for each channel."""

    mean: tuple[float, ...]
    standard_deviation: tuple[Annotated[float, Field(gt=0)], ...]


class Baseline(Strict):
    """What an untuned project would use; the first trial of every search.

    Attributes:
        batch_size: Keras's default.
        learning_rate: None for the Keras default of the optimizer.
    """

    batch_size: int = Field(default=32, ge=1)
    learning_rate: float | None = Field(default=None, gt=0)


class Recipe(Strict):
    """One data set, as pipelines/NAME.yaml describes it.

    Attributes:
        name: The file's name without its suffix.
        description: One line for people.
        source: A file of tfbatch/sources and its arguments.
        splits: Where train, validation and test come from.
        features: Image and label.
        shards: Number of record files for each split.
        normalization: Applied to every batch. None to measure it on the training split when the
            records are written; the manifest keeps it.
        augmentation: Files of tfbatch/augmentations with their arguments, in order; train only.
        trial_length: Default length of a trial.
        objective: Default objective, `METRIC:min` or `METRIC:max`.
        baseline: The default baseline.
    """

    name: str
    description: str
    source: Named
    splits: Splits
    features: Features
    shards: int = Field(default=4, ge=1, le=9999)
    normalization: Normalization | None = None
    augmentation: tuple[Named, ...] = ()
    trial_length: TrainingLengthText
    objective: str = "val_accuracy:max"
    baseline: Baseline = Baseline()

    @model_validator(mode="after")
    def _channels(self) -> Recipe:
        if self.normalization is None:
            return self
        channels = self.features.image.shape[2]
        for key in ("mean", "standard_deviation"):
            if len(getattr(self.normalization, key)) != channels:
                raise ValueError(
                    f"normalization.{key} must have one number for each of the {channels} channels"
                )
        return self

    def records_hash(self, source_identity: Mapping[str, object]) -> str:
        """Identifies the record files: changes with everything that changes their bytes."""
        parts = self.model_dump(mode="json", include={"source", "splits", "features", "shards"})
        if self.normalization is None:
            parts["normalization"] = "measured"  # the manifest has one more entry
        return content_hash({**parts, "source_identity": source_identity})


def load_recipe(name: str, *, recipe_dir: Path | None = None) -> Recipe:
    """Loads the recipe of a data set.

    Args:
        name: A file name in pipelines/ without its suffix, or a path that ends in .yaml.
        recipe_dir: A further folder that is searched first (also: TFBATCH_RECIPE_DIR).

    Raises:
        ConfigurationError: No such recipe, or a key in it that cannot be used.
    """
    path = RECIPES.find(name, recipe_dir)
    written = read_yaml(path)
    if "name" in written:
        raise ConfigurationError(
            f"{path}: name: the file's name is the data set's; remove the key."
        )
    return validate(Recipe, {"name": path.stem, **written}, where=str(path))
