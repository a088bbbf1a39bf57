"""Stores a user's arrays or Datasets in a folder that every worker process maps into memory.

The folder's name is the hash of what it holds; tfbatch.pipeline.array_files says what that is.
Data that was stored before in another order of its examples is not stored again: a Dataset that is
shuffled without a seed is the same data each time a program makes it.
Where no validation split is given, one is taken out of the training examples.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tfbatch.dataset_info.class_balance import apportion
from tfbatch.dataset_info.content import DataContent, may_drop_note
from tfbatch.dataset_info.own_data import STORED
from tfbatch.errors import InputError
from tfbatch.pipeline.alike_splits import Written, make_alike
from tfbatch.pipeline.array_files import (
    CONTENT,
    EXAMPLES,
    Leaf,
    Stored,
    append_all,
    leaf_files,
    read_classes,
    read_leaf,
)
from tfbatch.pipeline.classes import Expect, Expected, expect_without_model
from tfbatch.pipeline.content_scan import Contents, in_carved_splits
from tfbatch.pipeline.elements import (
    Chunk,
    Nest,
    batched_like,
    leaf_names,
    leaf_order,
    numbers_of,
)
from tfbatch.pipeline.endless import refuse_endless
from tfbatch.pipeline.examples_digest import ExamplesDigest
from tfbatch.pipeline.user_data import OwnSplit, read_splits
from tfbatch.records.partial_folder import scratch_folder
from tfbatch.run_folder.durable import cannot_be_written
from tfbatch.schema import content_hash

VALIDATION_FRACTION = 0.2
_SPLIT_SEED = 20181206
_TAKEN_APART = (
    "Your Dataset gives batches; they are split into examples, which are rebatched for every "
    "batch size. What it did to whole batches (bucketing by length, mixing, padding) is stored "
    "with the examples."
)
_PADDED_TARGETS = (
    "Your targets differ in length: they are padded with zeros to the longest in the batch, and "
    "the loss treats these zeros as targets unless the data has a sample_weight of the same "
    "length."
)


def store_data(
    root: Path,
    data: Nest,
    *,
    batched: bool | None = None,
    expect: Expect = expect_without_model,
    heartbeat: Callable[[int], None] | None = None,
) -> Path:
    """Stores a user's data; see `read_splits` for what it may be, and `store_splits`."""
    splits = read_splits(data, declared=batched)
    return store_splits(root, splits, expect(splits["train"].form), heartbeat=heartbeat)


def store_splits(
    root: Path,
    splits: Mapping[str, OwnSplit],
    expected: Expected,
    *,
    heartbeat: Callable[[int], None] | None = None,
) -> Path:
    """Stores a user's data, and takes a validation split out of it where there is none.

    Args:
        root: Where the folder is made; its name there is the hash of what it holds.
        splits: What `read_splits` has found.
        expected: What the model expects of the training split.
        heartbeat: Called at intervals with the number of examples.

    Returns:
        The folder.

    Raises:
        InputError: The data cannot be used.
        RunFolderError: The folder cannot be written.
    """
    try:
        root.mkdir(parents=True, exist_ok=True)
        with scratch_folder(root) as partial:
            whole = _write(partial, splits, expected, heartbeat or (lambda _: None))
            before = _in_another_order(root, whole.examples) if whole.examples else None
            if before is not None:
                return before
            stored, content = _divided(partial, whole, expected)
            (partial / STORED).write_text(stored.model_dump_json(indent=1), encoding="utf-8")
            folder = root / _hash(partial)
            # Not in the hash: the same data is the same, however much of it a check has read.
            (partial / CONTENT).write_text(content.model_dump_json(indent=1), encoding="utf-8")
            if whole.examples:
                (partial / EXAMPLES).write_text(whole.examples, encoding="utf-8")
            _into_place(partial, folder)
            return folder
    except OSError as error:
        raise cannot_be_written(root, error) from error


def _in_another_order(root: Path, examples: str) -> Path | None:
    """The folder that holds the same examples, if there is one."""
    for path in sorted(root.glob(f"*/{EXAMPLES}")):
        whole = not path.parent.name.startswith(".") and (path.parent / STORED).exists()
        if whole and path.read_text(encoding="utf-8") == examples:
            return path.parent
    return None


