"""What can be known on a GPU alone, the most important first, in at most ten minutes.

    python benchmarks/on_gpu.py --output=on_gpu [--parts=facts,knee] [--examples=50000]

Each part is a process of its own, so that one that XLA aborts, or that hangs, costs itself alone.
Each measurement of a part is written when it is made, in OUTPUT/PART.json, and after each part all
so far in OUTPUT/on_gpu.md; what it printed, progress included, is in OUTPUT/PART.log. A part whose
time is over is ended, and what it had measured stays; those that no time is left for are named. How
busy the GPU was is asked of the driver meanwhile. Without a GPU it runs as well, on few --examples:
that tries the script.

- facts: what the driver and TensorFlow say of the GPU; whether "auto" is what `Model.compile` does.
- device_data: are batches from the GPU's memory those of the host, and step times with them against
  a bare loop's, without and with XLA.
- knee: step times from both ends up to the data's end, compilation apart, XLA on and off, and
  mixed_float16 against float32 at the knee and at the largest size.
- trials: trials an hour of one, two and four workers on the GPU, and of KerasTuner's own loop; and
  the number that `--workers_per_gpu=auto` chooses, beside the best of those.
- finder: the largest batch under 6 GB without XLA, seconds to the answer.
- wall: the largest batch of the whole memory, which the allocator refuses to pass.
- callbacks: those that look and those that change the batch, and `input_wait` of a pipeline whose
  wait is known.
- search: a small search, its trials' device, fingerprint and time.
- precision: mixed_float16 against float32 for ResNet, at two batch sizes.
- large_model: step times for ResNet at four sizes, where tracing takes longest.
- finder_xla: as finder, with XLA.

Result: not measured on a GPU yet; tried on a CPU, with few examples.
Evidence: benchmarks/results/gpu.md
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from tfbatch.process.gpu_utilization import GpuSampler
from tfbatch.run_folder.durable import write_whole

MOST_MINUTES = 9.5
_FEWEST_SECONDS = 5.0
Findings = dict[str, Any]
Keep = Callable[[Findings], None]


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that is looked at.

    Attributes:
        name: Its name.
        seconds: What it may take.
        find: `find(examples, keep)` looks at it, in a process of its own, and calls `keep` with
            everything so far whenever it has found something.
    """

    name: str
    seconds: float
    find: Callable[[int, Keep], None]


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


def facts(examples: int, keep: Keep) -> None:
    """What is there, without any training."""
    del examples
    import keras
    import tensorflow as tf

    from tfbatch.process.gpus import gpu_notes, read_gpus, unusable
    from tfbatch.run_folder.fingerprint import hardware, software
    from tfbatch.training.compilation import uses_xla
    from tfbatch.training.devices import cuda_build, gpu_settings

    machine, build = read_gpus(), cuda_build()
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    auto = uses_xla(model, "auto")
    model.compile("sgd", "mse")
    settings = gpu_settings(machine, jit_compile=auto)
    devices = tf.config.list_physical_devices("GPU")
    keep(
        {
            "settings": str(settings),
            "driver": machine.driver or machine.unknown,
            "notes": [*gpu_notes(machine, build), unusable(machine, build)],
            "reserved_bytes": [gpu.reserved_bytes for gpu in machine.gpus],
            "architectures": build.architectures,
            "tensorflow_sees": [tf.config.experimental.get_device_details(one) for one in devices],
            "auto_is_as_in_keras": auto == model.jit_compile,
            "jit_compile": auto,
            "hardware": hardware([one.name for one in devices]),
            "software": software(),
        }
    )


def knee(examples: int, keep: Keep) -> None:
    """Step times of a small convolutional network; what XLA and a mixed policy are worth."""
    keep(_step_times("small_cnn", examples, seconds=30.0, mixed_precision=True))


