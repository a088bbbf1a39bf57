"""Trainings of the court on changed data: what is changed, and what stays as it was."""

from __future__ import annotations

import dataclasses
import math
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.court_fixtures import SimulatedCourt, make_workload
from tfbatch.claims._batch_size_study import BatchSizeStudy
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._changed_training import ChangedData, changed_programs, train_changed
from tfbatch.claims._claim import UntestableError
from tfbatch.claims._court import Training
from tfbatch.configuration import Configuration
from tfbatch.dataset_info.content import DataContent
from tfbatch.errors import InputError
from tfbatch.schema import content_hash
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.workload import Workload

CLASSES = 4
COUNT = 400
CONFIGURATION = Configuration(
    batch_size=16, base_batch_size=16, base_learning_rate=0.05, scaling_rule="none"
)


class Arrays:
    """Data in memory: the class of an example is its place modulo four, and its input tells it."""

    soft_labels = False
    splits = ("train", "validation")
    content = DataContent()
    name = "arrays"

    def __init__(self, *, num_classes=CLASSES, shape=(6,), one_hot=False):
        self.num_classes, self.soft_labels = num_classes, one_hot
        self.y = (np.arange(COUNT) % CLASSES).astype(np.int32)
        place = np.arange(COUNT, dtype=np.float32).reshape(-1, *[1] * len(shape))
        self.x = np.broadcast_to(place / COUNT - 0.5, (COUNT, *shape)).astype(np.float32)
        self.targets = np.eye(CLASSES, dtype=np.float32)[self.y] if one_hot else self.y

    def num_examples(self, split="train"):
        return COUNT if split == "train" else 40

    def evaluation(self, split, *, batch_size=512):
        count = self.num_examples(split)
        both = tf.data.Dataset.from_tensor_slices((self.x[:count], self.targets[:count]))
        return both.batch(batch_size)


def taken(data, *, batch_size=16, seed=1, num_examples=None, start=0):
    """Inputs and targets of the training stream, and the sizes of its batches."""
    length = data.num_examples("train") if num_examples is None else num_examples
    stream = data.training(batch_size=batch_size, seed=seed, num_examples=length, start=start)
    batches = [tuple(part.numpy() for part in batch) for batch in stream]
    assert int(stream.cardinality()) == len(batches)
    inputs, targets = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    return inputs, targets, [len(batch[0]) for batch in batches]


def places(inputs):
    """Which example of the original each one is."""
    return np.rint((inputs.reshape(len(inputs), -1)[:, 0] + 0.5) * COUNT).astype(int)


def test_a_training_without_a_change_is_named_as_before():
    written = Training(CONFIGURATION, 100, 7)
    content = [CONFIGURATION.model_dump(mode="json"), 100, 7]
    changed = dataclasses.replace(written, change=DataChange())

    assert written.name == f"b16-r0.05-{content_hash(content)[:10]}"
    assert len({written.name, changed.name, Training(CONFIGURATION, 100, 8).name}) == 3
    assert changed.name != dataclasses.replace(written, change=DataChange(share=0.5)).name


@pytest.mark.parametrize(
    "wrong", [{"share": 0.0}, {"label_noise": 1.0}, {"imbalance": 0.5}, {"image_scale": 0.0}]
)
def test_a_change_out_of_range_is_refused(wrong):
    (name,) = wrong

    with pytest.raises(InputError, match=f"`{name}` must be"):
        DataChange(**wrong)


def test_nothing_changed_is_every_example_once_an_epoch_in_an_order_of_the_seed():
    data = ChangedData(Arrays(), DataChange())
    inputs, targets, sizes = taken(data, batch_size=150)

    assert sizes == [150, 150, 100]
    assert sorted(places(inputs)) == list(range(COUNT))
    assert (targets == places(inputs) % CLASSES).all()
    np.testing.assert_array_equal(inputs, taken(data, batch_size=16)[0])  # of any batch size
    assert (inputs != taken(data, seed=2)[0]).any()
    two = taken(data, num_examples=2 * COUNT)[0]
    np.testing.assert_array_equal(two[:COUNT], inputs)
    assert (two[COUNT:] != inputs).any()
    np.testing.assert_array_equal(taken(data, num_examples=2 * COUNT, start=96)[0], two[96:])


def test_not_shuffled_is_the_order_of_the_data_in_every_epoch():
    data = ChangedData(Arrays(), DataChange(shuffled=False))
    inputs, _, sizes = taken(data, batch_size=300, num_examples=2 * COUNT, start=100)

    assert sizes == [300, 300, 100]
    assert list(places(inputs)) == [*range(100, COUNT), *range(COUNT)]


