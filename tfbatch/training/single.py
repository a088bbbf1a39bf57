"""One training from a configuration, outside any search."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal, cast

import keras

from tfbatch.callbacks import DivergenceGuard, TrainingClock
from tfbatch.dataset_info.own_data import OwnData
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.pipeline.dataset_names import find_dataset
from tfbatch.pipeline.load import prepare_data
from tfbatch.plug_ins import check_reference, find_function
from tfbatch.request.training_config import TrainingConfig
from tfbatch.schema import content_hash
from tfbatch.training.callback_state import CarryOn
from tfbatch.training.callbacks import check_callbacks
from tfbatch.training.checkpoint import (
    CHECKPOINT_SECONDS,
    CheckpointFile,
    Position,
    WriteCheckpoint,
)
from tfbatch.training.compilation import Compilation
from tfbatch.training.data_place import place_data
from tfbatch.training.devices import make_strategy, use_threads
from tfbatch.training.evaluation import (
    drop_unsavable_compilation,
    evaluate,
    hash_of_model,
    hash_of_settings,
    plain_model,
)
from tfbatch.training.expectation import expect
from tfbatch.training.model_builder import find_model_builder
from tfbatch.training.program import held_by
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.training_loss import measure_training_loss
from tfbatch.training.trial import fit
from tfbatch.training.workload import Workload, build_before_data
from tfbatch.trial.outcome import JUDGED_EXAMPLES


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training came to.

    Attributes:
        metrics: By split, then by name.
        diverged: Why it was ended early, or None.
    """

    metrics: dict[str, dict[str, float]]
    diverged: str | None = None


