"""Which folders of a folder of images are splits, and which are classes.

Folders with the usual names of splits that hold folders of classes are splits; else the folders are
the classes. What could be either is not guessed: `Layout.unclear` says why, and what settles it.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Literal

from tfbatch.encoded_images import SUFFIXES, shown
from tfbatch.errors import DataError, InputError, did_you_mean

Role = Literal["train", "validation", "test"]
NO_SPLITS: Literal["none"] = "none"
_WORDS: dict[str, Role] = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "validating"), "validation"),
    **dict.fromkeys(("dev", "devel", "development", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "tests", "testing", "tst"), "test"),
}
_FILLERS = (
    *("set", "sets", "split", "data", "dataset", "folder", "files"),
    *("images", "image", "imgs", "img", "photos", "pictures"),
)
_NOT_DATA = ("__MACOSX", "$RECYCLE.BIN", "System Volume Information")
_MOST_NAMES = 8


@dataclasses.dataclass(eq=False)
class Folder:
    """A folder with images in it, or in folders below.

    Attributes:
        path: Where it is.
        direct: Images in the folder itself.
        inner: The folders in it.
        skipped: What was left out in the folder itself, by its kind: a suffix, "hidden", ...
    """

    path: Path
    direct: list[Path] = dataclasses.field(default_factory=list)
    inner: list[Folder] = dataclasses.field(default_factory=list)
    skipped: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def name(self) -> str:
        """The folder's own name."""
        return self.path.name

    def images(self) -> list[Path]:
        """All images in it, sorted by path."""
        return sorted([*self.direct, *(path for each in self.inner for path in each.images())])

    def classes(self) -> list[Folder]:
        """The folders in it that have images."""
        return [each for each in self.inner if each.has_images()]

    def has_images(self) -> bool:
        """Whether it has any image."""
        return bool(self.direct) or any(each.has_images() for each in self.inner)

    def all_skipped(self) -> collections.Counter[str]:
        """What was left out in it and below."""
        return sum((each.all_skipped() for each in self.inner), self.skipped.copy())


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a folder of images holds.

    Attributes:
        splits: The images of each class, for each split by its folder's name; without folders of
            splits all are in `train`.
        roles: Which split is for training, validation and test, where folders say so.
        notes: What a user should know, a sentence each.
        unclear: Why the folders could be meant in another way, with the remedy; else empty.
    """

    splits: dict[str, dict[str, list[Path]]]
    roles: dict[Role, str]
    notes: tuple[str, ...] = ()
    unclear: str = ""


def split_role(name: str) -> Role | None:
    """What split a folder's name means, such as "Training", "VAL", "test_set" or "train2017"."""
    words = _words(name)
    roles = {_WORDS[word] for word in words if word in _WORDS}
    others = [word for word in words if word not in _WORDS and word not in _FILLERS]
    return roles.pop() if len(roles) == 1 and not others else None


def read_layout(folder: Path, chosen: Mapping[Role, str] | Literal["none"] | None) -> Layout:
    """Reads what a folder of images holds; no image is opened.

    Args:
        folder: The folder.
        chosen: The folder of each split, or "none" where the folders are the classes.

    Raises:
        DataError: A folder that is absent or cannot be read, a class without images.
        InputError: A chosen folder that there is not.
    """
    root = _read(folder)
    if chosen == NO_SPLITS:
        return _of_classes(root, known=True)
    if chosen is not None:
        return _chosen(root, chosen)
    named = [each for each in root.classes() if split_role(each.name)]
    splits = [each for each in named if each.classes()]
    if splits:
        return _of_splits(root, splits)
    return _of_classes(root, unclear=_unclear_classes(root, named))


def _of_classes(root: Folder, *, unclear: str = "", known: bool = False) -> Layout:
    """Each folder is a class; `known` if the user says so."""
    classes = {each.name: each.images() for each in root.inner}
    _check_train(root.path, classes)
    notes = [
        f"The folder `{shown(each.name)}` is taken for a class: it holds images and no folders."
        for each in root.classes()
        if split_role(each.name) and not unclear and not known
    ]
    return Layout(
        splits={"train": classes},
        roles={},
        notes=(*notes, *_left_out(root, [root])),
        unclear=unclear,
    )


