"""Batches that a graph makes from a device's memory are those of the host's pipeline.

The device is the CPU here: the same code, and no GPU is needed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import types

import keras
import numpy as np
import pytest
import tensorflow as tf
from augmentation_snippets import snippet
from contexts import context_of
from tensorflow.python.framework.kernels import get_registered_kernels_for_op

import tfbatch
from tfbatch.__main__ import command_module
from tfbatch.augmentations import AUGMENTATIONS, colour
from tfbatch.callbacks import Advisor, GradientNoiseScale, Throughput
from tfbatch.callbacks._watched_input import WatchedInput
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError
from tfbatch.instruments import input_bound
from tfbatch.instruments.input_bound import measure_input_bound
from tfbatch.largest_batch.training_load import TrainingLoad
from tfbatch.pipeline import PreparedData, device_data
from tfbatch.pipeline.array_data import StoredData
from tfbatch.pipeline.array_storage import store_data
from tfbatch.pipeline.device_data import Chosen, HeldData, StaysOnHostError
from tfbatch.process.gpus import Gpu, GpuMachine
from tfbatch.quantities import TrainingLength
from tfbatch.records.writer import write_records
from tfbatch.request.execution import DATA_ON, Execution
from tfbatch.request.training_config import TrainingConfig
from tfbatch.training import data_place, devices, single
from tfbatch.training.compilation import Compilation
from tfbatch.training.data_place import place_data
from tfbatch.training.devices import Place, workers_on_a_gpu
from tfbatch.training.evaluation import evaluate
from tfbatch.training.program import held_by
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.single import train_once
from tfbatch.training.step_times import time_training
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import TrialSpec

SIZE = 37  # prime: no batch size divides it
CHAIN = [
    {"name": "horizontal_flip"},
    {"name": "random_crop", "padding": 1},
    {"name": "cutout", "size": 2},
]
CHAINS = {
    "none": [],
    "none mixes": CHAIN,
    "one mixes": [*CHAIN, {"name": "mixup", "alpha": 1.0}],
    **{f"{name} as documented": snippet(name) for name in AUGMENTATIONS.names()},
}
BY_CHANNEL = {"mean": [0.4, 0.5, 0.6], "standard_deviation": [0.2, 0.25, 0.3]}


@pytest.fixture(scope="module")
def prepared(make_recipe, tiny_examples, tmp_path_factory):
    """PreparedData of 37 training examples, each kind made once."""
    root, made = tmp_path_factory.mktemp("device"), {}

    def make(**changes):
        key = json.dumps(changes)
        if key not in made:
            recipe = make_recipe(**changes)
            write_records(root / "shards", recipe=recipe, examples=lambda: tiny_examples(SIZE))
            made[key] = PreparedData(recipe, root / "shards")
        return made[key]

    return make


def batches_of(held, stream):
    """Every batch, made in a graph, one step of an element at a time."""

    @tf.function(autograph=False)
    def make(chosen, step):
        block = held.block(chosen)
        return block.batch(step), block.steps

    batches = []
    for chosen in stream:
        step, steps = 0, 1
        while step < steps:
            batch, steps = make(chosen, tf.constant(step))
            batches.append(keras.tree.map_structure(lambda leaf: leaf.numpy(), batch))
            step += 1
    return batches


def assert_equal(got, want, *, ulps=0):
    """The same batches: structure, types, sizes and values."""
    assert len(got) == len(want)
    for one, other in zip(got, want, strict=True):
        keras.tree.assert_same_structure(one, other)
        for a, b in zip(keras.tree.flatten(one), keras.tree.flatten(other), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
            if ulps and a.dtype == np.float32:
                # Of the largest numbers that take part: a difference near zero is rounded there.
                assert np.abs(a - b).max() <= ulps * np.spacing(np.abs(b).max())
            else:
                np.testing.assert_array_equal(a, b)


STREAMS = {
    "one batch at a time": {"batch_size": 7, "num_examples": 2 * SIZE, "at_once": 1},
    "several at once, over epochs": {"batch_size": 7, "num_examples": 3 * SIZE + 5, "at_once": 4},
    "from the middle of an epoch": {
        "batch_size": 5,
        "num_examples": 3 * SIZE + 4,
        "at_once": 3,
        "start": SIZE + 12,
    },
    "a whole split in a batch": {"batch_size": SIZE, "num_examples": SIZE, "at_once": 1},
}


def assert_same_stream(data, *, at_once, ulps=0, **stream):
    held = HeldData(data.device_form(), "CPU:0")
    own = held.training(**stream, seed=5, at_once=at_once)
    want = list(data.training(**stream, seed=5).as_numpy_iterator())
    assert_equal(batches_of(held, own), want, ulps=ulps)


@pytest.mark.quick_cases("made at once", "several")
@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize("whole", [True, False], ids=["made at once", "made in each step"])
def test_stored_images_come_as_they_do_from_the_host(prepared, monkeypatch, stream, whole):
    if not whole:
        monkeypatch.setattr(device_data, "_AT_ONCE_BYTES", 0)
    data = prepared(augmentation=CHAIN, normalization=BY_CHANNEL)

    assert_same_stream(data, **stream)  # to the last bit: one formula


@pytest.mark.quick_cases("mixes")
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_every_augmentation_draws_and_changes_the_same(prepared, chain):
    data = prepared(augmentation=chain, normalization=BY_CHANNEL)

    assert_same_stream(data, **STREAMS["from the middle of an epoch"])


def kernels_of(op):
    """The kernels that a GPU would run an operation with, by its name and its types."""
    found = []
    for kernel in get_registered_kernels_for_op(op.type).kernel:
        fits = kernel.device_type in ("GPU", "DEFAULT")
        for constraint in kernel.constraint:
            value = op.get_attr(constraint.name)
            if isinstance(value, tf.DType):
                fits &= value.as_datatype_enum in constraint.allowed_values.list.type
        found += [kernel] * fits
    return found


@pytest.mark.skipif(not tf.test.is_built_with_cuda(), reason="TensorFlow without kernels of GPUs")
@pytest.mark.quick_cases("mixes")
@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
def test_every_operation_is_one_that_gpus_have_and_examples_stay_there(prepared, chain):
    """TensorFlow's own list of kernels tells it, on any machine."""
    held = HeldData(prepared(augmentation=chain).device_form(), "CPU:0")
    element = next(iter(held.training(batch_size=5, seed=1, num_examples=SIZE, at_once=2)))

    @tf.function(autograph=False)
    def make(chosen, step):
        return held.block(chosen).batch(step)

    graph = make.get_concrete_function(element, tf.TensorSpec([], tf.int32)).graph
    operations = [op for op in graph.get_operations() if op.type != "Placeholder"]
    assert {"GatherV2", "Bitcast", "Cast"} <= {op.type for op in operations}
    assert {op.type for op in operations if not kernels_of(op)} == set()
    on_host = {
        op.name
        for op in operations
        if any(kernel.host_memory_arg for kernel in kernels_of(op))
        # What the stream gives comes from the host, and so does what a function returns of int32.
        and op.type not in ("Unpack", "Identity")
        and all(
            {arg.name for arg in op.op_def.output_arg} <= {*kernel.host_memory_arg}
            for kernel in kernels_of(op)
        )
        and any(10 in out.shape.as_list() for out in op.outputs)
    }
    assert on_host == set()