def _into_place(partial: Path, folder: Path) -> None:
    """Gives a whole folder its name; of one that has it already only the findings are renewed."""
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        if (folder / STORED).exists():  # stored before, perhaps by another process just now
            for name in (CONTENT, EXAMPLES):
                if (partial / name).exists():
                    (partial / name).replace(folder / name)
            return
        shutil.rmtree(folder)  # one without a description is no data
        partial.rename(folder)


@dataclasses.dataclass(frozen=True)
class _Whole:
    """A user's splits as they were given, on disk.

    Attributes:
        stored: Their description.
        contents: The look at them.
        again: Begins a second pass over a split, where it may differ from the first.
        examples: A hash of all that the folder is made of but the order of the examples; "" where
            every pass gives the same.
    """

    stored: Stored
    contents: Contents
    again: dict[str, Callable[[], Iterator[Chunk]]]
    examples: str


def _write(
    partial: Path,
    splits: Mapping[str, OwnSplit],
    expected: Expected,
    heartbeat: Callable[[int], None],
) -> _Whole:
    contents = Contents()
    again: dict[str, Callable[[], Iterator[Chunk]]] = {}
    digests: dict[str, ExamplesDigest] = {}
    ordered = all(part.fixed for part in splits.values())
    train = splits["train"].form
    written: Written = {}
    notes: list[str] = []
    for split, part in splits.items():
        batched = expected.batched
        if split != "train":
            batched = _batched(part, train, expected)
        dropped = _most_dropped(part, batched)
        notes += part.notes or ((_TAKEN_APART,) if batched else ())
        notes += [may_drop_note(part.form.where, most=dropped)] if dropped else []
        names = leaf_names(train.template)
        chunks = _in_order_of(part, train, batched)
        if not part.fixed:
            again[split] = functools.partial(_in_order_of, part, train, batched)
        if part.length_unknown:
            chunks = refuse_endless(chunks, where=part.form.where)
        scan = contents.begin(split, train.template, dropped=dropped)
        chunks = scan.watch(chunks)
        if not ordered:
            digests[split] = ExamplesDigest()
            chunks = digests[split].watch(chunks)
        leaves, count = append_all(partial, split, chunks, heartbeat, names=names)
        if not count:
            raise InputError(f"{part.form.where} is empty.")
        written[split] = (leaves, count)
    written, converted = make_alike(partial, written, train.template)
    notes += converted
    leaves, _ = written["train"]
    if any(leaves[number].variable for number in numbers_of(train.template[1])):
        notes.append(_PADDED_TARGETS)
    stored = Stored(
        template=train.template,
        leaves=leaves,
        splits={split: count for split, (_, count) in written.items()},
        notes=tuple(dict.fromkeys(notes)),
    )
    return _Whole(stored, contents, again, _hash_of_examples(stored, expected, digests))


def _hash_of_examples(
    stored: Stored, expected: Expected, digests: Mapping[str, ExamplesDigest]
) -> str:
    if not digests:
        return ""
    found = {split: digest.hexdigest() for split, digest in digests.items()}
    return content_hash([stored.model_dump(mode="json"), dataclasses.asdict(expected), found])


def _divided(partial: Path, whole: _Whole, expected: Expected) -> tuple[Stored, DataContent]:
    """The data with a validation split and its classes, and the findings of the look at it."""
    stored = whole.stored
    carved = "validation" not in stored.splits
    content = whole.contents.found(whole.again, carved=carved)
    if carved:
        found = read_classes(partial, stored, "train", expected)
        stored = carve_validation(partial, stored, None if found is None else found.indices)
        content = in_carved_splits(content, partial, stored)
    return _with_classes(partial, stored, expected), content


def _most_dropped(part: OwnSplit, batched: bool) -> int:
    """Examples that `batch(..., drop_remainder=True)` may have left out of one pass."""
    sizes = [shape[0] for shape in part.form.shapes if batched]
    return max((size or 1) - 1 for size in sizes) if sizes and None not in sizes else 0