def device_data(examples: int, keep: Keep) -> None:
    """Batches from the device's memory: their truth, then step times against a bare loop's."""
    import itertools
    import tempfile

    from device_data import compare, differences, prepare, rows, sides

    found: Findings = {}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder) / "records", examples)
        found["differences"] = differences(data, batch_size=min(256, examples // 8))
        keep(found)
        table = found["table"] = [["B", "XLA", "side", "ms", "x bare: median, least, most"]]
        for xla, batch_size in itertools.product((False, True), (32, 4096, 256, 1024)):
            if batch_size > examples:
                continue
            compared, at_once = sides("small_cnn", data, batch_size, jit_compile=xla)
            times = compare(compared, steps=max(4 * at_once, 32), rounds=3)
            for row in rows(batch_size, times):
                ratios = " ".join(f"{ratio:.3f}" for ratio in row["clock_ratio"])
                table.append([batch_size, xla, row["side"], f"{row['clock_ms']:.3f}", ratios])
            keep(found)


def precision(examples: int, keep: Keep) -> None:
    """A mixed policy against float32 where matrices are large: ResNet, at two batch sizes."""
    sizes = [size for size in (256, 2048) if size <= examples] or [32]
    keep(
        _step_times(
            "resnet", examples, seconds=15.0, batch_sizes=sizes, xla=False, mixed_precision=True
        )
    )


def large_model(examples: int, keep: Keep) -> None:
    """The same of ResNet: each size takes XLA longer to compile than to measure."""
    sizes = [size for size in (32, 256, 1024, 4096) if size <= examples] or [32]
    keep(_step_times("resnet", examples, seconds=10.0, batch_sizes=sizes, mixed_precision=False))


def _step_times(
    model: str,
    examples: int,
    *,
    seconds: float,
    mixed_precision: bool,
    batch_sizes: list[int] | None = None,
    xla: bool = True,
) -> Findings:
    import tfbatch

    report = tfbatch.measure_throughput(
        model,
        _images(examples),
        batch_sizes=batch_sizes,
        input_bound=False,
        xla=xla,
        mixed_precision=mixed_precision,
        max_seconds=seconds,
    )
    found = report.throughput
    return {
        "conclusion": found.conclusion(),
        "knee": found.of_knee(),
        "left_out": found.left_out,
        "too_large": found.too_large,
        "table": [list(found.columns()), *map(list, found.rows())],
        "xla": None if found.xla is None else dataclasses.asdict(found.xla),
        "precision": None if found.precision is None else dataclasses.asdict(found.precision),
    }


def trials(examples: int, keep: Keep) -> None:
    """Trials of a fifth of the data: how many an hour, once the first of each worker has ended."""
    import tempfile

    import tfbatch

    data = _images(examples // 5)
    table = [["who", "workers", "trials", "trials an hour"]]
    rates: dict[int, float] = {}
    for workers in (1, 4, 2):
        with tempfile.TemporaryDirectory() as folder:
            run = Path(folder) / "run"
            tfbatch.find_batch_size(
                "small_cnn",
                data,
                search="random",
                max_trials=_TRIALS,
                verification_seeds=0,
                batch_sizes=[32, 64, 128, 256],
                trial_length="1 epoch",
                workers_per_gpu=workers,
                run_dir=run,
                verbose=0,
            )
            lines = (run / "trials.jsonl").read_text("utf-8").splitlines()
            ended = sorted(
                datetime.datetime.fromisoformat(row["finished_at"])
                for row in map(json.loads, lines)
                if row["phase"] == "search"
            )
        # The first of each worker end together: they say nothing of a rate.
        seconds = (ended[-1] - ended[workers - 1]).total_seconds()
        rates[workers] = 3600 * (len(ended) - workers) / seconds
        table.append(["tfbatch", workers, len(ended), f"{rates[workers]:.0f}"])
        keep({"table": table})
    seconds = _seconds_of_keras_tuner(data)
    table.append(["KerasTuner", 1, _OF_KERAS_TUNER, f"{3600 / seconds:.0f}"])
    keep({"table": table})
    best = max(rates, key=lambda workers: rates[workers])
    keep({"table": table, "best_fixed": best, "auto": _measured_workers(data)})


def _measured_workers(data: dict[str, tuple[Any, Any]]) -> str:
    """What `--workers_per_gpu=auto` chooses, and what it measured; one trial is run."""
    import tempfile

    import tfbatch
    from tfbatch.answer.gpu_sharing import read_gpu_sharing

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        tfbatch.find_batch_size(
            "small_cnn",
            data,
            search="random",
            baseline="learning_rate=1e-4",  # of two trials one must not diverge
            max_trials=1,
            verification_seeds=0,
            batch_sizes=[32, 64, 128, 256],
            trial_length="1 epoch",
            workers_per_gpu="auto",
            run_dir=run,
            verbose=0,
        )
        return str(read_gpu_sharing(run) or "without a GPU nothing is measured")


_TRIALS, _OF_KERAS_TUNER = 16, 4


def _seconds_of_keras_tuner(data: dict[str, tuple[Any, Any]]) -> float:
    """Of a trial of its own random search, data and settings as above, the first one left out."""
    import tempfile

    import keras
    import keras_tuner

    from tfbatch.models import MODELS

    class Model(keras_tuner.HyperModel):  # type: ignore[misc]
        def build(self, hp: Any) -> Any:
            hp.Choice("batch_size", [32, 64, 128, 256])
            made = MODELS.load("small_cnn").build((32, 32, 3), 10)
            rate = hp.Float("learning_rate", 0.005, 0.02, sampling="log")
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            made.compile(keras.optimizers.SGD(rate, momentum=0.9), loss, metrics=["accuracy"])
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


def callbacks(examples: int, keep: Keep) -> None:
    """Callbacks in plain Keras; the wait of a pipeline that sleeps 20 ms a batch is known."""
    import keras
    import tensorflow as tf

    from tfbatch.accumulation import accumulated
    from tfbatch.callbacks import Advisor, BatchSizeScheduler, Throughput
    from tfbatch.models import MODELS

    found: Findings = {}
    x, y = (part[: min(examples, 5120)] for part in _images(examples)["train"])
    x = (x / 255.0).astype("float32")

    def model() -> Any:
        made = MODELS.load("small_cnn").build((32, 32, 3), 10)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        made.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss, metrics=["accuracy"])
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


def finder(examples: int, keep: Keep) -> None:
    """The memory finder under a budget, without XLA: the first peak must be told early."""
    keep(_largest(examples, memory_budget="6 GB", jit_compile=False, seconds=45.0))


def finder_xla(examples: int, keep: Keep) -> None:
    """The same with XLA, which compiles each size."""
    keep(_largest(examples, memory_budget="6 GB", jit_compile=True, seconds=130.0))


def wall(examples: int, keep: Keep) -> None:
    """The memory finder up to where the allocator refuses: nothing is left free."""
    keep(_largest(examples, memory_budget=None, jit_compile=False, seconds=45.0))


def _largest(
    examples: int, *, memory_budget: str | None, jit_compile: bool, seconds: float
) -> Findings:
    """The finder's answer, 20 s before the part's own time is over: opening takes some, too."""
    import tfbatch

    began = time.monotonic()
    report = tfbatch.find_max_batch_size(
        "resnet",
        _images(examples),
        memory_budget=memory_budget,
        memory_seconds=seconds,
        safety_margin=0.0,
        jit_compile=jit_compile,
        evaluation=False,
    )
    return {
        "seconds": time.monotonic() - began,
        "stated": report.stated,
        "batch_size": report.batch_size,
        "cut_short": report.cut_short,
        "conclusion": report.conclusion(),
        "table": [list(report.rows()[0]), *(list(row.values()) for row in report.rows())],
    }


def search(examples: int, keep: Keep) -> None:
    """A search of three trials on the embedded digits."""
    del examples
    import tempfile

    import tfbatch
    from tfbatch.run_folder.reader import read_settings

    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        result = tfbatch.find_batch_size(
            "small_cnn",
            "digits",
            max_trials=3,
            verification_seeds=1,
            batch_sizes=[32, 128],
            trial_length="2 epochs",
            run_dir=Path(folder) / "run",
        )
        seconds = time.monotonic() - began
        run = Path(folder) / "run"
        keep(
            {
                "seconds": seconds,
                "answer": type(result).__name__,
                "jit_compile": read_settings(run)["jit_compile"],
                "fingerprint": json.loads((run / "fingerprint.json").read_text("utf-8")),
                "trials": [
                    {key: row.get(key) for key in ("trial", "status", "device", "seconds")}
                    for row in map(
                        json.loads, (run / "trials.jsonl").read_text("utf-8").splitlines()
                    )
                ],
            }
        )


PARTS = (
    Part("facts", 30.0, facts),
    Part("device_data", 80.0, device_data),
    Part("knee", 80.0, knee),
    Part("trials", 100.0, trials),
    Part("finder", 65.0, finder),
    Part("wall", 65.0, wall),
    Part("callbacks", 30.0, callbacks),
    Part("search", 30.0, search),
    Part("precision", 30.0, precision),
    Part("large_model", 60.0, large_model),
    Part("finder_xla", 150.0, finder_xla),
)
"""All but the last fit into the whole even where each takes all of its time."""


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


def kept_in(path: Path) -> Keep:
    """Writes findings whole: the process may be ended at any moment."""

    def keep(found: Findings) -> None:
        write_whole(path, json.dumps(found, indent=1, default=str))

    return keep


def in_a_process(output: Path, examples: int) -> Run:
    """Runs a part by this script's `--part`, and ends its whole process group when it must."""

    def run(part: Part, seconds: float) -> Ended:
        log, result = output / f"{part.name}.log", output / f"{part.name}.json"
        result.unlink(missing_ok=True)
        command = [sys.executable, __file__, f"--part={part.name}", f"--output={output}"]
        began = time.monotonic()
        with GpuSampler() as sampler, log.open("wb") as file:
            process = subprocess.Popen(
                [*command, f"--examples={examples}"],
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
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
        found = json.loads(result.read_text("utf-8")) if result.exists() else {}
        if (utilization := sampler.utilization()) is not None:
            found["utilization"] = str(utilization)
        if code is None:
            return Ended(part.name, "out of time", took, found, message=tail)
        if code or not result.exists():
            return Ended(part.name, "failed", took, found, message=f"exit code {code}\n{tail}")
        return Ended(part.name, "done", took, found)

    return run


def report(ended: Sequence[Ended]) -> str:
    """All parts as Markdown."""
    lines = ["# On a GPU", ""]
    for one in ended:
        lines += [f"## {one.part}: {one.outcome}, {one.seconds:.0f} s", ""]
        for name, value in one.findings.items():
            if name == "table":
                head, *rows = value
                lines += [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
                lines += [f"| {' | '.join(map(str, row))} |" for row in rows]
                lines.append("")
            else:
                lines += [f"- {name}: {value}"]
        if one.message:
            lines += ["```", one.message, "```"]
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    """Runs all parts, or one of them in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("on_gpu"))
    parser.add_argument("--parts", default=",".join(part.name for part in PARTS))
    parser.add_argument("--part", choices=[part.name for part in PARTS])
    parser.add_argument("--minutes", type=float, default=MOST_MINUTES)
    parser.add_argument("--patience", type=float, default=1.0, help="times each part's seconds")
    parser.add_argument("--examples", type=int, default=50_000)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    by_name = {part.name: part for part in PARTS}
    if asked.part:
        try:
            by_name[asked.part].find(asked.examples, kept_in(asked.output / f"{asked.part}.json"))
        except Exception:  # whatever it is belongs into the part's log
            traceback.print_exc()
            os._exit(1)
        os._exit(0)  # TensorFlow's teardown may hang

    def written(ended: Sequence[Ended]) -> None:
        (asked.output / "on_gpu.md").write_text(report(ended), encoding="utf-8")
        print(f"{ended[-1].part}: {ended[-1].outcome}, {ended[-1].seconds:.0f} s", flush=True)

    parts = [by_name[name] for name in asked.parts.split(",")]
    run_all(
        [dataclasses.replace(one, seconds=asked.patience * one.seconds) for one in parts],
        in_a_process(asked.output.resolve(), asked.examples),
        minutes=asked.minutes,
        written=written,
    )


if __name__ == "__main__":
    main()
