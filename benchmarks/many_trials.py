"""What the directing process spends on a trial when thousands were tried before it.

usage: python benchmarks/many_trials.py [--counts=100,300,1000,3000,10000] [--window=20]
           [--oracles=joint,random,sobol] [--open=1] [--limit=1800] [--all_points]

The real run (tfbatch/search/run.py: loop, oracle, journal, HParams rows, answer so far) is given a
journal of n made-up trials and is asked for `window` more. The engine is a stand-in: its trials end
at once with a loss of closed form, and nothing is trained. For each n:

1. The folder is opened for the first time: n rows of the HParams view are written.
2. For each oracle it is opened again, as after a stop: "reopened" is the processor time until the
   first new trial.
3. `window` trials are run with `open` of them side by side. Seconds are processor time of this
   process a trial, by part; a part's time is without that of parts inside of it. Waiting for the
   disk is in the wall-clock time of `journal` alone, which is reported beside it.

`joint` is the default search (a Gaussian process), the others search its space with another oracle.
With `--all_points` the process is fitted to all trials by KerasTuner, as it is up to 128 of them.
What needs longer than `limit` seconds of wall-clock time is ended and reported as such.

Result: processor time of a trial after 1,000 others: random 8 ms (100 before what grew was mended),
  sobol 8 ms, joint 96 ms; after 10,000: joint 189 ms (n = 1, means of 5 trials, two busy cores of
  an Intel Xeon).
Evidence: benchmarks/results/many_trials.md
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from search_fixtures import make_request_of
from trial_cost.parts import Clock

from tfbatch.configuration import Configuration
from tfbatch.dataset_info.own_data import DataDescription
from tfbatch.oracles import KerasTunerOracle, _bayesian, make_settings
from tfbatch.oracles._spread import spread_points
from tfbatch.reporting.page import write_report
from tfbatch.request.request import Request
from tfbatch.run_folder.files import curves_name
from tfbatch.run_folder.fingerprint import hardware, software
from tfbatch.run_folder.folder import RunFolder
from tfbatch.run_folder.journal import SCHEMA_VERSION, Journal, encode_row
from tfbatch.run_folder.trials_table import write_csv
from tfbatch.search import answer_so_far, kept_states, loop, trial_runner
from tfbatch.search.engine import Finished, Running
from tfbatch.search.preparation import Prepared
from tfbatch.search.progress import Progress
from tfbatch.search.run import Run
from tfbatch.search.space import SearchSpace
from tfbatch.seeds import derive_seed
from tfbatch.training.description import ModelDescription
from tfbatch.training.devices import Devices
from tfbatch.training.evaluation import Untrained
from tfbatch.trial.finished_trial import BASELINE, make_row
from tfbatch.trial.outcome import Outcome, Phase, TrialSpec

EXAMPLES = 45_000
"""Of the training split, as CIFAR-10 has them: batch sizes from 8 to 1,024."""
SEED = 1
UNTRAINED = Untrained({"loss": 2.3, "accuracy": 0.1}, 0.0, "hash")
PROPOSE, TELL, FITS = "oracle: propose", "oracle: told", "does another one fit"
JOURNAL, ROW, ANSWER = "journal", "HParams row", "answer so far"
KEPT, REST = "weights and states that are kept", "all else"
PARTS = (PROPOSE, TELL, FITS, JOURNAL, ROW, ANSWER, KEPT, REST)


class AtOnce:
    """An engine whose trials end as soon as as many run as there are places, the oldest first."""

    def __init__(self, places: int):
        self.devices = Devices("CPU", (), places, 1)
        self._running: list[TrialSpec] = []

    @property
    def free(self) -> bool:
        """Whether there is a place."""
        return len(self._running) < self.devices.workers

    def can_start(self, phase: Phase) -> bool:
        """See TrialEngine."""
        del phase
        return self.free

    def start(self, spec: TrialSpec) -> None:
        """See TrialEngine."""
        self._running.append(spec)

    def wait(self, **_: object) -> list[Finished]:
        """See TrialEngine."""
        spec = self._running.pop(0)
        return [(spec, outcome_of(spec))]

    def running(self) -> list[Running]:
        """See TrialEngine."""
        return []

    def call(self, task: Callable[..., Any], *_: Any, **__: Any) -> Any:
        """Single tasks do nothing; a test metric is made up."""
        return {"loss": 0.5, "accuracy": 0.9} if task.__name__ == "evaluate_weights" else None

    call_alone = call


def loss_of(configuration: Configuration, seed: int) -> float:
    """Smallest at a batch of 64 and one octave above the rule; noise as between seeds."""
    octaves = configuration.learning_rate_octaves - 1
    rate = math.log2(configuration.base_learning_rate / 0.01)
    far = abs(math.log2(configuration.batch_size / 64)) / 4 + abs(octaves + rate) / 4
    return 0.5 + 0.3 * far + 0.01 * math.sin(seed)


def outcome_of(spec: TrialSpec) -> Outcome:
    """What a trial comes to."""
    loss = loss_of(spec.configuration, spec.seed)
    metrics = {"loss": loss / 2, "val_loss": loss, "val_accuracy": 1 / (1 + loss)}
    return Outcome("completed", metrics, spec.total_examples, spec.steps, 60.0, 50.0, "", "CPU")


def request_of(path: Path, oracle: str, trials: int) -> Request:
    """The default search with this oracle and so many trials, as `tune` makes it."""
    request = make_request_of(objective="val_loss", max_trials=trials, model="resnet", run_dir=path)
    if oracle == "joint":
        return request
    search = request.search.model_copy(update={"oracle": make_settings(oracle)})
    return dataclasses.replace(request, search=search)


def write_journal(path: Path, request: Request, count: int) -> None:
    """A run folder with the baseline and `count - 1` trials, which are the first Sobol points."""
    space = SearchSpace(request.search.space, num_examples=EXAMPLES)
    seed = derive_seed(SEED, "oracle")
    points = spread_points(space.hyperparameters(), count=count + count // 8, seed=seed)
    baseline = request.baseline_configuration(space.scaling_rule)
    total = request.trial_length.examples(EXAMPLES)
    specs = [
        TrialSpec(BASELINE, "baseline", derive_seed(SEED, BASELINE), baseline, total, EXAMPLES)
    ]
    for number, values in enumerate(points[: count - 1], start=1):
        name = f"search-{number:04d}"
        one = space.configuration(dict(values))
        specs.append(TrialSpec(name, "search", derive_seed(SEED, name), one, total, EXAMPLES))
    with (path / "trials.jsonl").open("a", encoding="utf-8") as file:
        for spec in specs:
            placed = spec.with_curves_in(path / "tensorboard" / _curves(spec))
            outcome = outcome_of(spec)
            row = make_row(
                placed,
                outcome,
                score=outcome.metrics["val_loss"],
                finished_at="2026-01-01T00:00:00+00:00",
            )
            file.write(json.dumps({"schema_version": SCHEMA_VERSION, **encode_row(row)}) + "\n")


def _curves(spec: TrialSpec) -> str:
    return curves_name(
        spec.trial,
        batch_size=spec.configuration.batch_size,
        learning_rate=spec.derived.learning_rate,
        schedule=spec.configuration.schedule.name,
        seed=spec.seed,
    )


def open_folder(path: Path) -> RunFolder:
    """The run folder, without what identifies a run."""
    return RunFolder(path, identity={"objective": "val_loss:min"}, budget={})


def run_of(request: Request, folder: RunFolder, places: int) -> Run:
    """The run, with the stand-in for training."""
    splits = {"train": EXAMPLES, "validation": 5_000, "test": 10_000}
    return Run(
        request,
        Prepared(
            request.subject,
            DataDescription("x", splits, ""),
            ModelDescription(),
            AtOnce(places),  # type: ignore[arg-type]
        ),
        SearchSpace(request.search.space, num_examples=EXAMPLES),
        folder,
        Progress(None),
        lambda: False,
        time.monotonic(),
        UNTRAINED,
        build_model=_build,
        callbacks=None,
        largest_batch_size=None,
    )


def _build(input_shape: tuple[int, ...], num_classes: int) -> Any:
    raise NotImplementedError  # looked at for its arguments, never called


class Marks:
    """When new trials begin and end: the clock's line is written after each.

    Args:
        path: The clock's file.
    """

    def __init__(self, path: Path):
        self.path, self.clock = path, Clock(path)
        self.begin()

    def begin(self) -> None:
        """The next case."""
        self.began: float | None = None
        self.ended, self.new = 0.0, 0

    def parts(self) -> list[dict[str, list[float]]]:
        """The parts of each new trial."""
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [one["parts"] for one in lines if one["trial"] == "trial"]

    def start(self, start: Callable[[AtOnce, TrialSpec], None]) -> Callable[..., None]:
        """AtOnce.start, which notes the first new trial."""

        def started(engine: AtOnce, spec: TrialSpec) -> None:
            if self.began is None:
                self.began = time.process_time()
                self.clock.write("reopened")
                self.path.write_text("", encoding="utf-8")
            start(engine, spec)

        return started

    def trial(self, look: Callable[..., None]) -> Callable[..., None]:
        """Run._look, the last thing that a trial causes."""

        def looked(run: Run, search: Any) -> None:
            look(run, search)
            if self.began is not None:
                self.new += 1
                self.ended = time.process_time()
                self.clock.write("trial")

        return looked


def prepare(path: Path, count: int) -> float:
    """A run folder with so many trials and their rows of the HParams view; seconds for the rows."""
    path.mkdir()
    with open_folder(path):
        pass
    request = request_of(path, "random", count)
    write_journal(path, request, count)
    with open_folder(path) as folder:
        return _seconds(lambda: run_of(request, folder, 1))


def measure(path: Path, oracle: str, count: int, window: int, places: int, marks: Marks) -> str:
    """One case: the folder's run goes on."""
    request = request_of(path, oracle, count - 1 + window)
    marks.begin()
    begun = time.process_time()
    with open_folder(path) as folder:
        run = run_of(request, folder, places)
        run._search().run(stop_requested=lambda: False)
        memory = psutil.Process().memory_info().rss
        answer = _seconds(run._answer)
    if marks.began is None:
        raise RuntimeError("no trial was run")
    total = (marks.ended - marks.began) / marks.new
    parts = dict(_parts(marks.parts()))
    known_parts = sum(parts.get(name, [0.0, 0.0])[1] for name in PARTS)
    parts[REST] = [0.0, total - known_parts]
    shown = "; ".join(f"{name} {1e3 * parts.get(name, [0, 0])[1]:.1f}" for name in PARTS)
    return (
        f"{oracle}, n = {count:,}, {places} open: {1e3 * total:.1f} ms a trial ({shown}; the "
        f"journal on the clock {1e3 * parts[JOURNAL][0]:.1f}); reopened "
        f"{marks.began - begun:.1f} s; answer {answer:.2f} s; {memory / 2**20:.0f} MiB"
    )