def _batched(part: OwnSplit, train: Any, expected: Expected) -> bool:
    """Whether another split gives batches: it says it itself, or its ranks do."""
    form = part.form
    if form.certain or (form.declared is None and form.batched is not None):
        return bool(form.batched)
    return batched_like(form, train, train_batched=expected.batched)


def _in_order_of(part: OwnSplit, train: Any, batched: bool) -> Iterator[Chunk]:
    """A split's chunks with the leaves in the order of the training split's."""
    order = leaf_order(part.form.template, train.template)
    if order is None:
        raise InputError(
            f"{part.form.where} differs in structure from `train`: {part.form.shown()} and "
            f"{train.shown()}. Give all splits the same structure."
        )
    for chunk in part.chunks(batched):
        yield [chunk[number] for number in order]


def _with_classes(folder: Path, stored: Stored, expected: Expected) -> Stored:
    found = read_classes(folder, stored, "train", expected)
    if found is None:
        return stored
    return stored.model_copy(
        update={
            "num_classes": found.num_classes,
            "class_counts": found.counts(),
            "one_hot": found.one_hot,
        }
    )


def _hash(folder: Path) -> str:
    """A hash of every file's name and content."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name} {path.stat().st_size}".encode())
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def carve_validation(folder: Path, stored: Stored, classes: npt.NDArray[np.int64] | None) -> Stored:
    """Takes a fifth of the training split, class by class where there are classes.

    Args:
        folder: Where the data is stored.
        stored: What is there.
        classes: The class of each training example, or None if targets are not classes.

    Raises:
        InputError: There is only one training example.
    """
    count = stored.splits["train"]
    if count < 2:
        raise InputError(
            f"A validation split cannot be taken from {count} training example(s). Give more, or "
            'the split itself: {"train": ..., "validation": ...}.'
        )
    chosen = _choose(count, classes)
    inside = np.zeros(count, bool)
    inside[chosen] = True
    for number, leaf in enumerate(stored.leaves):
        _divide(folder, number, leaf, inside)
    note = (
        f"No validation split was given: {VALIDATION_FRACTION:.0%} of the training examples were "
        f"taken at random{'' if classes is None else ', class by class'}. If neighboring examples "
        "are similar (time series, video frames, several images of one person), give your own "
        "validation split."
    )
    return stored.model_copy(
        update={
            "splits": {
                **stored.splits,
                "train": count - len(chosen),
                "validation": len(chosen),
            },
            "notes": (*stored.notes, note),
        }
    )


def _choose(count: int, classes: npt.NDArray[np.int64] | None) -> npt.NDArray[Any]:
    """Indices of the validation examples: a fifth of all, and of each class as nearly as can be."""
    generator = np.random.default_rng(_SPLIT_SEED)
    groups = [np.arange(count)]
    if classes is not None:
        order = np.argsort(classes, kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(classes[order])) + 1)
    sizes = apportion(
        np.array([len(group) for group in groups], np.int64),
        max(1, round(VALIDATION_FRACTION * count)),
        seed=[_SPLIT_SEED, 1],
    )
    chosen = [
        generator.permutation(group)[:size] for group, size in zip(groups, sizes, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def _divide(folder: Path, number: int, leaf: Leaf, inside: npt.NDArray[np.bool_]) -> None:
    """Rewrites one leaf's training file as two."""
    whole = read_leaf(folder, "train", number, leaf, len(inside))
    new = {}
    for split, mask in (("train", ~inside), ("validation", inside)):
        values, lengths = leaf_files(folder, split, number)
        new[split] = values.with_suffix(".new"), values
        if isinstance(whole, tuple):
            ends = np.cumsum(whole[1])
            with new[split][0].open("wb") as file:
                for index in np.flatnonzero(mask):
                    file.write(whole[0][ends[index] - whole[1][index] : ends[index]].data)
            new[f"{split}-lengths"] = lengths.with_suffix(".new"), lengths
            new[f"{split}-lengths"][0].write_bytes(whole[1][mask].tobytes())
        else:
            with new[split][0].open("wb") as file:
                for part in np.array_split(np.flatnonzero(mask), max(1, len(mask) // 4096)):
                    file.write(np.ascontiguousarray(whole[part]).data)
    del whole
    for written, final in new.values():
        written.replace(final)
