"""The flags that several commands take: one definition, so that a name means the same in all."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from absl import flags

from tfbatch.errors import InputError
from tfbatch.request.execution import DATA_ON


@dataclasses.dataclass(frozen=True)
class _Flag:
    """What is the same wherever a flag is taken; its first sentence says what it is."""

    kind: Literal["text", "whole", "number", "choice"]
    help: str
    default: Any = None
    lowest: float | None = None
    choices: tuple[str, ...] = ()


_COMMON = {
    "dataset": _Flag(
        "text",
        "A data set: the name of a recipe in pipelines/, the path of a recipe (.yaml), or data "
        "without a recipe: tfds:NAME, images:FOLDER, npz:PATH, synthetic.",
        "digits",
    ),
    "image_size": _Flag(
        "whole", "Height and width of the images of a data set without a recipe.", lowest=1
    ),
    "data_dir": _Flag("text", "Folder with the source's data; for TFDS also TFDS_DATA_DIR."),
    "records_dir": _Flag(
        "text", "Folder for TFRecords; also TFBATCH_RECORDS_DIR. Default: user's cache."
    ),
    "run_dir": _Flag("text", "The run folder."),
    "max_minutes": _Flag("number", "Time limit in minutes."),
    "memory_seconds": _Flag(
        "number",
        "Seconds after which the search for the largest batch begins no further process and "
        "answers with what it has measured (inf: no limit). Default: on a GPU 60, or 150 where "
        "XLA compiles the model; on a CPU no limit.",
        lowest=0.0,
    ),
    "seed": _Flag("whole", "All randomness derives from it.", lowest=0),
    "threads": _Flag("text", 'Threads on a CPU: a number, or "all".'),
    "data_on": _Flag(
        "choice",
        "Where batches are made: in the device's memory, within the training graph, or on the "
        "host; auto: on a GPU with the data in a fifth of its memory, else on the host.",
        choices=DATA_ON,
    ),
    "checkpoint_seconds": _Flag(
        "number", "Minimum time between two checkpoints of a training.", 60.0, lowest=0.0
    ),
}


def define_common_flags(
    values: flags.FlagValues, *names: str, default: object = None, more: str = ""
) -> None:
    """Adds common flags to a command's.

    Args:
        values: The command's flags.
        names: Which.
        default: Instead of the common default.
        more: What follows the common help in this command.
    """
    for name in names:
        flag = _COMMON[name]
        help_text = f"{flag.help} {more}".strip()
        used = flag.default if default is None else default
        if flag.kind == "text":
            flags.DEFINE_string(name, used, help_text, flag_values=values)
        elif flag.kind == "choice":
            flags.DEFINE_enum(name, used, list(flag.choices), help_text, flag_values=values)
        elif flag.kind == "whole":
            lowest = None if flag.lowest is None else int(flag.lowest)
            flags.DEFINE_integer(name, used, help_text, lowest, flag_values=values)
        else:
            flags.DEFINE_float(name, used, help_text, flag.lowest, flag_values=values)


def threads_of(text: str | None) -> int | None:
    """The value of `--threads`: None if it is not given, 0 for one per core.

    Raises:
        InputError: Neither a number from 1 nor "all".
    """
    if text is None:
        return None
    if text == "all":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f'`--threads` must be a number >= 1 or "all". Received: {text!r}.')
    return int(text)