def measure_folder(path: Path) -> str:
    """What a folder takes on the disk, and what is drawn at the end of a run."""
    with open_folder(path) as folder:
        rows = folder.journal.rows
        table = _seconds(lambda: write_csv(path / "trials.csv", rows))
        report = _seconds(lambda: write_report(path))
    return f"csv {table:.2f} s, report {report:.2f} s; {dict(_disk(path))}"


def _install(marks: Marks) -> None:
    """Functions are replaced by timed ones; the package knows nothing of it."""
    clock = marks.clock
    clock.time(KerasTunerOracle, "propose", PROPOSE)
    clock.time(KerasTunerOracle, "tell", TELL)
    clock.time(loop.Search, "_another_fits _fits", FITS)
    clock.time(Journal, "append", JOURNAL)
    clock.time(trial_runner.TrialRunner, "_log", ROW)
    clock.time(answer_so_far.AnswerSoFar, "look", ANSWER)
    clock.time(kept_states.KeptStates, "prune", KEPT)
    clock.time(trial_runner.TrialRunner, "_keep_best_weights", KEPT)
    AtOnce.start = marks.start(AtOnce.start)  # type: ignore[method-assign]
    Run._look = marks.trial(Run._look)  # type: ignore[method-assign]


def _parts(lines: list[dict[str, list[float]]]) -> Iterator[tuple[str, list[float]]]:
    """Means of a trial: seconds of the clock and of the processor."""
    for name in sorted({name for line in lines for name in line}):
        both = [line.get(name, [0.0, 0.0]) for line in lines]
        yield name, [sum(one[k] for one in both) / len(lines) for k in (0, 1)]


