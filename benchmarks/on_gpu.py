"""What can be known on a GPU alone, the most important first, in eight and a half minutes.

    python benchmarks/on_gpu.py --output=on_gpu [--parts=facts,knee] [--examples=50000] [--xla=off]

Each part is a process of its own, so that one that XLA aborts, or that hangs, costs itself alone.
Each measurement of a part is written when it is made, in OUTPUT/on_gpu.json; after each part all so
far are in OUTPUT/on_gpu.md, which is printed at the end, and what the parts printed, progress
included, in OUTPUT/logs.tar.gz: few files, so that all can be copied back. A part whose time is
over is ended, and what it had measured stays; those that no time is left for are named. How busy
the GPU was is asked of the driver meanwhile, from a part's start: imports and tracing are in the
mean, so that the peak stands beside it. Without a GPU it runs as well, on few --examples: that
tries the script.

- facts: whether XLA works with this TensorFlow, in a process of its own (where it does not, every
  later part goes without it); what the driver and TensorFlow say of the GPU; whether "auto" is what
  `Model.compile` does, and whether XLA then compiles.
- device_data: are batches from the GPU's memory those of the host, and step times with them against
  a bare loop's, without and with XLA.
- knee: step times from both ends up to the data's end, compilation apart; then XLA on and off at
  the knee; then mixed_float16 against float32 at the knee and at the largest size.
- trials: trials an hour of one worker on the GPU; the number that `--workers_per_gpu=auto` chooses;
  trials an hour of four and two workers, and of KerasTuner's own loop. All without XLA: its
  compilation of each batch size in each worker is no part of a rate.
- finder: the largest batch under 6 GB without XLA, seconds to the answer.
- wall: the largest batch of the whole memory, which the allocator refuses to pass.
- callbacks: those that look and those that change the batch, and `input_wait` of a pipeline whose
  wait is known.
- search: a small search, its trials' device, fingerprint and time.
- precision: mixed_float16 against float32 for ResNet, at two batch sizes.
- large_model: step times for ResNet at four sizes without XLA and with it, where tracing takes
  longest.
- finder_xla: as finder, with XLA.

Result: not measured on a GPU yet; tried on a CPU, with few examples.
Evidence: benchmarks/results/gpu.md
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TextIO

from tfbatch.process.gpu_utilization import GpuSampler
from tfbatch.run_folder.durable import write_whole

MOST_MINUTES = 8.5
LEFT_OVERS = 2
"""So many parts, the last ones, get what the others leave of the time."""
_FEWEST_SECONDS = 5.0
_XLA_SECONDS = 30.0
Findings = dict[str, Any]
Keep = Callable[[Findings], None]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a part is given.

    Attributes:
        examples: Training examples.
        xla: Whether XLA may be used.
    """

    examples: int
    xla: bool = True

    @property
    def jit_compile(self) -> Literal["auto", False]:
        """What a part passes on where it would leave XLA to the default."""
        return "auto" if self.xla else False


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that is looked at.

    Attributes:
        name: Its name.
        seconds: What it may take.
        find: `find(asked, keep)` looks at it, in a process of its own, and calls `keep` with
            everything so far whenever it has found something.
    """

    name: str
    seconds: float
    find: Callable[[Asked, Keep], None]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a part ended.

    Attributes:
        part: Its name.
        outcome: "done", "failed", "out of time", or "no time" where it did not begin.
        seconds: What it took.
        findings: What it found before it ended, however it did.
        message: The last lines of what it printed where it failed.
    """

    part: str
    outcome: Literal["done", "failed", "out of time", "no time"]
    seconds: float = 0.0
    findings: Findings = dataclasses.field(default_factory=dict)
    message: str = ""


