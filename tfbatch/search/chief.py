"""The chief of a search on several machines: KerasTuner's gRPC service, asked by its workers.

KerasTuner's protocol has no field for anything but hyperparameters and metrics. What a trial is,
and what it came to, therefore travel as JSON text in a hyperparameter of that name.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import keras_tuner
from keras_tuner.engine.base_tuner import BaseTuner
from keras_tuner.engine.trial import Trial

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.schema import JsonObject
from tfbatch.trial.outcome import Outcome, TrialSpec

SILENT_SECONDS = 60.0
"""A joined worker that says nothing for this long is taken for dead; it speaks every second."""
_ASKING_SECONDS = 5.0
SPEC, OUTCOME, JOB = "spec", "outcome", "job"


class Board(keras_tuner.Oracle):  # type: ignore[misc]
    """Where the chief posts trials and joined workers take them. All methods are thread-safe.

    Args:
        now: A monotonic clock, in seconds.
    """

    def __init__(self, *, now: Callable[[], float] = time.monotonic):
        super().__init__("loss", hyperparameters=keras_tuner.HyperParameters())
        self._now = now
        self._mutex = threading.Lock()
        self._asking: dict[str, float] = {}
        self._posted: dict[str, TrialSpec] = {}
        self._running: dict[str, tuple[TrialSpec, float, float]] = {}
        self._ended: deque[tuple[TrialSpec, Outcome]] = deque()
        self._closed = False

    def announce(self, job: JsonObject) -> None:
        """Says what the search is, before the board is served.

        Args:
            job: What a worker needs to know of it, for JSON.
        """
        self.hyperparameters.Fixed(JOB, json.dumps(job))

    def free(self, within: float = _ASKING_SECONDS) -> list[str]:
        """Workers without a trial that have asked for one within this many seconds."""
        with self._mutex:
            since = self._now() - within
            busy = {*self._posted, *self._running}
            return [w for w, asked in self._asking.items() if asked > since and w not in busy]

    def post(self, worker: str, spec: TrialSpec) -> None:
        """Gives a worker its next trial."""
        with self._mutex:
            self._posted[worker] = spec

    def ended(self) -> list[tuple[TrialSpec, Outcome]]:
        """Trials that have ended since the last call; those of silent workers as "killed"."""
        with self._mutex:
            for worker, (spec, began, heard) in list(self._running.items()):
                if self._now() - heard > SILENT_SECONDS:
                    del self._running[worker]
                    message = f"{spec.trial}: the joined worker {worker} fell silent."
                    seconds = self._now() - began
                    self._ended.append(
                        (spec, Outcome("killed", {}, 0, 0, seconds, 0.0, message, ""))
                    )
            for worker in [w for w in self._posted if self._is_gone(w)]:
                spec = self._posted.pop(worker)
                message = f"{spec.trial}: the joined worker {worker} never took it."
                self._ended.append((spec, Outcome("killed", {}, 0, 0, 0.0, 0.0, message, "")))
            found, self._ended = list(self._ended), deque()
            return found

    def abandon(self) -> list[TrialSpec]:
        """Withdraws every trial: workers learn of it at their next heartbeat."""
        with self._mutex:
            specs = [*self._posted.values(), *(running[0] for running in self._running.values())]
            self._posted.clear()
            self._running.clear()
            return specs

    def close(self) -> None:
        """Tells every worker that asks that the search is over."""
        with self._mutex:
            self._closed = True

    def create_trial(self, tuner_id: str) -> Trial:
        """KerasTuner's protocol: a worker asks for a trial."""
        with self._mutex:
            self._asking[tuner_id] = self._now()
            if self._closed:
                return Trial(self.hyperparameters, trial_id=tuner_id, status="STOPPED")
            spec = self._posted.pop(tuner_id, None)
            if spec is None:
                return Trial(self.hyperparameters, trial_id=tuner_id, status="IDLE")
            self._running[tuner_id] = (spec, self._now(), self._now())
            return Trial(_carrying(SPEC, spec_to_json(spec)), trial_id=tuner_id, status="RUNNING")

    def update_trial(self, trial_id: str, metrics: JsonObject, step: int = 0) -> Trial:
        """KerasTuner's protocol, used as a heartbeat; the answer says whether to go on."""
        del metrics, step
        with self._mutex:
            running = self._running.get(trial_id)
            if running and not self._closed:
                self._running[trial_id] = (*running[:2], self._now())
            status = "RUNNING" if running and not self._closed else "STOPPED"
            return Trial(keras_tuner.HyperParameters(), trial_id=trial_id, status=status)

    def end_trial(self, trial: Trial) -> None:
        """KerasTuner's protocol: a worker reports an outcome."""
        with self._mutex:
            running = self._running.pop(trial.trial_id, None)
            if running is None:  # taken for dead before: its trial is in the journal as killed
                return
            outcome = Outcome(**json.loads(trial.hyperparameters.values[OUTCOME]))
            self._ended.append((running[0], outcome))

    def _is_gone(self, worker: str) -> bool:
        silence: float = self._now() - self._asking[worker]
        return silence > SILENT_SECONDS


