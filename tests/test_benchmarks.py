"""The benchmarks compare like with like: the same trials, the same update, the same rates."""

from __future__ import annotations

import collections
import importlib.util
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tfbatch.schedules import make_family
from tfbatch.schedules._family import value

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
sys.path.append(str(BENCHMARKS))

from trial_cost import keras_parts, plan, process, report, side_by_side  # noqa: E402
from trial_cost.images import Images, normalize  # noqa: E402
from trial_cost.plan import Job, Pair  # noqa: E402

COUNT = 75
EVERY = [Pair(b, s) for b in plan.BATCH_SIZES for s in plan.SCHEDULES]
EACH_SCHEDULE = pytest.mark.parametrize("schedule", plan.SCHEDULES)


@pytest.fixture(scope="module")
def images():
    """75 images: batches of 16 leave 11 for the last one."""
    rng = np.random.default_rng(1)
    pixels = rng.integers(0, 256, (COUNT, 8, 8, 3), np.uint8)
    return Images(pixels, rng.integers(0, 10, COUNT).astype(np.int32))


@pytest.fixture(scope="module")
def loop(images):
    from trial_cost.bare import Loop

    return Loop(images, images)


@pytest.fixture
def job(tmp_path):
    return Job("bare", plan.grid(24, seed=3), tmp_path, tmp_path)


