"""Times the parts of the engines: of the bare loop, and of this package in all its processes.

Functions are replaced by timed ones; the package knows nothing of it. A worker imports this module
with the builder, and begins to time itself. Without `parts.FOLDER` in the environment nothing is
replaced.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from tfbatch.workers import slot
from trial_cost import network
from trial_cost.parts import CALLBACKS, EVALUATION, FIT, FOLDER, ONCE, REST, STEPS, WAIT, Clock


def build(input_shape: tuple[int, int, int], num_classes: int) -> keras.Model:
    """The network of the comparison."""
    return network.build(input_shape, num_classes)


def install(engine: str = "") -> None:
    """Begins to time this process, if the environment asks for it.

    Args:
        engine: What the process runs; "" inside a worker.
    """
    folder = os.environ.get(FOLDER)
    if folder is None or engine not in ("", "bare", "tfbatch", "tfbatch_one_worker"):
        return
    clock = Clock(Path(folder) / f"{engine or 'worker'}-{os.getpid()}.jsonl")
    {"": _time_worker, "bare": _time_bare}.get(engine, _time_parent)(clock)


def _time_bare(clock: Clock) -> None:
    from trial_cost.bare import Loop

    clock.time(Loop, "train", STEPS)
    clock.time(Loop, "accuracy", EVALUATION)
    clock.time(Loop, "reset", "values given to the program")
    trial = Loop.trial

    @functools.wraps(trial)
    def timed(self: Loop, *arguments: Any, **options: Any) -> float:
        with clock.part(REST):
            found = trial(self, *arguments, **options)
        clock.write("bare")
        return found

    Loop.trial = timed  # type: ignore[method-assign]


def _time_worker(clock: Clock) -> None:
    import tensorflow as tf
    from keras.src.backend.tensorflow.trainer import TFEpochIterator
    from keras.src.callbacks.callback_list import CallbackList

    from tfbatch.pipeline.recipe_data import PreparedData
    from tfbatch.training import program, program_cache, trial, workload

    clock.time(workload, "call_builder", "build: the user's builder")
    clock.time(workload.Workload, "build", "build: seeds, checks against the data")
    clock.time(program_cache, "structure_key", "structure key")
    clock.time(program_cache.ProgramCache, "_key", "structure key")
    clock.time(workload.Workload, "optimizer", "optimizer and schedule")
    clock.time(program, "tabulate tabulate_momentum", "learning-rate table")
    clock.time(program.Program, "__init__", ONCE[1])
    clock.time(program.Program, "begin", "values given to the program")
    clock.time(PreparedData, "training evaluation", "streams made")
    clock.time(tf.data.Dataset, "__iter__", "streams started: training and validation")
    clock.time(TFEpochIterator, "__init__", FIT)
    clock.time(keras.Model, "fit evaluate", FIT)
    events = " ".join(name for name in vars(CallbackList) if name.startswith("on_"))
    clock.time(CallbackList, f"__init__ {events}", CALLBACKS)
    board = keras.callbacks.TensorBoard
    events = " ".join(name for name in vars(board) if name.startswith("on_"))
    clock.time(board, f"__init__ set_model {events}", "TensorBoard's curves")
    clock.time(trial, "save_weights", "weights of the best trial so far")
    clock.time_collections("Python's garbage collection")
    _time_steps(clock, program.Program, "_make_train_function", STEPS)
    _time_steps(clock, program.Program, "_make_test_function", EVALUATION)
    _time_tasks(clock)


def _time_steps(clock: Clock, owner: type, maker: str, part: str) -> None:
    """Times the functions that a method makes; the first call of each one traces."""
    make: Callable[[Any], Callable[[Any], Any]] = getattr(owner, maker)

    def timed_maker(self: Any) -> Callable[[Any], Any]:
        steps, names = make(self), iter(ONCE[:1])

        def timed(iterator: Any) -> Any:
            with clock.part(next(names, part)):
                return steps(iterator)

        return timed

    setattr(owner, maker, timed_maker)


def _time_tasks(clock: Clock) -> None:
    """One line for every task of a worker; the time before it is that of waiting for it."""
    run, ended = slot._run, [0.0, 0.0]

    @functools.wraps(run)
    def timed(task: Any, arguments: Any, options: Any) -> Any:
        if ended[0]:
            clock.add(WAIT, time.perf_counter() - ended[0], time.process_time() - ended[1])
        with clock.part(REST):
            result = run(task, arguments, options)
        name = next((a.__name__ for a in arguments if callable(a)), task.__name__)
        clock.write(next((a.trial for a in arguments if hasattr(a, "keep_if")), f"once: {name}"))
        ended[:] = time.perf_counter(), time.process_time()
        return result

    slot._run = timed


def _time_parent(clock: Clock) -> None:
    from tfbatch.run_folder.journal import Journal
    from tfbatch.search import loop, progress, trial_runner

    clock.time(loop.Search, "_proposed _finished", "oracle")
    clock.time(loop.Search, "_another_fits", "whether another trial fits")
    clock.time(trial_runner.TrialRunner, "_start", "trial prepared")
    clock.time(slot.Slot, "submit", "trial sent to its worker")
    clock.time(Journal, "append", "journal, on disk")
    clock.time(trial_runner, "write_trial", "HParams row")
    clock.time(trial_runner.TrialRunner, "_keep_best_weights", "old weights removed")
    clock.time(progress.Progress, "trial_finished", "progress line")
    run = loop.Search.run

    @functools.wraps(run)
    def timed(self: Any, *arguments: Any, **options: Any) -> None:
        with clock.part("waiting for trials, all else"):
            run(self, *arguments, **options)
        clock.write("search")

    loop.Search.run = timed  # type: ignore[method-assign]


if slot._MAILBOX is not None:  # in a worker
    install()
