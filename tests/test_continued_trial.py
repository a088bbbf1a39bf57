"""A training in parts equals the whole, bit for bit; a state branches off by a stated rule."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, SearchError
from tfbatch.optimizers import OPTIMIZERS, build_optimizer, parameters_of, slots_of
from tfbatch.pipeline.recipe_data import PreparedData
from tfbatch.schedules import LearningRateInExamples, MomentumInExamples
from tfbatch.schema import Named
from tfbatch.training.checkpoint import state
from tfbatch.training.description import description_of
from tfbatch.training.end_state import carry_over, last_pace, read_end_state
from tfbatch.training.in_graph import LearningRateTable
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import Outcome, TrialSpec

TOTAL, EXAMPLES = 3000, 1085  # nearly three epochs
STOPS = (700, 2000)  # within the first epoch and within the second
ADAM = Named(name="adam", beta_1_half_life=400, beta_2_half_life=3000, ema_half_life_fraction=0.05)
CASES = {
    "adam, averaged weights": {"optimizer": ADAM, "base_learning_rate": 0.003},
    "nesterov, cosine": {
        "optimizer": Named(name="sgd", momentum=0.9, nesterov=True, weight_decay=0.01),
        "schedule": Named(name="cosine"),
        "warmup_fraction": 0.3,
    },
    "one_cycle, its momentum": {
        "optimizer": Named(name="sgd", momentum=0.9),
        "schedule": Named(name="one_cycle", momentum_at_peak=0.85),
    },
    "nadam": {"optimizer": Named(name="nadam"), "base_learning_rate": 0.003},
}


def network(input_shape, num_classes):
    """With statistics, and with random numbers of its own."""
    inputs = keras.Input(input_shape)
    x = keras.layers.Dense(12, use_bias=False)(keras.layers.Flatten()(inputs))
    x = keras.layers.Activation("relu")(keras.layers.BatchNormalization()(x))
    return keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Dropout(0.2)(x)))


def linear(input_shape, num_classes):
    """The least that can be trained."""
    inputs = keras.Input(input_shape)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(keras.layers.Flatten()(inputs)))


@pytest.fixture(autouse=True)
def float32():
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def workload(digits):
    crops = (Named(name="random_crop", padding=1), Named(name="cutout", size=2))
    recipe = digits.recipe.model_copy(update={"augmentation": crops})
    return Workload(PreparedData(recipe, digits.folder), network)


@pytest.fixture(scope="module")
def programs(workload):
    return ProgramCache(workload)


class Model(keras.callbacks.Callback):
    """Keeps what a trial trained, and notes its epochs."""

    def __init__(self, epochs):
        super().__init__()
        self.note = epochs.append  # as an attribute, the list itself would be carried by value

    def on_train_begin(self, logs=None):
        self.trained = self.model

    def on_epoch_end(self, epoch, logs=None):
        self.note(epoch)


def spec_of(folder, name="whole", **changes):
    given = {"batch_size": 32, "base_learning_rate": 0.05, **changes.pop("configuration", {})}
    spec = TrialSpec(
        trial=name,
        phase="search",
        seed=5,
        configuration=Configuration(**given),
        total_examples=TOTAL,
        num_examples=EXAMPLES,
        state_file=folder / f"{name}.npz",
    )
    return dataclasses.replace(spec, **changes)


def trained(programs, spec, *, epochs=None, **options):
    """What a trial came to, and its variables as the next part would find them."""
    spec.check()
    seen = Model([] if epochs is None else epochs)
    outcome = run_trial(programs, spec, user_callbacks=lambda: [seen], **options)
    assert outcome.status == "completed", outcome.message
    with np.load(spec.state_file) as archive:
        left = [archive[f"variable_{n}"] for n in range(len(state(seen.trained)))]
    return outcome, left, [v.numpy() for v in seen.trained.variables]


def parts_of(whole, folder, stops):
    """The same training in parts."""
    specs, parent = [], None
    for number, stop in enumerate([*stops, None]):
        part = dataclasses.replace(
            whole,
            trial=f"part-{number}",
            parent=parent,
            to_examples=stop,
            state_file=folder / f"part-{number}.npz",
        )
        specs.append(part)
        parent = part
    return specs


@pytest.mark.quick_cases("adam, averaged weights")
@pytest.mark.parametrize("case", CASES)
def test_three_parts_equal_the_whole_bit_for_bit(programs, workload, tmp_path, case):
    """Parts end within epochs; one may be trained by a process that has traced nothing."""
    whole = spec_of(tmp_path, configuration=CASES[case])
    expected, state_expected, model_expected = trained(programs, whole)
    parts, epochs = parts_of(whole, tmp_path, STOPS), []
    trained(programs, parts[0], epochs=epochs)
    # A new program takes as long to trace as all parts to train.
    anew = ProgramCache(workload) if case == "nesterov, cosine" else programs
    trained(anew, parts[1], epochs=epochs)
    outcome, left, model = trained(programs, parts[2], epochs=epochs)

    for got, wanted in zip([*left, *model], [*state_expected, *model_expected], strict=True):
        np.testing.assert_array_equal(got, wanted)
    evaluated = [{k: v for k, v in o.metrics.items() if "val_" in k} for o in (outcome, expected)]
    assert evaluated[0] == evaluated[1] != {}
    assert (outcome.examples, outcome.steps) == (expected.examples, expected.steps)
    assert [part.end_examples for part in parts] == [704, 2016, TOTAL]
    assert [part.steps for part in parts] == [22, 41, 31]
    assert epochs == [0, 1, 2, 3], "an epoch that a part ends in counts"
    assert parts[2].is_whole
    assert not parts[1].is_whole


@pytest.mark.slow
def test_updates_that_float16_skips_do_not_shift_the_schedule(digits, tmp_path, monkeypatch):
    """Keras does not count them: the rate follows the optimizer's count, in parts as in the whole.

    Both in a part of a training and in one that was interrupted.
    """
    init = keras.optimizers.LossScaleOptimizer.__init__
    monkeypatch.setattr(
        keras.optimizers.LossScaleOptimizer,
        "__init__",
        lambda self, inner, **given: init(self, inner, **{**given, "initial_scale": 2.0**40}),
    )
    programs = ProgramCache(Workload(digits, linear, precision="mixed_float16"))
    cosine = {"schedule": Named(name="cosine"), "optimizer": Named(name="sgd", momentum=0.9)}
    whole = spec_of(tmp_path, configuration=cosine, total_examples=2600)
    outcome, expected, _ = trained(programs, whole)
    first, second = parts_of(whole, tmp_path, (1100,))
    trained(programs, first)
    _, left, _ = trained(programs, second)
    again = dataclasses.replace(
        whole, checkpoint_file=tmp_path / "checkpoint.npz", state_file=tmp_path / "again.npz"
    )
    calls, derived = itertools.count(), whole.derived
    an_epoch = derived.steps_per_epoch // derived.steps_per_execution
    stopped = run_trial(
        programs, again, checkpoint_seconds=0, stop_requested=lambda: next(calls) >= an_epoch
    )
    assert stopped.status == "interrupted"
    assert again.checkpoint_file.exists()
    _, resumed, _ = trained(programs, again)

    counted = [int(value) for value in expected if value.ndim == 0 and value.dtype.kind == "i"]
    assert 0 < max(counted) < outcome.steps, "some were skipped, and not all"
    for got, also, wanted in zip(left, resumed, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
        np.testing.assert_array_equal(also, wanted)


def test_two_children_that_train_a_parent_again_share_no_checkpoint(digits, tmp_path, monkeypatch):
    """One would remove it under the other, or replace it between position and weights."""
    trunk = spec_of(tmp_path, "trunk", to_examples=704, checkpoint_file=tmp_path / "trunk-c.npz")
    trained_again = []

    def run(programs, spec, **_):
        trained_again.append(spec)
        return Outcome("error", {}, 0, 0, 0.0, 0.0)

    monkeypatch.setattr("tfbatch.training.trial.run_trial", run)
    programs = ProgramCache(Workload(digits, linear))
    for name in ("one", "other"):
        child = spec_of(tmp_path, name, parent=trunk, checkpoint_file=tmp_path / f"{name}-c.npz")
        assert run_trial(programs, child).status == "error"

    assert [spec.trial for spec in trained_again] == ["trunk", "trunk"]
    files = {spec.checkpoint_file for spec in trained_again}
    assert files == {tmp_path / "one-c-trunk.npz", tmp_path / "other-c-trunk.npz"}


class StopAtOnce(keras.callbacks.Callback):
    """As EarlyStopping does, which Keras asks at the end of an epoch."""

    def on_epoch_end(self, epoch, logs=None):
        self.model.stop_training = True


def test_a_part_that_a_callback_stops_is_an_error_that_says_so(digits, tmp_path):
    programs = ProgramCache(Workload(digits, linear))
    whole = dataclasses.replace(spec_of(tmp_path), state_file=None)
    first, last = parts_of(whole, tmp_path, (2500,))

    def ended(spec):
        return run_trial(programs, spec, user_callbacks=lambda: [StopAtOnce()])

    stopped = ended(first)
    assert (stopped.status, stopped.metrics, stopped.steps) == ("error", {}, 34)
    assert stopped.message.startswith("A part of a training must reach its end")
    assert "stopped it after 34 of 79 updates" in stopped.message
    assert not first.state_file.exists()
    assert ended(whole).status == "completed", "its score is that of where it ended"
    # Its parent has no state, and cannot be trained to its end again.
    child = ended(last)
    assert child.status == "error"
    assert child.message.startswith(
        "Its parent part-0 was trained again for its state, and ended as 'error': A part of"
    )


def test_what_happens_to_a_parent_that_is_trained_again_is_not_the_childs(
    digits, tmp_path, monkeypatch
):
    """A lack of memory at its batch size would otherwise bound those of the search."""
    programs = ProgramCache(Workload(digits, linear))
    trunk = spec_of(tmp_path, "trunk", to_examples=704, configuration={"batch_size": 64})
    branch = spec_of(tmp_path, "branch", parent=trunk, course_from=704)

    def begin(spec, **_):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")

    monkeypatch.setattr(programs, "begin_trial", begin)
    outcome = run_trial(programs, branch)

    assert run_trial(programs, trunk).status == "oom"
    assert outcome.status == "error"
    assert (
        "trunk was trained again for its state, and ended as 'oom': Out of mem" in outcome.message
    )


@pytest.mark.slow
def test_a_branch_that_was_interrupted_goes_on_from_its_checkpoint(programs, tmp_path):
    """Its optimizer's count of updates is neither that of its stream nor that of its schedule."""
    trunk = spec_of(tmp_path, "trunk", configuration={"optimizer": ADAM}, to_examples=700)
    cosine = {"optimizer": ADAM, "batch_size": 16, "schedule": Named(name="cosine")}
    branch = spec_of(tmp_path, "branch", configuration=cosine, parent=trunk, course_from=704)
    trained(programs, trunk)
    _, expected, _ = trained(programs, branch)
    again = dataclasses.replace(branch, checkpoint_file=tmp_path / "checkpoint.npz")
    calls, derived = itertools.count(), branch.derived
    an_epoch = derived.steps_per_epoch // derived.steps_per_execution
    stopped = run_trial(
        programs, again, checkpoint_seconds=0, stop_requested=lambda: next(calls) >= an_epoch
    )
    assert stopped.status == "interrupted"
    assert again.checkpoint_file.exists()
    trunk.state_file.unlink()  # it is not asked for it again
    outcome, left, _ = trained(programs, again)

    assert outcome.steps == trunk.steps + branch.steps > stopped.steps > derived.steps_per_epoch
    assert not trunk.state_file.exists()
    for got, wanted in zip(left, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


class Counting(keras.layers.Layer):
    """Counts its calls where Keras does not look."""

    def __init__(self):
        super().__init__(name="counting")
        self.calls = tf.Variable(0.0)

    def call(self, x):
        return x + self.calls


def test_a_state_that_keras_does_not_know_whole_is_refused(digits, tmp_path):
    def build(input_shape, num_classes):
        inputs = keras.Input(input_shape)
        x = Counting()(keras.layers.Flatten()(inputs))
        return keras.Model(inputs, keras.layers.Dense(num_classes)(x))

    with pytest.raises(SearchError, match=r"Received: counting\.calls, which TensorFlow alone"):
        run_trial(ProgramCache(Workload(digits, build)), spec_of(tmp_path))
    described = description_of(Workload(digits, build))
    assert described.whole_only == "counting.calls are variables that Keras does not know"


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["gone", "damaged", "another"])
def test_a_parent_without_its_state_is_trained_again(programs, tmp_path, damage):
    whole = spec_of(tmp_path)
    parts = parts_of(whole, tmp_path, STOPS)
    for part in parts[:2]:
        trained(programs, part)
    _, expected, _ = trained(programs, parts[2])
    parts[0].state_file.unlink()
    content = parts[1].state_file.read_bytes()
    if damage == "gone":
        parts[1].state_file.unlink()
    elif damage == "damaged":
        parts[1].state_file.write_bytes(content[:-9])
    else:
        other = dataclasses.replace(parts[0], seed=6, state_file=parts[1].state_file)
        trained(programs, other)
    _, left, _ = trained(programs, parts[2])

    for got, wanted in zip(left, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert read_end_state(parts[0]) is not None, "and its own parent too"


@pytest.mark.slow
def test_a_cool_down_is_the_tail_of_wsd(programs, tmp_path):
    """The same updates at the same rates but for the last bits of float32."""
    stable = {"schedule": Named(name="constant")}
    trunk = spec_of(tmp_path, "trunk", configuration=stable, to_examples=1600)
    cool_down = spec_of(
        tmp_path,
        "cool_down",
        configuration={"schedule": Named(name="linear")},
        total_examples=2000,
        parent=trunk,
        course_from=trunk.end_examples,
    )
    wsd = spec_of(
        tmp_path,
        "wsd",
        configuration={"schedule": Named(name="wsd", cooldown=0.2, shape="linear")},
        total_examples=2000,
    )
    trained(programs, trunk)
    outcome, left, _ = trained(programs, cool_down)
    expected, wanted, _ = trained(programs, wsd)

    assert outcome.examples == expected.examples == 2000
    assert outcome.steps == expected.steps
    for got, want in zip(left, wanted, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-5)


def test_a_branch_that_changes_nothing_is_a_continuation(programs, tmp_path):
    whole = spec_of(tmp_path, configuration=CASES["adam, averaged weights"])
    first, second = parts_of(whole, tmp_path, (700,))
    branch = dataclasses.replace(
        second, trial="branch", course_from=704, state_file=tmp_path / "branch.npz"
    )
    trained(programs, first)
    _, expected, _ = trained(programs, second)
    _, left, _ = trained(programs, branch)

    for got, wanted in zip(left, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.slow
def test_a_branch_may_have_another_batch_size(programs, tmp_path):
    """The stream goes on where it was; a branch can itself be trained in parts."""
    trunk = spec_of(tmp_path, "trunk", to_examples=700, configuration={"optimizer": ADAM})
    branch = spec_of(
        tmp_path,
        "branch",
        configuration={"optimizer": ADAM, "batch_size": 64, "schedule": Named(name="linear")},
        parent=trunk,
        course_from=trunk.end_examples,
    )
    trained(programs, trunk)
    outcome, expected, _ = trained(programs, branch)
    first = dataclasses.replace(
        branch, trial="first", to_examples=1500, state_file=tmp_path / "first.npz"
    )
    second = dataclasses.replace(
        branch, trial="second", parent=first, state_file=tmp_path / "second.npz"
    )
    trained(programs, first)
    in_parts, left, _ = trained(programs, second)

    assert (branch.steps, outcome.steps, outcome.examples) == (36, 22 + 36, TOTAL)
    assert (in_parts.steps, in_parts.examples) == (outcome.steps, outcome.examples)
    for got, wanted in zip(left, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"course_from": 704, "configuration": {"optimizer": Named(name="sgd", momentum=0.0)}},
            r"cannot begin or end at a branch\. Received: momentum=0\.0 and 0\.9",
        ),
        (
            {
                "course_from": 704,
                "configuration": {"optimizer": Named(name="sgd", ema_half_life_fraction=0.05)},
            },
            r"cannot begin or end at a branch\. Received: ema_momentum=0\.\d+ and None",
        ),
        ({"to_examples": 700}, r"must end after it begins, by one update"),
        ({"to_examples": 3001}, r"must not end after its schedule"),
        ({"seed": 6}, r"must have the seed of its parent trunk"),
        ({"configuration": {"optimizer": Named(name="adam")}}, r"must have the optimizer of its"),
        ({"course_from": 100}, r"must begin where its parent's does \(0\), or .* ended \(704\)"),
        ({"configuration": {"base_learning_rate": 0.06}}, r"only go on from trunk with what"),
        ({"configuration": {"batch_size": 64}}, r"only go on from trunk with what"),
    ],
)
def test_a_part_that_cannot_be_is_refused(tmp_path, changes, message):
    trunk = spec_of(tmp_path, "trunk", to_examples=700)
    with pytest.raises(InputError, match=message):
        spec_of(tmp_path, "child", parent=trunk, **changes).check()


