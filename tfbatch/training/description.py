"""What a model builder makes, told to the process that directs a search and builds nothing."""

from __future__ import annotations

import dataclasses
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import keras

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, TfbatchError
from tfbatch.loss_scaling import unwrapped
from tfbatch.optimizers import OWN
from tfbatch.run_folder.files import BEST_MODEL
from tfbatch.schema import JsonObject, Named
from tfbatch.training.asked import REPLACED, Given, ask, first_values
from tfbatch.training.by_value import lost_in_configuration
from tfbatch.training.callback_state import begin_anew
from tfbatch.training.callbacks import check_callbacks
from tfbatch.training.compilation import compiled_parts, loss_of, uses_xla
from tfbatch.training.content_checks import content_notes
from tfbatch.training.context import TaskContext
from tfbatch.training.given_objects import hash_of
from tfbatch.training.model_builder import (
    asks_hyperparameters,
    check_arguments,
    check_asked,
    own_parameters,
)
from tfbatch.training.own_optimizer import check_kept, learning_rate_of, named_like
from tfbatch.training.structure import cause_of_retracing, is_of_the_user, unknown_variables
from tfbatch.training.workload import Workload
from tfbatch.trial.derived import derive


@dataclasses.dataclass(frozen=True)
class ModelDescription:
    """What is known of a model before any trial.

    Attributes:
        optimizer: The optimizer that it is compiled with, or None if it is not compiled.
        learning_rate: Its constant learning rate, or None.
        hyperparameters: What the builder asks of `hp`, each as KerasTuner's own configuration.
        notes: What a user should know, a sentence each.
        jit_compile: Whether XLA compiles it here, where that was left to Keras.
        begin_anew: What of the user's callbacks is not carried from part to part of a training.
        whole_only: Why its trainings cannot be continued in parts; empty if they can.
        no_branches: Why they cannot go on with another schedule; empty if they can.
        compiled_with: A hash of the loss and metrics that its builder compiles; empty for none.
    """

    optimizer: Named | None = None
    learning_rate: float | None = None
    hyperparameters: tuple[JsonObject, ...] = ()
    notes: tuple[str, ...] = ()
    jit_compile: bool = False
    begin_anew: tuple[str, ...] = ()
    whole_only: str = ""
    no_branches: str = ""
    compiled_with: str = ""


def describe_model(
    task: TaskContext, own: Mapping[str, object], searched: Given | None
) -> ModelDescription:
    """What the model is; refuses arguments that its builder does not take.

    Args:
        task: Model and data.
        own: The builder's further arguments, as the user trains now.
        searched: Those that a search sets, each with its values; None where nothing is searched.

    Raises:
        InputError: The model, an argument or a callback cannot be used.
    """
    check_arguments(task.code.build_model, {**(searched or {}), **own})
    try:
        callbacks = (task.code.callbacks or list)()
        notes = check_callbacks(callbacks)
        found = description_of(
            task.programs.workload,
            own=own,
            searched=searched,
            heartbeat=task.heartbeat_or_stop,
        )
    except TfbatchError:
        raise
    except Exception as error:  # of the user's own code: shown whole, before any trial
        raise InputError(
            f"The model or the callbacks cannot be built:\n{traceback.format_exc()}"
        ) from error
    stops = [c for c in callbacks if isinstance(c, keras.callbacks.EarlyStopping)]
    return dataclasses.replace(
        found,
        notes=(*found.notes, *notes),
        begin_anew=tuple(begin_anew(callbacks)),
        whole_only="EarlyStopping may stop one before its end" if stops else found.whole_only,
    )


def check_optimizers(task: TaskContext, configurations: Sequence[Configuration]) -> None:
    """Makes each optimizer as a trial does: a typing error must not wait for the trials.

    Args:
        task: Model and data; a compiled model's optimizer may refuse a value beside its settings.
        configurations: Of the space, one for each value to try.

    Raises:
        InputError: An optimizer refuses a value, or has no momentum for a schedule to set.
    """
    workload = task.programs.workload
    model = workload.build(seed=1, arguments=configurations[0].model)
    for configuration in configurations:
        length = 1000 * configuration.batch_size  # any: Keras judges numbers, not their sizes
        derived = derive(configuration, num_examples=length, total_examples=length)
        workload.optimizer(configuration, derived, model)


