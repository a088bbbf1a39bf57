"""What can be known on a GPU alone, the most important first, in at most ten minutes.

    python benchmarks/on_gpu.py --output=on_gpu [--parts=facts,knee] [--examples=50000]

Each part is a process of its own, so that one that XLA aborts, or that hangs, costs itself alone.
After each one its findings are in OUTPUT/PART.json, all so far in OUTPUT/on_gpu.md, and what it
printed in OUTPUT/PART.log. A part whose time is over is ended; those that no time is left for are
named. Without a GPU it runs as well, on few --examples: that tries the script.

- facts: what the driver and TensorFlow say of the GPU; whether "auto" is what `Model.compile` does.
- knee: step times from both ends up to the data's end, compilation apart, XLA on and off, and
  mixed_float16 against float32 at the knee and at the largest size.
- device_data: are batches from the GPU's memory those of the host, and step times with them.
- finder: the largest batch under 6 GB, seconds to the first peak and to the answer.
- wall: the largest batch of the whole memory, which the allocator refuses to pass.
- precision: mixed_float16 against float32 for ResNet, at two batch sizes.
- large_model: the same step times for ResNet, where tracing takes longest.
- search: a small search, its trials' device, fingerprint and time.

Result: not measured on a GPU yet; tried on a CPU, with few examples.
Evidence: none yet
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
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

MOST_MINUTES = 9.5
_FEWEST_SECONDS = 5.0
Findings = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Part:
    """One thing that is looked at.

    Attributes:
        name: Its name.
        seconds: What it may take.
        find: `find(examples)` looks at it, in a process of its own.
    """

    name: str
    seconds: float
    find: Callable[[int], Findings]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a part ended.

    Attributes:
        part: Its name.
        outcome: "done", "failed", "out of time", or "no time" where it did not begin.
        seconds: What it took.
        findings: What it found; empty where it did not end well.
        message: The last lines of what it printed where it failed.
    """

    part: str
    outcome: Literal["done", "failed", "out of time", "no time"]
    seconds: float = 0.0
    findings: Findings = dataclasses.field(default_factory=dict)
    message: str = ""


def facts(examples: int) -> Findings:
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
    return {
        "settings": str(settings),
        "driver": machine.driver or machine.unknown,
        "notes": [*gpu_notes(machine, build), unusable(machine, build)],
        "architectures": build.architectures,
        "tensorflow_sees": [tf.config.experimental.get_device_details(one) for one in devices],
        "auto_is_as_in_keras": auto == model.jit_compile,
        "jit_compile": auto,
        "hardware": hardware([one.name for one in devices]),
        "software": software(),
    }


def knee(examples: int) -> Findings:
    """Step times of a small convolutional network; what XLA and a mixed policy are worth."""
    return _step_times("small_cnn", examples, seconds=40.0, mixed_precision=True)


def device_data(examples: int) -> Findings:
    """Batches from the device's memory: their truth, then step times against a bare loop's."""
    import tempfile

    from device_data import compare, differences, prepare, rows, sides

    found: Findings = {}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(Path(folder) / "records", examples)
        found["differences"] = differences(data, batch_size=min(256, examples // 8))
        table = []
        for batch_size in (32, 1024):
            if batch_size > examples:
                continue
            compared, at_once = sides("small_cnn", data, batch_size, jit_compile=False)
            times = compare(compared, steps=4 * at_once, rounds=5)
            for row in rows(batch_size, times):
                ratios = " ".join(f"{ratio:.3f}" for ratio in row["clock_ratio"])
                table.append([batch_size, row["side"], f"{row['clock_ms']:.3f}", ratios])
        found["table"] = [["B", "side", "ms", "x bare: median, least, most"], *table]
    return found


def precision(examples: int) -> Findings:
    """A mixed policy against float32 where matrices are large: ResNet, at two batch sizes."""
    sizes = [size for size in (256, 2048) if size <= examples] or [32]
    return _step_times(
        "resnet", examples, seconds=30.0, batch_sizes=sizes, xla=False, mixed_precision=True
    )


def large_model(examples: int) -> Findings:
    """The same of ResNet: each size takes XLA longer to compile than to measure."""
    return _step_times("resnet", examples, seconds=20.0, mixed_precision=False)


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


def finder(examples: int) -> Findings:
    """The memory finder under a budget: the first peak must be told early."""
    return _largest(examples, memory_budget="6 GB")


def wall(examples: int) -> Findings:
    """The memory finder without a budget, up to where the allocator refuses."""
    return _largest(examples, memory_budget=None)


def _largest(examples: int, *, memory_budget: str | None) -> Findings:
    import tfbatch

    began = time.monotonic()
    report = tfbatch.find_max_batch_size(
        "resnet", _images(examples), memory_budget=memory_budget, evaluation=False
    )
    return {
        "seconds": time.monotonic() - began,
        "stated": report.stated,
        "batch_size": report.batch_size,
        "conclusion": report.conclusion(),
        "table": [list(report.rows()[0]), *(list(row.values()) for row in report.rows())],
    }


def search(examples: int) -> Findings:
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
        return {
            "seconds": seconds,
            "answer": type(result).__name__,
            "jit_compile": read_settings(run)["jit_compile"],
            "fingerprint": json.loads((run / "fingerprint.json").read_text("utf-8")),
            "trials": [
                {key: row.get(key) for key in ("trial", "status", "device", "seconds")}
                for row in map(json.loads, (run / "trials.jsonl").read_text("utf-8").splitlines())
            ],
        }


PARTS = (
    Part("facts", 60.0, facts),
    Part("knee", 150.0, knee),
    Part("device_data", 90.0, device_data),
    Part("finder", 120.0, finder),
    Part("wall", 120.0, wall),
    Part("precision", 120.0, precision),
    Part("large_model", 120.0, large_model),
    Part("search", 120.0, search),
)


def _images(examples: int) -> dict[str, Any]:
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


def in_a_process(output: Path, examples: int) -> Run:
    """Runs a part by this script's `--part`, and ends its whole process group when it must."""

    def run(part: Part, seconds: float) -> Ended:
        log, result = output / f"{part.name}.log", output / f"{part.name}.json"
        result.unlink(missing_ok=True)
        command = [sys.executable, __file__, f"--part={part.name}", f"--output={output}"]
        began = time.monotonic()
        with log.open("wb") as file:
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
        if code is None:
            return Ended(part.name, "out of time", took, message=tail)
        if code or not result.exists():
            return Ended(part.name, "failed", took, message=f"exit code {code}\n{tail}")
        return Ended(part.name, "done", took, json.loads(result.read_text("utf-8")))

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
    parser.add_argument("--examples", type=int, default=50_000)
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    by_name = {part.name: part for part in PARTS}
    if asked.part:
        try:
            found = by_name[asked.part].find(asked.examples)
        except Exception:  # whatever it is belongs into the part's log
            traceback.print_exc()
            os._exit(1)
        text = json.dumps(found, indent=1, default=str)
        (asked.output / f"{asked.part}.json").write_text(text, encoding="utf-8")
        os._exit(0)  # TensorFlow's teardown may hang

    def written(ended: Sequence[Ended]) -> None:
        (asked.output / "on_gpu.md").write_text(report(ended), encoding="utf-8")
        print(f"{ended[-1].part}: {ended[-1].outcome}, {ended[-1].seconds:.0f} s", flush=True)

    run_all(
        [by_name[name] for name in asked.parts.split(",")],
        in_a_process(asked.output.resolve(), asked.examples),
        minutes=asked.minutes,
        written=written,
    )


if __name__ == "__main__":
    main()
