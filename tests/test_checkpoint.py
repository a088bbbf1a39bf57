"""A training that was ended goes on from its last epoch, to the same last bit."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import shutil
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras.regularizers import L2
from processes import WarmProcess
from search_fixtures import BASELINE, Trainer, make_runner, open_folder

import tfbatch.train
from tfbatch.callbacks import DivergenceGuard, TrainingClock
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, RunFolderError
from tfbatch.models import resnet
from tfbatch.quantities import TrainingLength
from tfbatch.request.task import IN_PYTHON
from tfbatch.request.training_config import TrainingConfig
from tfbatch.run_folder.files import partial_file
from tfbatch.schema import Named
from tfbatch.training import single
from tfbatch.training.checkpoint import CheckpointFile, Position, WriteCheckpoint, state
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import Outcome, TrialSpec

SPEC = TrialSpec(
    trial="search-0001",
    phase="search",
    seed=11,
    configuration=Configuration(
        batch_size=72,  # divides neither an epoch nor the training
        base_learning_rate=0.02,
        warmup_fraction=0.4,
        schedule=Named(name="cosine"),
        optimizer=Named(name="sgd", momentum=0.9),
    ),
    total_examples=4000,
    num_examples=1085,
)
EPOCHS = 4  # of 1,085 examples each, the last one shorter


def with_dropout(input_shape, num_classes):
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(12, activation="relu")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Dropout(0.3)(x)))


def in_bfloat16(input_shape, num_classes):
    """Weights of a kind that NumPy's files do not know."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(12, activation="relu", dtype="bfloat16")(keras.layers.Flatten()(inputs))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(x))


def tiny_resnet(input_shape, num_classes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "_BLOCKS", 1)
        patch.setattr(resnet, "_WIDTHS", (4, 6))
        return resnet.build(input_shape, num_classes)


@pytest.fixture(scope="module")
def programs(digits):
    return ProgramCache(Workload(digits, with_dropout))


@pytest.fixture
def spec(tmp_path):
    return kept_in(tmp_path)


@pytest.fixture(autouse=True)
def float32():
    yield
    keras.config.set_dtype_policy("float32")


def kept_in(folder, spec=SPEC):
    return dataclasses.replace(
        spec,
        checkpoint_file=folder / "search-0001.npz",
        weights_file=folder / "search-0001.weights.h5",
    )


def change(spec, **configuration):
    changed = spec.configuration.model_copy(update=configuration)
    return dataclasses.replace(spec, configuration=changed)


class Steps(keras.callbacks.Callback):
    """Says how many updates are really made."""

    def __init__(self, made):
        super().__init__()
        self.say = made.append  # as an attribute, a count would go on from the checkpoint's

    def on_epoch_begin(self, epoch, logs=None):
        self._before = int(self.model.optimizer.iterations)

    def on_epoch_end(self, epoch, logs=None):
        self.say(int(self.model.optimizer.iterations) - self._before)


@dataclasses.dataclass
class Ran:
    """One run of a trial, with the model as it was left."""

    outcome: Outcome
    steps: int
    variables: list[np.ndarray]


