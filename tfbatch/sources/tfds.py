"""TensorFlow Datasets: any image classification data set by its name.

The only module that imports tensorflow_datasets. Nothing is fetched where the data folder already
holds the data set; such a folder is read without the code that wrote it.
"""

from __future__ import annotations

import functools
import itertools
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tfbatch.dataset_info.recipe import Example
from tfbatch.errors import DataError, InputError, did_you_mean
from tfbatch.schema import expanded
from tfbatch.sources._source import SAMPLE, Description, SourceBase, check_split, common_size


class Source(SourceBase):
    """A data set of TensorFlow Datasets, known to it or only to be found in the data folder.

    Attributes:
        dataset: Its name, with `/config` where it has several; or a path of the folder that holds
            its features.json.
        version: A version such as "3.0.2" or "3.*.*"; the newest one by default.
        image: Name of the image feature.
        label: Name of the class feature.
    """

    dataset: str
    version: str | None = None
    image: str = "image"
    label: str = "label"

    @classmethod
    def from_text(cls, text: str, *, data_dir: Path | None) -> SourceBase:
        """`tfds:NAME`, `tfds:NAME/CONFIG`, `tfds:NAME/CONFIG:1.0.0` or `tfds:FOLDER`.

        Image and class are the features that the data set's author named for supervised learning,
        or else the only ones of their kind.
        """
        if not text:
            raise InputError("The source tfds needs a data set: tfds:NAME or tfds:NAME/CONFIG.")
        folder = expanded(text)
        dataset, _, version = (
            (str(folder.resolve()), "", "") if _is_stored(folder) else text.partition(":")
        )
        info = _builder(dataset, version or None, data_dir).info
        image, label = _features_by_kind(text, info)
        return cls(dataset=dataset, version=version or None, image=image, label=label)

    @classmethod
    def is_there(cls, text: str, *, data_dir: Path | None) -> bool:
        """See SourceBase."""
        del data_dir
        return _is_stored(expanded(text))

    def identity(self, data_dir: Path | None) -> dict[str, object]:
        """See SourceBase: name, version and the size of every shard."""
        info = _builder(self.dataset, self.version, data_dir).info
        splits = {name: list(split.shard_lengths) for name, split in info.splits.items()}
        sizes = {name: int(split.num_bytes) for name, split in info.splits.items()}
        return {"full_name": info.full_name, "shard_lengths": splits, "bytes": sizes}

    def describe(self, data_dir: Path | None) -> Description:
        """See SourceBase. Where the features give no size, a sample of the images is read."""
        info = _builder(self.dataset, self.version, data_dir).info
        splits = {name: int(split.num_examples) for name, split in info.splits.items()}
        splits = {name: count for name, count in splits.items() if count}
        if not splits:
            raise DataError(f"{info.full_name} holds no examples.")
        classes = info.features[self.label].num_classes
        if not classes or classes < 2:
            raise DataError(f"{info.full_name} must have at least 2 classes. Received: {classes}.")
        kind = _check_pixels(info.full_name, info.features[self.image])
        if kind != np.uint8:
            raise InputError(
                f"The images of {info.full_name} are {kind}, and images are stored with 8 bits. "
                "Write a recipe (pipelines/NAME.yaml) that states in `features.image.pixel_range: "
                "[LOW, HIGH]` which values become 0 and 255; or give the data itself, which keeps "
                "every value: tfbatch.find_batch_size(model, tfds.load(NAME, as_supervised=True))."
            )
        height, width, channels = info.features[self.image].shape
        size: tuple[int, int] | None = (height, width)
        known = None not in (height, width, channels)
        if not known:
            first = "train" if "train" in splits else next(iter(splits))
            size, channels = common_size(itertools.islice(self._named(first, data_dir), SAMPLE))
        return Description(
            num_classes=classes,
            splits=splits,
            size=size,
            same_size=known,
            channels=channels,
            encoded=True,
        )

    def num_examples(self, split: str, data_dir: Path | None) -> int:
        """See SourceBase."""
        splits = _builder(self.dataset, self.version, data_dir).info.splits
        check_split(self.dataset, split, splits)
        return int(splits[split].num_examples)

    def examples(self, split: str, data_dir: Path | None) -> Iterator[tuple[str, Example]]:
        """See SourceBase. Images keep the encoded bytes that TensorFlow Datasets stores."""
        return self.examples_from(0, split, data_dir)

    def examples_from(
        self, start: int, split: str, data_dir: Path | None
    ) -> Iterator[tuple[str, Example]]:
        """See SourceBase. Whole files before `start` are not opened."""
        import tensorflow_datasets as tfds

        decoders = {self.image: tfds.decode.SkipDecoding()}
        stored = self._stored(split, data_dir, start=start, decoders=decoders)
        # Crossing into Python once for 256 examples, not for each, halves the time.
        pairs = stored.map(lambda e: (e[self.image], e[self.label])).batch(256).prefetch(2)
        index = start
        for images, labels in self._read(pairs, split, data_dir):
            for image, label in zip(images, labels, strict=True):
                yield f"{split}-{index:08d}", {"image": image, "label": int(label)}
                index += 1

    def labels(self, split: str, data_dir: Path | None) -> Iterator[int]:
        """See SourceBase. Files are read, but no image is taken out of them."""
        import tensorflow_datasets as tfds

        decoders = tfds.decode.PartialDecoding({self.label: True})
        stored = self._stored(split, data_dir, start=0, decoders=decoders)
        batches = stored.map(lambda e: e[self.label]).batch(4096).prefetch(2)
        for labels in self._read(batches, split, data_dir):
            yield from labels.tolist()

    def _named(self, split: str, data_dir: Path | None) -> Iterator[tuple[str, Any]]:
        """Encoded images with names for messages."""
        for key, example in self.examples(split, data_dir):
            yield f"{self.dataset}: example {key}", example["image"]

    def _read(self, dataset: Any, split: str, data_dir: Path | None) -> Iterator[Any]:
        """What a dataset holds; a damaged file is an error of the data, with its folder."""
        import tensorflow as tf

        try:
            yield from dataset.as_numpy_iterator()
        except (OSError, tf.errors.OpError) as error:
            folder = _builder(self.dataset, self.version, data_dir).data_dir
            raise DataError(
                f"The split `{split}` of {self.dataset} in {folder} cannot be read: {error}. "
                "Delete that folder, and fetch or make the data set again."
            ) from error

    def _stored(self, split: str, data_dir: Path | None, *, start: int, decoders: Any) -> Any:
        """The examples as TensorFlow Datasets stores them, in the order of its files."""
        import tensorflow_datasets as tfds

        self.num_examples(split, data_dir)
        builder = _builder(self.dataset, self.version, data_dir)
        features = builder.info.features
        for role in (self.image, self.label):
            if role not in features:
                raise InputError(
                    f"{self.dataset} has no feature `{role}`.{did_you_mean(role, features)} "
                    f"Available: {', '.join(features)}."
                )
        _check_pixels(self.dataset, features[self.image])
        return builder.as_dataset(
            split=tfds.core.ReadInstruction(split, from_=start, unit="abs"),
            shuffle_files=False,
            decoders=decoders,
            read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
        )


