"""A machine that joins another's search: it takes trials from the chief and reports outcomes."""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial

from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import OwnData
from tfbatch.dataset_info.recipe import Recipe
from tfbatch.errors import InputError, SearchError
from tfbatch.schema import validate
from tfbatch.search.chief import (
    JOB,
    OUTCOME,
    SPEC,
    outcome_to_json,
    parse_address,
    set_keras_tuner_role,
    spec_from_json,
)
from tfbatch.search.progress import Progress
from tfbatch.search.worker_engine import STALL_MINUTES, WorkerEngine, WorkerProcesses
from tfbatch.training.context import Job, UserCode, dump_code
from tfbatch.training.data_tasks import describe_data, prepare_data
from tfbatch.training.evaluation import measure_untrained
from tfbatch.training.model_builder import find_model_builder
from tfbatch.trial.outcome import TrialSpec

_WAIT_SECONDS = 60.0
_POLL_SECONDS = 0.5


def join_search(
    address: str,
    *,
    workers: int | None,
    data_dir: Path | None,
    records_dir: Path | None,
    progress: Progress,
    stop_requested: Callable[[], bool],
) -> int:
    """Runs trials for the chief at `address` until its search is over.

    The data is prepared here, and the model imported here; both must be what the chief has.

    Args:
        address: "HOST:PORT" of the chief.
        workers: Worker processes; None for the default.
        data_dir: The source's data folder here.
        records_dir: Folder for records here.
        progress: Told of every trial.
        stop_requested: When true, running trials end, and the chief is told.

    Returns:
        Number of trials that were run.

    Raises:
        InputError: An address of another form; a model, or data, that differs from the chief's.
        SearchError: Nobody answers at the address.
    """
    host, port = parse_address(address, flag="--join")
    _wait_for(host, port)
    set_keras_tuner_role(f"{socket.gethostname()}-{os.getpid()}", host, port)
    with tempfile.TemporaryDirectory() as folder:
        oracle = keras_tuner.Oracle("loss", hyperparameters=keras_tuner.HyperParameters())
        # With a chief in the environment, its oracle becomes a client of the chief's.
        client = BaseTuner(oracle=oracle, directory=folder, overwrite=True).oracle
        asked = json.loads(client.get_space().values[JOB])
        kind: type[Recipe] | type[OwnData] = OwnData if "kind" in asked["data"] else Recipe
        data = validate(kind, asked["data"], where="the chief's data")
        code = dump_code(UserCode(find_model_builder(asked["model"])))
        processes = WorkerProcesses(
            Job(data, code, precision=asked["precision"], jit_compile=asked["jit_compile"]),
            workers=workers,
            folder=Path(folder),
            lock=None,
            stop_requested=stop_requested,
            stall_minutes=STALL_MINUTES,
            warm=None,
        )
        engine = WorkerEngine(processes)
        try:
            engine = engine.opened(engine.call(prepare_data, data_dir, records_dir, None))
            _check_same(engine, asked)
            progress.say(f"Joined the search at {address} with {engine.devices.workers} workers.")
            return _Joined(client, engine, (host, port), progress, stop_requested).run()
        finally:
            engine.close()


class _Joined:
    def __init__(
        self,
        client: Any,
        engine: WorkerEngine,
        address: tuple[str, int],
        progress: Progress,
        stop_requested: Callable[[], bool],
    ):
        self._client = client
        self._engine = engine
        self._address = address
        self._progress = progress
        self._stop_requested = stop_requested
        name = f"{socket.gethostname()}-{os.getpid()}"
        self._ids = [f"{name}-{number}" for number in range(engine.devices.workers)]
        self._running: dict[str, TrialSpec] = {}

    def run(self) -> int:
        """Takes and reports trials until the chief says stop or is gone."""
        count = 0
        try:
            while reachable(*self._address):
                if (ended := self._turn()) is None:
                    return count
                count += ended
        except grpc.RpcError:  # it went in the middle of a call
            pass
        self._progress.say("The chief is gone: the search is over, or was stopped.")
        return count

    def _turn(self) -> int | None:
        """Takes trials, looks after the running ones, reports those that ended: how many.

        None when everything is over.
        """
        over = self._stop_requested() or self._take()
        if over and not self._running:
            return None
        for worker, spec in self._running.items():
            if self._is_unwanted(worker):
                self._engine.stop_trial(spec.trial)
        return self._report()

    def _take(self) -> bool:
        """Asks for a trial for every idle worker; whether the search is over."""
        for worker in self._ids:
            if worker in self._running:
                continue
            trial = self._client.create_trial(worker)
            if trial.status == "STOPPED":
                return True
            if trial.status == "RUNNING":
                spec = spec_from_json(trial.hyperparameters.values[SPEC])
                self._running[worker] = spec
                self._engine.start(spec)
                size = spec.configuration.batch_size
                self._progress.say(f"{spec.trial}: batch size {size} begins.")
        return False

    def _is_unwanted(self, worker: str) -> bool:
        """Gives the chief a heartbeat; whether it has given the trial up."""
        return bool(self._client.update_trial(worker, {}).status == "STOPPED")

    def _report(self) -> int:
        ended = self._engine.wait(seconds=_POLL_SECONDS)
        for spec, outcome in ended:
            worker = next(w for w, own in self._running.items() if own.trial == spec.trial)
            del self._running[worker]
            if outcome.status == "interrupted":
                message = f"{spec.trial}: the joined machine was stopped."
                outcome = dataclasses.replace(outcome, status="killed", message=message)
            hyperparameters = keras_tuner.HyperParameters()
            hyperparameters.Fixed(OUTCOME, outcome_to_json(outcome))
            self._client.end_trial(Trial(hyperparameters, trial_id=worker, status="COMPLETED"))
            self._progress.say(f"{spec.trial}: {outcome.status} in {outcome.seconds:.1f} s.")
        return len(ended)


def _check_same(engine: WorkerEngine, asked: dict[str, Any]) -> None:
    """Refuses records or a model that differ from the chief's: results could not be compared."""
    identity = engine.call(describe_data).identity
    if identity != asked["records"]:
        raise InputError(
            f"The data made here differs from the chief's ({identity} and "
            f"{asked['records']}): what is behind `{asked['data']['name']}` is not the same. "
            "Point --data_dir to a copy of the chief's data."
        )
    baseline = Configuration.model_validate(asked["baseline"])
    untrained = engine.call(measure_untrained, baseline)
    if untrained.model_hash != asked["model_built"]:
        raise InputError(
            f"The model `{asked['model']}` here is not the chief's: layers, settings or weights "
            "differ. Use the same code and the same versions of Keras and tfbatch."
        )


def _wait_for(host: str, port: int) -> None:
    deadline = time.monotonic() + _WAIT_SECONDS
    while not reachable(host, port):
        if time.monotonic() > deadline:
            raise SearchError(
                f"No search answers at {host}:{port} after {_WAIT_SECONDS:.0f} s. Start it there "
                f"with --chief={host}:{port}."
            )
        time.sleep(_POLL_SECONDS)


def reachable(host: str, port: int) -> bool:
    """Whether somebody listens: KerasTuner's client would wait for an hour."""
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False