def run(programs, spec, *, seconds=0, **options):
    made: list[int] = []
    models: list[Any] = []

    class Keep(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            models.append(self.model)

    outcome = run_trial(
        programs,
        spec,
        checkpoint_seconds=seconds,
        user_callbacks=lambda: [Steps(made), Keep()],
        **options,
    )
    assert outcome.status in ("completed", "interrupted"), outcome.message
    return Ran(outcome, sum(made), [v.numpy() for v in state(models[-1])])


def after(executions):
    """A request to stop that comes after so many executions."""
    asked: list[bool] = []

    def stop_requested():
        asked.append(True)
        return len(asked) > executions

    return stop_requested


def interrupt(programs, spec, *, epochs=2.5):
    """Ends a trial in the middle of an epoch; how far its checkpoint is."""
    assert spec.checkpoint_file
    derived = programs.workload.derive(spec.configuration, spec.total_examples)
    executions = derived.steps_per_epoch // derived.steps_per_execution
    stopped = run(programs, spec, stop_requested=after(int(epochs * executions)))
    assert stopped.outcome.status == "interrupted"
    return CheckpointFile(spec.checkpoint_file, identity=spec.identity()).read_position()


def assert_same(got, expected):
    assert got.outcome.status == expected.outcome.status == "completed"
    assert got.outcome.metrics == expected.outcome.metrics
    assert got.outcome.steps == expected.outcome.steps
    assert got.outcome.examples == expected.outcome.examples
    for one, other in zip(got.variables, expected.variables, strict=True):
        np.testing.assert_array_equal(one, other)


QUICK = [("adam", False)]
ADAM = {"optimizer": Named(name="adam"), "base_learning_rate": 0.003}
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any]]] = {
    "sgd": (with_dropout, {}, {}),
    "adam": (with_dropout, ADAM, {}),
    "small batches": (with_dropout, {"batch_size": 10}, {}),
    "weight decay": (
        with_dropout,
        {"optimizer": Named(name="adamw", weight_decay=0.1), "base_learning_rate": 0.003},
        {},
    ),
    "bfloat16 weights": (in_bfloat16, {}, {}),
    "loss scale": (with_dropout, {}, {"precision": "mixed_float16"}),
    "resnet": (tiny_resnet, {"batch_size": 150}, {}),
}


@pytest.mark.parametrize(
    ("case", "same_process"),
    [
        pytest.param(case, same, marks=[] if (case, same) in QUICK else [pytest.mark.slow])
        for case in CASES
        for same in (True, False)
    ],
)
def test_an_interrupted_training_ends_as_an_undisturbed_one(digits, spec, case, same_process):
    """A new process has traced nothing yet."""
    build, changes, options = CASES[case]
    spec = change(spec, **changes)
    workload = Workload(digits, build, **options)
    programs = ProgramCache(workload)
    undisturbed = run(programs, dataclasses.replace(spec, checkpoint_file=None))
    position = interrupt(programs, spec)
    if same_process:
        run(programs, change(dataclasses.replace(SPEC, total_examples=300), **changes))
    continued = run(programs if same_process else ProgramCache(workload), spec)

    derived = workload.derive(spec.configuration, spec.total_examples)
    assert (position.epochs, position.steps) == (2, 2 * derived.steps_per_epoch)
    assert_same(continued, undisturbed)
    assert undisturbed.steps == derived.steps
    assert continued.steps == derived.steps - position.steps
    assert spec.checkpoint_file
    left = {path.name for path in spec.checkpoint_file.parent.iterdir()}
    assert left == {"search-0001.weights.h5", spec.checkpoint_file.name}


@pytest.mark.slow
def test_it_can_be_interrupted_again_and_again(programs, spec):
    undisturbed = run(programs, dataclasses.replace(spec, checkpoint_file=None))
    positions = [interrupt(programs, spec, epochs=1.5) for _ in range(2)]
    continued = run(programs, spec)

    assert [position.epochs for position in positions] == [1, 2]
    assert_same(continued, undisturbed)
    assert continued.outcome.training_seconds > positions[-1].training_seconds
    assert continued.outcome.seconds > positions[-1].seconds > positions[0].seconds


KILLED = """
import pickle, signal, sys
from pathlib import Path

sys.path.insert(0, sys.argv[3])
import keras
import test_checkpoint
from tfbatch.pipeline import load_data
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload

class Say(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        print(int(self.model.optimizer.iterations), flush=True)
        if int(self.model.optimizer.iterations) > int(sys.argv[4]):
            signal.pause()

data = load_data("digits", records_dir=Path(sys.argv[2]))
spec = test_checkpoint.kept_in(Path(sys.argv[1]))
outcome = run_trial(
    ProgramCache(Workload(data, test_checkpoint.with_dropout)),
    spec, checkpoint_seconds=0, user_callbacks=lambda: [Say()],
)
print(outcome.metrics)
"""