def _unclear_classes(root: Folder, named: list[Folder]) -> str:
    """Why folders that hold no folders of splits may yet be no classes."""
    held = root.classes()
    others = [each for each in held if each not in named]
    inner = [{each.name for each in one.classes()} for one in held]
    if named and not (others and [split_role(each.name) for each in named] == ["train"]):
        return (
            f"{_names(named)} in {root.path} {_have(named)} the name of a split, but "
            f"{'holds' if len(named) == 1 else 'hold'} images and no folders of classes. If each "
            f"folder is a class, say so with images:{root.path},splits=none; if not, make a folder "
            "for each class in every split, or take the folder away."
        )
    for one, names in zip(held, inner, strict=True):
        if len({split_role(name) for name in names} - {None}) > 1:
            return (
                f"The folder {one.path} holds splits ({_listed(names)}). Folders of splits hold "
                "folders of classes, not the other way round: move the images to "
                f"{root.path}/SPLIT/CLASS, or take all for one split with "
                f"images:{root.path},splits=none."
            )
    same = len(held) > 1 and len(inner[0]) > 1 and all(names == inner[0] for names in inner)
    if same and not any(one.direct for one in held):
        return (
            f"The folders in {root.path} ({_listed(one.name for one in held)}) hold the same "
            f"folders ({_listed(inner[0])}): they may be splits or classes. {_remedy(root, held)}"
        )
    return ""


def _of_splits(root: Folder, splits: list[Folder]) -> Layout:
    """The folders in `splits` hold folders of classes and have the names of splits."""
    others = [each for each in root.classes() if each not in splits]
    by_role: dict[Role, list[Folder]] = {}
    for each in splits:
        by_role.setdefault(_role(each), []).append(each)
    unlabeled = [each for each in others if split_role(each.name)]
    strange = [each for each in others if each not in unlabeled]
    unclear = ""
    for role, found in by_role.items():
        if len(found) > 1:
            unclear = f"{_names(found)} in {root.path} could each be the {role} split."
    if strange:
        beside = "it" if len(splits) == 1 else "them"
        unclear = (
            f"{_names(splits)} in {root.path} {_have(splits)} the name of a split, but not "
            f"{_listed(each.name for each in strange)} beside {beside}."
        )
    elif "train" not in by_role:
        unclear = f"{root.path} has {_names(splits)}, but no folder for the training split."
    if unclear:
        return _by_name(root, f"{unclear} {_remedy(root, splits)}")
    return _assigned(root, {role: found[0] for role, found in by_role.items()})


def _by_name(root: Folder, unclear: str) -> Layout:
    """Splits that a recipe may name, though what each is for is not clear."""
    splits = {each.name: each for each in root.inner if each.classes()}
    train = splits.pop("train", None)
    if train is None or len(train.inner) < 2 or len(train.classes()) < len(train.inner):
        return Layout(splits={}, roles={}, unclear=unclear)
    known = {each.name for each in train.inner}
    further = [s for s in splits.values() if {each.name for each in s.classes()} <= known]
    assigned = _assigned(root, {"train": train}, further=further)
    return dataclasses.replace(assigned, roles={}, unclear=unclear)


def _chosen(root: Folder, chosen: Mapping[Role, str]) -> Layout:
    """The folders that the user has named."""
    there = {each.name: each for each in root.inner}
    for role, name in chosen.items():
        if name in there and not there[name].classes():
            raise DataError(f"{there[name].path} must have a folder of images for each class.")
        if name not in there:
            raise InputError(
                f"There is no folder `{shown(name)}` in {root.path} for the {role} split."
                f"{did_you_mean(name, there)} Available: {_listed(there)}."
            )
    if "train" not in chosen or len(set(chosen.values())) < len(chosen):
        raise InputError(
            "The folders of the splits must be different ones, and one of them for `train`. "
            f"Received: {', '.join(f'{role}={name}' for role, name in chosen.items())}."
        )
    return _assigned(root, {role: there[name] for role, name in chosen.items()})


