"""Weights & Biases: offline runs, one for each trial and one for the answer.

Nothing goes over the network: `wandb sync` uploads the folders, if and when you want. The runs of
a search share a group, their ids follow from the search and the trial, and a trial that has its
folder already is left alone.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import Any

from tfbatch.errors import InputError
from tfbatch.exporters._exported import Exported, needs, path_of
from tfbatch.exporters._trial import (
    Point,
    answer_metrics,
    answer_parameters,
    flat_settings,
    read_curves,
    trial_of,
)
from tfbatch.run_folder.reader import RecordedRun
from tfbatch.schema import content_hash

PROJECT = "tfbatch"


def export(run: RecordedRun, *, destination: str | None) -> Exported:
    """Writes the offline runs that are not there yet; the project is WANDB_PROJECT or `tfbatch`.

    Args:
        run: The run.
        destination: The folder to make the folder `wandb` in. Default: WANDB_DIR, else the working
            directory.

    Raises:
        InputError: wandb is not installed, or the destination cannot be used.
    """
    # Reports of wandb's own errors go over the network unless told not to.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    with needs("wandb"):
        import wandb  # noqa: F401
    folder = path_of(destination or os.environ.get("WANDB_DIR") or ".")
    target = folder / "wandb"
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".tfbatch-", dir=folder) as staging:
            written = _Writer(run, target=target, staging=Path(staging)).write()
    except OSError as error:
        raise InputError(f"{folder} cannot be written: {error}.") from error
    return Exported(
        str(target),
        written,
        len(run.rows) - written,
        f"wandb sync {shlex.quote(str(target))}/offline-run-*{run.key}*    (uploads them)",
    )


class _Writer:
    """Writes one run folder; each offline run is made aside and moved into place when whole."""

    def __init__(self, run: RecordedRun, *, target: Path, staging: Path):
        self.run = run
        self.target = target
        self.staging = staging
        self.group = f"{run.path.name}-{run.key}"

    def write(self) -> int:
        """Writes what is absent; returns the number of trials."""
        written = 0
        for row in self.run.rows:
            trial = trial_of(row)
            key = f"{self.run.key}-{trial.name}"
            if self._exists(key):
                continue
            self._write(
                key,
                name=trial.name,
                kind=trial.phase,
                tags=[trial.status, trial.phase, f"seed {row['seed']}"],
                notes=trial.tags.get("message", ""),
                config=trial.parameters | {k: v for k, v in trial.tags.items() if k != "message"},
                summary=trial.metrics,
                curves=read_curves(self.run.tensorboard, row),
                exit_code=0 if trial.status == "completed" else 1,
            )
            written += 1
        self._write_answer()
        return written

    def _write_answer(self) -> None:
        """One run for each answer: a continued search can come to another one."""
        answer = self.run.recommendation
        if not answer:
            return
        key = f"{self.run.key}-answer-{content_hash([answer, len(self.run.rows)])}"
        if self._exists(key):
            return
        recommended = {f"recommended.{k}": v for k, v in answer_parameters(answer).items()}
        self._write(
            key,
            name=self.run.path.name,
            kind="search",
            tags=["recommendation", answer["status"]],
            notes="",
            config=flat_settings(self.run.settings | self.run.fingerprint) | recommended,
            summary=answer_metrics(answer),
            curves=[],
            files=self.run.files(),
        )

    def _exists(self, key: str) -> bool:
        return any(self.target.glob(f"offline-run-*-{key}"))

    def _write(
        self,
        key: str,
        *,
        name: str,
        kind: str,
        tags: list[str],
        notes: str,
        config: dict[str, Any],
        summary: dict[str, float],
        curves: list[Point],
        files: list[Path] | None = None,
        exit_code: int = 0,
    ) -> None:
        import wandb

        offline = wandb.init(
            id=key,
            name=name,
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            group=self.group,
            job_type=kind,
            tags=tags,
            notes=notes,
            config=config,
            dir=str(self.staging),
            reinit="create_new",  # a run of the caller's own stays open
            settings=wandb.Settings(
                mode="offline",  # whatever WANDB_MODE says
                console="off",
                silent=True,
                disable_git=True,
                save_code=False,
                # The machine of this process is not the trial's.
                x_disable_meta=True,
                x_disable_stats=True,
                x_save_requirements=False,
            ),
        )
        for point in curves:
            values = {f"epoch/{metric}": value for metric, value in point.values.items()}
            offline.log(values, step=point.epoch)
        # By a row of the history, which becomes the summary: written there itself, NaN is null.
        offline.log(summary, step=curves[-1].epoch + 1 if curves else 0)
        made = Path(offline.dir).parent
        for file in files or []:
            copy = shutil.copy(file, offline.dir)
            offline.save(copy, base_path=offline.dir, policy="now")
        offline.finish(exit_code=exit_code)
        made.rename(self.target / made.name)
