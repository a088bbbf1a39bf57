"""Searches batch size jointly with learning rate and decay schedule, and recommends.

usage: python -m tfbatch.tune [--dataset=cifar10] [--model=small_cnn] [--max_minutes=15] ...

With no flags it runs scikit-learn's embedded digits: no download, minutes on two cores. The same
command on the same run folder continues it; a larger budget extends it.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from absl import flags
from rich.console import Console

from tfbatch.command_line import (
    StopSignal,
    library_noise_to,
    parse_arguments,
    parse_flags,
    path_of,
    run_command,
)
from tfbatch.errors import InputError, StoppedError
from tfbatch.finder import run_request
from tfbatch.given import Given
from tfbatch.references import check_reference, find_function
from tfbatch.run_folder.folder import LOG, check_run_dir
from tfbatch.search.progress import LiveProgress, Progress
from tfbatch.search.request import DEFAULT_RUNS, Execution, Request, Task, make_request

STARTED = time.monotonic()
FLAGS = flags.FlagValues()
_BUDGET = ("max_trials", "max_minutes")
_JOINING = ("join", "data_dir", "records_dir", "workers")


def _text(name: str, default: str | None, text: str) -> None:
    flags.DEFINE_string(name, default, text, flag_values=FLAGS)


_text(
    "dataset",
    "digits",
    "A data set: a recipe's name in pipelines/, a path of one (.yaml), or one without a recipe: "
    "tfds:NAME, images:FOLDER, npz:PATH, synthetic.",
)
_text(
    "data",
    None,
    "package.module:function of yours, `make_dataset(split, batch_size, seed)`, or a function "
    "without arguments that gives arrays or a Dataset. Instead of --dataset.",
)
_text("data_dir", None, "Folder with the source's data; for TFDS also TFDS_DATA_DIR.")
flags.DEFINE_integer(
    "image_size",
    None,
    "Height and width of the images of a data set without a recipe.",
    1,
    flag_values=FLAGS,
)
_text("records_dir", None, "Folder for TFRecords; also TFBATCH_RECORDS_DIR. Default: user's cache.")
_text(
    "model",
    "small_cnn",
    "A model of tfbatch/models or keras.applications, or package.module:function.",
)
_text("model_arguments", "", 'Arguments of the builder, e.g. "normalization=group".')
_text("loss", None, "Keras loss of a model that is not compiled. Default: classification.")
flags.DEFINE_list("metrics", None, "Keras metrics, for the same.", flag_values=FLAGS)
_text("class_weight", "", 'Weights of classes in the training loss, e.g. "0=1,1=5".')
_text("callbacks", None, "package.module:function that makes a list of Keras callbacks.")
_text("search", "joint", "A search of tuner_configs/, or a path of one (.yaml).")
_text("objective", None, "METRIC, METRIC:min or METRIC:max, by its final value. Default: recipe's.")
_text(
    "trial_length", None, 'Length of a trial, e.g. "5 epochs", "200_000 examples". Default: recipe.'
)
_text("baseline", "", 'What you train with now, e.g. "batch_size=128,learning_rate=0.05".')
_text("optimizer", None, "A file of tfbatch/optimizers: sgd, adamw, .... Default: the search's.")
_text("run_dir", None, f"The run folder. Default: {DEFAULT_RUNS}/DATASET-MODEL-SEARCH.")
flags.DEFINE_list(
    "batch_sizes", None, "Batch sizes to search. Default: the search's.", flag_values=FLAGS
)
flags.DEFINE_integer(
    "max_trials", None, "Trials of the search. Default: the search's.", 1, flag_values=FLAGS
)
flags.DEFINE_float(
    "max_minutes", None, "Time limit, verification and the end included.", flag_values=FLAGS
)
flags.DEFINE_integer("seed", 1, "Everything random derives from it.", 0, flag_values=FLAGS)
flags.DEFINE_integer(
    "workers",
    None,
    "Worker processes; 0 runs everything in this process. Default: one per GPU, or on a CPU one "
    "per core up to 8.",
    0,
    flag_values=FLAGS,
)
_text("precision", "float32", "float32, mixed_float16 or mixed_bfloat16.")
_text("strategy", None, "mirrored: each trial on all GPUs; batch sizes are global ones.")
flags.DEFINE_integer(
    "logical_cpus", 0, "Split the CPU, to try --strategy without GPUs.", 0, flag_values=FLAGS
)
_text("chief", None, "HOST:PORT: other machines may join this search there.")
_text("join", None, "HOST:PORT of a search to run trials for; with --data_dir, --workers alone.")
flags.DEFINE_boolean("jit_compile", False, "Whether XLA compiles the model.", flag_values=FLAGS)
flags.DEFINE_float(
    "stall_minutes",
    10.0,
    "A trial without a sign of life for so long is ended.",
    flag_values=FLAGS,
)
flags.DEFINE_float(
    "checkpoint_seconds", 60.0, "Least time between two checkpoints of a trial.", flag_values=FLAGS
)
flags.DEFINE_boolean(
    "overwrite", False, "Remove what is in the run folder and start anew.", flag_values=FLAGS
)


def request_from_flags() -> Request:
    """The request that the parsed flags make; imports no TensorFlow.

    Raises:
        InputError: A flag that cannot be used.
    """
    if FLAGS.data and FLAGS["dataset"].present:
        raise InputError(
            "`--dataset` names a data set and `--data` a function of yours: give one of them. "
            f"Received: --dataset={FLAGS.dataset} --data={FLAGS.data}."
        )
    return make_request(
        dataset=FLAGS.data or FLAGS.dataset,
        image_size=FLAGS.image_size,
        model=FLAGS.model,
        search=FLAGS.search,
        objective=FLAGS.objective,
        trial_length=FLAGS.trial_length,
        baseline=FLAGS.baseline,
        batch_sizes=None if FLAGS.batch_sizes is None else _integers(FLAGS.batch_sizes),
        optimizer=FLAGS.optimizer,
        max_trials=FLAGS.max_trials,
        max_minutes=FLAGS.max_minutes,
        seed=FLAGS.seed,
        run_dir=path_of(FLAGS.run_dir),
        data_dir=path_of(FLAGS.data_dir),
        records_dir=path_of(FLAGS.records_dir),
        overwrite=FLAGS.overwrite,
        model_arguments=parse_arguments(FLAGS.model_arguments, flag="--model_arguments"),
        task=Task(
            FLAGS.loss,
            None if FLAGS.metrics is None else tuple(FLAGS.metrics),
            _class_weight(FLAGS.class_weight),
        ),
        execution=Execution(
            workers=FLAGS.workers,
            precision=FLAGS.precision,
            jit_compile=FLAGS.jit_compile,
            stall_minutes=FLAGS.stall_minutes,
            checkpoint_seconds=FLAGS.checkpoint_seconds,
            chief=FLAGS.chief,
            strategy=FLAGS.strategy,
            logical_cpus=FLAGS.logical_cpus,
        ),
    )


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    if FLAGS.join:
        return _join()
    request = request_from_flags()
    run_dir = check_run_dir(request.run_dir)
    with library_noise_to(run_dir / LOG) as (out, err), StopSignal(_announcer(err)) as stop:
        _say(out, f"Run folder: {run_dir} (what the libraries print goes to {LOG} in it)")
        progress = LiveProgress(out) if out.is_terminal else Progress(out)
        try:
            result = run_request(
                request,
                Given(callbacks=_callbacks()),
                progress=progress,
                stop_requested=stop,
                started=STARTED,
            )
        except StoppedError as error:
            _say(err, str(error))
            return stop.exit_code
        finally:
            progress.end()
        # The answer comes last: it is what the terminal shows when the run is over.
        _say(out, f"\nThe recommendation in plain Keras:\n\n{result.snippet}")
        out.print(result.table)
        _say(out, result.summary())
        _say(out, _next_steps(result.run_dir, request))
        return stop.exit_code


def _join() -> int:
    """Runs trials for another machine's search."""
    other = [f for f in FLAGS if FLAGS[f].present and f not in _JOINING]
    if other:
        raise InputError(
            f"`--join` takes everything but --data_dir, --records_dir and --workers from the "
            f"chief. Received: --{other[0]}. Leave it out."
        )
    with library_noise_to(Path(os.devnull)) as (out, err), StopSignal(_announcer(err)) as stop:
        from tfbatch.search.joined import join_search

        count = join_search(
            FLAGS.join,
            workers=FLAGS.workers,
            data_dir=path_of(FLAGS.data_dir),
            records_dir=path_of(FLAGS.records_dir),
            progress=Progress(out),
            stop_requested=stop,
        )
        _say(out, f"Ran {count} trials; the chief has the results.")
        return stop.exit_code