class Chief:
    """Serves a Board on an address, in a thread of this process.

    Args:
        address: "HOST:PORT" to listen on.
        board: What is served.

    Raises:
        InputError: The address is not of that form, or cannot be listened on.
    """

    def __init__(self, address: str, board: Board):
        host, port = parse_address(address, flag="--chief")
        try:
            with socket.create_server((host, port)):
                pass
        except OSError as error:
            raise InputError(f"`--chief={address}` cannot be listened on: {error}.") from error
        self.board = board
        threading.Thread(target=_serve, args=(board, host, port), daemon=True).start()


def _serve(board: Board, host: str, port: int) -> None:
    set_keras_tuner_role("chief", host, port)
    with tempfile.TemporaryDirectory() as folder:
        BaseTuner(oracle=board, directory=folder, overwrite=True).search()


def set_keras_tuner_role(name: str, host: str, port: int) -> None:
    """KerasTuner takes its role in a distributed search from the environment."""
    os.environ["KERASTUNER_TUNER_ID"] = name
    os.environ["KERASTUNER_ORACLE_IP"] = host
    os.environ["KERASTUNER_ORACLE_PORT"] = str(port)


def parse_address(address: str, *, flag: str) -> tuple[str, int]:
    """Reads "HOST:PORT".

    Raises:
        InputError: Another form.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise InputError(
            f"`{flag}` must be HOST:PORT, such as 192.168.0.1:8470. Received: {address!r}."
        )
    return host, int(port)


def _carrying(name: str, text: str) -> Any:
    hyperparameters = keras_tuner.HyperParameters()
    hyperparameters.Fixed(name, text)
    return hyperparameters


def spec_to_json(spec: TrialSpec) -> str:
    """A trial without its paths, which are another machine's."""
    return json.dumps(
        {
            "trial": spec.trial,
            "phase": spec.phase,
            "seed": spec.seed,
            "configuration": spec.configuration.model_dump(mode="json"),
            "total_examples": spec.total_examples,
            "num_examples": spec.num_examples,
            "replicas": spec.replicas,
            "untrained_loss": spec.untrained_loss,
            "judged_examples": spec.judged_examples,
        }
    )


def spec_from_json(text: str) -> TrialSpec:
    """The inverse of `spec_to_json`."""
    data = json.loads(text)
    configuration = Configuration.model_validate(data.pop("configuration"))
    return TrialSpec(configuration=configuration, **data)


def outcome_to_json(outcome: Outcome) -> str:
    """An outcome as text; NaN and infinities are kept, which Python's JSON writes and reads."""
    return json.dumps(dataclasses.asdict(outcome))
