"""Seconds of one step: every batch size in turn, and nothing left behind."""

from __future__ import annotations

import statistics

import keras
import pytest
import tiny_model
from contexts import context_of

from tfbatch import interleaved_rounds
from tfbatch.answer.step_seconds import read_step_seconds
from tfbatch.callbacks import training_clock
from tfbatch.configuration import Configuration
from tfbatch.errors import StoppedError
from tfbatch.run_folder.files import STEP_TIMES
from tfbatch.schema import Named
from tfbatch.training import step_times
from tfbatch.training.program_cache import ProgramCache
from tfbatch.training.step_times import StepTime, measure_step_times
from tfbatch.training.trial import run_trial
from tfbatch.training.workload import Workload
from tfbatch.trial.outcome import TrialSpec

CONFIGURATIONS = [
    Configuration(
        batch_size=batch_size,
        base_learning_rate=0.02,
        warmup_fraction=0.1,
        schedule=Named(name="cosine"),
        optimizer=Named(name="sgd", momentum=momentum),
    )
    for batch_size, momentum in ((16, 0.9), (300, 0.8), (64, 0.5))
]


@pytest.fixture(scope="module")
def workload(digits):
    return Workload(digits, tiny_model.build)


class Begun(ProgramCache):
    """Notes which batch size begins."""

    def __init__(self, workload):
        super().__init__(workload)
        self.sizes: list[int] = []

    def begin(self, configuration, **options):
        self.sizes.append(configuration.batch_size)
        return super().begin(configuration, **options)


@pytest.fixture(scope="module")
def measured(workload):
    programs = Begun(workload)
    signs: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interleaved_rounds, "_ROUND_SECONDS", 0.02)
        times = measure_step_times(
            programs,
            CONFIGURATIONS,
            heartbeat=lambda: signs.append(len(programs.sizes)),
            rounds=3,
        )
    return programs, times.times, signs


def test_each_configuration_is_measured_in_every_round(measured):
    _, times, _ = measured

    assert [time.batch_size for time in times] == [16, 300, 64]
    for time in times:
        assert len(time.rounds) == 3
        assert min(time.rounds) > 0
        assert time.seconds == statistics.median(time.rounds)


def test_rounds_are_interleaved_with_signs_of_life(measured):
    programs, _, signs = measured

    assert programs.sizes == [16, 300, 64] * 4  # once to trace and to see how long it takes
    assert signs == list(range(12))
    assert programs.traced == 1


def test_a_trial_after_it_is_as_without_it(workload, measured):
    spec = TrialSpec("search-0001", "search", 11, CONFIGURATIONS[0], 1500, 1085)
    after = run_trial(measured[0], spec)

    assert after.status == "completed"
    assert after.metrics == run_trial(ProgramCache(workload), spec).metrics


def test_measuring_does_not_depend_on_the_clock_being_fine(workload, monkeypatch):
    """Very slow steps are still executed twice in a round, very quick ones at most 200 times."""
    executed: list[int] = []

    def seconds(programs, configuration, *, executions, **_):
        executed.append(executions)
        return {16: 1e-9, 300: 100.0}[configuration.batch_size]

    monkeypatch.setattr(step_times, "time_training", seconds)
    measure_step_times(ProgramCache(workload), CONFIGURATIONS[:2], heartbeat=lambda: None, rounds=1)

    assert executed == [2, 2, 200, 2]


def test_only_measured_steps_count(workload, monkeypatch):
    """Exactly the steps that were asked for, warm-up included, are executed."""
    seen: list[int] = []
    fit = keras.Model.fit

    def noted(model, *arguments, **options):
        history = fit(model, *arguments, **options)
        seen.append(int(model.optimizer.iterations))
        return history

    monkeypatch.setattr(keras.Model, "fit", noted)
    step_times.time_training(
        ProgramCache(workload), CONFIGURATIONS[2], executions=3, warmup=4, at_once=6
    )

    assert seen == [7 * 6]