def test_nothing_goes_on_after_a_short_last_batch_but_a_branch(tmp_path):
    constant = {"schedule": Named(name="constant")}
    ended = spec_of(tmp_path, "ended", configuration=constant)
    longer = spec_of(
        tmp_path, "longer", configuration=constant, parent=ended, total_examples=2 * TOTAL
    )
    with pytest.raises(InputError, match=r"last batch has 24 examples.*at to_examples=2976\."):
        longer.check()
    branch = dataclasses.replace(longer, course_from=TOTAL)
    branch.check()
    assert (branch.first_step, branch.steps, branch.end_examples) == (0, 94, 2 * TOTAL)
    stopped = dataclasses.replace(ended, to_examples=2976)
    on = dataclasses.replace(longer, parent=stopped)
    on.check()
    assert (on.first_step, on.first_step + on.steps) == (93, 188)


def test_a_longer_schedule_goes_on_where_it_is_the_same_so_far(tmp_path):
    def child(schedule):
        given = {"schedule": Named(name=schedule)}
        trunk = spec_of(tmp_path, "trunk", configuration=given, to_examples=700)
        return spec_of(
            tmp_path, "child", configuration=given, parent=trunk, total_examples=2 * TOTAL
        )

    child("constant").check()
    with pytest.raises(InputError, match="depends on its length, its total_examples"):
        child("cosine").check()


