"""The flags of model, data, optimizer and devices, which `tune`, `probe` and `claims` share."""

from __future__ import annotations

from typing import Any

from absl import flags

from tfbatch.command_line.common_flags import define_common_flags
from tfbatch.command_line.running import parse_arguments, path_of
from tfbatch.errors import InputError
from tfbatch.request.execution import AUTOMATIC, JitCompile
from tfbatch.request.model_and_data import ModelAndDataOptions
from tfbatch.request.task import Task

_TEXTS: dict[str, tuple[str | None, str]] = {
    "data": (
        None,
        "package.module:function of yours, `make_dataset(split, batch_size, seed)`, or a function "
        "without arguments that gives arrays or a Dataset. Instead of --dataset.",
    ),
    "model": (
        "small_cnn",
        "A model of tfbatch/models or keras.applications, or package.module:function.",
    ),
    "model_arguments": ("", 'Arguments of the builder, e.g. "normalization=group".'),
    "loss": (None, "Keras loss of a model that is not compiled. Default: classification."),
    "class_weight": ("", 'Weights of classes in the training loss, e.g. "0=1,1=5".'),
    "baseline": ("", 'What you train with now, e.g. "batch_size=128,learning_rate=0.05".'),
    "optimizer": (None, "A file of tfbatch/optimizers: sgd, adamw, .... Default: the search's."),
    "precision": ("float32", "float32, mixed_float16 or mixed_bfloat16."),
    "strategy": (None, "mirrored: on all GPUs of the machine; batch sizes are global ones."),
}


def define_workload_flags(values: flags.FlagValues, *, batch_sizes: str) -> None:
    """Adds the flags to a command's.

    Args:
        values: The command's flags.
        batch_sizes: What `--batch_sizes` is there, for the help.
    """
    for name, (default, text) in _TEXTS.items():
        flags.DEFINE_string(name, default, text, flag_values=values)
    define_common_flags(values, "dataset", "image_size", "data_dir", "records_dir")
    flags.DEFINE_boolean(
        "batched",
        None,
        "Whether each element of --data's Datasets is a batch; required where neither they nor "
        "the model show it.",
        flag_values=values,
    )
    flags.DEFINE_list("metrics", None, "Keras metrics, as --loss.", flag_values=values)
    flags.DEFINE_list("batch_sizes", None, batch_sizes, flag_values=values)
    _define_jit_compile(values)
    define_common_flags(values, "data_on", default=AUTOMATIC)
    flags.DEFINE_integer(
        "logical_cpus", 0, "Split the CPU, to try --strategy without GPUs.", 0, flag_values=values
    )


def _define_jit_compile(values: flags.FlagValues) -> None:
    """An enum whose `--jit_compile` and `--nojit_compile` stand for true and false."""
    flag = flags.EnumFlag(
        "jit_compile",
        AUTOMATIC,
        "Whether XLA compiles the model; auto: as Keras chooses, with a GPU where every layer "
        "supports it.",
        list(_JIT_COMPILE),
        case_sensitive=False,
    )
    flag.boolean = True
    flags.DEFINE_flag(flag, values)


_JIT_COMPILE: dict[str, JitCompile] = {AUTOMATIC: AUTOMATIC, "true": True, "false": False}


def jit_compile_from(values: flags.FlagValues) -> JitCompile:
    """What `--jit_compile` says."""
    return _JIT_COMPILE[values.jit_compile]


def workload_from(values: flags.FlagValues) -> ModelAndDataOptions:
    """Reads them; precision, strategy and devices are read by the command.

    Raises:
        InputError: One that cannot be used, or two that exclude each other.
    """
    if values.data and values["dataset"].present:
        raise InputError(
            "`--dataset` names a data set and `--data` a function of yours: give one of them. "
            f"Received: --dataset={values.dataset} --data={values.data}."
        )
    metrics = None if values.metrics is None else tuple(values.metrics)
    return {
        "dataset": values.data or values.dataset,
        "batched": values.batched,
        "image_size": values.image_size,
        "model": values.model,
        "model_arguments": parse_arguments(values.model_arguments, flag="--model_arguments"),
        "baseline": values.baseline,
        "optimizer": values.optimizer,
        "data_dir": path_of(values.data_dir),
        "records_dir": path_of(values.records_dir),
        "task": Task(values.loss, metrics, _class_weight(values.class_weight)),
    }


def batch_sizes_from(values: flags.FlagValues) -> list[int] | None:
    """The batch sizes that were asked for, or None.

    Raises:
        InputError: One that is no whole number.
    """
    return None if values.batch_sizes is None else _integers(values.batch_sizes)


def as_typed(values: flags.FlagValues, names: list[str]) -> list[str]:
    """Flags as they are typed, for a command that is shown."""

    def text(value: Any) -> str:
        return ",".join(value) if isinstance(value, list) else str(value)

    return [f"--{name}={text(values[name].value)}" for name in names]


def _class_weight(text: str) -> dict[int, float] | None:
    found = parse_arguments(text, flag="--class_weight")
    try:
        weights = {int(key): _weight(value) for key, value in found.items()}
    except ValueError as error:
        raise InputError(
            f'`--class_weight` must be written as "0=1,1=5". Received: {text!r}.'
        ) from error
    if len(weights) < len(found):  # "1" and "01" are one class
        raise InputError(
            f"`--class_weight` must name each class once. Received: {text!r}. Leave out one of "
            "those that are the same."
        )
    return weights or None


def _weight(value: bool | float | str) -> float:
    if isinstance(value, bool):
        raise ValueError(f"no number: {value}")
    return float(value)


def _integers(texts: list[str]) -> list[int]:
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise InputError(
            f'`--batch_sizes` must be whole numbers, such as "32,64,128". '
            f"Received: {','.join(texts)!r}."
        ) from error