def _assigned(root: Folder, of: Mapping[Role, Folder], *, further: Iterable[Folder] = ()) -> Layout:
    """Splits with what each is for; the classes are those of the training split."""
    train = of["train"]
    classes = {each.name: each.images() for each in train.inner}
    _check_train(train.path, classes)
    used = {each.name: each for each in (*of.values(), *further)}
    splits, notes = {}, []
    for name in sorted(used):
        held = classes if used[name] is train else _classes_of(used[name], train, classes)
        splits[name] = held
        absent = sorted(set(classes) - {label for label, paths in held.items() if paths})
        if absent:
            notes.append(
                f"The split {shown(name)} has no images of {len(absent)} of the "
                f"{len(classes)} classes: {_listed(absent)}."
            )
    mapping = ", ".join(f"{role} from {shown(each.name)}/" for role, each in of.items())
    return Layout(
        splits=splits,
        roles={role: each.name for role, each in of.items()},
        notes=(f"Splits by folders: {mapping}.", *notes, *_left_out(root, list(used.values()))),
    )


def _classes_of(split: Folder, train: Folder, known: Collection[str]) -> dict[str, list[Path]]:
    """A split's classes, which must be classes of train.

    Raises:
        DataError: There are others.
    """
    unknown = sorted(each.name for each in split.classes() if each.name not in known)
    if unknown:
        raise DataError(
            f"{split.path} has classes that {train.path} has not: {_listed(unknown)}."
            f"{did_you_mean(unknown[0], known)} Each split has folders of the same classes. Rename "
            "or move them; or use other splits with images:DIR,train=FOLDER,validation=FOLDER,"
            "test=FOLDER, where validation and test may be left out."
        )
    return {each.name: each.images() for each in split.inner if each.name in known}


def _check_train(folder: Path, classes: Mapping[str, list[Path]]) -> None:
    if len(classes) < 2:
        inner = f" Is {folder / next(iter(classes))} the folder?" if classes else ""
        raise DataError(
            f"{folder} must have a folder of images for each of at least 2 classes. Received: "
            f"{_listed(classes) or 'none'}.{inner}"
        )
    for name, paths in classes.items():
        if not paths:
            raise DataError(
                f"The class `{shown(name)}` has no image ({', '.join(SUFFIXES)}) in {folder}. "
                "Delete its folder, or put its images there."
            )


