"""Measures what hardware and gradient say before any search.

usage: python -m tfbatch.probe [--dataset=cifar10] [--model=resnet] [--output_dir=DIR] ...

The largest batch that fits, step time and its knee, what holds the training up, the gradient noise
scale, a learning-rate range test and the curvature; and what follows. Predictions are called so.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags
from rich.console import Console
from rich.table import Table

from tfbatch.bench import Bench, open_bench
from tfbatch.chart_page import Section, page
from tfbatch.command_line import (
    library_noise_to,
    parse_arguments,
    parse_flags,
    path_of,
    run_command,
)
from tfbatch.errors import InputError, TfbatchError
from tfbatch.estimators.predicted_batch_size import BatchSizePrediction, predict_batch_size
from tfbatch.instruments import INSTRUMENTS
from tfbatch.search.config import BatchSizeGrid
from tfbatch.search.progress import Progress
from tfbatch.search.request import Execution

if TYPE_CHECKING:
    from tfbatch.instruments.memory import MemoryReport

FLAGS = flags.FlagValues()
MEMORY = "memory"
_MARGIN = 0.1


def _text(name: str, default: str | None, text: str) -> None:
    flags.DEFINE_string(name, default, text, flag_values=FLAGS)


_text("dataset", "digits", "A data set, as `tune` takes it.")
_text("data", None, "package.module:function of yours, instead of --dataset.")
_text("data_dir", None, "Folder with the source's data; for TFDS also TFDS_DATA_DIR.")
_text("records_dir", None, "Folder for TFRecords. Default: user's cache.")
_text("model", "small_cnn", "A model, as `tune` takes it.")
_text("model_arguments", "", 'Arguments of the builder, e.g. "normalization=group".')
_text("loss", None, "Keras loss of a model that is not compiled. Default: classification.")
_text("optimizer", None, "Optimizer of a model that is not compiled. Default: sgd.")
_text("baseline", "", 'What you train with now, e.g. "batch_size=128,learning_rate=0.05".')
_text("precision", "float32", "float32, mixed_float16 or mixed_bfloat16.")
_text("output_dir", "tfbatch_probe", "Folder for probe.json and probe.html.")
flags.DEFINE_list(
    "batch_sizes", None, "Batch sizes of interest. Default: powers of two.", flag_values=FLAGS
)
flags.DEFINE_list("skip", [], "Instruments to leave out, e.g. memory,curvature.", flag_values=FLAGS)
flags.DEFINE_integer(
    "workers", 1, "0 measures in this process, for a debugger.", 0, 1, flag_values=FLAGS
)
flags.DEFINE_boolean("jit_compile", False, "Whether XLA compiles the model.", flag_values=FLAGS)
flags.DEFINE_float(
    "minutes", 2.0, "About what all instruments may take, memory left out.", 0.0, flag_values=FLAGS
)


@dataclasses.dataclass
class Found:
    """What the instruments have found, by name, and how long each took."""

    readings: dict[str, Any] = dataclasses.field(default_factory=dict)
    failures: dict[str, str] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    memory: MemoryReport | None = None


def main(arguments: list[str]) -> int:
    """Runs the command; returns its exit code."""
    parse_flags(FLAGS, arguments, usage=__doc__ or "")
    known = [MEMORY, *INSTRUMENTS.names()]
    for name in FLAGS.skip:
        if name not in known:
            raise InputError(f"`--skip`: unknown instrument `{name}`. Known: {', '.join(known)}.")
    output = path_of(FLAGS.output_dir) or Path()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"`--output_dir={output}` cannot be written: {error}.") from error
    with library_noise_to(output / "tensorflow.log") as (out, _):
        with open_bench(
            FLAGS.model,
            FLAGS.data or FLAGS.dataset,
            optimizer=FLAGS.optimizer,
            baseline=FLAGS.baseline,
            loss=FLAGS.loss,
            model_arguments=parse_arguments(FLAGS.model_arguments, flag="--model_arguments"),
            data_dir=path_of(FLAGS.data_dir),
            records_dir=path_of(FLAGS.records_dir),
            execution=Execution(
                workers=FLAGS.workers, precision=FLAGS.precision, jit_compile=FLAGS.jit_compile
            ),
            progress=Progress(out),
        ) as bench:
            found = _measure_all(bench, out)
            lines = conclusion(found, bench)
            _write(output, bench, found, lines)
        for line in lines:
            out.print(line, markup=False, highlight=False, soft_wrap=True)
        out.print(f"Written: probe.json, probe.html in {output}", markup=False, highlight=False)
    return 0 if found.readings or found.memory else TfbatchError.exit_code


def _measure_all(bench: Bench, out: Console) -> Found:
    """Runs every instrument; one that fails is told, and the others go on."""
    found = Found()
    sizes = _batch_sizes(bench)
    modules = {n: INSTRUMENTS.load(n) for n in INSTRUMENTS.names() if n not in FLAGS.skip}
    shares = sum(module.SHARE for module in modules.values())
    for name, module in sorted(modules.items(), key=lambda item: item[1].ORDER):
        seconds = 60 * FLAGS.minutes * module.SHARE / shares
        began = time.monotonic()
        try:
            reading = module.probe(bench, batch_sizes=sizes, seconds=seconds)
        except Exception as error:  # whatever a model or a device raises
            found.failures[name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()  # into the log
            out.print(f"{module.HEADING}: {found.failures[name]}", markup=False, highlight=False)
            continue
        found.seconds[name] = time.monotonic() - began
        found.readings[name] = reading
        _show(out, module.HEADING, reading.columns(), reading.rows(), reading.conclusion())
    if MEMORY not in FLAGS.skip:
        _measure_memory(bench, out, found)
    return found


def _measure_memory(bench: Bench, out: Console, found: Found) -> None:
    """The largest batch, last: it ends the process that measured the rest."""
    if FLAGS.workers == 0:
        found.failures[MEMORY] = "needs processes of its own, which --workers=0 has not"
        return
    from tfbatch.measuring.memory import measure_memory

    began = time.monotonic()
    try:
        found.memory = measure_memory(bench, budget_bytes=None, margin=_MARGIN, evaluation=False)
    except Exception as error:  # see above
        found.failures[MEMORY] = f"{type(error).__name__}: {error}"
        traceback.print_exc()
        out.print(f"Largest batch: {found.failures[MEMORY]}", markup=False, highlight=False)
        return
    found.seconds[MEMORY] = time.monotonic() - began
    columns, rows = memory_table(found.memory)
    _show(out, "Largest batch that fits", columns, rows, found.memory.conclusion())


def memory_table(report: MemoryReport) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """A memory report's headings and cells."""
    rows = report.rows()
    columns = tuple(rows[0]) if rows else ()
    return tuple(name.replace("_", " ") for name in columns), [
        tuple("" if row[name] is None else str(row[name]) for name in columns) for row in rows
    ]