@pytest.mark.slow
def test_a_killed_training_ends_as_an_undisturbed_one(programs, tmp_path, records_dir):
    """SIGKILL in the middle of the third epoch, and a new process."""
    spec = kept_in(tmp_path)
    steps = programs.workload.derive(spec.configuration, spec.total_examples).steps_per_epoch
    here = Path(__file__).parent
    with WarmProcess("-c", KILLED, tmp_path, records_dir, here, 2 * steps) as child:
        for line in child.stdout:
            if line.strip().isdigit() and int(line) > 2 * steps:
                break
        child.kill()
        assert child.wait() == -signal.SIGKILL
    assert spec.checkpoint_file
    kept = CheckpointFile(spec.checkpoint_file, identity=spec.identity())
    assert kept.read_position().epochs == 2
    undisturbed = run(programs, dataclasses.replace(SPEC, checkpoint_file=None))
    continued = run(programs, spec)
    assert_same(continued, undisturbed)
    assert continued.steps == undisturbed.steps - 2 * steps


@pytest.mark.slow
def test_a_short_training_writes_nothing(programs, spec):
    """Before a minute is over, and at its end."""
    assert spec.checkpoint_file
    run(programs, spec, seconds=3600, stop_requested=after(40))
    assert not spec.checkpoint_file.exists()
    one_epoch = dataclasses.replace(spec, total_examples=1085)
    seen: list[bool] = []
    run(programs, one_epoch, stop_requested=lambda: seen.append(spec.checkpoint_file.exists()))
    assert seen
    assert not any(seen)


OTHERS: dict[str, Callable[[TrialSpec], TrialSpec]] = {
    "seed": lambda s: dataclasses.replace(s, seed=12),
    "configuration": lambda s: change(s, base_learning_rate=0.03),
    "length": lambda s: dataclasses.replace(s, total_examples=3900),
}


@pytest.mark.quick_cases("length")
@pytest.mark.parametrize("what", OTHERS)
def test_another_trainings_checkpoint_is_not_used(programs, spec, what):
    other = OTHERS[what](spec)
    assert interrupt(programs, other).epochs == 2
    fresh = run(programs, dataclasses.replace(SPEC, checkpoint_file=None))

    assert_same(run(programs, spec), fresh)


def test_a_longer_training_goes_on_where_the_shorter_one_is_the_same_so_far(programs, spec):
    """At a constant rate the first updates do not depend on the length."""
    constant = change(spec, schedule=Named(name="constant"), warmup_fraction=0.0)
    position = interrupt(programs, dataclasses.replace(constant, total_examples=3900))
    undisturbed = run(programs, dataclasses.replace(constant, checkpoint_file=None))
    continued = run(programs, constant)

    assert continued.steps == undisturbed.steps - position.steps < undisturbed.steps
    assert_same(continued, undisturbed)