def description_of(
    workload: Workload,
    *,
    own: Mapping[str, object] = MappingProxyType({}),
    searched: Given | None = MappingProxyType({}),
    heartbeat: Callable[[], None] = lambda: None,
) -> ModelDescription:
    """Builds the model as the user trains it now, and describes it.

    A builder with `hp` is called again, with other values of what it asks for.

    Args:
        workload: Model and data.
        own: Arguments of the builder, the same for all trials.
        searched: Those that a search sets, each with its values, none for a range; None where
            nothing is searched, what the builder asks of `hp` included.
        heartbeat: Called before each further build.

    Raises:
        InputError: The model cannot be used, or does not ask for an argument that is given.
    """
    model = workload.build(seed=1, arguments=own)
    hyperparameters, notes = _hyperparameters(workload, own, searched, heartbeat)
    loss = loss_of(model, workload.data, workload.compilation)
    notes += content_notes(model, workload.data, loss)
    notes += [*_normalization_notes(model), *_sum_notes(model, workload), *_retracing_notes(model)]
    jit_compile = uses_xla(model, workload.jit_compile)
    unknown = unknown_variables(model)
    whole_only = f"{', '.join(unknown)} are variables that Keras does not know" if unknown else ""
    if not model.compiled:
        return ModelDescription(
            hyperparameters=hyperparameters,
            notes=tuple(notes),
            jit_compile=jit_compile,
            whole_only=whole_only,
        )
    check_kept(model.optimizer)
    notes += list(_compiled_notes(model, workload))
    named = named_like(model.optimizer)
    kind = type(unwrapped(model.optimizer)).__name__
    keeps = f"what {kind} keeps between updates fits no other schedule"
    return ModelDescription(
        named,
        learning_rate_of(model.optimizer),
        hyperparameters,
        tuple(notes),
        jit_compile,
        whole_only=whole_only,
        no_branches=keeps if named.name == OWN else "",
        compiled_with=hash_of(compiled_parts(model), sources=False),
    )


def _hyperparameters(
    workload: Workload,
    own: Mapping[str, object],
    searched: Given | None,
    heartbeat: Callable[[], None],
) -> tuple[tuple[JsonObject, ...], list[str]]:
    """What the builder asks of `hp` that is not replaced, and what a user should know of it."""
    first, builder = workload.last_hyperparameters, workload.build_model
    if first is None or not asks_hyperparameters(builder):
        return (), []

    given = {**(searched or {}), **{name: (value,) for name, value in own.items()}}

    def build(values: Mapping[str, object]) -> Any:
        workload.build(seed=1, arguments={**first_values(given), **values})
        return workload.last_hyperparameters

    if first_values(given) != own:
        heartbeat()
        first = build({})
    taken = own_parameters(builder)
    known = {*taken, *(parameter.name for parameter in first.space)}
    if searched is None and known.issuperset(given):
        return (), []
    asked = ask(first, build, given=given, taken=taken, heartbeat=heartbeat)
    notes = []
    if not asked.untried:
        check_asked(builder, given, asked.names)
    elif unseen := [name for name in given if name not in (*taken, *asked.names)]:
        notes.append(
            f"No build that was tried asked for {', '.join(f'`{name}`' for name in unseen)}: check "
            "the spelling."
        )
    if searched is None:  # then no trial is made with what was found
        return (), notes
    found = [entry for entry in asked.entries if entry["config"]["name"] not in REPLACED]
    return tuple(found), [
        *notes,
        *asked.notes,
        *(
            f"The builder's own hyperparameter `{name}` stays at its default: tfbatch searches the "
            "batch size and the learning rate itself."
            for name in asked.names
            if name in REPLACED and name not in given
        ),
    ]