@EACH_SCHEDULE
@pytest.mark.parametrize("batch_size", plan.BATCH_SIZES)
def test_tables_and_keras_schedules_are_the_schedules_of_tfbatch(schedule, batch_size):
    pair = Pair(batch_size, schedule)
    parameters = {"cooldown": plan.COOLDOWN} if schedule == "wsd" else {}
    expected = value(
        make_family(schedule, **parameters),
        np.arange(pair.steps()) * batch_size,
        learning_rate=0.01 * batch_size / 32,
        batch_size=batch_size,
        total_examples=plan.TRAIN,
        ops=np,
    )
    native = keras_parts.learning_rate(pair)
    some = np.unique(np.linspace(0, pair.steps() - 1, 20, dtype=int))
    called = [float(native(step)) if callable(native) else native for step in some]

    np.testing.assert_allclose(pair.table(), expected, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(called, expected[some], rtol=2e-4, atol=1e-6 * pair.learning_rate)


@pytest.mark.slow
@pytest.mark.quick_cases("graph")
@pytest.mark.parametrize("in_graph", [True, False], ids=["in the graph", "in Python"])
def test_the_bare_loop_trains_as_keras_does(loop, images, in_graph):
    pair = Pair(16, "wsd")
    order = np.random.default_rng(2).permutation(COUNT).astype(np.int32)
    model = keras_parts.compiled(pair, input_shape=(8, 8, 3), num_examples=COUNT)
    loop.reset(seed=4)
    model.set_weights(loop.model.get_weights())

    loop.train(pair, order, in_graph=in_graph)
    model.fit(
        normalize(images.images[order]).numpy(),
        images.labels[order],
        batch_size=16,
        shuffle=False,
        verbose=0,
    )

    assert int(model.optimizer.iterations) == pair.steps(COUNT) == 5
    for ours, theirs in zip(loop.model.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    measured = model.evaluate(normalize(images.images), images.labels, verbose=0)[1]
    assert float(loop.accuracy()) == pytest.approx(measured, abs=1.5 / COUNT)


def test_a_reset_leaves_nothing_of_the_trial_before(loop):
    first = loop.trial(Pair(16, "cosine"), seed=5)
    weights = loop.model.get_weights()
    loop.trial(Pair(32, "constant"), seed=6)

    again = loop.trial(Pair(16, "cosine"), seed=5)

    assert again == pytest.approx(first, abs=1.5 / COUNT)
    for before, after in zip(weights, loop.model.get_weights(), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-7)


def test_images_are_normalized_alike_singly_and_in_batches(images):
    expected = (images.images[:3] / 255 - [0.4914, 0.4822, 0.4465]) / [0.2470, 0.2435, 0.2616]

    batch = normalize(tf.constant(images.images[:3]))
    single = normalize(tf.constant(images.images[0]))

    np.testing.assert_allclose(batch, expected, atol=1e-5)
    np.testing.assert_allclose(single, batch[0])


def test_the_grid_is_every_pair_once_in_another_order_each_round(job):
    assert sorted(plan.grid(24, seed=1)) == sorted(EVERY)
    assert plan.grid(24, seed=1) != plan.grid(24, seed=2)
    assert {pair.batch_size for pair in plan.grid(6, seed=1)} == set(plan.BATCH_SIZES)
    assert Job.read(job.write()) == job


def test_bare_loops_side_by_side_share_every_pair_once():
    shares = side_by_side.shares(tuple(EVERY), 2)

    assert sorted(pair for share in shares for pair in share) == sorted(EVERY)
    sizes = [collections.Counter(pair.batch_size for pair in share) for share in shares]
    assert sizes[0] == sizes[1]


def test_keras_tuner_runs_the_listed_pairs(job):
    from trial_cost.with_keras_tuner import make_tuner

    oracle = make_tuner(job, lambda batch_size: batch_size).oracle
    trials = [oracle.create_trial(f"tuner-{n}").hyperparameters.values for n in range(24)]

    assert sorted(Pair(**values) for values in trials) == sorted(EVERY)
    assert oracle.create_trial("tuner-25").status == "STOPPED"


def test_optuna_runs_the_listed_pairs(job):
    pytest.importorskip("optuna", reason="optuna is in the extra `benchmarks`")
    from trial_cost.with_optuna import make_study, suggest

    study = make_study(job)
    pairs = []
    for _ in range(24):
        trial = study.ask()
        pairs.append(suggest(trial))
        study.tell(trial, 0.5)

    assert sorted(pairs) == sorted(EVERY)


def test_the_search_of_tfbatch_visits_every_pair(tmp_path):
    """With the seed of the benchmark the random oracle finds all 24 before it gives up."""
    from trial_cost import with_tfbatch

    from tfbatch.oracles import Told
    from tfbatch.request.search_config import load_search
    from tfbatch.search.space import SearchSpace
    from tfbatch.seeds import derive_seed

    path = tmp_path / "pairs.yaml"
    path.write_text(with_tfbatch.SEARCH)
    config = load_search(str(path))
    space = SearchSpace(config.space, num_examples=plan.TRAIN)
    oracle = config.oracle.make(
        space.hyperparameters(),
        direction="max",
        seed=derive_seed(with_tfbatch.SEED, "oracle"),
        total_examples=plan.TRAIN,
    )
    found = []
    for number in range(config.max_trials):
        proposal = oracle.propose(str(number), known=None, bound=math.inf)
        assert proposal is not None, f"given up after {len(found)}: choose another SEED"
        found.append(space.configuration(dict(proposal.values)))
        oracle.tell(str(number), proposal, Told(0.5))

    assert sorted(Pair(c.batch_size, c.schedule.name) for c in found) == sorted(EVERY)
    assert {c.base_learning_rate * c.batch_size / 32 for c in found} == {
        pair.learning_rate for pair in EVERY
    }


def test_every_engine_can_be_imported():
    for name in process.ENGINES:
        if name.startswith("optuna") and not importlib.util.find_spec("optuna"):
            continue
        assert callable(process.engine(name)), name


def test_ratios_are_taken_within_a_round():
    def run(engine, number, seconds):
        return report.Run(
            engine, number, 24, 24, seconds, 2.0, seconds, 1, 1, 1, ((16, "wsd", 0.3),)
        )

    runs = [
        *(run("tfbatch", 1, 48.0), run("bare", 1, 24.0)),
        *(run("bare", 2, 12.0), run("tfbatch", 2, 36.0)),
    ]

    assert report.ratios(runs, "tfbatch", "bare", lambda r: r.seconds_a_trial) == [2.0, 3.0]
    assert "  tfbatch / bare: 2.50 (2.00-3.00, n=2)" in "\n".join(report.lines(runs))


def test_step_times_are_compared_with_the_bare_loop_of_their_round():
    from device_data import Times, line, rows

    times = {
        "bare": [Times(1.0, 2.0), Times(2.0, 2.0), Times(4.0, 2.0)],
        "device": [Times(1.1, 4.0), Times(2.0, 6.0), Times(8.0, 2.0)],
    }

    bare, device = rows(32, times)

    assert bare["clock_ratio"] == [1.0, 1.0, 1.0]
    assert device["clock_ratio"] == pytest.approx([1.1, 1.0, 2.0])
    assert device["processor_ratio"] == [2.0, 1.0, 3.0]
    assert (device["clock_ms"], device["processor_ms"], device["n"]) == (2000, 4000, 3)
    assert line(device).startswith("B = 32, device: clock 2000.000 ms, 1.100 x bare [1.000, 2.000]")


def test_batches_of_the_device_are_compared_with_those_of_the_host(tmp_path, monkeypatch):
    import device_data

    data = device_data.prepare(tmp_path / "records", examples=40)
    found = device_data.differences(data, batch_size=6)

    assert (found["batches"], found["labels_equal"], found["largest_difference"]) == (8, True, 0)
    monkeypatch.setattr(
        data, "training", lambda **given: type(data).training(data, **{**given, "seed": 2})
    )
    assert not device_data.differences(data, batch_size=6)["labels_equal"]


@pytest.mark.parametrize("jit_compile", [False, True])
def test_xla_compiles_all_sides_or_none(tmp_path, monkeypatch, jit_compile):
    """Keras's own choice is XLA where there is a GPU, whatever the others are compiled with."""
    import device_data

    given = device_data.given_to_sides(device_data.prepare(tmp_path / "records", examples=40))
    gpus = [tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")]
    with monkeypatch.context() as patch:
        patch.setattr(tf.config, "list_physical_devices", lambda *_: gpus)
        patch.setattr(device_data, "steps_at_once", lambda *_: 1)
        found, _ = device_data.sides("mlp", given, 8, jit_compile=jit_compile)
    assert list(found) == ["bare", "device", "host", "keras", "making"]
    assert found["keras"].__self__._model.jit_compile is jit_compile


def test_a_parts_time_is_its_own(tmp_path, monkeypatch):
    """Clock and processor of a part that lasts 5 s and calls one that lasts 3 s of them."""
    from trial_cost.parts import Clock

    now = iter([0.0, 1.0, 4.0, 5.0])
    monkeypatch.setattr("trial_cost.parts.time.perf_counter", lambda: 10 * next(now))
    monkeypatch.setattr("trial_cost.parts.time.process_time", lambda: 0.0)
    clock = Clock(tmp_path / "worker-1.jsonl")
    with clock.part("outer"), clock.part("inner"):
        pass
    clock.write("search-0001")

    (line,) = (tmp_path / "worker-1.jsonl").read_text().splitlines()
    assert json.loads(line)["parts"] == {"outer": [20.0, 0.0], "inner": [30.0, 0.0]}


def test_the_table_of_parts_leaves_out_what_a_first_trial_does_once(tmp_path):
    from trial_cost.parts import ONCE, REST, STEPS, table

    def write(name, *trials):
        rows = [json.dumps({"trial": trial, "parts": parts}) for trial, parts in trials]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows) + "\n")

    first = {ONCE[0]: [9.0, 9.0], STEPS: [2.0, 2.0]}
    build = {"once: measure_untrained": {REST: [4.0, 4.0]}}
    later = {STEPS: [2.0, 2.0], REST: [1.0, 0.5]}
    loop = {STEPS: [1.0, 1.0], REST: [0.0, 0.0]}
    write("worker-1", *build.items(), ("a", first), ("b", later), ("c", later))
    write("bare-2", ("bare", first), ("bare", loop))
    write("tfbatch-3", ("search", {"oracle": [0.2, 0.1]}))
    text = "\n".join(table(tmp_path))

    assert f"| {STEPS} | 2000.0 | 2000.0 | 2000.0 | 1000 |" in text
    assert "over the bare loop's: 2.50; of its compiled steps alone: 2.00" in text
    assert "all that is no step: 500 ms" in text
    assert "  worker-1, measure_untrained: 4.00" in text
    assert "  worker-1, a: its program, traced: 9.00" in text
    assert "  oracle: 100.0, 50.0" in text


def test_memory_is_that_of_the_children_too():
    from process_tree import measure

    program = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    child = "block = bytearray(b'x' * 80_000_000); print('ready', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program, child],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout.readline() == "ready\n"
        memory = measure(parent.pid)
        parent.communicate("\n")

    assert memory.processes == 2
    assert memory.rss > 80_000_000
    assert memory.pss > 80_000_000 or memory.pss == 0
    assert measure(parent.pid).processes == 0


def test_memory_is_read_when_the_journal_reaches_a_count(tmp_path):
    from memory import RunEndedError, ratios, watch

    journal = tmp_path / "trials.jsonl"
    program = (
        "import sys\n"
        "with open(sys.argv[1], 'a') as file:\n"
        "    for number in range(5): print(number, file=file, flush=True)\n"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, str(journal)]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        measured = watch(process, journal, [4, 2])
        process.stdin.close()
        with pytest.raises(RunEndedError, match=r"It ended \(0\) before trial 9"):
            watch(process, journal, [9])

    assert sorted(measured) == [2, 4]
    assert ratios(measured)["rss"] == pytest.approx(1, rel=0.2)


def test_the_line_of_a_trial_is_recognized():
    from rich.console import Console
    from search_fixtures import BASELINE, finished
    from startup import TRIAL

    from tfbatch.search.progress import Progress

    output = io.StringIO()
    progress = Progress(Console(file=output, width=200))
    progress.begin(done=0, total=3, seconds_left=lambda: 60.0)
    progress.trial_finished(finished("search-0001", BASELINE), None)
    progress.trial_finished(finished("baseline", BASELINE, phase="baseline"), None)

    assert all(TRIAL.match(line) for line in output.getvalue().splitlines())
    assert not TRIAL.match("Up to 3 trials after the baseline, over batch sizes 16, 32")


@pytest.mark.parametrize("script", ["trials.py", "memory.py", "startup.py"])
def test_a_benchmark_explains_itself_without_tensorflow(script):
    check = (
        "import runpy, sys; sys.argv[1:] = ['--help']\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        f"try: runpy.run_path({str(BENCHMARKS / script)!r}, run_name='__main__')\n"
        "except SystemExit as end: print(end.code, 'tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, env=dict(os.environ)
    )

    assert done.stdout.splitlines()[-1] == "0 False", done.stderr


def test_an_unknown_engine_is_refused():
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "trials.py"), "--engines=bare,kerastuner"],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 2
    assert "unknown engine kerastuner; available: bare, " in done.stderr