class Bowl:
    """Minimizes (w - 1)^2 / 2, or the linear function w, with an optimizer of a file."""

    def __init__(self, name, rate, *, linear=False, **numbers):
        self.w = keras.Variable(3.0)
        self.name, self.linear = name, linear
        self.optimizer = build_optimizer(name, LearningRateTable(), **numbers)
        self.optimizer._learning_rate.assign([rate])
        self.optimizer.build([self.w])
        self.numbers = numbers

    def steps(self, count):
        """Positions after each step."""
        found = []
        for _ in range(count):
            gradient = keras.ops.ones(()) if self.linear else self.w - 1.0
            self.optimizer.apply([gradient])
            found.append(float(self.w))
        return np.array(found)

    def branch(self, rate, **numbers):
        """The same state under another rate and other decays."""
        other = Bowl(self.name, rate, linear=self.linear, **{**self.numbers, **numbers})
        for own, kept in zip(other.optimizer.variables, self.optimizer.variables, strict=True):
            own.assign(kept)
        other.w.assign(self.w)
        carry_over(other.optimizer, self.name, last_pace(self.optimizer, self.name))
        return other


def test_a_velocity_keeps_the_gradient_when_the_rate_changes():
    """v / rate is what is carried: u = momentum * u + g; w -= rate * u."""
    bowl = Bowl("sgd", 0.1, momentum=0.9)
    bowl.steps(5)
    branch = bowl.branch(0.03)
    found = branch.steps(5)

    w, u, expected = 3.0, 0.0, []
    for rate in [0.1] * 5 + [0.03] * 5:
        u = 0.9 * u + (w - 1.0)
        w -= rate * u
        expected.append(w)
    np.testing.assert_allclose(found, expected[5:], rtol=1e-5)