def small_checkpoint(path):
    """A checkpoint of a model of a few numbers."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), keras.layers.Dropout(0.5)])
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    model.optimizer.build(model.trainable_variables)
    file = CheckpointFile(path, identity="abc-1-2")
    file.write(model, Position(epochs=2, steps=30, seconds=1.5, first_loss=2.5))
    return file, model


def test_what_was_written_is_read(tmp_path):
    file, model = small_checkpoint(tmp_path / "a" / "b.npz")
    expected = [v.numpy() for v in state(model)]
    for variable in state(model):
        variable.assign(variable * 0 + 1)
    file.restore(model)

    assert file.read_position() == Position(2, 30, 1.5, 0.0, 2.5)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.npz"]
    assert len(expected) == 2 + 1 + 2 + 2  # weights, Dropout's generator, optimizer, slots
    for variable, value in zip(state(model), expected, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_a_training_removes_no_other_ones_checkpoint(tmp_path):
    file, _ = small_checkpoint(tmp_path / "a.npz")
    CheckpointFile(file.path, identity="another seed", shared=True).remove()
    assert file.read_position().epochs == 2

    file.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_training_removes_what_killed_processes_have_left_of_its_checkpoint(tmp_path):
    file, _ = small_checkpoint(tmp_path / "a [1].npz")
    mine = CheckpointFile(file.path, identity="abc-1-2", shared=True)
    running, ended = os.getppid(), 1 << 23  # beyond the largest number of a process
    for process in (running, ended):
        (tmp_path / f"partial-{process}-a [1].npz").touch()
    mine.remove()

    assert [p.name for p in tmp_path.iterdir()] == [f"partial-{running}-a [1].npz"]


def test_two_processes_write_one_checkpoint_side_by_side(tmp_path, monkeypatch):
    """The second begins and ends while the first is writing: both come to their ends."""
    file, model = small_checkpoint(tmp_path / "a.npz")
    first = CheckpointFile(file.path, identity="first", shared=True)
    monkeypatch.setattr(os, "getpid", lambda: 1 << 23)
    second = CheckpointFile(file.path, identity="second", shared=True)
    write, others = np.savez, [second]

    def meanwhile(file, **arrays):
        write(file, **arrays)
        if others:
            others.pop().write(model, Position(epochs=5))

    monkeypatch.setattr(np, "savez", meanwhile)
    first.write(model, Position(epochs=7))

    assert first.read_position().epochs == 7
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_each_training_of_a_configuration_has_its_own_checkpoint_by_default(tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(
        single, "train_once", lambda *_, **more: given.append(more) or single.Trained({})
    )
    config = tmp_path / "best.yaml"
    config.write_text(
        "dataset: digits\nmodel: small_cnn\ntrial_length: 1 epochs\nseed: 1\n"
        "configuration: {batch_size: 32, base_learning_rate: 0.1}\n"
    )
    tfbatch.train.main([f"--config={config}"])
    tfbatch.train.main([f"--config={config}", f"--checkpoint={tmp_path / 'mine.npz'}"])

    beside = given[0]["checkpoint"]
    assert beside("0123456789abcdef") == tmp_path / "best-checkpoint-01234567.npz"
    assert given[1]["checkpoint"] == tmp_path / "mine.npz"


def training_of(length, **changes):
    """A training of a model and data that the test puts in the place of those named."""
    return TrainingConfig(
        dataset="digits",
        model="mine:build",
        trial_length=TrainingLength.parse(length),
        seed=1,
        configuration=SPEC.configuration,
        **changes,
    )


@pytest.mark.parametrize(
    ("every_seconds", "said"),
    [(0.0, "continues after epoch 2."), (60.0, "No checkpoint is on disk")],
)
def test_a_stopped_training_says_where_the_same_command_goes_on(
    digits, tmp_path, monkeypatch, every_seconds, said
):
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(single, "prepare_data", lambda *_, **__: digits)
    monkeypatch.setattr(single, "find_model_builder", lambda name: with_dropout)
    monkeypatch.setattr(single, "_callbacks_of", lambda *_: lambda: [Stop()])
    config = training_of("3 epochs")
    with pytest.raises(KeyboardInterrupt) as stopped:
        single.train_once(
            config,
            checkpoint=tmp_path / "checkpoint.npz",
            checkpoint_seconds=every_seconds,
            threads=1,
            say=lambda _: None,
            verbose=0,
        )
    assert said in " ".join(stopped.value.__notes__)


def test_a_training_that_is_stopped_while_it_is_evaluated_says_where_its_model_is(
    digits, tmp_path, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(single, "prepare_data", lambda *_, **__: digits)
    monkeypatch.setattr(single, "find_model_builder", lambda name: with_dropout)
    monkeypatch.setattr(single, "evaluate", interrupted)
    config = training_of("1 epochs")
    output = tmp_path / "model.keras"
    with pytest.raises(KeyboardInterrupt) as stopped:
        single.train_once(config, output=output, threads=1, say=lambda _: None, verbose=0)
    assert output.exists()
    assert stopped.value.__notes__[0] == f"The trained model is in {output}."


@pytest.mark.parametrize("is_file", [True, False], ids=["file", "named"])
def test_train_says_that_it_does_not_go_on_from_an_earlier_versions_checkpoint(
    digits, tmp_path, is_file
):
    """It began anew without a word, and the hours before were in vain."""
    config = training_of("3 epochs")
    workload, said = Workload(digits, with_dropout), []
    made = tmp_path / "checkpoint.npz" if is_file else lambda identity: tmp_path / identity
    first = single._checkpoint_of(config, workload, made, said.append)
    assert said == []

    earlier, _ = single._identities(config, workload)
    path = made if is_file else made(earlier)
    model = workload.compiled(SPEC.configuration, total_examples=64, seed=1)
    CheckpointFile(path, identity=earlier).write(model, Position(epochs=1, steps=2))
    second = single._checkpoint_of(config, workload, made, said.append)

    [line] = said
    assert f"{path} is of an earlier version of tfbatch" in line
    assert second.path == first.path
    assert second.read_position() == Position()


def trained_as_named(digits, monkeypatch, callbacks):
    """What `train_once` says where the trials had callbacks of this name."""
    monkeypatch.setattr(single, "prepare_data", lambda *_, **__: digits)
    monkeypatch.setattr(single, "find_model_builder", lambda name: with_dropout)
    config = training_of("64 examples", callbacks=callbacks)
    said = []
    single.train_once(config, threads=1, say=said.append, verbose=0)
    return "\n".join(said)


def test_train_makes_the_callbacks_that_the_configuration_names(digits, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "callbacks_of_a_user.py").write_text(
        "import keras\nseen = []\ndef make():\n"
        "    return [keras.callbacks.LambdaCallback(on_epoch_end=lambda *a: seen.append(a))]\n"
    )
    said = trained_as_named(digits, monkeypatch, "callbacks_of_a_user:make")

    assert importlib.import_module("callbacks_of_a_user").seen
    assert "callbacks" not in said
    with pytest.raises(InputError, match=r"`callbacks=callbacks_of_a_user:mike`: .*`make`"):
        trained_as_named(digits, monkeypatch, "callbacks_of_a_user:mike")


def test_train_says_that_it_lacks_callbacks_which_were_given_in_python(digits, monkeypatch):
    said = trained_as_named(digits, monkeypatch, IN_PYTHON)

    assert "The trials had callbacks that were given in Python" in said
    assert "goes without them" in said
    assert "callbacks" not in trained_as_named(digits, monkeypatch, None)


def test_a_training_of_a_changed_model_or_another_seed_is_another_one(digits):
    def builder(activation="relu", decay=1e-4, rate=0.1):
        def build(input_shape, num_classes):
            inputs = keras.Input(input_shape)
            head = keras.layers.Dense(num_classes, activation, kernel_regularizer=L2(decay))
            block = [keras.Input(input_shape), keras.layers.Flatten(), keras.layers.Dropout(rate)]
            return keras.Model(inputs, head(keras.Sequential(block)(inputs)))

        return Workload(digits, build)

    config = training_of("1 epochs")

    def identity_of(config, workload):
        return single._identities(config, workload)[1]

    first = identity_of(config, builder())

    assert identity_of(config, builder()) == first
    assert identity_of(config, builder("tanh")) != first
    assert identity_of(config, builder(decay=1e-2)) != first
    assert identity_of(config, builder(rate=0.5)) != first
    assert identity_of(config.model_copy(update={"seed": 2}), builder()) != first


def test_a_state_of_another_shape_is_refused_and_the_model_is_left_as_it_was(tmp_path):
    file, model = small_checkpoint(tmp_path / "a.npz")
    wider = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3), keras.layers.Dropout(0.5)])
    wider.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    before = [v.numpy() for v in wider.variables]

    with pytest.raises(InputError, match=r"a\.npz must have .*\[3, 3\]\. Received: .*\[3, 2\]"):
        file.restore(wider)
    for variable, value in zip(wider.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    file.restore(model)


@pytest.mark.slow
def test_a_checkpoint_with_any_damage_is_used_whole_or_not_at_all(tmp_path):
    """Every byte is damaged once: most damages are in a variable, a few in the ZIP's own fields."""
    file, model = small_checkpoint(tmp_path / "a.npz")
    whole = file.path.read_bytes()
    position = file.read_position()
    expected = [v.numpy() for v in state(model)]
    used = 0
    for index in range(len(whole)):
        damaged = bytearray(whole)
        damaged[index] ^= 1 << index % 8
        file.path.write_bytes(damaged)
        found = file.read_position()
        if found == Position():
            continue
        used += 1
        assert found == position, index
        file.restore(model)
        for variable, value in zip(state(model), expected, strict=True):
            np.testing.assert_array_equal(variable, value)

    assert used < len(whole) / 3  # times, versions and paddings of the ZIP
    for length in range(0, len(whole), 7):
        file.path.write_bytes(whole[:length])
        assert file.read_position() == Position()


