"""Encodes a stream of examples into the shards of a plan: in several threads, in one order.

The calling thread reads the source and writes the files; the others encode chunks of examples and
take the checksums of finished files. Threads are enough: decoding, resizing and checksums release
the GIL, and a further process would have to import TensorFlow first. Each finished shard is a line
of `sealed.jsonl`, after it is on disk.
"""

from __future__ import annotations

import collections
import itertools
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import tensorflow as tf

from tfbatch.dataset_info.recipe import Example, Features, Recipe
from tfbatch.encoded_images import UnreadableImageError
from tfbatch.records.codec import encode
from tfbatch.records.manifest import Shard, sha256, shard_name
from tfbatch.records.partial_folder import flush_to_disk
from tfbatch.records.plan import Plan, PlanError, ShardPlace
from tfbatch.schema import Strict

_FILE_NAME = "sealed.jsonl"
_CHUNK_EXAMPLES = 256
_CHUNK_BYTES = 4 << 20
"""A thread encodes a chunk of at most so much at once, or one larger example."""


class UnreadableImagesError(Exception):
    """Examples that cannot be encoded; `write_records` makes a DataError of it.

    Attributes:
        images: Each of them.
        examined: Number of examples that were looked at.
    """

    def __init__(self, images: Sequence[UnreadableImageError], *, examined: int):
        super().__init__(f"{len(images)} of {examined} images cannot be decoded")
        self.images = tuple(images)
        self.examined = examined


class _Assigned(NamedTuple):
    """An example and the shard that it belongs to."""

    place: ShardPlace
    key: str
    example: Example


class _Encoded(NamedTuple):
    """A record and the shard that it belongs to."""

    place: ShardPlace
    record: bytes
    label: int


def write_shards(
    folder: Path,
    *,
    recipe: Recipe,
    plan: Plan,
    examples: Callable[[int], Iterable[tuple[str, Example]]],
    finished: Collection[FinishedShard],
    announce: Callable[[FinishedShard], None],
    workers: int,
) -> dict[ShardPlace, FinishedShard]:
    """Writes all shards of a plan that are not finished.

    Args:
        folder: Folder of the shards.
        recipe: The data set.
        plan: Which example goes where.
        examples: Called with a number; yields (key, example) without that many first ones.
        finished: The shards that an earlier run had finished; those that are damaged are written
            again.
        announce: Told of each shard that is finished and on disk.
        workers: Threads that encode; with 1 the calling thread does.

    Returns:
        All shards of the plan.

    Raises:
        InputError: An example that does not fit the recipe.
        UnreadableImagesError: Images that cannot be decoded: all of them, after the last one.
        PlanError: The stream has another length than the plan.
        OSError, tf.errors.OpError: The folder cannot be written.
    """
    with _Threads(workers) as threads:
        checks = [
            (done, threads.submit(is_whole, folder / done.shard.name, done)) for done in finished
        ]
        kept = {done.place: done for done, whole in checks if whole.result()}
        files = _Files(folder, recipe, plan, kept, announce, threads)
        try:
            start = plan.first_example_outside(kept.keys())
            chunks = _chunks(plan, kept, start, examples(start), name=recipe.name)
            unreadable: list[UnreadableImageError] = []
            for chunk, refused in _mapped(_encode, chunks, recipe.features, threads=threads):
                unreadable += refused
                if not unreadable:
                    files.write(chunk)
            if unreadable:
                raise UnreadableImagesError(unreadable, examined=plan.num_examples - start)
            return files.finished()
        finally:
            files.close()