def test_a_smaller_share_is_part_of_a_larger_one():
    quarter, half = (
        set(places(taken(ChangedData(Arrays(), DataChange(share=share)))[0]))
        for share in (0.25, 0.5)
    )

    assert (len(quarter), len(half)) == (COUNT // 4, COUNT // 2)
    assert quarter < half
    assert half != set(range(COUNT // 2))


@pytest.mark.parametrize("one_hot", [False, True])
def test_a_fifth_of_the_labels_is_another_class_and_the_same_fifth_always(one_hot):
    inputs, targets, _ = taken(ChangedData(Arrays(one_hot=one_hot), DataChange(label_noise=0.2)))
    classes = targets.argmax(axis=1) if one_hot else targets
    wrong = classes != places(inputs) % CLASSES

    assert wrong.sum() == COUNT // 5
    assert set(classes[wrong]) == set(range(CLASSES))
    again = taken(ChangedData(Arrays(one_hot=one_hot), DataChange(label_noise=0.2)), seed=2)
    order, other = np.argsort(places(inputs)), np.argsort(places(again[0]))
    np.testing.assert_array_equal(targets[order], again[1][other])


def test_noise_of_targets_that_are_no_classes_exchanges_them():
    data = Arrays(num_classes=None)
    data.targets = np.arange(COUNT, dtype=np.float32)
    inputs, targets, _ = taken(ChangedData(data, DataChange(label_noise=0.2)))

    assert (targets != places(inputs)).sum() == COUNT // 5
    assert sorted(targets) == list(range(COUNT))
    with pytest.raises(UntestableError, match="no classes"):
        ChangedData(data, DataChange(imbalance=10.0))


def test_imbalance_leaves_a_tenth_of_the_last_class_and_all_of_the_first():
    _, targets, _ = taken(ChangedData(Arrays(), DataChange(imbalance=10.0)))
    kept = np.bincount(targets)

    assert list(kept) == [round(100 * 10 ** (-rank / 3)) for rank in range(CLASSES)]


def test_raw_inputs_go_from_0_to_255_in_both_splits():
    data = ChangedData(Arrays(), DataChange(raw_inputs=True))
    inputs = taken(data)[0]
    seen = next(iter(data.evaluation("validation")))[0].numpy()

    assert (inputs.min(), inputs.max()) == (0, pytest.approx(255))
    assert seen.max() == pytest.approx(255 * 39 / 399, rel=1e-4)  # the first tenth of the examples


def test_images_are_resized_in_both_splits_and_what_is_no_image_is_refused():
    data = ChangedData(Arrays(shape=(8, 6, 1)), DataChange(image_scale=1.5))

    assert data.input_shape == (12, 9, 1)
    assert taken(data)[0].shape == (COUNT, 12, 9, 1)
    assert next(iter(data.evaluation("validation")))[0].shape == (40, 12, 9, 1)
    with pytest.raises(UntestableError, match="no images"):
        ChangedData(Arrays(), DataChange(image_scale=2.0))


def test_a_training_on_changed_data_is_that_of_a_trial():
    """A quarter of the data: an evaluation after each pass over it, a wrong label shows in loss."""

    def build(input_shape, num_classes):
        return keras.Sequential([keras.Input(input_shape), keras.layers.Dense(num_classes)])

    data = Arrays()
    data.x = np.eye(6, dtype=np.float32)[data.y]
    programs = ProgramCache(Workload(data, build))
    task = types.SimpleNamespace(
        programs=programs,
        code=types.SimpleNamespace(callbacks=None),
        signs=types.SimpleNamespace(stop_requested=lambda: False, report=lambda *_: None),
    )
    task = Hashable(task)
    found = {
        noise: train_changed(
            task,
            configuration=CONFIGURATION,
            change=DataChange(share=0.25, label_noise=noise),
            examples=300,
            seed=3,
            metric="val_loss",
        )
        for noise in (0.0, 0.75)
    }

    assert found[0.0].examples[:2] == (112.0, 224.0)  # 7 updates are the first whole pass over 100
    assert found[0.0].examples[-1] == 300.0
    assert found[0.0].values[-1] < found[0.0].values[0] < math.log(CLASSES) + 0.5
    assert found[0.75].values[-1] > found[0.0].values[-1] + 0.1
    assert not found[0.0].diverged
    often = train_changed(
        task,
        configuration=CONFIGURATION,
        change=DataChange(share=0.25),
        examples=300,
        seed=3,
        metric="val_loss",
        evaluated_every=50,
    )
    assert often.examples[:2] == (64.0, 128.0)
    assert often.values[-1] == found[0.0].values[-1]
    changed = changed_programs(task, DataChange(share=0.25, label_noise=0.0))
    assert changed.workload.data.num_examples("train") == 100


class Hashable(types.SimpleNamespace):
    """A task: `lru_cache` needs one that can be hashed."""

    __hash__ = object.__hash__

    def __init__(self, other):
        super().__init__(**vars(other))


def test_a_study_of_a_share_has_its_epochs_and_sizes_that_it_allows():
    simulated = SimulatedCourt(lambda training, x: -np.exp(-np.asarray(x) / 1e4))
    quarter = BatchSizeStudy(simulated, change=DataChange(share=0.25))

    assert make_workload().num_examples == 1024
    assert quarter.sizes == (2, 8, 32, 128)  # 128 is half of it
    assert quarter.length(32) == 5000
    (run, *_) = quarter.runs(32, 0.05)
    assert run.training.change == DataChange(share=0.25)
    assert run.training.examples == 5000