def test_halves_are_rounded_as_on_the_host():
    """Rare in a colour's images, so that they are tried by themselves."""
    halves = np.arange(-2, 300, dtype=np.float32) + np.float32(0.5)
    near = [halves, np.nextafter(halves, np.float32(-9)), np.nextafter(halves, np.float32(999))]
    values = tf.constant(np.concatenate([*near, halves + 0.5]))

    floats = colour._rounded_floats(values).numpy()

    np.testing.assert_array_equal(floats, colour._rounded(values).numpy())


def test_channels_alike_differ_in_the_last_places_alone(prepared):
    alike = {"mean": [0.47, 0.47, 0.47], "standard_deviation": [0.23, 0.23, 0.23]}
    data = prepared(augmentation=CHAIN, normalization=alike)

    assert_same_stream(data, **STREAMS["several at once, over epochs"], ulps=4)


@pytest.mark.parametrize("split", ["train", "validation"])
def test_an_evaluation_is_the_same(prepared, monkeypatch, split):
    monkeypatch.setattr(device_data, "EVALUATION_BATCH_SIZE", 16)
    data = prepared(augmentation=CHAINS["one mixes"], normalization=BY_CHANNEL)
    held = HeldData(data.device_form(), "CPU:0")

    got = batches_of(held, held.evaluation(split))

    assert_equal(got, list(data.evaluation(split, batch_size=16).as_numpy_iterator()))