@functools.lru_cache(maxsize=8)
def _builder(dataset: str, version: str | None, data_dir: Path | None) -> Any:
    """The data set's builder with its data on disk, fetched only where it is absent."""
    import tensorflow_datasets as tfds

    if _is_stored(Path(dataset)):
        return _read_stored(Path(dataset))
    name = f"{dataset}:{version}" if version else dataset
    folder = str(data_dir.expanduser().resolve()) if data_dir else None
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise InputError(_not_found(name, dataset, data_dir)) from error
    except (ValueError, TypeError, AssertionError) as error:  # by what is wrong with the name
        reason = (str(error).splitlines() or [""])[0][:200]
        raise InputError(f"TensorFlow Datasets cannot make `{name}`: {reason}") from error
    if builder.is_prepared():
        return builder
    try:
        _check_network(builder.info.homepage)
        builder.download_and_prepare()
    except Exception as error:  # whatever the download raises, the remedy is the same
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(
            f"The data set {name} is not in {builder.data_dir}, and fetching it failed: "
            f"{type(error).__name__}: {reason}. Give the folder that holds {dataset}/ with "
            f"--data_dir=DIR or the environment variable TFDS_DATA_DIR, or fetch it where there is "
            f"a network with `python -m tfbatch.prepare --dataset=tfds:{name} --data_dir=DIR` and "
            "copy DIR here."
        ) from error
    return builder


