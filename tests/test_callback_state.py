"""A user's callbacks see one training, also where it is trained in parts or killed in between."""

import dataclasses
import io
import pickle
import threading
import tracemalloc
from collections import Counter, OrderedDict, deque

import keras
import numpy as np
import pytest
from test_continued_trial import linear, parts_of, spec_of

from tfbatch.pipeline.recipe_data import PreparedData
from tfbatch.training.callback_state import CarryOn, _PlainUnpickler, begin_anew, is_plain
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


class Keeps(keras.callbacks.Callback):
    """Keeps one value."""

    def __init__(self, found=None):
        super().__init__()
        self.found = found


def carried(before, after, *, change=lambda callbacks: None):
    """Callbacks of a first part that has begun, changed and ended, and those of the next part."""
    first = CarryOn(before, None)
    first.on_train_begin()
    change(before)
    following = CarryOn(after, first.kept())
    following.on_train_begin()
    return following


def set_found(value):
    def change(callbacks):
        callbacks[0].found = value

    return change


@pytest.mark.parametrize(
    "value",
    [
        None,
        3,
        "text",
        b"bytes",
        bytearray(b"bytes"),
        2.5 + 1j,
        {"a": [1, (2, {3})]},
        frozenset({1}),
        OrderedDict(a=1),
        Counter("aab"),
        deque([1], maxlen=2),
        np.arange(3),
        np.float32(2),
        np.array(["a", "b"]),
        np.array(["2026-11-29"], "datetime64[D]"),
    ],
    ids=repr,
)
def test_plain_values_come_back_as_they_were(value):
    after = Keeps("of its own")
    carried([Keeps("before")], [after], change=set_found(value))

    assert type(after.found) is type(value)
    np.testing.assert_equal(after.found, value)


def nested(depth):
    found = []
    for _ in range(depth):
        found = [found]
    return found


def cyclic():
    found = []
    found.append(found)
    return found


class Own(dict):
    """A class of the user's."""


@pytest.mark.parametrize(
    "value",
    [
        threading.Lock(),
        [object()],
        np.array([object()], object),
        np.ma.masked_array([1.0], [True]),
        np.zeros(2, [("a", "f4")]),
        np.zeros(2, "bfloat16"),
        np.matrix([[1]]),
        Own(a=1),
        nested(600),
        cyclic(),
        keras.metrics.Mean(),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_belongs_to_its_process_is_not_carried_and_is_named(value):
    assert begin_anew([Keeps(value), Keeps(print), Keeps(Keeps)]) == ["Keeps.found"]
    after = Keeps("its own")
    carried([Keeps(0)], [after], change=set_found(value))
    assert after.found == "its own"


def test_what_a_callback_was_made_with_is_that_of_each_part():
    """A file of its own name, or data to look at: not the parent's, and not written to the disk."""
    before, after = Keeps("first.csv"), Keeps("second.csv")
    before.data, before.count = np.zeros(100_000), 0

    def count(callbacks):
        callbacks[0].count += 1

    first = CarryOn([before], None)
    first.on_train_begin()
    count([before])
    assert len(first.kept()) < 1000
    after.count = 0
    CarryOn([after], first.kept()).on_train_begin()
    assert (after.found, after.count) == ("second.csv", 1)


def test_a_large_array_of_a_callback_is_looked_at_and_not_copied():
    keeps, megabytes = Keeps(0), np.zeros(4_000_000)
    keeps.data = megabytes
    tracemalloc.start()
    carry_on = CarryOn([keeps], None)
    carry_on.on_train_begin()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < megabytes.nbytes / 10

    unchanged = len(carry_on.kept())
    keeps.data[7] = 1.0  # in place
    assert len(carry_on.kept()) > megabytes.nbytes > 1000 * unchanged


def test_what_a_part_does_not_change_goes_on_to_the_one_behind_it():
    last = Keeps(0)
    second = carried([Keeps(0)], [Keeps(0)], change=set_found(5))
    CarryOn([last], second.kept()).on_train_begin()
    assert last.found == 5


def test_callbacks_are_told_apart_by_their_class_and_order():
    """Another one in front, or one of another class in the same place, gets nothing."""
    early, another = keras.callbacks.EarlyStopping(), Keeps("own")
    two = [Keeps(0), Keeps(0)]

    def change(callbacks):
        callbacks[0].best = 3.0
        callbacks[1].found, callbacks[2].found = 1, 2

    fresh = [Keeps(0), Keeps(0)]
    carried([keras.callbacks.EarlyStopping(), *two], [*fresh, early], change=change)
    assert ([one.found for one in fresh], early.best) == ([1, 2], 3.0)
    carried([keras.callbacks.EarlyStopping()], [another], change=lambda c: setattr(c[0], "best", 1))
    assert not hasattr(another, "best")


def test_an_attribute_that_refuses_begins_anew():
    class Refuses(Keeps):
        @property
        def found(self):
            return 0

        @found.setter
        def found(self, value):
            if value:
                raise ValueError(value)
            vars(self)["found"] = value

    before = Refuses(0)
    first = CarryOn([before], None)
    first.on_train_begin()
    vars(before)["found"] = 7
    after = Refuses(0)
    CarryOn([after], first.kept()).on_train_begin()
    assert vars(after)["found"] == 0


def test_kerass_own_callbacks_run_in_every_part(programs, tmp_path):
    """Those that open files and profilers begin anew; the best score of a checkpoint goes on."""
    best = []

    class Best(keras.callbacks.Callback):
        def on_train_end(self, logs=None):
            best.append(checkpoint.best)

    for place, part in enumerate(parts_of(spec_of(tmp_path), tmp_path, STOPS)):
        # The first part has the lowest loss of all, which no later one can beat.
        checkpoint = keras.callbacks.ModelCheckpoint(
            tmp_path / f"best-{place}.weights.h5",
            monitor="val_loss",
            mode="max",
            save_best_only=True,
            save_weights_only=True,
        )
        every = [
            keras.callbacks.CSVLogger(tmp_path / "log.csv", append=True),
            keras.callbacks.TensorBoard(tmp_path / f"logs-{place}", profile_batch=(3, 100)),
            keras.callbacks.ProgbarLogger(),
            checkpoint,
            Best(),
        ]
        outcome = run_trial(programs, part, user_callbacks=lambda every=every: every)
        assert outcome.status == "completed", outcome.message

    lines = (tmp_path / "log.csv").read_text("utf-8").splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "0", "1", "2", "3"]
    assert len(set(best)) == 1
    assert [(tmp_path / f"best-{k}.weights.h5").exists() for k in range(3)] == [True, False, False]


def test_a_file_that_would_run_code_is_refused():
    with pytest.raises(pickle.UnpicklingError, match=r"builtins\.eval is no plain value"):
        _PlainUnpickler(io.BytesIO(b"cbuiltins\neval\n(S'1'\ntR.")).load()