def own_data(tmp_path, inputs, targets, *more):
    arrays = (inputs, targets, *more)
    return StoredData(store_data(tmp_path, {"train": arrays, "validation": arrays}), name="own")


@pytest.fixture
def numbers():
    return np.random.default_rng(1)


def test_dicts_outputs_weights_and_every_type_keep_their_bytes(tmp_path, numbers):
    inputs = {
        "image": numbers.integers(0, 256, [SIZE, 3, 5, 1], np.uint8),  # 15 bytes: no whole word
        "flag": numbers.random([SIZE, 3]) < 0.5,
        "half": numbers.random([SIZE, 3]).astype(np.float16),
        "long": numbers.integers(-(2**40), 2**40, [SIZE, 2]),
        "double": numbers.random([SIZE, 1]),
    }
    outputs = (numbers.integers(0, 3, SIZE).astype(np.int32), numbers.random([SIZE, 2], np.float32))
    weights = numbers.random(SIZE).astype(np.float32)
    data = own_data(tmp_path, inputs, outputs, weights)

    assert_same_stream(data, **STREAMS["several at once, over epochs"])
    assert_same_stream(data, **STREAMS["from the middle of an epoch"])


def test_what_a_graph_cannot_hold_stays_and_says_why(tmp_path, numbers, prepared, make_recipe):
    ragged = tf.data.Dataset.from_generator(
        lambda: ((np.ones(n % 3 + 1, np.float32), n % 2) for n in range(12)),
        output_signature=(tf.TensorSpec([None], tf.float32), tf.TensorSpec([], tf.int64)),
    )
    texts = tf.data.Dataset.from_tensor_slices((["a", "b"] * 6, [0, 1] * 6))
    for number, (given, why) in enumerate([(ragged, "differs in length"), (texts, "is text")]):
        folder = store_data(tmp_path / str(number), {"train": given})
        with pytest.raises(StaysOnHostError, match=why):
            StoredData(folder, name="own").device_form()
    streamed = PreparedData(prepared().recipe, prepared().folder, resident_share=0)
    with pytest.raises(StaysOnHostError, match="streamed from disk"):
        streamed.device_form()


SPEC = TrialSpec(
    trial="search-0001",
    phase="search",
    seed=11,
    configuration=Configuration(batch_size=5, base_learning_rate=0.05),
    total_examples=3 * SIZE + 8,  # neither whole epochs nor whole batches
    num_examples=SIZE,
)


def dense(input_shape, num_classes):
    return keras.Sequential(
        [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dense(num_classes)]
    )


@pytest.fixture(scope="module")
def both(prepared):
    """Programs of the same data on the host and on the device."""
    data = prepared(augmentation=CHAIN, normalization=BY_CHANNEL)
    placed = place_data(data, "device")
    assert placed.on == "device"
    return [ProgramCache(Workload(data, dense, held=held)) for held in (None, placed.held)]


def scores(outcome):
    assert outcome.status == "completed", outcome.message
    return outcome.metrics, outcome.steps, outcome.examples


def test_a_trial_and_its_evaluations_come_to_the_same(both, monkeypatch):
    monkeypatch.setattr(device_data, "EVALUATION_BATCH_SIZE", 2)
    ended = [run_trial(programs, SPEC) for programs in both]

    host, device = map(scores, ended)
    assert host[1:] == device[1:]
    assert host[0]["loss"] == device[0]["loss"]
    assert host[0] == pytest.approx(device[0], rel=1e-6)  # sums over other batches
    begun = [programs.begin(SPEC.configuration, total_examples=SIZE, seed=3) for programs in both]
    assert [held_by(model) is None for model in begun] == [True, False]
    tested = [evaluate(m, p.workload, "test") for m, p in zip(begun, both, strict=True)]
    assert tested[0] == pytest.approx(tested[1], rel=1e-6)
    assert time_training(both[1], SPEC.configuration, executions=1, warmup=1, at_once=2) > 0