def test_a_variable_under_the_name_of_another_is_not_used(tmp_path):
    """One bit of the ZIP's directory: it opens, and every checksum that is found holds."""
    file, _ = small_checkpoint(tmp_path / "a.npz")
    content = file.path.read_bytes()
    place = content.rindex(b"variable_1.npy")
    file.path.write_bytes(content[:place] + b"variable_5" + content[place + 10 :])
    with zipfile.ZipFile(file.path) as archive:
        assert archive.testzip() is None
    assert file.read_position() == Position()


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x05\x06" + bytes(18)])
def test_a_file_that_is_no_checkpoint_is_not_used(tmp_path, content):
    path = tmp_path / "a.npz"
    path.write_bytes(content)

    assert CheckpointFile(path, identity="a").read_position() == Position()
    assert CheckpointFile(tmp_path, identity="a").read_position() == Position()


@pytest.mark.parametrize(
    "change", [{"schema": 99}, {"identity": "other"}, {"unknown": 1}, {"schema": None}, None]
)
def test_a_checkpoint_of_another_version_is_not_used(tmp_path, change):
    file, _ = small_checkpoint(tmp_path / "a.npz")
    with np.load(file.path) as archive:
        arrays = dict(archive)
    kept = json.loads(str(arrays["position"]))
    written = kept | change if change else [kept]
    arrays["position"] = np.array(json.dumps(written))
    np.savez(file.path, **arrays)

    assert file.read_position() == Position()