def facts(asked: Asked, keep: Keep) -> None:
    """What is there; of trainings only what tells whether XLA compiles one."""
    del asked
    works, said = xla_works()
    found: Findings = {"xla_works": works, "xla_said": said}
    keep(found)
    dumped = Path(tempfile.mkdtemp())
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_dump_to={dumped} --xla_dump_hlo_as_text"
    os.environ["XLA_FLAGS"] = flags.strip()  # read when TensorFlow is imported
    import keras
    import tensorflow as tf

    from tfbatch.process.gpus import gpu_notes, read_gpus, unusable
    from tfbatch.run_folder.fingerprint import hardware, software
    from tfbatch.training.compilation import uses_xla
    from tfbatch.training.devices import cuda_build, gpu_settings

    machine, build = read_gpus(), cuda_build()
    auto = uses_xla(_dense(keras), "auto")
    settings = gpu_settings(machine, jit_compile=auto)
    devices = tf.config.list_physical_devices("GPU")
    found |= {
        "settings": str(settings),
        "driver": machine.driver or machine.unknown,
        "notes": [*gpu_notes(machine, build), unusable(machine, build)],
        "reserved_bytes": [gpu.reserved_bytes for gpu in machine.gpus],
        "architectures": build.architectures,
        "tensorflow_sees": [tf.config.experimental.get_device_details(one) for one in devices],
        "jit_compile": auto,
        "hardware": hardware([one.name for one in devices]),
        "software": software(),
    }
    keep(found)
    if works:
        found |= _auto_of_keras(auto, dumped)
        keep(found)


_XLA_CHECK = """
import tensorflow as tf

@tf.function(jit_compile=True)
def compiled(x, y, kernel):
    return tf.reduce_sum(tf.matmul(y, y)) + tf.reduce_sum(tf.nn.conv2d(x, kernel, 1, "SAME"))

print(float(compiled(tf.ones((8, 16, 16, 3)), tf.ones((64, 64)), tf.ones((3, 3, 3, 8)))))
"""


def xla_works(check: str = _XLA_CHECK, *, seconds: float = _XLA_SECONDS) -> tuple[bool, str]:
    """Whether XLA compiles a product of matrices and a convolution, and the last line of it.

    It may abort a process, or hang, where its compiler does not fit the GPU or is not there.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", check],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=seconds,
        )
    except subprocess.TimeoutExpired:
        return False, f"nothing in {seconds:.0f} s"
    last = done.stdout.strip().splitlines()[-1:]
    return done.returncode == 0, "".join(last)


def _dense(keras: Any) -> Any:
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])


def _auto_of_keras(auto: bool, dumped: Path) -> Findings:
    """Whether the package's "auto" is what Keras compiles another model with, and XLA compiles."""
    import keras
    import numpy as np

    from tfbatch.training.compilation import compile_with

    def compilations() -> int:
        return len(list(dumped.glob("module_*.before_optimizations.txt")))

    model, before = _dense(keras), compilations()
    compile_with(model, keras.optimizers.SGD(), arguments={"loss": "mse"}, jit_compile="auto")
    model.fit(np.ones((8, 4), "float32"), np.ones((8, 2), "float32"), verbose=0)
    compiled = compilations() > before
    return {
        "jit_compile_of_keras": bool(model.jit_compile),
        "xla_compiled": compiled,
        "auto_is_as_in_keras": auto == bool(model.jit_compile) == compiled,
    }


def knee(asked: Asked, keep: Keep) -> None:
    """Step times of a small convolutional network; what XLA and a mixed policy are worth."""
    found: Findings = {}
    with _told(found, "step_times", keep):
        found |= _step_times("small_cnn", asked, seconds=18.0)
    if "batch_sizes" not in found:
        return
    at = found["knee_batch_size"]
    if asked.xla:
        with _told(found, "xla", keep):
            one = _step_times("small_cnn", asked, seconds=20.0, batch_sizes=[at], xla=True)
            found["xla"] = one["xla"]
    with _told(found, "precision", keep):
        ends = sorted({at, *found["batch_sizes"][-1:]})
        both = _step_times("small_cnn", asked, seconds=30.0, batch_sizes=ends, mixed_precision=True)
        found["precision"] = both["precision"]