@pytest.mark.slow
def test_class_weights_are_those_of_fit(prepared):
    data = prepared(augmentation=CHAIN, normalization=BY_CHANNEL)
    weights = {1: 7.0, 2: 0.25}
    placed = place_data(data, "device", class_weight=weights)
    weighted = Compilation(class_weight=weights)
    ended = [
        scores(run_trial(ProgramCache(Workload(data, dense, compilation=c, held=held)), SPEC))
        for c, held in [(weighted, None), (weighted, placed.held), (Compilation(), None)]
    ]

    assert ended[0] == ended[1]
    assert ended[0] != ended[2]


def test_an_interrupted_trial_goes_on_to_the_same_end(both, tmp_path):
    spec = dataclasses.replace(SPEC, checkpoint_file=tmp_path / "checkpoint.npz")
    asked = []

    def stop_requested():
        asked.append(None)
        return len(asked) > 1

    _, device = both
    stopped = run_trial(device, spec, checkpoint_seconds=0, stop_requested=stop_requested)
    assert stopped.status == "interrupted"
    assert spec.checkpoint_file.exists()

    assert scores(run_trial(device, spec)) == scores(run_trial(device, SPEC))


def test_a_device_is_used_where_it_is_asked_for_and_can_be(prepared, monkeypatch):
    data = prepared()

    assert place_data(data, "host") == data_place.Placement(None, "as asked")
    assert place_data(data, "auto").reason == "there is no GPU"
    strategy = tf.distribute.get_strategy()
    assert "strategy" in place_data(data, "device", strategy=strategy).reason
    assert (
        "streamed"
        in place_data(PreparedData(data.recipe, data.folder, resident_share=0), "device").reason
    )
    assert place_data(data, "device").held.device == "CPU:0"


def test_on_a_gpu_data_is_held_in_a_fifth_of_its_memory(prepared, monkeypatch):
    data = prepared()
    needed = data.device_form().stored_bytes
    assert needed == (SIZE + 8) * (4 * 6 * 3 + 8)
    gpus = [tf.config.LogicalDevice("/device:GPU:0", "GPU")]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    for each, sharers, on in [
        ([5 * needed], 1, "device"),
        ([5 * needed - 1, 6 * needed], 1, "host"),  # the smallest decides for all
        ([5 * needed], 2, "host"),
        ([10 * needed], 2, "device"),
        ([], 1, "host"),  # the driver does not say
    ]:
        found = GpuMachine(tuple(Gpu("a GPU", (9, 0), there, there, "id") for there in each))
        monkeypatch.setattr(data_place, "read_gpus", lambda found=found: found)
        placed = place_data(data, "auto", sharers=sharers)
        assert placed.on == on
        if not each:
            assert placed.reason == "the driver does not tell the GPU's memory"
    monkeypatch.setattr(
        data_place,
        "read_gpus",
        lambda: GpuMachine((Gpu("a GPU", (9, 0), 5 * needed, 5 * needed, "id"),)),
    )
    reading = (GradientNoiseScale(), Advisor())
    for callback in reading:
        placed = place_data(data, "auto", callbacks=lambda callback=callback: [callback])
        assert placed.reason == f"{type(callback).__name__} reads the batches"
    looking = [Throughput(), GradientNoiseScale(np.zeros((8, 2)), np.zeros(8))]
    assert place_data(data, "auto", callbacks=lambda: looking).on == "device"
    assert place_data(data, "device", callbacks=lambda: reading).on == "device"  # as asked


