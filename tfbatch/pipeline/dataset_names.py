"""The data set that a text means: a recipe, a source without one, or a user's own.

A recipe is derived for a data set that has none: `tfds:NAME`, `npz:PATH`, `images:DIR`,
`synthetic`. Importing this module imports no TensorFlow; deriving may, to look at the data.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tfbatch.dataset_info.own_data import OwnData, own_data_of
from tfbatch.dataset_info.recipe import RECIPES, ImageFeature, Recipe, load_recipe
from tfbatch.errors import InputError
from tfbatch.records.manifest import recommended_shards
from tfbatch.schema import validate
from tfbatch.sources import SOURCES, SPLIT_NAMES, Description, SourceBase, split_role

DEFAULT_SIZE = 64
"""Height and width of the images of a data set whose images differ in size."""
CARVED_FRACTION = 0.1
"""Share of the training split that becomes a validation or test split which is absent."""

_SIZE = re.compile(r"@(\d{1,5})(?:x(\d{1,5}))?$")
_RAW_VALUES = 64 * 64 * 3
"""Larger images stay encoded: their pixels would be many times the bytes of a JPEG."""
_FEW_VALIDATION_EXAMPLES = 1000


def find_dataset(
    text: str, *, data_dir: Path | None = None, image_size: int | None = None
) -> Recipe | OwnData:
    """The data set of a name.

    Args:
        text: A recipe's name, a path of one (.yaml), a source with a data set that has none
            (`tfds:NAME`, `images:FOLDER`, ...), `package.module:function`, or a folder of stored
            arrays.
        data_dir: The source's data folder.
        image_size: Height and width of the images of a data set without a recipe.

    Raises:
        InputError: There is no such data set, or its images' size is not to be chosen.
        DataError: Data without a recipe that is absent or cannot be used.
    """
    if is_derived(text):
        return derive_recipe(text, data_dir=data_dir, image_size=image_size)
    if image_size is not None:
        raise InputError(
            "`image_size` is for a data set without a recipe, such as tfds:NAME: a recipe has "
            f"`features.image.shape`. Received: {image_size} for {text!r}."
        )
    if text.endswith((".yaml", ".yml")):
        return load_recipe(text)
    return own_data_of(text) or load_recipe(text)


def check_no_size(data: Recipe | OwnData, image_size: int | None) -> None:
    """Refuses a size of images for data that is given itself, and has one.

    Raises:
        InputError: There is one.
    """
    if image_size is None:
        return
    if isinstance(data, Recipe):
        raise InputError(
            "`image_size` is for a data set without a recipe. Received: "
            f"image_size={image_size} with a recipe. Set `features.image.shape` in the recipe."
        )
    raise InputError(
        "`image_size` is for a data set without a recipe, such as tfds:NAME. Received: "
        f"image_size={image_size} with data of your own. Resize the images where they are made."
    )


def check_own(data: Recipe | OwnData, **forms: bool | None) -> None:
    """Refuses what is said of the form of data that has a name.

    Args:
        data: The data.
        **forms: `batched` and what else is for a user's own data; None where it is not said.

    Raises:
        InputError: One is said of a recipe's data.
    """
    for name, value in forms.items():
        if value is not None and not isinstance(data, OwnData):
            raise InputError(
                f"`{name}` is for your own Datasets only: named data states its own form. "
                f"Received: {name}={value} for {data.name}. Leave it out."
            )


def is_derived(text: str) -> bool:
    """Whether a data set's name is `SOURCE:...`, or a source's name alone that no recipe has."""
    source, colon, _ = _SIZE.sub("", text).partition(":")
    if source not in SOURCES.names() or text.endswith((".yaml", ".yml")):
        return False
    return bool(colon) or source not in RECIPES.names()


def derive_recipe(text: str, *, data_dir: Path | None, image_size: int | None = None) -> Recipe:
    """Makes the recipe of a data set from the data itself.

        tfds:NAME[/CONFIG][:VERSION]     TensorFlow Datasets, known to it or only in DATA_DIR
        npz:PATH                         arrays x_train, y_train, x_test, ... of one file
        images:DIR                       DIR/CLASS/*.png or DIR/SPLIT/CLASS/*.png; with options
                                         images:DIR,train=FOLDER,test=FOLDER,pixel_range=0:4095
        synthetic[:classes=10,size=16]   made

    Images of one size keep it. Others are resized to 64 x 64; `@96` or `@96x128` (height x width)
    at the end of the text, or `image_size`, gives another size to any data set. The splits are the
    source's own; a validation or a test split that is absent is a tenth of the training split.
    Pixels are normalized with the measured mean and deviation of the training split. There is no
    augmentation: whether a mirrored image is of the same class cannot be told from the data.

    Args:
        text: The data set.
        data_dir: The source's data folder, or None for its default.
        image_size: Height and width of the images, in pixels.

    Raises:
        InputError: An unknown source, features or splits that cannot be told apart, a wrong size.
        DataError: Data that is absent, or that cannot be used.
    """
    asked, size = _split_size(text, image_size, data_dir)
    name, _, rest = asked.partition(":")
    source = SOURCES.load(name).Source.from_text(rest, data_dir=data_dir)
    found: Description = source.describe(data_dir)
    train, validation, test = _choose_splits(asked, found)
    carved = {"from": "train", "fraction": CARVED_FRACTION}
    uniform = found.size is not None and size in (None, found.size)
    fixed = uniform and found.same_size
    height, width = size or found.size or (DEFAULT_SIZE, DEFAULT_SIZE)
    values = height * width * found.channels
    raw = not found.encoded or not uniform or values <= _RAW_VALUES
    image = ImageFeature(
        kind="image",
        shape=(height, width, found.channels),
        stored="raw" if raw else "encoded",
        resize=not fixed,
        pixel_range=found.pixel_range,
    )
    absent = (validation is None) + (test is None)
    left = int(found.splits[train] * (1 - absent * CARVED_FRACTION))
    held = found.splits[validation] if validation else int(found.splits[train] * CARVED_FRACTION)
    return validate(
        Recipe,
        {
            "name": _file_name(asked, size),
            "description": f"{asked}: {found.num_classes} classes, {height} x {width} pixels; "
            "recipe derived from the data",
            "source": {"name": name, **source.model_dump(mode="json")},
            "splits": {"train": train, "validation": validation or carved, "test": test or carved},
            "features": {
                "image": image.model_dump(mode="json"),
                "label": {"kind": "label", "num_classes": found.num_classes},
            },
            "shards": recommended_shards(left, image),
            "trial_length": f"{min(20, max(4, -(-100_000 // max(1, left))))} epochs",
            # A few hundred images cannot tell accuracies apart.
            "objective": "val_loss:min" if held < _FEW_VALIDATION_EXAMPLES else "val_accuracy:max",
        },
        where=text,
    )


def _split_size(
    text: str, image_size: int | None, data_dir: Path | None
) -> tuple[str, tuple[int, int] | None]:
    """The text without its `@SIZE`, and (height, width) where one is asked for."""
    match = _SIZE.search(text)
    asked = text
    if match and _is_there(text, data_dir):
        if _is_there(text[: match.start()], data_dir):
            raise InputError(
                f"`{match[0]}` at the end of {text} may be a size or a part of the name: there is "
                f"data with the name {text[: match.start()].partition(':')[2]} and with the whole "
                f"name. Write {text}/ for the latter, and for the former give the size with "
                "--image_size (in Python: image_size=)."
            )
        match = None
    if match:
        asked = text[: match.start()]
    size = (int(match[1]), int(match[2] or match[1])) if match else None
    if image_size is not None:
        if size and size != (image_size, image_size):
            raise InputError(
                f"The size of the images is given twice: `{match and match[0]}` and `image_size`. "
                f"Received: {text}, image_size={image_size}. Leave one of them out."
            )
        size = (image_size, image_size)
    if size and min(size) < 1:
        raise InputError(f"The size of the images must be 1 or more pixels. Received: {text}.")
    return asked, size


def _is_there(text: str, data_dir: Path | None) -> bool:
    """Whether the text without any size is a path of data that exists."""
    name, _, rest = text.partition(":")
    if not rest:
        return False
    source: type[SourceBase] = SOURCES.load(name).Source
    return source.is_there(rest, data_dir=data_dir)


def _choose_splits(text: str, found: Description) -> tuple[str, str | None, str | None]:
    """The source's splits for train, validation and test; None for one to be carved."""
    if found.roles:
        return found.roles["train"], found.roles.get("validation"), found.roles.get("test")
    held = list(found.splits)
    train = _split_for("train", held) or held[0]
    if len(held) > 1 and split_role(train) != "train":
        raise InputError(
            f"{text} must have a split `train`, or one split only. Received: {', '.join(held)}. "
            "Write a recipe (pipelines/NAME.yaml) that says in `splits` which one to train on."
        )
    others = [name for name in held if name != train]
    return (
        train,
        _split_for("validation", others),
        _split_for("test", others),
    )


def _split_for(role: str, held: Sequence[str]) -> str | None:
    """The split by a usual name, or else the only one by another spelling of it."""
    exact = [name for name in SPLIT_NAMES[role] if name in held]
    spelled = [name for name in held if split_role(name) == role]
    return exact[0] if exact else spelled[0] if len(spelled) == 1 else None


def _file_name(text: str, size: tuple[int, int] | None) -> str:
    """Such as tfds-gtsrb-32x32: a name for files, that no recipe of the user's has by chance."""
    source, _, rest = text.partition(":")
    if source in ("npz", "images"):
        path = Path(rest)
        rest = (path.resolve().stem if source == "npz" else path.resolve().name) or source
    name = re.sub(r"[^A-Za-z0-9_.]+", "-", f"{source}-{rest}").strip("-")[:64]
    return f"{name}-{size[0]}x{size[1]}" if size else name