def _left_out(root: Folder, used: list[Folder]) -> list[str]:
    """What was not used, counted; and the suffixes of what was, where they differ."""
    notes = []
    suffixes = collections.Counter(
        path.suffix.lower() for each in used for inner in each.inner for path in inner.images()
    )
    if len(suffixes) > 1:
        counts = ", ".join(f"{count:,} {suffix}" for suffix, count in suffixes.most_common())
        notes.append(f"Images by suffix: {counts}.")
    classes = [each for one in used for each in one.inner]
    deeper = sum(len(each.images()) - len(each.direct) for each in classes)
    if deeper:
        notes.append(f"In folders inside of a class, and of that class: {_images(deeper)}.")
    outside = sum(len(each.direct) for each in used if each is not root) + len(root.direct)
    if outside:
        notes.append(f"Left out, in no class's folder: {_images(outside)}.")
    unused = [] if root in used else [each for each in root.inner if each not in used]
    for each in unused:
        labels = "" if each.classes() else ", no folders of classes"
        count = _images(len(each.images()))
        notes.append(f"Left out: the folder {shown(each.name)}/ ({count}{labels}).")
    skipped = root.all_skipped() if root in used else root.skipped.copy()
    if root not in used:
        skipped += sum((each.all_skipped() for each in used), collections.Counter[str]())
    if skipped:
        kinds = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
        counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds[:_MOST_NAMES])
        further = sum(count for _, count in kinds[_MOST_NAMES:])
        more = f", {further:,} others" if further else ""
        notes.append(f"Left out, no images that can be read: {counts}{more}.")
    return notes


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _read(folder: Path, *, above: tuple[str, ...] = ()) -> Folder:
    """Everything in a folder. Links to folders are followed to the classes, not inside of them.

    Raises:
        DataError: A folder that is absent or cannot be read, or a link to a folder above.
    """
    found = Folder(folder)
    real = os.path.realpath(folder)
    if real in above:
        raise DataError(
            f"{shown(str(folder))} is a link to a folder that it lies in ({shown(real)}). "
            "Delete the link."
        )
    try:
        with os.scandir(folder) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(
            f"The folder of images {shown(str(folder))} cannot be read: {error.strerror}. Give one "
            "that holds a folder of images for each class, and that you may read."
        ) from error
    for entry in listed:
        path = folder / entry.name
        suffix = path.suffix.lower()
        if entry.name.startswith(".") or entry.name in _NOT_DATA:
            found.skipped["hidden"] += 1
        elif entry.is_dir(follow_symlinks=False) or (
            len(above) < 2 and entry.is_symlink() and os.path.isdir(path)  # noqa: PTH112
        ):
            found.inner.append(_read(path, above=(*above, real)))
        elif not entry.is_symlink() and not entry.is_file():
            found.skipped["special"] += 1
        elif entry.is_symlink() and not os.path.isfile(path):  # noqa: PTH113 - pathlib's raises
            found.skipped["linked folder" if path.is_dir() else "broken link"] += 1
        elif suffix in SUFFIXES:
            found.direct.append(path)
        else:
            found.skipped[shown(suffix) or "without suffix"] += 1
    return found


def _words(name: str) -> list[str]:
    """The words of a folder's name, in lower case."""
    return [part for word in re.findall(r"[^\W\d_]+", name) for part in _parts(word)]


def _likely_role(name: str) -> Role | None:
    """What split one of a name's words means, such as "test" in "seg_test"."""
    return next((_WORDS[word] for word in _words(name) if word in _WORDS), None)


def _parts(word: str) -> list[str]:
    """The words of a name such as "TrainSet" or "testset", in lower case."""
    lower = word.lower()
    if lower in _WORDS or lower in _FILLERS:
        return [lower]
    for filler in _FILLERS:
        if lower.endswith(filler) and lower[: -len(filler)] in _WORDS:
            return [lower[: -len(filler)]]
    return [part.lower() for part in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^A-Z]+", word)]


def _role(folder: Folder) -> Role:
    role = split_role(folder.name)
    if role is None:
        raise ValueError(f"{folder.path} has no name of a split")
    return role


def _remedy(root: Folder, candidates: list[Folder]) -> str:
    """The options that settle it, with the folders that there are."""
    guessed: dict[Role, str] = {}
    for each in candidates:
        role = _likely_role(each.name)
        if role is not None:
            guessed.setdefault(role, each.name)
    if "train" not in guessed:
        guessed = {"train": "FOLDER", **guessed}
    options = ",".join(f"{role}={shown(name)}" for role, name in guessed.items())
    return (
        f"Name the folder of each split, such as images:{root.path},{options} (train, validation, "
        f"test; other folders are left out), or say that each folder is a class with "
        f"images:{root.path},splits=none."
    )


def _names(folders: list[Folder]) -> str:
    return f"The folder{'' if len(folders) == 1 else 's'} {_listed(f.name for f in folders)}"


def _have(folders: list[Folder]) -> str:
    return "has" if len(folders) == 1 else "have"


def _listed(names: Iterable[str]) -> str:
    found = sorted(names)
    more = f" and {len(found) - _MOST_NAMES} more" if len(found) > _MOST_NAMES else ""
    return ", ".join(map(shown, found[:_MOST_NAMES])) + more