def test_workers_share_gpus_in_turn(monkeypatch):
    gpus = []
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus * (kind == "GPU"))
    assert workers_on_a_gpu(Place(workers_per_gpu=3)) == 1
    gpus += [types.SimpleNamespace(name=f"GPU:{number}") for number in range(2)]
    assert workers_on_a_gpu(Place()) == 1
    assert workers_on_a_gpu(Place(workers_per_gpu=3)) == 3
    assert workers_on_a_gpu(Place(workers=3)) == 2
    assert workers_on_a_gpu(Place(workers_per_gpu=3, whole=True)) == 1
    assert workers_on_a_gpu(Place(workers_per_gpu=3, strategy="mirrored")) == 1
    chosen = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda mine, kind: chosen.append(mine))
    grown = []
    monkeypatch.setattr(
        tf.config.experimental, "set_memory_growth", lambda gpu, on: grown.append((gpu, on))
    )
    monkeypatch.setattr(devices, "device_kind", lambda: "a GPU")
    with without_threads(monkeypatch):
        found = [devices.claim_devices(Place(slot=n, workers_per_gpu=2)) for n in range(4)]
    assert [each.workers for each in found] == [4] * 4
    assert [each.sharers for each in found] == [2] * 4
    assert chosen == [[gpus[0]], [gpus[1]]] * 2
    assert grown == [(gpu, True) for gpu in gpus] * 2
    with without_threads(monkeypatch):
        one_each = devices.claim_devices(Place())
    assert one_each.shared_by(2) == found[0]
    assert found[0].shared_by(1) == one_each


@contextlib.contextmanager
def without_threads(monkeypatch):
    """This process has its threads already."""
    with monkeypatch.context() as patch:
        for name in ("set_intra_op_parallelism_threads", "set_inter_op_parallelism_threads"):
            patch.setattr(tf.config.threading, name, lambda threads: None)
        yield


def test_a_run_says_where_its_batches_are_made(tmp_path, capsys):
    """In its output, in its configuration: a run on the host is another one."""
    random = np.random.default_rng(0)
    tfbatch.find_batch_size(
        dense,
        (random.normal(size=(60, 2)), random.integers(0, 2, 60)),  # nothing to learn: a short run
        search="quick",
        baseline="learning_rate=1e-9",
        batch_sizes=[32],
        max_trials=1,
        trial_length="1 epochs",
        run_dir=tmp_path / "run",
        data_on="device",
        workers=0,
    )

    printed = " ".join(capsys.readouterr().out.split())
    assert "batches are made in the device's memory (0 MB)" in printed
    assert '"data_on": "device"' in (tmp_path / "run" / "config.json").read_text()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"data_on": "gpu"}, "`data_on` must be one of auto, device, host"),
        ({"workers_per_gpu": 0}, "`workers_per_gpu` must be from 1"),
        ({"workers_per_gpu": 2, "workers": 3}, "workers_per_gpu=2, workers=3"),
        ({"workers_per_gpu": 2, "strategy": "mirrored"}, "strategy=mirrored"),
    ],
)
def test_what_cannot_be_is_refused(given, said):
    with pytest.raises(InputError, match=said):
        Execution(**given)


def test_train_makes_batches_where_it_is_asked_and_comes_to_the_same(
    prepared, tmp_path, monkeypatch
):
    """A program's model is saved as one of plain Keras; SGD is equal to the last bit."""
    data = prepared(augmentation=CHAIN, normalization=BY_CHANNEL)
    monkeypatch.setattr(single, "prepare_data", lambda *args, **options: data)
    monkeypatch.setattr(single, "find_model_builder", lambda name: dense)
    own_fit, on_device = single.fit, []

    def fit(model, *arguments, **options):
        on_device.append(held_by(model) is not None)
        return own_fit(model, *arguments, **options)

    monkeypatch.setattr(single, "fit", fit)
    said: dict[str, list[str]] = {"host": [], "device": []}
    found = {}
    for place, heard in said.items():
        config = TrainingConfig(
            dataset="digits",
            model="dense",
            trial_length=TrainingLength(amount=SPEC.total_examples, unit="examples"),
            seed=3,
            data_on=place,
            configuration=SPEC.configuration,
        )
        output = tmp_path / f"{place}.keras"
        ended = train_once(config, output=output, threads=1, say=heard.append, verbose=0)
        found[place] = ended.metrics, keras.models.load_model(output).get_weights()

    assert on_device == [False, True]
    assert all(map(np.array_equal, found["host"][1], found["device"][1]))
    for split, metrics in found["host"][0].items():
        assert metrics == pytest.approx(found["device"][0][split], rel=1e-6)
    assert any("made on the device" in text for text in said["device"])
    assert not any("made on" in text for text in said["host"])


