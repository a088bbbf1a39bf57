"""A user's callbacks see one training, also where it is trained in parts or killed in between."""

import dataclasses
import io
import pickle
import threading
from collections import OrderedDict, deque

import keras
import numpy as np
import pytest
from test_continued_trial import linear, parts_of, spec_of

from tfbatch.pipeline.recipe_data import PreparedData
from tfbatch.training.callback_state import CarryOn, _PlainUnpickler, begin_anew, is_plain, kept
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload

STOPS = (700, 2000)


class Killed(BaseException):
    """Stands for the end of a process: no outcome, no callback's end."""


@pytest.fixture(scope="module")
def programs(digits):
    return ProgramCache(Workload(PreparedData(digits.recipe, digits.folder), linear))


class Course(keras.callbacks.Callback):
    """Keeps what a user's callback may keep, from epoch to epoch."""

    def __init__(self, ends):
        super().__init__()
        self.say = ends.append
        self.lock = threading.Lock()

    def on_train_begin(self, logs=None):
        self.updates, self.losses = 0, []
        self.by_epoch, self.recent = {}, deque(maxlen=2)
        self.sum = np.zeros(2)

    def on_train_batch_end(self, batch, logs=None):
        self.batch = batch

    def on_epoch_end(self, epoch, logs=None):
        self.updates += self.batch + 1
        self.losses.append(logs["loss"])
        self.by_epoch[epoch] = logs["val_accuracy"]
        self.recent.append(epoch)
        self.sum += [1, epoch]

    def on_train_end(self, logs=None):
        self.say({k: v for k, v in vars(self).items() if is_plain(v) and k != "_params"})


def ended(programs, spec, **options):
    """What the callbacks had kept when a trial ended."""
    ends = []
    early = keras.callbacks.EarlyStopping("val_loss", mode="max", patience=99)

    class Wait(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            ends.append((early.wait, early.best))

    outcome = run_trial(
        programs, spec, user_callbacks=lambda: [Course(ends), early, Wait()], **options
    )
    assert outcome.status == "completed", outcome.message
    return ends


def test_callbacks_of_a_part_go_on_from_what_those_of_the_part_before_had_kept(programs, tmp_path):
    """Two parts end within epochs, and one of three epochs is then counted twice."""
    whole = spec_of(tmp_path)
    (course, (waited, _)) = ended(programs, whole)
    *_, (last, (waited_in_parts, _)) = [
        ended(programs, part) for part in parts_of(whole, tmp_path, STOPS)
    ]

    assert len(last["losses"]) == len(course["losses"]) + 1 == 4
    assert last["losses"][-1] == pytest.approx(course["losses"][-1], rel=0.2)
    assert list(last["by_epoch"]) == [0, 1, 2, 3]
    assert list(last["recent"]) == [2, 3]
    np.testing.assert_array_equal(last["sum"], [4, 0 + 1 + 2 + 3])
    assert waited_in_parts == waited + 1  # EarlyStopping's own count, over all parts


def test_callbacks_of_a_killed_training_go_on_from_its_checkpoint(programs, tmp_path):
    spec = dataclasses.replace(spec_of(tmp_path), checkpoint_file=tmp_path / "checkpoint.npz")
    expected, _ = ended(programs, dataclasses.replace(spec, checkpoint_file=None))

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Killed

    with pytest.raises(Killed):
        run_trial(programs, spec, user_callbacks=lambda: [Course([]), Kill()], checkpoint_seconds=0)
    found, _ = ended(programs, spec, checkpoint_seconds=0)

    assert found["losses"] == expected["losses"]
    assert found["updates"] == expected["updates"]


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "text",
        b"bytes",
        2.5 + 1j,
        {"a": [1, (2, {3})]},
        frozenset({1}),
        OrderedDict(a=1),
        deque([1], maxlen=2),
        np.arange(3),
        np.float32(2),
        np.array(["a", "b"]),
    ],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value):
    class Keeps(keras.callbacks.Callback):
        found = None

    before, after = Keeps(), Keeps()
    before.found = value
    CarryOn([after], kept([before])).on_train_begin()

    assert type(after.found) is type(value)
    np.testing.assert_equal(after.found, value)


@pytest.mark.parametrize(
    "value", [keras.Variable(1.0), threading.Lock(), [object()], np.array([object()], object)]
)
def test_what_belongs_to_its_process_is_not_carried_and_is_named(value):
    class Keeps(keras.callbacks.Callback):
        def __init__(self, found=None):
            super().__init__()
            self.found, self.count, self.act = found, 1, print

    assert begin_anew([Keeps(value), keras.callbacks.CSVLogger("log.csv")]) == ["Keeps.found"]
    after = Keeps("its own")
    CarryOn([after], kept([Keeps(value)])).on_train_begin()
    assert after.found == "its own"


def test_a_callback_of_another_class_in_the_same_place_gets_nothing():
    class Other(keras.callbacks.Callback):
        best = None

    early, other = keras.callbacks.EarlyStopping(), Other()
    early.best = 3.0
    CarryOn([other], kept([early])).on_train_begin()
    assert other.best is None


def test_a_file_that_would_run_code_is_refused():
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval is no plain value"):
        _PlainUnpickler(io.BytesIO(b"cbuiltins\neval\n(S'1'\ntR.")).load()