def train_once(
    config: TrainingConfig,
    *,
    records_dir: Path | None = None,
    output: Path | None = None,
    checkpoint: Path | Callable[[str], Path] | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
    threads: int | None = None,
    say: Callable[[str], None] = print,
    verbose: Literal[0, 2] = 2,
) -> Trained:
    """Trains and evaluates on the validation and the test split.

    A training that was killed continues from its checkpoint after the last whole epoch, and ends
    as it would have ended.

    Args:
        config: The training.
        records_dir: Folder for records, or None.
        output: Where to save the model, or None.
        checkpoint: File for the last epoch of a running training, removed at its end; or a function
            that names one by what identifies the training, so that each has its own; or None.
        checkpoint_seconds: The least time between two checkpoints.
        threads: Threads on a CPU; 0 for one per core; None for the configuration's, with which it
            comes to the trial's result, to the last bit.
        say: Told what happens.
        verbose: Keras's: 2 shows a line for each epoch, 0 none.

    Returns:
        Metrics by split, and whether it diverged.

    Raises:
        InputError: Something in the configuration cannot be used.
        DataError: Data absent or damaged.
        RunFolderError: The checkpoint cannot be written.
    """
    _claim_threads(config, threads, say)
    make_callbacks = _callbacks_of(config, say)
    workload = _workload_of(config, records_dir, make_callbacks, say)
    evaluated = [split for split in workload.data.splits if split != "train"]
    # Not only at the end, since replicas may not share it:
    for split in evaluated if workload.strategy else ():
        workload.evaluation(split)
    total_examples = config.trial_length.examples(workload.data.num_examples("train"))
    checkpoints: list[keras.callbacks.Callback] = []
    before, file = Position(), None
    if checkpoint:
        file = _checkpoint_of(config, workload, checkpoint, say)
        before = file.read_position()
    model = _begin(workload, config, total_examples, first_step=before.steps)
    derived = workload.derive(config.configuration, total_examples)
    untrained = measure_training_loss(model, workload)
    judged = untrained.judged_examples if untrained else JUDGED_EXAMPLES
    guard = DivergenceGuard(
        first_loss=before.first_loss or (untrained.value if untrained else None),
        fewest_batches=-(-judged // config.configuration.batch_size),
    )
    clock, own = TrainingClock(), make_callbacks()
    carry_on = CarryOn(own, file.read_callbacks() if file and before.steps else None)
    if file:
        if before.steps:
            file.restore(model)
            say(f"Continuing after epoch {before.epochs} of {derived.epochs} from {file.path}.")
        checkpoints.append(
            WriteCheckpoint(
                file,
                before,
                clock=clock,
                guard=guard,
                epochs=derived.epochs,
                every_seconds=checkpoint_seconds,
                carry_on=carry_on,
            )
        )
    with _says_what_is_kept(file):
        fit(
            model,
            workload,
            derived,
            seed=config.seed,
            before=before,
            callbacks=[*own, carry_on, guard, clock, *checkpoints],
            verbose=verbose,
        )
        if output:
            _save(model, workload, config, total_examples, output)
    with _says_what_is_kept(file, saved=output):
        metrics = {split: evaluate(model, workload, split) for split in evaluated}
    if file:
        file.remove()
    return Trained(metrics, guard.reason if guard.diverged else None)


@contextlib.contextmanager
def _says_what_is_kept(file: CheckpointFile | None, saved: Path | None = None) -> Iterator[None]:
    """Notes on a Ctrl-C where the same command would go on: it may be at the beginning.

    Args:
        file: The checkpoint, if there may be one.
        saved: Where the trained model is by now.
    """
    try:
        yield
    except KeyboardInterrupt as stopped:
        epochs = file.read_position().epochs if file else 0
        if saved:
            stopped.add_note(f"The trained model is in {saved}.")
        stopped.add_note(
            f"The same command continues after epoch {epochs}."
            if epochs
            else "No checkpoint is on disk: the same command begins anew (--checkpoint_seconds=0 "
            "writes one after every epoch but the last)."
        )
        raise


def _callbacks_of(
    config: TrainingConfig, say: Callable[[str], None]
) -> Callable[[], list[keras.callbacks.Callback]]:
    """What makes the callbacks that the trials had, as far as it has a name."""
    if config.lacks_callbacks:
        say(
            "The trials had callbacks that were given in Python, which have no name to find them "
            "by: this training goes without them, and can come to another result. The script in "
            "plain Keras that the search printed has a place for them."
        )
    if config.callbacks is None or config.lacks_callbacks:
        return list
    check_reference(config.callbacks, flag="callbacks")
    make = cast(
        "Callable[[], list[keras.callbacks.Callback]]",
        find_function(config.callbacks, flag="callbacks"),
    )
    check_callbacks(make())
    return make


def _workload_of(
    config: TrainingConfig,
    records_dir: Path | None,
    make_callbacks: Callable[[], list[keras.callbacks.Callback]],
    say: Callable[[str], None],
) -> Workload:
    """Model and data, prepared, and in a device's memory where that is asked."""
    build_model = find_model_builder(config.model)
    compilation = Compilation(config.loss, config.metrics, config.class_weight)
    strategy = make_strategy(config.strategy)
    build = functools.partial(
        build_before_data, build_model, precision=config.precision, strategy=strategy
    )
    data = prepare_data(
        _data_of(config),
        data_dir=Path(config.data_dir) if config.data_dir else None,
        records_dir=records_dir,
        expect=lambda form: expect(
            form, build_model, compilation, build=lambda shape: build(input_shape=shape)
        ),
    )
    placement = place_data(
        data,
        config.data_on,
        strategy=strategy,
        class_weight=config.class_weight,
        callbacks=make_callbacks,
    )
    if config.data_on != "host":
        say(f"Batches are made on the {placement.on} ({placement.reason}).")
    return Workload(
        data,
        build_model,
        compilation=compilation,
        precision=config.precision,
        jit_compile=config.jit_compile,
        strategy=strategy,
        held=placement.held,
    )


def _begin(
    workload: Workload, config: TrainingConfig, total_examples: int, *, first_step: int
) -> keras.Model:
    """A model of plain Keras or, where the data is in a device's memory, a traced program's."""
    if workload.held is None:
        return workload.compiled(
            config.configuration, total_examples=total_examples, seed=config.seed
        )
    return ProgramCache(workload).begin(
        config.configuration,
        total_examples=total_examples,
        seed=config.seed,
        first_step=first_step,
    )


def _save(
    model: keras.Model,
    workload: Workload,
    config: TrainingConfig,
    total_examples: int,
    output: Path,
) -> None:
    if held_by(model):  # a program's model is saved as one of plain Keras
        with tempfile.TemporaryDirectory() as folder:
            weights = Path(folder) / "trained.weights.h5"
            model.save_weights(weights)
            model = plain_model(
                workload,
                config.configuration,
                weights,
                seed=config.seed,
                total_examples=total_examples,
            )
    drop_unsavable_compilation(model)
    model.save(output)
    model.compiled = True  # it is evaluated yet


def _claim_threads(config: TrainingConfig, threads: int | None, say: Callable[[str], None]) -> None:
    """Takes the threads, and says what follows where they are not the trials'."""
    used = use_threads(config.threads if threads is None else threads or None)
    if config.threads not in (None, used):
        say(
            f"Training with {used} threads, where the trials had {config.threads}: sums are "
            "rounded differently, so the result differs as it does between seeds. Leave out "
            "--threads to reproduce the trial."
        )


def _data_of(config: TrainingConfig) -> Recipe | OwnData:
    data_dir = Path(config.data_dir) if config.data_dir else None
    found = find_dataset(config.dataset, data_dir=data_dir)
    if isinstance(found, OwnData) and config.batched is not None:
        return found.model_copy(update={"batched": config.batched})
    return found


def _checkpoint_of(
    config: TrainingConfig,
    workload: Workload,
    checkpoint: Path | Callable[[str], Path],
    say: Callable[[str], None],
) -> CheckpointFile:
    """The training's checkpoint; another one's may be beside it."""
    of_model, of_settings = _identities(config, workload)
    earlier, path = (
        checkpoint if isinstance(checkpoint, Path) else checkpoint(one)
        for one in (of_model, of_settings)
    )
    if CheckpointFile(earlier, identity=of_model).read_position().steps:
        say(
            f"{earlier} is of an earlier version of tfbatch, which did not note all that the model "
            "is made of: it is not continued, and can be removed."
        )
    return CheckpointFile(path, identity=of_settings, shared=True)


def _identities(config: TrainingConfig, workload: Workload) -> tuple[str, str]:
    """Equal for trainings that are the same from beginning to end: an earlier version's, and ours.

    The configuration has the name of the model's builder alone, whose code may have changed.
    """
    model = workload.build(config.seed, arguments=config.configuration.model)
    written = config.model_dump(mode="json", exclude={"reported", "data_dir"})
    if config.callbacks is None:  # as an earlier version has written it
        del written["callbacks"]
    known = [written, workload.data.describe().identity]
    return (
        content_hash([*known, hash_of_model(model)]),
        content_hash([*known, hash_of_settings(model)]),
    )