def test_executions_that_warm_up_are_no_part_of_a_steps_seconds(workload, monkeypatch):
    """Two of 10 s, then 1, 2 and 3 s for four steps each: half a second a step."""
    now = [0.0]

    def fit(model, *arguments, callbacks, **options):
        for callback in callbacks:
            callback.set_model(model)
            callback.on_train_begin()
            callback.on_epoch_begin(0)
        for number, taken in enumerate((10, 10, 1, 2, 3), start=1):
            now[0] += taken
            for callback in callbacks:
                callback.on_train_batch_end(4 * number - 1)

    monkeypatch.setattr(training_clock.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(keras.Model, "fit", fit)
    seconds = step_times.time_training(
        ProgramCache(workload), CONFIGURATIONS[2], executions=3, warmup=2, at_once=4
    )

    assert seconds == pytest.approx(0.5)


def test_the_median_of_the_rounds_is_a_steps_time():
    """A round beside something else that takes the machine does not count."""
    paced = interleaved_rounds.Paced(8, lambda **_: 0.0, 1, 1.0, 0.0, rounds=[2.0, 90.0, 1.0])

    assert step_times.step_time_of(paced) == StepTime(8, 2.0, (2.0, 90.0, 1.0))


def test_a_cached_stream_is_one_batch_again_and_again(workload):
    programs = ProgramCache(workload)
    fresh, cached = (
        [batch[1].numpy().tolist() for batch in step_times.stream(programs, 16, 3, cached=kept)]
        for kept in (False, True)
    )

    assert cached == [fresh[0]] * 3
    assert len(fresh) == 3
    assert fresh[1] != fresh[0]


def fake_steps(monkeypatch, per_example):
    """Stands in for training: a step takes its examples' time by a clock that stands still."""
    visits: list[tuple[int, dict[str, int]]] = []
    now = [0.0]

    def seconds(programs, configuration, **pace):
        visits.append((configuration.batch_size, pace))
        taken: float = per_example * configuration.batch_size
        now[0] += taken * pace["at_once"] * (pace["executions"] + pace["warmup"])
        return taken

    monkeypatch.setattr(step_times, "time_training", seconds)
    monkeypatch.setattr(interleaved_rounds.time, "perf_counter", lambda: now[0])
    return visits


ASCENDING = [CONFIGURATIONS[0], CONFIGURATIONS[2], CONFIGURATIONS[1]]


def test_slow_steps_are_executed_one_by_one_with_one_to_warm_up(workload, monkeypatch):
    """Else a round of large batches would take minutes: six executions of up to 2,048 examples."""
    visits = fake_steps(monkeypatch, 1.0)
    measure_step_times(ProgramCache(workload), ASCENDING, heartbeat=lambda: None)

    assert all(pace == {"executions": 2, "warmup": 1, "at_once": 1} for _, pace in visits)


def test_quick_steps_are_executed_as_many_at_once_as_in_training(workload, monkeypatch):
    visits = fake_steps(monkeypatch, 1e-7)
    measure_step_times(ProgramCache(workload), CONFIGURATIONS[:1], heartbeat=lambda: None)

    at_once = workload.derive(CONFIGURATIONS[0], 1085).steps_per_execution
    assert at_once > 1
    assert [pace["at_once"] for _, pace in visits] == [1] + [at_once] * step_times.ROUNDS


@pytest.mark.parametrize(
    ("seconds", "sizes", "rounds"),
    [(1e9, [16, 64, 300], 5), (2000.0, [16, 64], 5), (10.0, [16], 3)],
    ids=["all", "the largest does not fit", "less than one fits"],
)
def test_sizes_whose_steps_alone_pass_the_time_are_left_out_from_the_largest_down(
    seconds, sizes, rounds, workload, monkeypatch
):
    """16 s, 64 s and 300 s a step; a round has three steps of each."""
    fake_steps(monkeypatch, 1.0)
    times = measure_step_times(
        ProgramCache(workload), ASCENDING, heartbeat=lambda: None, seconds=seconds
    )

    assert [time.batch_size for time in times.times] == sizes
    assert [*sizes, *times.left_out] == [16, 64, 300]
    assert {len(time.rounds) for time in times.times} == {rounds}


def test_what_is_measured_is_on_disk_before_the_next_measurement(workload, tmp_path, monkeypatch):
    """A stop in the middle of the second round keeps the first one whole."""
    monkeypatch.setattr(interleaved_rounds, "_ROUND_SECONDS", 0.02)
    file = tmp_path / STEP_TIMES
    file.write_text('{"device": "CPU, 1 thread", "seconds": {"8": [1.0]}}')
    kept = step_times.StepTimesFile(file, "CPU, 1 thread")
    beats: list[int] = []

    def heartbeat():
        beats.append(1)
        if len(beats) == 6:  # two visits and three measurements are over
            raise StoppedError("stop")

    with pytest.raises(StoppedError):
        measure_step_times(
            ProgramCache(workload), CONFIGURATIONS[:2], heartbeat=heartbeat, measured=kept.keep
        )
    found = read_step_seconds(tmp_path)

    assert {size: len(times) for size, times in found.rounds.items()} == {8: 1, 16: 2, 300: 1}
    assert found.median(300) is not None


def test_times_of_another_device_are_dropped(tmp_path):
    file = tmp_path / STEP_TIMES
    file.write_text('{"device": "NVIDIA H100", "seconds": {"8": [1.0]}}')
    step_times.StepTimesFile(file, "CPU, 1 thread").keep(16, [2.0, 3.0, 4.0])
    found = read_step_seconds(tmp_path)

    assert (found.device, dict(found.rounds)) == ("CPU, 1 thread", {16: (2.0, 3.0, 4.0)})
    assert found.validation is None


def test_a_trial_is_predicted_from_its_first_steps(workload, monkeypatch):
    """Three steps and a round are timed, by a clock that says 10 ms a step."""
    monkeypatch.setattr(step_times, "time_training", lambda *_, **__: 0.01)
    configuration = CONFIGURATIONS[0]
    derived = workload.derive(configuration, 2170)
    seconds = step_times.expected_trial_seconds(
        context_of(ProgramCache(workload)),
        configuration,
        total_examples=2170,
        validation_seconds=0.5,
    )

    assert (derived.steps, derived.epochs) == (136, 2)
    assert seconds == pytest.approx(136 * 0.01 + 2 * 0.5)