def _seconds(task: Callable[[], object]) -> float:
    begun = time.process_time()
    task()
    return time.process_time() - begun


def _disk(path: Path) -> Iterator[tuple[str, list[int]]]:
    """Files and bytes by kind; a directory's own blocks are left out."""
    for name, pattern in (
        ("trials.jsonl", "trials.jsonl"),
        ("trials.csv", "trials.csv"),
        ("report.html", "report.html"),
        ("HParams rows", "tensorboard/*/*.tfbatch_hparams"),
    ):
        sizes = [file.stat().st_size for file in path.glob(pattern)]
        yield name, [len(sizes), sum(sizes)]


def _out_of_time(*_: object) -> None:
    raise TimeoutError


def main() -> None:
    """Runs the benchmark; with `--case`, one case in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="100,300,1000,3000,10000")
    parser.add_argument("--oracles", default="joint,random,sobol")
    parser.add_argument("--window", type=int, default=20)
    parser.add_argument("--open", type=int, default=1, help="trials side by side")
    parser.add_argument("--all_points", action="store_true", help="KerasTuner's way for any n")
    parser.add_argument("--limit", type=int, default=1800, help="seconds for a case")
    arguments = parser.parse_args()
    print(f"load average of the last minute: {psutil.getloadavg()[0]:.1f}")
    print(f"{hardware([])}\n{software()}", flush=True)
    signal.signal(signal.SIGALRM, _out_of_time)
    with tempfile.TemporaryDirectory(prefix="many-trials-") as scratch:
        marks = Marks(Path(scratch) / "parts.jsonl")
        _install(marks)
        if arguments.all_points:
            _bayesian.MOST_POINTS = sys.maxsize
        for count in map(int, arguments.counts.split(",")):
            path = Path(scratch) / f"run-{count}"
            print(f"n = {count:,}: all rows written {prepare(path, count):.1f} s", flush=True)
            known = (path / "trials.jsonl").read_bytes()
            for oracle in arguments.oracles.split(","):
                (path / "trials.jsonl").write_bytes(known)
                signal.alarm(arguments.limit)
                try:
                    case = (oracle, count, arguments.window, arguments.open)
                    print(measure(path, *case, marks), flush=True)
                except TimeoutError:
                    print(f"{oracle}, n = {count:,}: not done in {arguments.limit} s", flush=True)
                signal.alarm(0)
            print(f"n = {count:,}: {measure_folder(path)}", flush=True)


if __name__ == "__main__":
    main()