class _Threads:
    """Threads that work ahead; with one worker the caller's own thread, at once."""

    def __init__(self, workers: int):
        self._pool = ThreadPoolExecutor(workers, "tfbatch-records") if workers > 1 else None
        self.ahead = 2 * workers if workers > 1 else 0

    def __enter__(self) -> _Threads:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool:
            self._pool.shutdown(cancel_futures=True)

    def submit(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Future[Any]:
        """Calls the function, now or later."""
        if self._pool:
            return self._pool.submit(function, *arguments, **named)
        done: Future[Any] = Future()
        done.set_result(function(*arguments, **named))
        return done


class _Files:
    """The files that are being written, one for each split, and the finished ones."""

    def __init__(
        self,
        folder: Path,
        recipe: Recipe,
        plan: Plan,
        kept: dict[ShardPlace, FinishedShard],
        announce: Callable[[FinishedShard], None],
        threads: _Threads,
    ):
        self._folder = folder
        self._recipe = recipe
        self._plan = plan
        self._finished = dict(kept)
        self._announce = announce
        self._threads = threads
        self._open: dict[ShardPlace, _File] = {}
        self._finishing: collections.deque[Future[FinishedShard]] = collections.deque()

    def write(self, chunk: list[_Encoded]) -> None:
        """Writes records; a file that has all of its records is finished."""
        for place, record, label in chunk:
            if place not in self._open:
                self._open[place] = self._begin(place)
            file = self._open[place]
            file.write(record, label)
            if file.num_examples == self._plan.lengths[place]:
                self._finish(place, self._open.pop(place))
        while self._finishing and self._finishing[0].done():
            self._note(self._finishing.popleft())

    def finished(self) -> dict[ShardPlace, FinishedShard]:
        """All shards, when the last example is written; waits for their checksums."""
        for place, length in self._plan.lengths.items():
            if length == 0 and place not in self._finished:
                self._finish(place, self._begin(place))
        while self._finishing:
            self._note(self._finishing.popleft())
        return self._finished

    def close(self) -> None:
        """Closes the files that were left open by an error."""
        for file in self._open.values():
            file.close()

    def _begin(self, place: ShardPlace) -> _File:
        name = shard_name(self._recipe.name, place.split, place.shard, self._recipe.shards)
        return _File(self._folder / name, self._recipe.features.label.num_classes)

    def _finish(self, place: ShardPlace, file: _File) -> None:
        file.close()
        counts = tuple(file.class_counts)
        self._finishing.append(
            self._threads.submit(finish_shard, file.path, place=place, class_counts=counts)
        )

    def _note(self, future: Future[FinishedShard]) -> None:
        done = future.result()
        self._announce(done)
        self._finished[done.place] = done


class _File:
    """A shard that is being written."""

    def __init__(self, path: Path, num_classes: int):
        self.path = path
        self.num_examples = 0
        self.class_counts = [0] * num_classes
        self._writer = tf.io.TFRecordWriter(str(path))

    def write(self, record: bytes, label: int) -> None:
        self._writer.write(record)
        self.num_examples += 1
        self.class_counts[label] += 1

    def close(self) -> None:
        self._writer.close()


def _chunks(
    plan: Plan,
    kept: dict[ShardPlace, FinishedShard],
    start: int,
    examples: Iterable[tuple[str, Example]],
    *,
    name: str,
) -> Iterator[list[_Assigned]]:
    """The examples of the unfinished shards, some at a time.

    Raises:
        PlanError: There are more or fewer examples than the plan says.
    """
    chunk: list[_Assigned] = []
    size = 0
    for place, found in itertools.zip_longest(plan.places(start), examples):
        if place is None or found is None:
            raise PlanError(
                f"The source of {name} must give the same examples each time it is read; it gave "
                f"{plan.num_examples} first, then {'more' if place is None else 'fewer'}. Prepare "
                "the data when nothing changes it."
            )
        if place in kept:
            continue
        key, example = found
        chunk.append(_Assigned(place, key, example))
        image = example["image"]
        size += len(image) if isinstance(image, bytes) else image.nbytes
        if len(chunk) == _CHUNK_EXAMPLES or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _encode(
    chunk: list[_Assigned], features: Features
) -> tuple[list[_Encoded], list[UnreadableImageError]]:
    """The records, and what is wrong with the examples that have none."""
    encoded, unreadable = [], []
    for place, key, example in chunk:
        try:
            record = encode(key, example["image"], example["label"], features)
            encoded.append(_Encoded(place, record, example["label"]))
        except UnreadableImageError as error:
            unreadable.append(error)
    return encoded, unreadable


def _mapped(
    function: Callable[..., Any], items: Iterable[Any], *arguments: Any, threads: _Threads
) -> Iterator[Any]:
    """The function's result for each item, in order; a few are computed ahead."""
    ahead: collections.deque[Future[Any]] = collections.deque()
    for item in items:
        ahead.append(threads.submit(function, item, *arguments))
        if len(ahead) > threads.ahead:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


class FinishedShard(Strict):
    """A finished shard: its place, what the manifest will say of it, and its classes.

    Attributes:
        split: Name of the split.
        index: Number of the shard in the split.
        shard: The manifest's entry.
        class_counts: Number of examples of each class.
    """

    split: str
    index: int
    shard: Shard
    class_counts: tuple[int, ...]

    @property
    def place(self) -> ShardPlace:
        """Split and number of the shard."""
        return ShardPlace(self.split, self.index)


def finish_shard(path: Path, *, place: ShardPlace, class_counts: tuple[int, ...]) -> FinishedShard:
    """Flushes a finished file to disk and takes its checksum. Most of it runs without the GIL."""
    flush_to_disk(path)
    shard = Shard(
        name=path.name,
        num_examples=sum(class_counts),
        num_bytes=path.stat().st_size,
        sha256=sha256(path),
    )
    return FinishedShard(
        split=place.split, index=place.shard, shard=shard, class_counts=class_counts
    )


def is_whole(path: Path, done: FinishedShard) -> bool:
    """Whether a file still is what was finished; reads it."""
    try:
        return path.stat().st_size == done.shard.num_bytes and sha256(path) == done.shard.sha256
    except OSError:
        return False


def read_finished(folder: Path) -> list[FinishedShard]:
    """The finished shards of a folder; of two lines for one shard the later one counts."""
    finished = {done.place: done for done in _read(folder)[0]}
    return list(finished.values())


def append_finished(folder: Path, done: FinishedShard) -> None:
    """Notes a finished shard, on disk before this returns."""
    with (folder / _FILE_NAME).open("ab") as file:
        file.write(done.model_dump_json().encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def cut_torn_line(folder: Path) -> None:
    """Cuts off what a killed process has left behind the last whole line."""
    path = folder / _FILE_NAME
    path.touch()
    os.truncate(path, _read(folder)[1])


def _read(folder: Path) -> tuple[list[FinishedShard], int]:
    """The shards before the first line that cannot be read, and the bytes that they take."""
    finished, size = [], 0
    try:
        lines = (folder / _FILE_NAME).read_bytes().splitlines(keepends=True)
    except OSError:
        return [], 0
    for line in lines:
        try:
            if not line.endswith(b"\n"):
                break
            finished.append(FinishedShard.model_validate_json(line))
        except ValueError:
            break
        size += len(line)
    return finished, size