@pytest.mark.quick_cases("flipped")
@pytest.mark.parametrize("damage", ["flipped", "cut"])
def test_a_training_with_a_damaged_checkpoint_begins_anew(programs, spec, damage):
    assert spec.checkpoint_file
    interrupt(programs, spec)
    content = bytearray(spec.checkpoint_file.read_bytes())
    with np.load(spec.checkpoint_file) as arrays:
        largest = max((arrays[name] for name in arrays), key=lambda array: array.nbytes).tobytes()
    content[content.index(largest) + len(largest) // 2] ^= 0x10  # between the arrays is padding
    spec.checkpoint_file.write_bytes(content if damage == "flipped" else content[:-9])
    again = run(programs, spec)

    fresh = run(programs, dataclasses.replace(SPEC, checkpoint_file=None))
    assert_same(again, fresh)
    assert again.steps == fresh.steps


@contextlib.contextmanager
def file_size_limit(size):
    """What a file may grow to; Python ignores the signal and gets an OSError.

    Not a fixture: the test run itself writes its progress to a file, before a fixture ends.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_full_disk_leaves_the_earlier_checkpoint(tmp_path, share):
    file, model = small_checkpoint(tmp_path / "a.npz")
    whole = file.path.read_bytes()
    with (
        pytest.raises(RunFolderError, match=r"a\.npz cannot be written: .*Free some space"),
        file_size_limit(int(share * len(whole))),
    ):
        file.write(model, Position(epochs=3, steps=45))

    assert file.read_position().epochs == 2
    assert file.path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_a_disk_that_fills_during_a_training_ends_the_run_and_nothing_is_lost(
    programs, spec, monkeypatch
):
    """The third checkpoint finds no room; with room the training goes on from the second."""
    write, written = np.savez, []

    def full(file, **arrays):
        written.append(file)
        if len(written) == 3:
            file.write(b"half of it")
            raise OSError(28, "No space left on device")
        write(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(RunFolderError, match="No space left"):
        run(programs, spec)
    monkeypatch.undo()
    continued = run(programs, spec)

    fresh = run(programs, dataclasses.replace(SPEC, checkpoint_file=None))
    assert_same(continued, fresh)
    steps = programs.workload.derive(spec.configuration, spec.total_examples).steps_per_epoch
    assert continued.steps == fresh.steps - 2 * steps


def test_disk_use_is_two_files_of_the_states_size(tmp_path, monkeypatch):
    file, model = small_checkpoint(tmp_path / "a.npz")
    used: list[list[int]] = []
    fsync = os.fsync

    def note(descriptor):
        used.append([p.stat().st_size for p in tmp_path.iterdir()])
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    for epoch in range(3):
        file.write(model, Position(epochs=epoch))
    state_size = sum(v.numpy().nbytes for v in state(model))
    headers = 600 * (len(state(model)) + 1)

    assert [len(sizes) for sizes in used] == [2, 2, 2]
    assert all(size < state_size + headers for sizes in used for size in sizes)
    assert len(list(tmp_path.iterdir())) == 1


def test_a_checkpoint_outlives_its_training(programs, spec):
    """Whoever has the outcome on disk removes it."""
    assert spec.checkpoint_file
    position = interrupt(programs, spec)
    run(programs, spec, seconds=3600)
    kept = CheckpointFile(spec.checkpoint_file, identity=spec.identity())
    assert kept.read_position() == position


def test_a_checkpoint_is_kept_until_the_journal_has_its_trial(tmp_path, monkeypatch):
    """On a full disk, or killed between the two, a trial would lose more than its last epoch."""

    class Checkpoints(Trainer):
        def __call__(self, spec):
            shutil.rmtree(spec.log_dir, ignore_errors=True)
            for file in (spec.checkpoint_file, partial_file(spec.checkpoint_file)):
                file.parent.mkdir(exist_ok=True)
                file.touch()
            return super().__call__(spec)

    def full(row):
        raise RunFolderError("No space left on device")

    with open_folder(tmp_path / "run") as folder:
        runner = make_runner(folder, Checkpoints())
        spec = runner.spec("search-0001", "search", 1, BASELINE)
        with monkeypatch.context() as patch:
            patch.setattr(folder.journal, "append", full)
            with pytest.raises(RunFolderError, match="No space"):
                runner.run(spec)
        assert spec.checkpoint_file.exists()
        assert runner.run(spec).status == "completed"
    assert not list(spec.checkpoint_file.parent.iterdir()), "nor what a killed process left"


def test_checkpoints_of_finished_trials_are_removed_when_a_run_is_opened(tmp_path):
    """The process was killed when the line was written; ancestors have been trained again."""
    with open_folder(tmp_path / "run") as folder:
        runner = make_runner(folder, Trainer())
        spec = runner.spec("search-0002", "search", 1, BASELINE)
        runner.run(spec)
        left = spec.checkpoint_file.parent
        left.mkdir(exist_ok=True)
        names = ["search-0002.npz", "search-0003.npz", "search-0002-search-0001-baseline.npz"]
        for name in [*names, *(f"partial-{name}" for name in names)]:
            (left / name).touch()
        make_runner(folder, Trainer())
        assert {file.name for file in left.iterdir()} == {
            "search-0003.npz",
            "partial-search-0003.npz",
        }


def test_divergence_is_still_told_by_the_first_loss(programs, spec):
    """It is the first batch's loss of the whole training, not of its rest."""
    position = interrupt(programs, spec)
    assert position.first_loss is not None
    assert position.first_loss > 2

    guards: list[DivergenceGuard] = []
    with pytest.MonkeyPatch.context() as patch:

        class Noted(DivergenceGuard):
            def on_train_begin(self, logs=None):
                super().on_train_begin(logs)
                guards.append(self)

        patch.setattr("tfbatch.training.trial.DivergenceGuard", Noted)
        run(programs, spec)
    assert guards[0].first_loss == position.first_loss


def test_a_checkpoint_waits_its_time(tmp_path, monkeypatch):
    """Counted from the last one's end, so that a slow disk is not always written to."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    file, model = small_checkpoint(tmp_path / "a.npz")
    guard, clock = DivergenceGuard(), TrainingClock()
    callback = WriteCheckpoint(
        file, Position(seconds=7.0), clock=clock, guard=guard, epochs=9, every_seconds=10
    )
    callback.set_model(model)
    model.stop_training = False
    file.path.unlink()
    epochs = []
    for epoch, seconds in enumerate(
        [109.0, 110.0, 119.0, 121.0, 130.0, 131.0, 150.0, 170.0, 190.0]
    ):
        now[0] = seconds
        model.stop_training = epoch == 6  # an epoch that was ended early
        callback.on_epoch_end(epoch)
        epochs.append(file.read_position().epochs)

    assert epochs == [0, 2, 2, 4, 4, 6, 6, 8, 8]
    assert file.read_position().seconds == 7.0 + 70.0