def _announcer(console: Console) -> Callable[[], None]:
    """Says at once that a signal was heard; a signal handler must not wait for rich's lock."""
    text = b"\nStopping after this batch, with the best answer so far. Again to quit at once.\n"

    def announce() -> None:
        os.write(console.file.fileno(), text)

    return announce


def _next_steps(run_dir: Path, request: Request) -> str:
    given = [f for f in FLAGS if FLAGS[f].present and f not in ("overwrite", *_BUDGET)]
    again = [f"--{name}={_as_given(name)}" for name in given]
    again.append(f"--max_trials={2 * request.search.max_trials}")
    if request.max_minutes is not None:
        again.append(f"--max_minutes={2 * request.max_minutes:g}")
    python = sys.executable  # the environment need not be activated
    tensorboard = shlex.join([python, "-m", "tensorboard.main", f"--logdir={run_dir}/tensorboard"])
    return (
        "\nNext:\n"
        f"  {shlex.join([python, '-m', 'tfbatch.train', f'--config={run_dir}/best.yaml'])}\n"
        f"  {tensorboard}    (HPARAMS shows every trial)\n"
        f"  {shlex.join([python, '-m', 'tfbatch.tune', *again])}    (searches further)\n"
        f"Written: {', '.join(_written(run_dir))} in {run_dir}"
    )


def _as_given(name: str) -> str:
    value = FLAGS[name].value
    return ",".join(value) if isinstance(value, list) else str(value)


def _written(run_dir: Path) -> list[str]:
    results = ("recommendation.json", "best.yaml", "best.keras", "trials.jsonl", "trials.csv")
    names = (*results, "config.json", LOG)
    return [name for name in names if (run_dir / name).exists()]


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _callbacks() -> Callable[[], list[Any]] | None:
    if not FLAGS.callbacks:
        return None
    check_reference(FLAGS.callbacks, flag="--callbacks")
    return find_function(FLAGS.callbacks, flag="--callbacks")


def _class_weight(text: str) -> dict[int, float] | None:
    found = parse_arguments(text, flag="--class_weight")
    try:
        return {int(key): float(value) for key, value in found.items()} or None
    except ValueError as error:
        raise InputError(
            f'`--class_weight` must be written as "0=1,1=5". Received: {text!r}.'
        ) from error


def _integers(texts: list[str]) -> list[int]:
    try:
        return [int(text) for text in texts]
    except ValueError as error:
        raise InputError(
            f'`--batch_sizes` must be whole numbers, such as "32,64,128". '
            f"Received: {','.join(texts)!r}."
        ) from error


if __name__ == "__main__":
    run_command(main)