def _is_stored(folder: Path) -> bool:
    """Whether a folder is one version of a data set, as TensorFlow Datasets writes it."""
    try:
        return all((folder / name).is_file() for name in ("dataset_info.json", "features.json"))
    except OSError:  # a name that is too long
        return False


def _read_stored(folder: Path) -> Any:
    import tensorflow_datasets as tfds

    try:
        return tfds.builder_from_directory(str(folder))
    except Exception as error:  # json, protobuf and its own checks each raise their own
        reason = (str(error).splitlines() or [""])[0][:200]
        raise DataError(
            f"{folder} cannot be read by TensorFlow Datasets: {type(error).__name__}: {reason}"
        ) from error


def _not_found(name: str, dataset: str, data_dir: Path | None) -> str:
    """Says what TensorFlow Datasets knows, and what stands in the data folder by this name."""
    import tensorflow_datasets as tfds

    root = data_dir.expanduser() if data_dir else Path(tfds.core.constants.DATA_DIR)
    stored = sorted(
        path.parent.relative_to(root)
        for depth in ("*/*", "*/*/*")
        for path in root.glob(f"{depth}/features.json")
    )
    message = f"TensorFlow Datasets knows no data set `{name}`."
    mine = [f"{p.parent}:{p.name}" for p in stored if p.parts[0] == dataset.split("/")[0]]
    if mine:  # another config or version of it
        return f"{message} The folder {root} holds: {', '.join(mine)}."
    held = {p.parent.as_posix() for p in stored}
    return f"{message}{did_you_mean(dataset, {*tfds.list_builders(), *held})}"


def _features_by_kind(text: str, info: Any) -> tuple[str, str]:
    """The names of the image feature and of the class feature."""
    import tensorflow_datasets as tfds

    features = info.features if isinstance(info.features, tfds.features.FeaturesDict) else {}
    images, labels = (
        [name for name in sorted(features) if type(features[name]) is kind]
        for kind in (tfds.features.Image, tfds.features.ClassLabel)
    )
    supervised = info.supervised_keys
    if supervised and supervised[0] in images and supervised[1] in labels:
        return str(supervised[0]), str(supervised[1])
    for wanted, names in (("Image", images), ("ClassLabel", labels)):
        if len(names) != 1:
            held = ", ".join(
                f"{name} ({type(features[name]).__name__})" for name in sorted(features)
            )
            raise InputError(
                f"{text} must have exactly one feature of the kind {wanted}. Received: "
                f"{', '.join(names) or 'none'}. All features: {held}. Write a recipe "
                f"(pipelines/NAME.yaml) with `source: {{name: tfds, dataset: {info.name}, "
                "image: FEATURE, label: FEATURE}`."
            )
    return images[0], labels[0]


def _check_pixels(name: str, feature: Any) -> np.dtype[Any]:
    """The type of an image feature's pixels.

    Raises:
        InputError: It is one that is not read.
    """
    kind = np.dtype(getattr(feature, "np_dtype", np.uint8))
    if kind not in (np.uint8, np.uint16):
        raise InputError(
            f"The images of {name} are {kind}; a recipe needs uint8 or uint16. Give the data "
            "itself: tfbatch.find_batch_size(model, tfds.load(NAME, as_supervised=True))."
        )
    return kind


def _check_network(homepage: str) -> None:
    """Raises OSError at once where there is no network; the downloader retries for minutes."""
    host = urllib.parse.urlsplit(homepage).hostname
    if urllib.request.getproxies() or not host:
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError:  # the homepage alone may be gone
        socket.getaddrinfo("tensorflow.org", 443)
