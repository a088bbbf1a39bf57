"""The Python way in: `tfbatch.try_claims(...)`."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tfbatch.claims._page import verdict_page
from tfbatch.claims._request import CourtRequest, make_court_request
from tfbatch.claims._verdicts import Verdicts
from tfbatch.process.stop_signal import python_interrupt
from tfbatch.python_objects import (
    Callbacks,
    Metrics,
    PythonObjects,
    options_and_objects,
    splits_of,
    user_code,
)
from tfbatch.request.execution import AUTOMATIC, Execution, JitCompile
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import VERDICTS, VERDICTS_PAGE
from tfbatch.run_folder.folder import check_run_dir
from tfbatch.search.first_worker import locked_with_worker
from tfbatch.search.progress import Progress, progress_lines

if TYPE_CHECKING:
    import keras

    from tfbatch.answer.plan import Plan


def try_claims(
    build_model: Callable[..., keras.Model] | str,
    data: object,
    *,
    claim: Sequence[str] = (),
    card: Sequence[str] = (),
    preset: str = "small",
    batched: bool | None = None,
    objective: str | None = None,
    trial_length: str | None = None,
    baseline: str = "",
    optimizer: str | None = None,
    max_minutes: float | None = None,
    seed: int = 1,
    run_dir: str | Path | None = None,
    data_dir: str | Path | None = None,
    image_size: int | None = None,
    records_dir: str | Path | None = None,
    overwrite: bool = False,
    workers: int | None = None,
    precision: str = "float32",
    jit_compile: JitCompile = "auto",
    loss: object = None,
    metrics: Metrics | None = None,
    class_weight: dict[int, float] | None = None,
    model_arguments: Mapping[str, object] | None = None,
    callbacks: Callable[[], list[keras.callbacks.Callback]] | Callbacks | None = None,
    strategy: str | None = None,
    data_on: str = AUTOMATIC,
    verbose: int = 1,
) -> Verdicts:
    """Tries what is said about batch size on this model, this data and this machine.

    The same call on the same run folder continues it: what has ended is not run again.

    Example:
        ```python
        verdicts = tfbatch.try_claims("small_cnn", "digits", claim=["bigger-is-faster"])
        print(verdicts["bigger-is-faster"].verdict.word)
        ```

    Args:
        build_model: See find_batch_size.
        data: See find_batch_size.
        claim: Names or numbers of claims, as `python -m tfbatch.claims --list` has them. Default:
            all that can be tried.
        card: Experiments, such as "X1": all claims that need one of them.
        preset: "tiny", "small" or "full": the sizes of the experiments, never their rules.
        batched: Whether each element of a Dataset is a batch, see find_batch_size.
        objective: The metric that claims are about. Default: the data's.
        trial_length: Length of a training at the baseline's batch size. Default: the preset's
            multiple of the data's.
        baseline: What you train with now, such as "batch_size=128,learning_rate=0.05".
        optimizer: A file of tfbatch/optimizers, for a model that is not compiled.
        max_minutes: Time limit, earlier sessions included.
        seed: Everything random derives from it.
        run_dir: The run folder. Default: tfbatch_runs/DATA-MODEL-claims-PRESET.
        data_dir: The source's data folder.
        image_size: Size of the images of a data set without a recipe, in pixels.
        records_dir: Folder for records.
        overwrite: Remove what a run has written into the run folder and start anew.
        workers: Worker processes; 0 runs everything in this process.
        precision: Keras's dtype policy.
        jit_compile: Whether XLA compiles the model; "auto" chooses as Keras does: with a GPU, where
            every layer supports it.
        loss: Loss of a model that is not compiled.
        metrics: Its metrics.
        class_weight: Weight of each class in the training loss.
        model_arguments: Further arguments of the builder.
        callbacks: Your Keras callbacks, see find_batch_size.
        strategy: "mirrored" to train on all GPUs of the machine.
        data_on: Where batches are made of the examples, see find_batch_size. What a card changes
            in the data, or reads by itself, is made on the host.
        verbose: 0 prints nothing.

    Returns:
        A verdict on each claim with its evidence; verdicts.json and verdicts.html in the run folder
        hold the same. Ctrl-C while cards run ends the run and returns the verdicts so far. What a
        card has failed by is its `failure`, and a RuntimeWarning.

    Raises:
        InputError: Something asked for cannot be used; nothing was trained.
        DataError: Data absent or damaged.
        RunFolderError: The run folder is in use, or full.
        KeyboardInterrupt: Ctrl-C before the first card, while model and data are opened, or a
            second one.
    """
    options, objects = options_and_objects(
        build_model,
        data,
        batched=batched,
        image_size=image_size,
        model_arguments=model_arguments,
        baseline=baseline,
        optimizer=optimizer,
        data_dir=data_dir,
        records_dir=records_dir,
        loss=loss,
        metrics=metrics,
        class_weight=class_weight,
        callbacks=callbacks,
    )
    request = make_court_request(
        **options,
        claim=[claim] if isinstance(claim, str) else claim,
        card=[card] if isinstance(card, str) else card,
        preset=preset,
        objective=objective,
        trial_length=trial_length,
        max_minutes=max_minutes,
        seed=seed,
        run_dir=Path(run_dir) if run_dir else None,
        overwrite=overwrite,
        execution=Execution(
            workers=workers,
            precision=precision,
            jit_compile=jit_compile,
            strategy=strategy,
            data_on=data_on,
        ),
    )
    check_run_dir(request.run_dir)
    progress = progress_lines(verbose)
    with python_interrupt(_announce) as stop:
        progress.on_begin = stop.keep
        found = run_court(request, objects, progress=progress, stop_requested=stop)
    if found.failure:
        warnings.warn(f"A card failed: {found.failure}", RuntimeWarning, stacklevel=2)
    return found


def run_court(
    request: CourtRequest,
    objects: PythonObjects,
    *,
    progress: Progress,
    stop_requested: Callable[[], bool],
) -> Verdicts:
    """Runs a checked request, and writes what was found after every card.

    Args:
        request: What is asked.
        objects: What a user gives in Python.
        progress: Told of everything.
        stop_requested: When true, the session ends with what was judged.
    """

    def keep(verdicts: Verdicts) -> None:
        write_whole(verdicts.run_dir / VERDICTS, verdicts.to_json())
        write_whole(verdicts.run_dir / VERDICTS_PAGE, verdict_page(verdicts))

    with locked_with_worker(request.run_dir, request.execution, progress) as (lock, warm):
        from tfbatch.claims._session import hold_court

        found = hold_court(
            request,
            user_code(request.subject, objects),
            splits=splits_of(request.subject, objects),
            progress=progress,
            stop_requested=stop_requested,
            lock=lock,
            warm=warm,
            finished=keep,
        )
        keep(found)
        return found


def plan_court(
    request: CourtRequest,
    objects: PythonObjects,
    *,
    progress: Progress,
    stop_requested: Callable[[], bool],
) -> Plan:
    """What a checked request is going to take; nothing of it is trained, and no folder is left.

    Args:
        request: What is asked.
        objects: What a user gives in Python.
        progress: Told of everything.
        stop_requested: When true, it ends.

    Raises:
        InputError: Something asked for cannot be used.
        SearchError: No step time could be measured.
        StoppedError: A stop was requested.
    """
    with tempfile.TemporaryDirectory(prefix="tfbatch-dry-run-") as folder:
        planned = dataclasses.replace(request, run_dir=Path(folder) / "run", overwrite=False)
        with locked_with_worker(planned.run_dir, planned.execution, progress) as (lock, warm):
            from tfbatch.claims._plan import plan_session

            return plan_session(
                planned,
                user_code(request.subject, objects),
                splits=splits_of(request.subject, objects),
                progress=progress,
                stop_requested=stop_requested,
                lock=lock,
                warm=warm,
            )


def _announce() -> None:
    """Inside a signal handler, where the console's lock may be held."""
    with contextlib.suppress(OSError, RuntimeError, AttributeError):
        sys.stderr.write("\nStopping: what the cards have measured is kept.\n")
        sys.stderr.flush()
