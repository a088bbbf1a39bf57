"""MLflow: one run for the search, and one nested run for each trial.

The search's run has the settings as parameters, the recommended configuration as tags (an answer
changes when a search is continued, and MLflow's parameters never do), its metrics, and the run
folder's files as artifacts. A trial's run has its configuration as parameters, its final values as
metrics, and its curves as the metrics `epoch/...`, whose step is the epoch.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from tfbatch.errors import InputError
from tfbatch.exporters._exported import Exported, command_of, missing_driver, needs
from tfbatch.exporters._trial import (
    Point,
    TrialRecord,
    answer_metrics,
    answer_parameters,
    flat_settings,
    read_curves,
    trial_of,
)
from tfbatch.run_folder.reader import RecordedRun
from tfbatch.schema import content_hash

EXPERIMENT = "tfbatch"
_SEARCH, _TRIAL, _ANSWER = "tfbatch.search", "tfbatch.trial", "tfbatch.answer"
_MESSAGE_LENGTH = 5000
"""Of a long traceback the end is kept, which says what happened; MLflow would keep the start."""
_BATCH = 100
"""Entries in one request: MLflow takes 100 parameters, 100 tags, 1000 metrics."""


def export(run: RecordedRun, *, destination: str | None) -> Exported:
    """Writes the runs that are not there yet into the experiment `tfbatch`.

    Another experiment is named by MLFLOW_EXPERIMENT_NAME. Trials are looked up by the tags
    `tfbatch.search` and `tfbatch.trial`; one whose export was cut off is deleted and written anew.
    MLflow's SQL stores keep an infinite value as the largest float: the tag `not_finite` tells.

    Args:
        run: The run.
        destination: A tracking URI, such as "sqlite:///mlflow.db". Default: MLflow's own
            (MLFLOW_TRACKING_URI, else mlflow.db in the working directory).

    Raises:
        InputError: mlflow is not installed, or the destination cannot be used.
    """
    # MLflow reports its use over the network unless told not to; who wants that can say so.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with needs("mlflow-skinny", "sqlalchemy", "alembic"):
        import mlflow
        from mlflow.exceptions import MlflowException
    errors: list[type[Exception]] = [MlflowException, OSError]
    with contextlib.suppress(ModuleNotFoundError):  # a tracking server needs none
        from sqlalchemy.exc import SQLAlchemyError

        errors.append(SQLAlchemyError)
    uri = destination or mlflow.get_tracking_uri()
    try:
        _check_file(uri)
        with needs("mlflow-skinny", "sqlalchemy", "alembic"), missing_driver("MLflow", uri):
            return _Writer(mlflow.MlflowClient(tracking_uri=uri), run).write(uri)
    except tuple(errors) as error:
        raise InputError(f"MLflow cannot write to {uri}: {error}") from error


def _check_file(uri: str) -> None:
    """Refuses at once what MLflow would try ten times, for 100 seconds.

    Raises:
        InputError: A folder, or a file that cannot be written.
    """
    scheme, separator, rest = uri.partition(":///")
    path = Path(rest)
    if scheme != "sqlite" or not separator or not rest or rest.startswith((":", "file:")):
        return
    nearest = next(one for one in (path, *path.absolute().parents) if one.exists())
    if path.is_dir() or not os.access(nearest, os.W_OK):
        raise InputError(
            "MLflow's `destination` must be a file that can be written, or a new file in a "
            f"writable folder. Received: {uri}. Give another: --destination=sqlite:////FOLDER/mlflow.db."
        )


class _Writer:
    """Writes one run folder with a client."""

    def __init__(self, client: Any, run: RecordedRun):
        self.client = client
        self.run = run
        self.experiment = self._experiment()

    def write(self, uri: str) -> Exported:
        found = self._find()
        search = found.pop("", None) or self._create("", None, self._first_started())
        written = 0
        for row in self.run.rows:
            trial = trial_of(row)
            before = found.get(trial.name)
            if before and before.info.status != "RUNNING":
                continue
            if before:
                self.client.delete_run(before.info.run_id)
            self._write_trial(trial, read_curves(self.run.tensorboard, row), search)
            written += 1
        self._write_search(search)
        shown = ""
        if uri.startswith("sqlite:"):
            shown = command_of("mlflow", "ui", f"--backend-store-uri={uri}", package="mlflow")
        return Exported(uri, written, len(self.run.rows) - written, shown)

    def _experiment(self) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
        known = self.client.get_experiment_by_name(name)
        return str(known.experiment_id if known else self.client.create_experiment(name))

    def _find(self) -> dict[str, Any]:
        """This search's runs by the name of the trial; the search's own is ``""``."""
        runs: dict[str, Any] = {}
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment],
                filter_string=f"tags.`{_SEARCH}` = '{self.run.key}'",
                max_results=1000,
                page_token=token,
            )
            runs |= {found.data.tags.get(_TRIAL, ""): found for found in page}
            token = page.token
            if not token:
                return runs

    def _create(self, name: str, parent: Any | None, started: float) -> Any:
        tags = {_SEARCH: self.run.key}
        if parent:
            tags |= {_TRIAL: name, "mlflow.parentRunId": parent.info.run_id}
        return self.client.create_run(
            self.experiment,
            start_time=_milliseconds(started),
            tags=tags,
            run_name=name or self.run.path.name,
        )

    def _write_trial(self, trial: TrialRecord, curves: list[Point], parent: Any) -> None:
        created = self._create(trial.name, parent, trial.started_at)
        at = _milliseconds(trial.finished_at)
        metrics = [(name, value, at, 0) for name, value in trial.metrics.items()]
        metrics += [
            (f"epoch/{name}", value, _milliseconds(point.seconds), point.epoch)
            for point in curves
            for name, value in point.values.items()
        ]
        tags = trial.tags | {"message": trial.tags.get("message", "")[-_MESSAGE_LENGTH:]}
        self._log(created, parameters=trial.parameters, metrics=metrics, tags=tags)
        ended = {"completed": "FINISHED", "killed": "KILLED"}.get(trial.status, "FAILED")
        self.client.set_terminated(created.info.run_id, status=ended, end_time=at)

    def _write_search(self, search: Any) -> None:
        """Settings once; the answer when it is new."""
        if search.info.status == "RUNNING":
            settings = flat_settings(self.run.settings)
            tags = flat_settings(self.run.fingerprint) | {"run_dir": str(self.run.path)}
            self._log(search, parameters=settings, metrics=[], tags=tags)
        answer = self.run.recommendation
        identity = content_hash([answer, len(self.run.rows)])
        if search.data.tags.get(_ANSWER) == identity:
            return
        at = _milliseconds(trial_of(self.run.rows[-1]).finished_at)
        if answer:
            self._log(
                search,
                parameters={},
                metrics=[
                    (name, value, at, len(self.run.rows))
                    for name, value in answer_metrics(answer).items()
                ],
                tags={f"recommended.{k}": v for k, v in answer_parameters(answer).items()}
                | {"status": answer["status"]},
            )
        for file in self.run.files():
            self.client.log_artifact(search.info.run_id, str(file))
        self.client.set_tag(search.info.run_id, _ANSWER, identity)
        self.client.set_terminated(search.info.run_id, status="FINISHED", end_time=at)

    def _log(
        self,
        run: Any,
        *,
        parameters: dict[str, Any],
        metrics: list[tuple[str, float, int, int]],
        tags: dict[str, Any],
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        entries: list[tuple[str, Any]] = [
            *(("params", Param(_name(k), str(v))) for k, v in parameters.items()),
            *(("tags", RunTag(_name(k), str(v))) for k, v in tags.items()),
            *(("metrics", Metric(_name(k), v, at, step)) for k, v, at, step in metrics),
        ]
        remaining = iter(entries)
        while batch := list(islice(remaining, _BATCH)):
            kinds = {kind: [e for k, e in batch if k == kind] for kind in dict(batch)}
            self.client.log_batch(run.info.run_id, **kinds)

    def _first_started(self) -> float:
        return min(_started(self.run.rows))


def _started(rows: Iterable[dict[str, Any]]) -> Iterable[float]:
    return (trial_of(row).started_at for row in rows)


def _name(name: str) -> str:
    """A name that MLflow takes."""
    return re.sub(r"[^\w.\- :/]", "_", name)


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)