def _batch_sizes(bench: Bench) -> list[int]:
    count = bench.data.splits["train"]
    baseline = bench.request.baseline.batch_size
    if FLAGS.batch_sizes is None:
        return sorted({*BatchSizeGrid().sizes(count), min(baseline, count)})
    try:
        asked = sorted({int(size) for size in FLAGS.batch_sizes})
    except ValueError as error:
        raise InputError(
            f'`--batch_sizes` must be whole numbers, such as "32,64,128". '
            f"Received: {','.join(FLAGS.batch_sizes)!r}."
        ) from error
    if not asked or asked[0] < 1 or asked[-1] > count:
        raise InputError(
            f"`--batch_sizes` must be from 1 to the {count} training examples. Received: "
            f"{', '.join(map(str, asked))}."
        )
    return asked


def prediction(found: Found, bench: Bench) -> BatchSizePrediction | str:
    """The predicted fastest batch size, or why nothing is predicted."""
    noise, speed = found.readings.get("noise_scale"), found.readings.get("throughput")
    if noise is None or speed is None:
        return "step time and noise scale are both needed, and one is missing"
    step_seconds = {size: speed.seconds(size) for size in speed.batch_sizes}
    baseline = bench.request.baseline.batch_size
    largest = bench.data.splits["train"]
    if found.memory and found.memory.batch_size:
        largest = min(largest, found.memory.batch_size)
    try:
        return predict_batch_size(
            noise.estimate,
            step_seconds,
            fit=speed.fit,
            baseline=baseline if baseline in step_seconds else min(step_seconds),
            largest=largest,
        )
    except InputError as error:
        return str(error)


def conclusion(found: Found, bench: Bench) -> list[str]:
    """Two sentences: what the hardware says, and what the gradient predicts."""
    parts = []
    if speed := found.readings.get("throughput"):
        parts.append(f"from batch size {speed.knee.batch_size} on the device is near its best")
    if found.memory:
        parts.append(f"the largest that fits is {found.memory.batch_size or 'none'}")
    if bound := found.readings.get("input_bound"):
        size = bench.request.baseline.batch_size
        parts.append(f"batch size {size} is {bound.verdict_at(size)}")
    hardware = "; ".join(parts) or "nothing could be measured"
    predicted = prediction(found, bench)
    gradient = (
        f"Nothing is predicted: {predicted}"
        if isinstance(predicted, str)
        else f"{predicted.conclusion()} Not verified; verify with: {_verify(bench)}"
    )
    return [f"Hardware: {hardware}.", f"Gradient: {gradient}"]


def _verify(bench: Bench) -> str:
    del bench
    given = [f"--{n}={FLAGS[n].value}" for n in ("dataset", "data", "model") if FLAGS[n].present]
    return " ".join(["python -m tfbatch.tune", *given])


def _write(output: Path, bench: Bench, found: Found, lines: Sequence[str]) -> None:
    predicted = prediction(found, bench)
    sections = [
        Section(
            INSTRUMENTS.load(name).HEADING,
            reading.conclusion(),
            reading.columns(),
            reading.rows(),
            reading.charts(),
        )
        for name, reading in found.readings.items()
    ]
    if found.memory:
        columns, rows = memory_table(found.memory)
        text = found.memory.conclusion()
        sections.append(Section("Largest batch that fits", text, columns, rows))
    if not isinstance(predicted, str):
        sections.append(
            Section(
                "Predicted batch size",
                predicted.conclusion(),
                predicted.columns(),
                predicted.rows(),
                predicted.charts(),
            )
        )
    title = f"{bench.request.data.name}, {bench.request.model}"
    (output / "probe.html").write_text(page(title, lines, sections), encoding="utf-8")
    content = {
        "conclusion": list(lines),
        "instruments": {name: _plain(reading) for name, reading in found.readings.items()},
        MEMORY: _plain(found.memory),
        "prediction": _plain(predicted),
        "failures": found.failures,
        "seconds": found.seconds,
    }
    (output / "probe.json").write_text(json.dumps(content, indent=1), encoding="utf-8")


def _plain(value: Any) -> Any:
    """A reading as JSON can hold it; a number that is not finite becomes null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):  # of numpy
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


def _show(
    out: Console,
    heading: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    text: str,
) -> None:
    table = Table(title=heading)
    for column in columns:
        table.add_column(column)
    for row in rows:
        table.add_row(*row)
    out.print(table)
    out.print(text, markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    run_command(main)