def test_a_velocity_of_several_rates_contains_their_mean():
    """Two steps at falling rates become two steps at the branch's own."""
    bowl = Bowl("sgd", 0.0, linear=True, momentum=0.9)
    bowl.optimizer._learning_rate.assign([0.1, 0.02])
    bowl.steps(2)
    branch = bowl.branch(0.05)

    assert float(bowl.optimizer.momentums[0]) == pytest.approx(-(0.9 * 0.1 + 0.02))
    assert float(branch.optimizer.momentums[0]) == pytest.approx(-(0.9 * 0.05 + 0.05))


def test_rmsprop_contains_the_rate_in_its_momentum_alone():
    bowl = Bowl("rmsprop", 0.01, linear=True, momentum=0.9, rho=0.5)
    bowl.steps(300)
    branch = bowl.branch(0.02)
    before = float(branch.w)

    np.testing.assert_allclose(np.diff([before, *branch.steps(3)]), [-0.2] * 3, rtol=1e-4)


def test_every_slot_that_a_file_names_is_one_of_its_class():
    numbers = {"sgd": {"momentum": 0.9}, "rmsprop": {"momentum": 0.9}}
    named = {name: slots_of(name) for name in OPTIMIZERS.names() if slots_of(name)}
    for name, slots in named.items():
        optimizer = Bowl(name, 0.1, **numbers.get(name, {})).optimizer
        for attribute, slot in slots.items():
            assert [v.shape for v in getattr(optimizer, attribute)] == [()], (name, attribute)
            assert slot.decay in parameters_of(name)

    assert set(named) == {"adam", "adamw", "lamb", "lars", "nadam", "rmsprop", "sgd"}