def device_data(asked: Asked, keep: Keep) -> None:
    """Batches from the device's memory: their truth, then step times against a bare loop's."""
    import itertools

    from device_data import compare, differences, given_to_sides, prepare, rows, sides

    found: Findings = {}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder) / "records", asked.examples)
        found["differences"] = differences(data, batch_size=min(256, asked.examples // 8))
        keep(found)
        given = given_to_sides(data)
        table = found["table"] = [["B", "XLA", "side", "ms", "x bare: median, least, most"]]
        ways = (False, True) if asked.xla else (False,)
        for xla, batch_size in itertools.product(ways, (32, 4096, 256, 1024)):
            if batch_size > asked.examples:
                continue
            compared, at_once = sides("small_cnn", given, batch_size, jit_compile=xla)
            times = compare(compared, steps=max(4 * at_once, 32), rounds=3)
            for row in rows(batch_size, times):
                ratios = " ".join(f"{ratio:.3f}" for ratio in row["clock_ratio"])
                table.append([batch_size, xla, row["side"], f"{row['clock_ms']:.3f}", ratios])
            keep(found)


def precision(asked: Asked, keep: Keep) -> None:
    """A mixed policy against float32 where matrices are large: ResNet, at two batch sizes."""
    found: Findings = {}
    for size in [size for size in (256, 2048) if size <= asked.examples] or [32]:
        with _told(found, f"at {size}", keep):
            found[f"at {size}"] = _step_times(
                "resnet", asked, seconds=15.0, batch_sizes=[size], mixed_precision=True
            )["precision"]


def large_model(asked: Asked, keep: Keep) -> None:
    """Step times of ResNet: each size takes XLA longer to compile than to measure."""
    found: Findings = {}
    for size in [size for size in (32, 256, 1024, 4096) if size <= asked.examples] or [32]:
        with _told(found, f"at {size}", keep):
            one = _step_times("resnet", asked, seconds=15.0, batch_sizes=[size], xla=asked.xla)
            found.setdefault("table", one["table"][:1]).extend(one["table"][1:])
            found[f"at {size}"] = {key: one[key] for key in ("too_large", "xla")}


@contextlib.contextmanager
def _told(found: Findings, name: str, keep: Keep) -> Iterator[None]:
    """Keeps what a block has found; one that fails costs itself alone."""
    try:
        yield
    except Exception as error:  # whatever it is, the next question may have an answer
        traceback.print_exc()
        found[f"{name} failed"] = f"{type(error).__name__}: {error}"[:500]
    keep(found)


def _step_times(
    model: str,
    asked: Asked,
    *,
    seconds: float,
    batch_sizes: list[int] | None = None,
    xla: bool = False,
    mixed_precision: bool = False,
) -> Findings:
    """Step times without XLA, which a comparison alone may compile with; it has a fifth of them.

    A size takes 2.5 s of them at most, and twice that where it is compared.
    """
    import tfbatch

    report = tfbatch.measure_throughput(
        model,
        _images(asked.examples),
        batch_sizes=batch_sizes,
        input_bound=False,
        xla=xla,
        mixed_precision=mixed_precision,
        max_seconds=seconds,
        jit_compile=False,
    )
    found = report.throughput
    return {
        "conclusion": found.conclusion(),
        "knee": found.of_knee(),
        "knee_batch_size": found.knee.batch_size,
        "batch_sizes": found.batch_sizes,
        "left_out": found.left_out,
        "too_large": found.too_large,
        "table": [list(found.columns()), *map(list, found.rows())],
        "xla": None if found.xla is None else dataclasses.asdict(found.xla),
        "precision": None if found.precision is None else dataclasses.asdict(found.precision),
    }


def trials(asked: Asked, keep: Keep) -> None:
    """Trials of a fifth of the data: how many an hour, once the first of each worker has ended."""
    data = _images(asked.examples // 5)
    table = [["who", "workers", "trials", "trials an hour"]]
    found: Findings = {"table": table}
    rates: dict[int, float] = {}
    for workers in (1, 4, 2):
        with _told(found, f"{workers} workers", keep):
            rate, ended = _trials_an_hour(data, workers)
            shown = "too short to tell" if rate is None else f"{rate:.0f}"
            table.append(["tfbatch", workers, ended, shown])
            if rate is not None:
                rates[workers] = rate
                found["best_fixed"] = max(rates, key=lambda workers: rates[workers])
        if workers == 1:
            with _told(found, "auto", keep):
                found["auto"] = _measured_workers(data)
    # The last: it is in this process, which then holds what it has taken of the GPU's memory.
    with _told(found, "KerasTuner", keep):
        seconds = _seconds_of_keras_tuner(data)
        table.append(["KerasTuner", 1, _OF_KERAS_TUNER, f"{3600 / seconds:.0f}"])


def _search(
    data: dict[str, tuple[Any, Any]],
    run: Path,
    *,
    max_trials: int,
    workers_per_gpu: int | Literal["auto"],
) -> None:
    """Trials of one epoch without XLA at four batch sizes, none of them verified."""
    import tfbatch

    tfbatch.find_batch_size(
        "small_cnn",
        data,
        search="random",
        baseline="learning_rate=1e-4",  # one trial must not diverge, or there is no answer
        max_trials=max_trials,
        verification_seeds=0,
        batch_sizes=[32, 64, 128, 256],
        trial_length="1 epoch",
        workers_per_gpu=workers_per_gpu,
        jit_compile=False,
        run_dir=run,
        verbose=0,
    )


def _trials_an_hour(data: dict[str, tuple[Any, Any]], workers: int) -> tuple[float | None, int]:
    """With so many workers on the GPU, None where it was over too soon; and how many there were."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        trials = _TRIALS + _FURTHER_TRIALS * (workers - 1)
        _search(data, run, max_trials=trials, workers_per_gpu=workers)
        lines = (run / "trials.jsonl").read_text("utf-8").splitlines()
    ended = sorted(
        datetime.datetime.fromisoformat(row["finished_at"])
        for row in map(json.loads, lines)
        if row["phase"] == "search"
    )
    # The first of each worker end together: they say nothing of a rate.
    seconds = (ended[-1] - ended[workers - 1]).total_seconds()
    # The journal's times are whole seconds.
    rate = 3600 * (len(ended) - workers) / seconds if seconds >= _LEAST_SECONDS else None
    return rate, len(ended)


def _measured_workers(data: dict[str, tuple[Any, Any]]) -> str:
    """What `--workers_per_gpu=auto` chooses, and what it measured; one trial is run."""
    from tfbatch.answer.gpu_sharing import read_gpu_sharing

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        _search(data, run, max_trials=1, workers_per_gpu="auto")
        return str(read_gpu_sharing(run) or "without a GPU nothing is measured")


_TRIALS, _FURTHER_TRIALS, _OF_KERAS_TUNER = 16, 8, 4
_LEAST_SECONDS = 5.0


def _seconds_of_keras_tuner(data: dict[str, tuple[Any, Any]]) -> float:
    """Of a trial of its own random search, data and settings as above, the first one left out."""
    import keras
    import keras_tuner

    from tfbatch.models import MODELS

    class Model(keras_tuner.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> Any:
            hp.Choice("batch_size", [32, 64, 128, 256])
            made = MODELS.load("small_cnn").build((32, 32, 3), 10)
            rate = hp.Float("learning_rate", 0.005, 0.02, sampling="log")
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            made.compile(
                keras.optimizers.SGD(rate, momentum=0.9),
                loss,
                metrics=["accuracy"],
                jit_compile=False,
            )
            return made

        def fit(self, hp: Any, model: Any, *arguments: Any, **options: Any) -> Any:
            began = time.perf_counter()
            found = model.fit(*arguments, batch_size=hp.get("batch_size"), **options)
            ends.append((began, time.perf_counter()))
            return found

    ends: list[tuple[float, float]] = []
    (x, y), validation = data["train"], data["validation"]
    with tempfile.TemporaryDirectory() as folder:
        tuner = keras_tuner.RandomSearch(
            Model(), objective="val_loss", max_trials=_OF_KERAS_TUNER, directory=folder, seed=1
        )
        tuner.search(
            x / 255.0,
            y,
            validation_data=(validation[0] / 255.0, validation[1]),
            epochs=1,
            verbose=0,
        )
    return (ends[-1][1] - ends[0][1]) / (_OF_KERAS_TUNER - 1)


def callbacks(asked: Asked, keep: Keep) -> None:
    """Callbacks in plain Keras; the wait of a pipeline that sleeps 20 ms a batch is known."""
    import keras
    import tensorflow as tf

    from tfbatch.accumulation import accumulated
    from tfbatch.callbacks import Advisor, BatchSizeScheduler, Throughput
    from tfbatch.models import MODELS

    found: Findings = {}
    x, y = (part[: min(asked.examples, 5120)] for part in _images(asked.examples)["train"])
    x = (x / 255.0).astype("float32")

    def model() -> Any:
        made = MODELS.load("small_cnn").build((32, 32, 3), 10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            loss,
            metrics=["accuracy"],
            jit_compile=asked.jit_compile,
        )
        return made

    def slept(one: Any) -> Any:
        time.sleep(0.02)
        return one

    def slow(a: Any, b: Any) -> Any:
        return tf.ensure_shape(tf.numpy_function(slept, [a], a.dtype), a.shape), b

    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(128, drop_remainder=True)
    for name, data, own in (
        ("in_memory", batches.cache(), Throughput()),
        ("sleeps_20_ms", batches.map(slow), Throughput()),
    ):
        model().fit(data, epochs=2, callbacks=[own], verbose=0)
        found[name] = {
            "input_wait": own.input_wait,
            "seconds_per_step": own.seconds_per_step,
            "examples_per_second": own.examples_per_second,
        }
        keep(found)
    advisor = Advisor(verbose=0)
    model().fit(batches, epochs=2, callbacks=[advisor], verbose=0)
    found["advisor"] = str(advisor.advice)
    keep(found)
    scheduler = BatchSizeScheduler({0: 64, 1: 256})
    history = model().fit(scheduler.dataset(x, y), epochs=2, callbacks=[scheduler], verbose=0)
    found["batch_size_scheduler_losses"] = history.history["loss"]
    keep(found)
    losses = [
        one.fit(batches, epochs=1, verbose=0).history["loss"]
        for one in (model(), accumulated(model(), micro_batch_size=32))
    ]
    found["losses_whole_and_accumulated"] = losses
    keep(found)


def finder(asked: Asked, keep: Keep) -> None:
    """The memory finder under a budget, without XLA: the first peak must be told early."""
    _largest(asked, keep, memory_budget="6 GB", jit_compile=False, seconds=35.0)


def finder_xla(asked: Asked, keep: Keep) -> None:
    """The same with XLA, which compiles each size."""
    if asked.xla:
        _largest(asked, keep, memory_budget="6 GB", jit_compile=True, seconds=130.0)
    else:
        keep({"left_out": "XLA is off"})


def wall(asked: Asked, keep: Keep) -> None:
    """The memory finder up to where the allocator refuses: nothing is left free."""
    _largest(asked, keep, memory_budget=None, jit_compile=False, seconds=35.0)


def _largest(
    asked: Asked, keep: Keep, *, memory_budget: str | None, jit_compile: bool, seconds: float
) -> None:
    """The finder's answer, 20 s before the part's own time is over: opening takes some, too."""
    import tfbatch

    began = time.monotonic()
    found: Findings = {}
    with _lines_told(found, keep):
        report = tfbatch.find_max_batch_size(
            "resnet",
            _images(asked.examples),
            memory_budget=memory_budget,
            memory_seconds=seconds,
            safety_margin=0.0,
            jit_compile=jit_compile,
            evaluation=False,
        )
    found |= {
        "seconds": time.monotonic() - began,
        "stated": report.stated,
        "batch_size": report.batch_size,
        "cut_short": report.cut_short,
        "conclusion": report.conclusion(),
        "table": [list(report.rows()[0]), *(list(row.values()) for row in report.rows())],
    }
    keep(found)


class _Lines(io.TextIOBase):
    """Passes on what is printed, and tells each whole line."""

    def __init__(self, to: TextIO, tell: Callable[[str], None]):
        self._to, self._tell, self._begun = to, tell, ""

    def write(self, text: str) -> int:
        """As a text stream."""
        self._to.write(text)
        *lines, self._begun = (self._begun + text).split("\n")
        for line in filter(str.strip, lines):
            self._tell(line)
        return len(text)

    def flush(self) -> None:
        """As a text stream."""
        self._to.flush()


@contextlib.contextmanager
def _lines_told(found: Findings, keep: Keep, look: Callable[[], Findings] = dict) -> Iterator[None]:
    """Keeps every line of progress at once, and with it what there is to look at by then."""
    said = found["said"] = []
    began = time.monotonic()

    def tell(line: str) -> None:
        said.append(f"{time.monotonic() - began:.1f} s: {line}")
        found.update(look())
        keep(found)

    try:
        with contextlib.redirect_stdout(_Lines(sys.stdout, tell)):
            yield
    finally:
        found.update(look())
        keep(found)


def search(asked: Asked, keep: Keep) -> None:
    """A search of three trials on the embedded digits."""
    import tfbatch

    found: Findings = {}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        began = time.monotonic()
        with _lines_told(found, keep, lambda: _of_a_run(run)):
            result = tfbatch.find_batch_size(
                "small_cnn",
                "digits",
                max_trials=3,
                verification_seeds=1,
                batch_sizes=[32, 128],
                trial_length="2 epochs",
                jit_compile=asked.jit_compile,
                run_dir=run,
            )
        found |= {"seconds": time.monotonic() - began, "answer": type(result).__name__}
        keep(found)


def _of_a_run(run: Path) -> Findings:
    """What a run folder has of its trials and what they run with, as far as it is written."""
    from tfbatch.run_folder.reader import read_settings

    found: Findings = {}
    if (run / "fingerprint.json").exists():
        found["fingerprint"] = json.loads((run / "fingerprint.json").read_text("utf-8"))
    if (run / "config.json").exists():
        found["jit_compile"] = read_settings(run)["jit_compile"]
    if (run / "trials.jsonl").exists():
        lines = (run / "trials.jsonl").read_text("utf-8").splitlines(keepends=True)
        found["trials"] = [
            {key: row.get(key) for key in ("trial", "status", "device", "seconds")}
            for row in (json.loads(line) for line in lines if line.endswith("\n"))
        ]
    return found


PARTS = (
    Part("facts", 50.0, facts),
    Part("device_data", 70.0, device_data),
    Part("knee", 65.0, knee),
    Part("trials", 90.0, trials),
    Part("finder", 55.0, finder),
    Part("wall", 55.0, wall),
    Part("callbacks", 25.0, callbacks),
    Part("search", 60.0, search),
    Part("precision", 35.0, precision),
    Part("large_model", 60.0, large_model),
    Part("finder_xla", 150.0, finder_xla),
)
"""All but the LEFT_OVERS fit into the whole even where each takes all of its time."""


def _images(examples: int) -> dict[str, tuple[Any, Any]]:
    """Images of 32 x 32 pixels of ten brightnesses: what is timed does not depend on them."""
    import numpy as np

    generator = np.random.default_rng(1)
    found = {}
    for split, count in (("train", examples), ("validation", max(examples // 5, 10))):
        labels = generator.integers(0, 10, count).astype("int32")
        noise = generator.integers(0, 25, (count, 32, 32, 3), dtype="uint8")
        found[split] = (noise + (23 * labels[:, None, None, None]).astype("uint8"), labels)
    return found


Run = Callable[[Part, float], Ended]


def run_all(
    parts: Sequence[Part],
    run: Run,
    *,
    minutes: float,
    written: Callable[[list[Ended]], None],
    now: Callable[[], float] = time.monotonic,
) -> list[Ended]:
    """Runs the parts in their order as long as there is time.

    Args:
        parts: What is looked at, the most important first.
        run: `run(part, seconds)` runs one of them, for so many seconds at most.
        minutes: What all may take.
        written: Called with everything so far after each part.
        now: A clock, in seconds.
    """
    deadline, ended = now() + 60 * minutes, []
    for part in parts:
        left = deadline - now()
        if left < _FEWEST_SECONDS:
            ended.append(Ended(part.name, "no time"))
        else:
            ended.append(run(part, min(part.seconds, left)))
        written(ended)
    return ended


def kept_in(path: Path, part: str) -> Keep:
    """Writes a part's findings beside those of the others; it may be ended at any moment."""

    def keep(found: Findings) -> None:
        whole = read_found(path)
        whole[part] = {"outcome": "running", "findings": found}
        _write_found(path, whole)

    return keep


def read_found(path: Path) -> Findings:
    """What is known of each part; nothing where nothing is written yet."""
    found: Findings = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return found


def _write_found(path: Path, whole: Findings) -> None:
    write_whole(path, json.dumps(whole, indent=1, default=str))


def in_a_process(output: Path, logs: Path, asked: Asked) -> Run:
    """Runs a part by this script's `--part`, and ends its whole process group when it must.

    Args:
        output: Folder of the findings.
        logs: Folder of what the parts print.
        asked: What they are given; without XLA once a part has found that it does not work.
    """
    xla = asked.xla

    def run(part: Part, seconds: float) -> Ended:
        nonlocal xla
        log, result = logs / f"{part.name}.log", output / FINDINGS
        # Unbuffered: an ended process writes no more.
        command = [sys.executable, "-u", __file__, f"--part={part.name}", f"--output={output}"]
        given = [f"--examples={asked.examples}", f"--xla={'auto' if xla else 'off'}"]
        began = time.monotonic()
        with GpuSampler() as sampler, log.open("wb") as file:
            process = subprocess.Popen(
                [*command, *given], stdout=file, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code = process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        took = time.monotonic() - began
        tail = "\n".join(log.read_text("utf-8", "replace").splitlines()[-15:])
        known = read_found(result)
        found: Findings = known[part.name]["findings"] if part.name in known else {}
        xla = xla and found.get("xla_works") is not False
        if (utilization := sampler.utilization()) is not None:
            found["utilization"] = str(utilization)
        if code is None:
            return Ended(part.name, "out of time", took, found, message=tail)
        if code or part.name not in known:
            return Ended(part.name, "failed", took, found, message=f"exit code {code}\n{tail}")
        return Ended(part.name, "done", took, found)

    return run


FINDINGS, REPORT, LOGS = "on_gpu.json", "on_gpu.md", "logs.tar.gz"


def write_all(output: Path, logs: Path, ended: Sequence[Ended]) -> None:
    """Writes everything so far into three files."""
    _write_found(output / FINDINGS, {one.part: dataclasses.asdict(one) for one in ended})
    write_whole(output / REPORT, report(ended))
    with tarfile.open(output / LOGS, "w:gz") as packed:
        packed.add(logs, "logs")


def report(ended: Sequence[Ended]) -> str:
    """All parts as Markdown."""
    lines = ["# On a GPU", ""]
    for one in ended:
        lines += [f"## {one.part}: {one.outcome}, {one.seconds:.0f} s", ""]
        for name, value in one.findings.items():
            if name == "table":
                head, *rows = value
                lines += [f"| {' | '.join(map(str, head))} |", f"|{' --- |' * len(head)}"]
                lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
                lines.append("")
            else:
                lines += [f"- {name}: {value}"]
        if one.message:
            lines += ["```", one.message, "```"]
        lines.append("")
    return "\n".join(lines)


def run_parts(
    parts: Sequence[Part], output: Path, asked: Asked, *, minutes: float, patience: float = 1.0
) -> None:
    """Runs parts, writes what they find, and prints it at the end."""
    parts = [dataclasses.replace(one, seconds=patience * one.seconds) for one in parts]
    with tempfile.TemporaryDirectory() as folder:
        logs = Path(folder)

        def written(ended: Sequence[Ended]) -> None:
            write_all(output, logs, ended)
            print(f"{ended[-1].part}: {ended[-1].outcome}, {ended[-1].seconds:.0f} s", flush=True)

        (output / FINDINGS).unlink(missing_ok=True)
        run = in_a_process(output.resolve(), logs, asked)
        ended = run_all(parts, run, minutes=minutes, written=written)
    print(report(ended), flush=True)


def main() -> None:
    """Runs all parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("on_gpu"))
    parser.add_argument("--parts", default=",".join(part.name for part in PARTS))
    parser.add_argument("--part", choices=[part.name for part in PARTS])
    parser.add_argument("--minutes", type=float, default=MOST_MINUTES)
    parser.add_argument("--patience", type=float, default=1.0, help="times each part's seconds")
    parser.add_argument("--examples", type=int, default=50_000)
    parser.add_argument("--xla", choices=["auto", "off"], default="auto")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    asked = Asked(given.examples, xla=given.xla != "off")
    by_name = {part.name: part for part in PARTS}
    if not given.part:
        parts = [by_name[name] for name in given.parts.split(",")]
        run_parts(parts, given.output, asked, minutes=given.minutes, patience=given.patience)
        return
    part = by_name[given.part]
    try:
        part.find(asked, kept_in(given.output / FINDINGS, part.name))
    except Exception:  # whatever it is belongs into the part's log
        traceback.print_exc()
        os._exit(1)
    os._exit(0)  # TensorFlow's teardown may hang


if __name__ == "__main__":
    main()