def test_memory_is_measured_of_what_a_training_takes(both, monkeypatch):
    """Of data in the device's memory a step gets numbers of examples, and the data takes room."""
    given = []
    monkeypatch.setattr(
        keras.Model, "fit", lambda model, stream, **options: given.append(stream.element_spec)
    )
    for programs in both:
        load = TrainingLoad(programs, SPEC.configuration, lambda: None)
        load._longest = None
        load.step(8)

    assert [isinstance(spec, Chosen.Spec) for spec in given] == [False, True]


def test_the_share_of_batches_that_are_made_in_the_step_is_a_difference(both, monkeypatch):
    """A step of 3 ms on a batch in memory, of 4 ms with its making; no pipeline is timed."""
    seconds = iter([0.003, 0.004] * 10)
    monkeypatch.setattr(input_bound, "time_training", lambda *_, **__: next(seconds))
    monkeypatch.setattr(input_bound, "_time_pipeline", lambda *_, **__: pytest.fail("a pipeline"))
    found = measure_input_bound(context_of(both[1]), [SPEC.configuration])

    (one,) = found.shares
    assert found.on_device
    assert one.pipeline.seconds == pytest.approx(0.001)
    assert one.verdict == "compute-bound"
    assert found.columns()[1] == "made on the device (ms)"
    assert "lengthens the model's step by 33%" in found.conclusion()
    assert "--data_on=host" in found.conclusion()


def test_a_model_alone_gets_one_batch_that_lies_on_the_device(both, monkeypatch):
    """A batch of the host's would be copied in each step, and hide what making batches takes."""
    held = both[1].workload.held
    first, second = held.repeated(batch_size=5, executions=2, at_once=3)
    batches = [held.block(one).batch(step) for one in (first, second) for step in range(3)]
    specs = []
    fit = keras.Model.fit
    monkeypatch.setattr(
        keras.Model,
        "fit",
        lambda model, stream, **options: (
            specs.append(stream.element_spec) or fit(model, stream, **options)
        ),
    )
    for programs in both:
        pace = {"executions": 2, "warmup": 1, "at_once": 3}
        assert time_training(programs, SPEC.configuration, cached=True, **pace) > 0

    assert int(held.block(first).steps) == 3
    assert len(batches[0][0]) == len(batches[0][1]) == 5
    for batch in batches[1:]:
        np.testing.assert_array_equal(batch[0], batches[0][0])
    assert [isinstance(spec, Chosen.Spec) for spec in specs] == [False, True]
    assert specs[1].repeated == 5


def test_every_command_that_trains_takes_the_flag():
    """One definition; what trains as given trials did keeps their place by default."""
    defaults = {}
    for command in ("tune", "probe", "claims", "train"):
        flag = importlib.import_module(command_module(command)).FLAGS["data_on"]
        assert flag.parser.enum_values == list(DATA_ON)
        defaults[command] = flag.default

    assert defaults == {"tune": "auto", "probe": "auto", "claims": "auto", "train": None}


def test_callbacks_count_examples_of_a_step_that_makes_its_batches(both):
    """An element holds the numbers of a whole execution, in one row for each stream."""
    throughput, counted = Throughput(), []

    class Counts(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            counted.append(throughput._watched.totals()[1])

    ended = run_trial(both[1], SPEC, user_callbacks=lambda: [throughput, Counts()])

    assert ended.status == "completed", ended.message
    assert counted[-1] == SPEC.total_examples


def test_a_callback_that_reads_batches_is_told_to_keep_the_data_on_the_host(both):
    class Looks(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.watched = WatchedInput(
                self.model, caller="Looks", wants_batch=lambda: True, look=lambda batch: None
            )

    ended = run_trial(both[1], SPEC, user_callbacks=lambda: [Looks()])

    assert ended.status == "error"
    assert "Looks reads batches before training does" in ended.message
    assert "--data_on=host" in ended.message