@pytest.mark.slow
def test_a_velocity_stays_at_its_fixed_point_when_the_momentum_changes():
    """Four times the batch: a momentum of the same half-life in examples."""
    bowl = Bowl("sgd", 0.01, linear=True, momentum=0.9)
    bowl.steps(300)
    branch = bowl.branch(0.04, momentum=0.9**4)
    before = float(branch.w)

    moved = np.diff([before, *branch.steps(3)])
    np.testing.assert_allclose(moved, [-0.04 / (1 - 0.9**4)] * 3, rtol=1e-4)


def test_a_momentum_that_a_schedule_sets_is_that_of_the_moment():
    """Before, that of the next update; of the branch, that of its first one."""
    schedule = LearningRateInExamples(
        "one_cycle",
        learning_rate=0.01,
        batch_size=1,
        total_examples=40,
        parameters={"momentum_at_peak": 0.5},
    )

    def bowl():
        made = Bowl("sgd", 0.01, linear=True, momentum=0.9)
        made.optimizer.momentum = MomentumInExamples(0.9, schedule, made.optimizer)
        return made

    trunk, branch = bowl(), bowl()
    trunk.steps(9)
    before = last_pace(trunk.optimizer, "sgd")
    for own, kept in zip(branch.optimizer.variables, trunk.optimizer.variables, strict=True):
        own.assign(kept)
    carry_over(branch.optimizer, "sgd", before)

    now, first = float(schedule.momentum(9)), float(schedule.momentum(0))
    assert 0.5 < now < 0.7 < first
    assert before.numbers == {"momentum": now}
    velocities = [float(b.optimizer.momentums[0]) for b in (branch, trunk)]
    assert velocities[0] == pytest.approx(velocities[1] * (1 - now) / (1 - first))


@pytest.mark.parametrize("made", [3, 40])
def test_corrected_averages_keep_what_they_say_of_the_gradient(made):
    """Under a constant gradient Adam's step is the rate, however few updates were made."""
    bowl = Bowl("adam", 0.01, linear=True, beta_1=0.9, beta_2=0.99)
    bowl.steps(made)
    branch = bowl.branch(0.02, beta_1=0.9**4, beta_2=0.99**4)
    before = float(branch.w)

    assert int(branch.optimizer.iterations) == max(round(made / 4), 1)
    moved = np.diff([before, *branch.steps(4)])
    np.testing.assert_allclose(moved, [-0.02] * 4, rtol=1e-4)


def test_a_state_whose_numbers_stay_is_carried_as_it_is():
    bowl = Bowl("adam", 0.01, beta_1=0.9, beta_2=0.99)
    bowl.steps(7)
    branch = bowl.branch(0.5)

    for own, kept in zip(branch.optimizer.variables, bowl.optimizer.variables, strict=True):
        np.testing.assert_array_equal(own.numpy(), kept.numpy())
