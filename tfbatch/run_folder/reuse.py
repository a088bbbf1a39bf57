"""The statistical half of a run, for other hardware: trials and scores are taken, times are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tfbatch.errors import InputError, RunFolderError
from tfbatch.run_folder import files
from tfbatch.run_folder.cluster_nodes import read_nodes
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.reader import RecordedRun, read_run
from tfbatch.schema import JsonObject

_TAKEN = (files.SETTINGS, files.CHANCE_LEVEL, files.RECOMMENDATION, files.BEST_MODEL)
_FOLDERS = (files.WEIGHTS, files.TENSORBOARD)
ASSUMED = (
    "Assumed: a score does not depend on the hardware, since data, precision and seeds are the "
    "same; rounding differs as it does between seeds."
)


def take_trials(source: Path, run_dir: Path) -> str:
    """Copies what was learned in another run folder into a new one; its times stay behind.

    Taken are the trials with their scores, weights and curves, the settings, and the answer with
    its model: the test split is not read again where the answer stays the same. Step times, the
    memory limit and the wall-clock time belong to the other hardware: a time limit begins anew, and
    the answer is marked as interrupted until times of this one are measured. A second call with the
    same folders takes nothing more.

    Args:
        source: The folder of a run that was verified.
        run_dir: The new folder.

    Returns:
        What was taken and what that assumes, in sentences.

    Raises:
        InputError: The source is no run folder or was not verified, or the new folder has trials
            of another run.
        RunFolderError: A file is damaged, or cannot be written.
    """
    run = read_run(source)
    verified = sum(row["phase"] == "confirmation" for row in run.rows)
    if not verified:
        raise InputError(
            f"`--from` must be a run with a verification: only its times are measured again. "
            f"Received: {source}, which has none. Continue it with its own command first."
        )
    if run.path == run_dir.resolve():
        raise InputError(f"`--from` must be another folder than `--run_dir`. Received: {source}.")
    nodes = read_nodes(run.path)
    kinds = ", ".join(dict.fromkeys(str(one.get("kind", "")) for one in nodes))
    hardware = kinds or _hardware(run.fingerprint)
    said = (
        f"From {source}: {len(run.rows)} trials, {verified} of them on fresh seeds, as they were "
        f"scored on {hardware}. {ASSUMED} Nothing is trained: step times alone are measured here."
    )
    try:
        if (note := _taken_before(run_dir, run.key)) is not None:
            return _said_before(note, run)
        run_dir.mkdir(parents=True, exist_ok=True)
        for name in _TAKEN:
            if (run.path / name).exists():
                shutil.copy2(run.path / name, run_dir / name)
        for name in _FOLDERS:
            if (run.path / name).is_dir():
                shutil.copytree(run.path / name, run_dir / name, dirs_exist_ok=True)
        _mark_as_unfinished(run_dir / files.RECOMMENDATION)
        write_whole(run_dir / files.WALL_TIME, json.dumps({"seconds": 0.0}) + "\n")
        content: JsonObject = {"run": run.path.name, "key": run.key, "said": said}
        content["trials"] = len(run.rows)
        content |= {"hardware": run.fingerprint} | ({"nodes": nodes} if nodes else {})
        write_whole(run_dir / files.REUSED, json.dumps(content, indent=1) + "\n")
        # The journal comes last: with it the folder is a run's.
        write_whole(run_dir / files.JOURNAL, (run.path / files.JOURNAL).read_text("utf-8"))
    except OSError as error:
        raise RunFolderError(f"{source} cannot be taken over to {run_dir}: {error}.") from error
    return said


def _mark_as_unfinished(recommendation: Path) -> None:
    """The answer taken over was chosen by seconds of the other hardware."""
    if recommendation.exists():
        content = json.loads(recommendation.read_text("utf-8")) | {"status": "interrupted"}
        write_whole(recommendation, json.dumps(content, indent=1) + "\n")


def _said_before(note: JsonObject, run: RecordedRun) -> str:
    """What was said when the trials were taken, and whether there are more by now."""
    more = len(run.rows) - note.get("trials", len(run.rows))
    later = f" Not taken: {more} that {run.path} has made since. Take them with another --run_dir."
    return f"{note['said']}{later if more > 0 else ''}"


def _taken_before(run_dir: Path, key: str) -> JsonObject | None:
    """What was noted when this run's trials were taken; None where they were not yet.

    Raises:
        InputError: The folder has another run's.
    """
    journal, note = run_dir / files.JOURNAL, run_dir / files.REUSED
    if not journal.exists() or not journal.read_bytes().strip():
        return None
    if note.exists():
        content: JsonObject = json.loads(note.read_text("utf-8"))
        if content.get("key") == key:
            return content
    raise InputError(
        f"`--from` needs a run folder without trials. Received: {run_dir}, which has some. Choose "
        "another one with --run_dir."
    )


def _hardware(fingerprint: JsonObject) -> str:
    hardware = fingerprint.get("hardware") or {}
    gpus = [gpu.get("name") for gpu in hardware.get("gpus") or ()]
    accelerators = ", ".join(map(str, gpus or hardware.get("accelerators") or ()))
    return accelerators or str(hardware.get("processor") or "other hardware")
