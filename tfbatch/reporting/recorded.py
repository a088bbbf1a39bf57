"""A run as its report needs it: read from the folder, also where there is no answer."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path

from tfbatch.answer.answer import Answer
from tfbatch.answer.best_learning_rates import Bracket, brackets_of
from tfbatch.answer.gpu_sharing import read_gpu_sharing
from tfbatch.answer.memory_limits import MemoryLimit, read_memory_limit
from tfbatch.answer.step_seconds import StepSeconds, read_step_seconds
from tfbatch.answer.stored import answer_of, read_answer
from tfbatch.errors import ConfigurationError, NothingLearnedError, SearchError, TfbatchError
from tfbatch.process.gpu_utilization import GpuUtilization
from tfbatch.quantities import plain_digits
from tfbatch.reporting.checks import Check, checks_of
from tfbatch.request.search_config import Space
from tfbatch.run_folder.cluster_nodes import read_nodes, read_verified_on
from tfbatch.run_folder.files import FINGERPRINT, SETTINGS, WALL_TIME
from tfbatch.run_folder.reader import read_settings
from tfbatch.schema import JsonObject, validate
from tfbatch.trial.finished_trial import BASELINE, FinishedTrial
from tfbatch.trial.trials import Trials

_NAMED = 4
"""So many of a cluster's nodes that are alike are named; the others are in cluster.json."""


@dataclasses.dataclass(frozen=True)
class Machine:
    """Where a run was.

    Attributes:
        hardware: Processor, cores, memory and accelerators in words; empty if not known.
        load: What other processes took of the cores in words; empty if not known.
        versions: Of Python and of the packages that shape a result.
        gpu_software: Driver, CUDA, cuDNN, allocator, TF32 and XLA, how busy the GPUs were, and
            how many trials were measured to be worth it on each; empty without a GPU.
        nodes: Of a cluster, those that are alike in a row: their addresses, and what trained there;
            last, on which kind answers were verified. The rest is of the machine where the last
            command ran, which may have trained nothing.
    """

    hardware: str = ""
    load: str = ""
    versions: tuple[tuple[str, str], ...] = ()
    gpu_software: tuple[tuple[str, str], ...] = ()
    nodes: tuple[tuple[str, str], ...] = ()


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """A run folder as it was read.

    Attributes:
        path: The folder.
        dataset: Name of the data.
        model: What was trained.
        seed: The run's seed; None where it is not known.
        trials: All finished trials.
        answer: What was found, or None.
        reason: Why there is no answer; empty where there is one.
        step_seconds: Seconds of a step, alone on the device.
        memory_limit: What was measured to fit, or None.
        space: What was searched; None where it cannot be read.
        seconds: Wall-clock seconds of all sessions; None where they are not known.
        machine: Hardware and software.
        label: What it is called beside other runs; empty for the folder's own name.
    """

    path: Path
    dataset: str
    model: str
    seed: int | None
    trials: Trials
    answer: Answer | None
    reason: str = ""
    step_seconds: StepSeconds = StepSeconds()  # noqa: RUF009 - frozen
    memory_limit: MemoryLimit | None = None
    space: Space | None = None
    seconds: float | None = None
    machine: Machine = Machine()
    label: str = ""

    @functools.cached_property
    def brackets(self) -> tuple[Bracket, ...]:
        """The best learning rate of each batch size, which several parts of the page ask for."""
        return brackets_of(self.trials)

    @functools.cached_property
    def checks(self) -> tuple[Check, ...]:
        """What a strict reviewer asks; empty where there is no answer."""
        return tuple(checks_of(self.answer, self.trials))

    @property
    def name(self) -> str:
        """The folder's own name, or what tells it from another one of that name."""
        return self.label or self.path.name

    @property
    def baseline(self) -> FinishedTrial | None:
        """The first trial of the user's own setting, or None."""
        return self.trials.find(BASELINE)

    @property
    def objective_name(self) -> str:
        """The name of the tuned metric."""
        return self.trials.objective.name

    def recommends(self, key: str) -> bool:
        """Whether a configuration is the recommended one."""
        return self.answer is not None and self.answer.recommended_trial == key


