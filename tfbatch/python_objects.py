"""What a user gives in Python: builder, data, loss, callbacks; by value or by name."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from tfbatch.dataset_info.own_data import OwnData
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import InputError
from tfbatch.plug_ins import find_function
from tfbatch.request.model_and_data import ModelAndData, ModelAndDataOptions
from tfbatch.request.task import IN_PYTHON, Task

if TYPE_CHECKING:
    import keras

    from tfbatch.pipeline.user_data import OwnSplit
    from tfbatch.training.context import UserCode  # imports TensorFlow

Metrics: TypeAlias = "Sequence[object] | Mapping[str, object]"
"""Keras metrics or their names, in a list or in a dict by the model's outputs."""
Callbacks: TypeAlias = "Sequence[keras.callbacks.Callback]"


@dataclasses.dataclass(frozen=True)
class PythonObjects:
    """What a user gives in Python; what is None is found by its name.

    Attributes:
        build_model: The model's builder.
        make_dataset: The data's function.
        payload: Arrays or Datasets, to be stored in the run folder.
        callbacks: Keras callbacks, or a function that makes them.
        callbacks_name: `package.module:function` of the latter, where it was given by that name.
        loss: The loss of a model that is not compiled.
        metrics: Its metrics, in a list or in a dict by the model's outputs.
    """

    build_model: Callable[..., keras.Model] | None = None
    make_dataset: Callable[..., object] | None = None
    payload: object = None
    callbacks: Callable[[], list[keras.callbacks.Callback]] | Callbacks | None = None
    callbacks_name: str | None = None
    loss: object = None
    metrics: Metrics | None = None


def options_and_objects(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    batched: bool | None = None,
    image_size: int | None = None,
    model_arguments: Mapping[str, object] | None = None,
    baseline: str = "",
    optimizer: str | None = None,
    data_dir: str | Path | None = None,
    records_dir: str | Path | None = None,
    loss: object = None,
    metrics: Metrics | None = None,
    class_weight: dict[int, float] | None = None,
    callbacks: Callable[[], list[keras.callbacks.Callback]] | Callbacks | None = None,
) -> tuple[ModelAndDataOptions, PythonObjects]:
    """Model and data as files name them, and the objects themselves; see find_batch_size.

    Raises:
        InputError: The builder is neither a function nor a name, or there is no data.
    """
    named = isinstance(build_model, str)
    if not named and not callable(build_model):
        raise InputError(
            f"`build_model` must be a function or a name. Received: {type(build_model).__name__}."
        )
    dataset, make_dataset, payload = _as_dataset(data)
    options: ModelAndDataOptions = {
        "dataset": dataset,
        "batched": batched,
        "image_size": image_size,
        "model": str(build_model) if named else _reference(build_model),
        "check_model": named,
        "model_arguments": model_arguments,
        "baseline": baseline,
        "optimizer": optimizer,
        "data_dir": Path(data_dir) if data_dir else None,
        "records_dir": Path(records_dir) if records_dir else None,
        "task": task_of(loss, metrics, class_weight),
    }
    objects = PythonObjects(
        build_model=None if isinstance(build_model, str) else build_model,
        make_dataset=make_dataset,
        payload=payload,
        callbacks=callbacks,
        loss=loss,
        metrics=metrics,
    )
    return options, objects


def user_code(subject: ModelAndData, objects: PythonObjects) -> UserCode:
    """The code that travels to the workers: what is given, and what the subject names.

    Raises:
        InputError: A name that cannot be found, a builder or callbacks that cannot be used.
    """
    from tfbatch.training.callbacks import as_factory
    from tfbatch.training.compilation import Compilation
    from tfbatch.training.context import UserCode
    from tfbatch.training.model_builder import check_builder, find_model_builder

    build_model = objects.build_model or find_model_builder(subject.model)
    check_builder(build_model)
    make_dataset, data = objects.make_dataset, subject.data
    if isinstance(data, OwnData) and data.kind == "function" and not make_dataset:
        make_dataset = find_function(data.where, flag="--data")
    task = subject.task
    callbacks = as_factory(objects.callbacks)
    return UserCode(
        build_model,
        callbacks,
        make_dataset,
        Compilation(
            task.loss if objects.loss is None else objects.loss,
            task.metrics if objects.metrics is None else objects.metrics,
            task.class_weight,
        ),
        None if callbacks is None else objects.callbacks_name or IN_PYTHON,
    )


def splits_of(subject: ModelAndData, objects: PythonObjects) -> dict[str, OwnSplit] | None:
    """The checked arrays or Datasets to be stored; None if the data is named.

    Raises:
        InputError: They cannot be used.
    """
    if objects.payload is None:
        return None
    from tfbatch.pipeline.user_data import read_splits

    return read_splits(objects.payload, declared=subject.batched)


def _as_dataset(
    data: object,
) -> tuple[str | Recipe | OwnData, Callable[..., object] | None, object]:
    """What the data is called, the user's function, and what is to be stored.

    Raises:
        InputError: It is None.
    """
    if data is None:
        raise InputError(
            "`data` must be a data set's name, a function `make_dataset(split, batch_size, seed)`, "
            "arrays `(inputs, targets)`, a tf.data.Dataset, a keras.utils.PyDataset, or a dict of "
            "splits to such. Received: None. (A function that gives data must return it.)"
        )
    if isinstance(data, str | Path | Recipe):
        return str(data) if isinstance(data, Path) else data, None, None
    if callable(data) and not hasattr(data, "num_batches"):  # a PyDataset may be callable
        where = _reference(data)
        name = where.split(":")[-1].split(".")[-1].strip("<>")
        return OwnData(name=name, kind="function", where=where), data, None
    return OwnData(name="data", kind="stored", where=""), None, data


def _in_a_list(metric: object) -> tuple[str, str]:
    """What one metric is, in words, and how it stands in a list."""
    name = getattr(metric, "__name__", type(metric).__name__)
    if isinstance(metric, str):
        return repr(metric), repr(metric)
    if isinstance(metric, type):
        return f"the class {name}", f"{name}()"
    if isinstance(metric, set | frozenset):
        return "a set", "..."
    return name, name if inspect.isroutine(metric) else f"{name}(...)"


def task_of(
    loss: object,
    metrics: Metrics | None,
    class_weight: dict[int, float] | None,
) -> Task:
    """The task as files name it: a loss or a metric that has no name is "given in Python".

    Raises:
        InputError: Metrics are one metric, in no list, or class weights cannot be used.
    """
    if isinstance(metrics, str) or not isinstance(metrics, Sequence | Mapping | None):
        one, example = _in_a_list(metrics)
        raise InputError(
            "`metrics` must be a list of metrics, or a dict of such lists by the model's outputs. "
            f"Received: {one}. Write metrics=[{example}]."
        )

    def name(part: object) -> str:
        return part if isinstance(part, str) else IN_PYTHON

    if isinstance(metrics, Mapping):  # files have names for a model of one output
        metrics = [IN_PYTHON] if metrics else []
    return Task(
        None if loss is None else name(loss),
        None if metrics is None else tuple(map(name, metrics)),
        class_weight,
    )


def _reference(function: object) -> str:
    """`package.module:function` of a function, as `--model` and `--data` take it.

    A functools.partial and a callable object have no name that they could be imported by: theirs is
    that of their class in angle brackets, as Python has it of a lambda.
    """
    name = getattr(function, "__qualname__", f"<{type(function).__qualname__}>")
    return f"{getattr(function, '__module__', '__main__')}:{name}"