def _compiled_notes(model: Any, workload: Workload) -> Iterator[str]:
    for part in keras.tree.flatten([model.loss, *map(_given_metrics, model.metrics)]):
        if hasattr(part, "get_config") and (lost := lost_in_configuration(part)):
            yield f"{lost} Trials train with it; a loaded `{BEST_MODEL}` will not."
    if unmoved := unmoved_metrics(model):
        yield unmoved
    inner = unwrapped(model.optimizer)
    kind = type(inner).__name__
    named = named_like(model.optimizer)
    tuned = "" if named.name == OWN else f" (tfbatch: {named.name})"
    yield (
        f"The model is compiled: its {kind}{tuned}, loss, metrics and train_step are kept; its "
        "learning rate and schedule are replaced by what is searched."
    )
    if learning_rate_of(model.optimizer) is None:
        yield (
            "Its learning rate is a schedule, which cannot be the baseline: the baseline trains "
            "with a constant one. Give it with --baseline=learning_rate=X."
        )
    if getattr(inner, "gradient_accumulation_steps", None):
        yield (
            f"Its optimizer accumulates {inner.gradient_accumulation_steps} gradients, and Keras "
            "evaluates a schedule at each of them, not at each update: remove "
            "`gradient_accumulation_steps` and let the batch size be searched."
        )
    if model.jit_compile and workload.jit_compile is False:
        yield "It is compiled with jit_compile=True, and --jit_compile=false turns that off."
    if model.run_eagerly:
        yield "It runs eagerly: every trial pays for it. Remove `run_eagerly` when it is debugged."


_EVALUATING = ("test_step", "compute_loss", "compute_metrics", "get_metrics_result")
"""What a model may override to compute its metrics on a validation split."""


def unmoved_metrics(model: keras.Model) -> str:
    """Tells of metrics that a model's `train_step` alone moves, where Keras is silent; else ""."""
    kind = type(model)
    own = [n for n in _EVALUATING if getattr(kind, n) is not getattr(keras.Model, n)]
    if own or kind.train_step is keras.Model.train_step or kind.metrics is keras.Model.metrics:
        return ""
    if any(metric is getattr(model, "_loss_tracker", None) for metric in model.metrics):
        return ""
    return (
        f"{kind.__name__} has a `train_step` and `metrics` of its own, but Keras's `test_step`, "
        "which moves none of these metrics: every validation comes to their first value, and "
        "trials cannot be compared by it. Override `test_step` too, or compare by a training "
        "metric (--objective=loss:min)."
    )


def _given_metrics(metric: Any) -> Any:
    """What a user has given, of the metric that Keras keeps all compiled ones in."""
    return getattr(metric, "_user_metrics", None) or ()


def _normalization_notes(model: Any) -> Iterator[str]:
    momenta = {
        float(layer.momentum)
        for layer in model._flatten_layers(include_self=False, recursive=True)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    }
    slow = sorted(m for m in momenta if _SLOW_MOMENTUM < m < 1)
    if slow:
        updates = _updates_until_forgotten(slow[-1])
        yield (
            f"BatchNormalization with momentum {slow[-1]:g} counts updates: its moving statistics "
            f"still hold a tenth of their initial values after {updates} updates, so a large batch "
            "with fewer updates looks worse in validation than it is. Use momentum=0.9."
        )


def _sum_notes(model: Any, workload: Workload) -> Iterator[str]:
    loss = model.loss if model.compiled else workload.compilation.loss
    given = loss.values() if isinstance(loss, dict) else loss
    for part in given if isinstance(given, Iterable) and not isinstance(given, str) else [loss]:
        if getattr(part, "reduction", None) == "sum":
            yield (
                f"{type(part).__name__}(reduction='sum') sums over the batch: a gradient grows "
                "with the batch size, which is the linear rule already, and losses of different "
                "batch sizes are not comparable. Use the mean, or a search with scaling_rule: none."
            )
            return


def _retracing_notes(model: Any) -> Iterator[str]:
    """Tracing takes longer than many a trial, and nothing else on the screen shows it."""
    cause = cause_of_retracing(model)
    if not cause and model.compiled and is_of_the_user(own := unwrapped(model.optimizer)):
        cause = f"`{type(own).__name__}` is a class of your own"
    if cause:
        yield (
            f"{cause}, so that each trial traces the model anew. All trials share one traced "
            "program if every class of your own, including losses and metrics, is declared with "
            "@tfbatch.reusable: its behavior must depend only on its configuration, its weights "
            "and plain attributes. Wrap a function of your own in such a class."
        )


_SLOW_MOMENTUM = 0.95


def _updates_until_forgotten(momentum: float) -> int:
    return math.ceil(math.log(0.1) / math.log(momentum))