def told_apart(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """The same runs; folders of one name are called by the shortest ends of their paths."""
    return [dataclasses.replace(run, label=_label(run.path, runs)) for run in runs]


def _label(path: Path, runs: Sequence[RecordedRun]) -> str:
    others = [run.path.parts for run in runs if run.path != path]
    ends = (path.parts[-length:] for length in range(1, len(path.parts)))
    apart = (end for end in ends if all(other[-len(end) :] != end for other in others))
    return str(Path(*next(apart, path.parts)))


def read_recorded(path: Path) -> RecordedRun:
    """Reads a run folder, also one in which a run goes on or of which nothing completed.

    Raises:
        InputError: It is no run folder.
        RunFolderError: The journal or the settings are damaged.
    """
    path = path.expanduser().resolve()
    settings = read_settings(path)
    answer, reason = _answer(path)
    dataset = settings.get("dataset")
    seed = settings.get("seed")
    return RecordedRun(
        path=path,
        dataset=str(dataset.get("name", "")) if isinstance(dataset, dict) else str(dataset or ""),
        model=str(settings.get("model", "")),
        seed=seed if isinstance(seed, int) else None,
        trials=Trials.read(path),
        answer=answer,
        reason=reason,
        step_seconds=answer.step_times if answer else read_step_seconds(path),
        memory_limit=answer.memory_limit if answer else read_memory_limit(path),
        space=_space(settings),
        seconds=_wall_seconds(path, answer),
        machine=_machine(path),
    )


def _answer(path: Path) -> tuple[Answer | None, str]:
    """The answer as it was written, or as the trials give it; else why there is none."""
    try:
        return read_answer(path) or answer_of(path), ""
    except (SearchError, NothingLearnedError, ConfigurationError) as error:
        return None, str(error)
    except TfbatchError as error:
        return None, f"The answer cannot be read: {error}"
    except KeyError as error:  # an earlier version's settings
        return None, f"The settings of this run name no {error}: an earlier version wrote them."


def _space(settings: JsonObject) -> Space | None:
    try:
        return validate(Space, settings["search"]["space"], where=SETTINGS)
    except (ConfigurationError, KeyError, TypeError):  # an earlier version's
        return None


def _wall_seconds(path: Path, answer: Answer | None) -> float | None:
    """Those of all sessions, as of now: an answer has those of the session that wrote it."""
    now = _number(path / WALL_TIME)
    written = answer.seconds if answer else None
    return (written if now is None else now) or None


def _number(path: Path) -> float | None:
    content = _content(path)
    found = next((v for v in content.values() if isinstance(v, int | float)), None)
    return None if found is None else float(found)


def _machine(path: Path) -> Machine:
    content = _content(path / FINGERPRINT)
    hardware, software = content.get("hardware"), content.get("software")
    load = content.get("load")
    return Machine(
        hardware=_hardware(hardware) if isinstance(hardware, dict) else "",
        load=_load(load) if isinstance(load, dict) else "",
        versions=tuple(software.items()) if isinstance(software, dict) else (),
        gpu_software=(
            *_gpu_software(content.get("gpu_software")),
            *_gpu_utilization(content.get("gpu_utilization")),
            *_gpu_sharing(path),
        ),
        nodes=_nodes(path),
    )


def _hardware(content: JsonObject) -> str:
    parts = [str(content.get("processor", ""))]
    if cores := content.get("usable_cores") or content.get("cores"):
        parts.append(f"{cores:g} core{'' if cores == 1 else 's'}")
    if memory := content.get("memory_bytes"):
        parts.append(f"{plain_digits(memory / 2**30)} GiB of memory")
    gpus = content.get("gpus")
    parts += [_gpu(one) for one in gpus or () if isinstance(one, dict)]
    parts += [str(one) for one in content.get("accelerators") or () if not gpus]
    return ", ".join(part for part in parts if part)


def _gpu(content: JsonObject) -> str:
    memory = content.get("memory_bytes")
    of_memory = f", {plain_digits(memory / 1e9)} GB" if isinstance(memory, int | float) else ""
    capability = content.get("compute_capability", "unknown")
    return f"{content.get('name', 'GPU')} (compute capability {capability}{of_memory})"


def _gpu_software(content: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(content, dict):
        return ()
    words = {True: "on", False: "off"}
    return tuple(
        (f"GPU: {name.replace('_', ' ')}", words[v] if isinstance(v, bool) else str(v))
        for name, v in content.items()
    )


def _nodes(path: Path) -> tuple[tuple[str, str], ...]:
    alike: dict[str, list[str]] = {}
    for node in read_nodes(path):
        alike.setdefault(_node(node), []).append(str(node.get("address", "")))
    if not alike:
        return ()
    rows = [(_addresses(each), words) for words, each in alike.items()]
    return (*rows, ("step times and verification", f"on {read_verified_on(path)} alone"))


def _node(content: JsonObject) -> str:
    workers = content.get("workers", 1)
    parts = [f"{workers} worker{'' if workers == 1 else 's'} on {content.get('kind', '')}"]
    gpus = [_gpu(one) for one in content.get("gpus") or () if isinstance(one, dict)]
    parts += [f"{gpus.count(one)} x {one}" for one in dict.fromkeys(gpus)]
    software = _gpu_software(content.get("gpu_software"))
    parts += [f"{name.removeprefix('GPU: ')} {value}" for name, value in software]
    return ", ".join(parts)


def _addresses(each: list[str]) -> str:
    if len(each) == 1:
        return f"node {each[0]}"
    more = len(each) - _NAMED
    others = f" and {more} more" if more > 0 else ""
    return f"{len(each)} nodes: {', '.join(each[:_NAMED])}{others}"


def _gpu_utilization(content: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(content, dict):
        return ()
    mean, peak, gpus = (content.get(name) for name in ("mean", "peak", "gpus"))
    if not isinstance(mean, int | float) or not isinstance(peak, int | float):
        return ()
    found = GpuUtilization(mean, peak, gpus if isinstance(gpus, int) else 1)
    return (("GPU: utilization", str(found)),)


def _gpu_sharing(path: Path) -> tuple[tuple[str, str], ...]:
    found = read_gpu_sharing(path)
    return () if found is None else (("GPU: trials at a time", str(found)),)


def _load(content: JsonObject) -> str:
    parts = []
    for when, words in (("at_start", "at the start"), ("during_run", "during the run")):
        one = content.get(when)
        if isinstance(one, dict):
            used = plain_digits(one["used_by_others"], 2)
            parts.append(f"{used} of {one['cores']:g} cores {words}")
    return f"Other processes took {' and '.join(parts)}." if parts else ""


def _content(path: Path) -> JsonObject:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # absent, or of a run that was killed
        return {}
    return content if isinstance(content, dict) else {}


def at_the_end_of_a_decay(trials: Trials) -> Sequence[FinishedTrial]:
    """Completed trials that went to the end of their schedule: only those are comparable.

    In the middle of a schedule a high learning rate hides what was learned, the more so the larger
    it is; where a trial was stopped before its end its score is not compared.
    """
    return [t for t in trials.completed() if t.length == t.total_examples]
