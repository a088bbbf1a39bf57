"""TensorFlow Datasets: any image classification data set by its name.

The only module that imports tensorflow_datasets. Nothing is fetched where the data folder already
holds the data set.
"""

from __future__ import annotations

import functools
import socket
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tfbatch.errors import DataError, InputError, did_you_mean
from tfbatch.recipes import Example
from tfbatch.sources._source import SourceBase


class Source(SourceBase):
    """A data set of TensorFlow Datasets.

    Attributes:
        dataset: Its name, with `/config` where it has several.
        version: A version such as "3.0.2" or "3.*.*"; the newest one by default.
        image: Name of the image feature.
        label: Name of the class feature.
    """

    dataset: str
    version: str | None = None
    image: str = "image"
    label: str = "label"

    def identity(self, data_dir: Path | None) -> dict[str, Any]:
        """See SourceBase: name, version and the size of every shard."""
        info = _builder(self.dataset, self.version, data_dir).info
        splits = {name: list(split.shard_lengths) for name, split in info.splits.items()}
        sizes = {name: int(split.num_bytes) for name, split in info.splits.items()}
        return {"full_name": info.full_name, "shard_lengths": splits, "bytes": sizes}

    def num_examples(self, split: str, data_dir: Path | None) -> int:
        """See SourceBase."""
        splits = _builder(self.dataset, self.version, data_dir).info.splits
        if split not in splits:
            raise InputError(
                f"{self.dataset} has no split `{split}`.{did_you_mean(split, splits)} "
                f"Available: {', '.join(splits)}."
            )
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
        for images, labels in pairs.as_numpy_iterator():
            for image, label in zip(images, labels, strict=True):
                yield f"{split}-{index:08d}", {"image": image, "label": int(label)}
                index += 1

    def labels(self, split: str, data_dir: Path | None) -> Iterator[int]:
        """See SourceBase. Files are read, but no image is taken out of them."""
        import tensorflow_datasets as tfds

        decoders = tfds.decode.PartialDecoding({self.label: True})
        stored = self._stored(split, data_dir, start=0, decoders=decoders)
        for labels in (
            stored.map(lambda e: e[self.label]).batch(4096).prefetch(2).as_numpy_iterator()
        ):
            yield from labels.tolist()

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

    name = f"{dataset}:{version}" if version else dataset
    folder = str(data_dir.expanduser().resolve()) if data_dir else None
    try:
        builder = tfds.builder(name, data_dir=folder)
    except tfds.core.registered.DatasetNotFoundError as error:
        raise InputError(
            f"TensorFlow Datasets knows no data set `{name}`."
            f"{did_you_mean(dataset, tfds.list_builders())}"
        ) from error
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
            f"a network with `python -m tfbatch.prepare --dataset={dataset} --data_dir=DIR` and "
            "copy DIR here."
        ) from error
    return builder


def _check_network(homepage: str) -> None:
    """Raises OSError at once where there is no network; the downloader retries for minutes."""
    host = urllib.parse.urlsplit(homepage).hostname
    if urllib.request.getproxies() or not host:
        return
    try:
        socket.getaddrinfo(host, 443)
    except OSError:  # the homepage alone may be gone
        socket.getaddrinfo("tensorflow.org", 443)
