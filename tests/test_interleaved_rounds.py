"""How long rounds of steps are, by a clock that only the steps move."""

from __future__ import annotations

import pytest

from tfbatch import interleaved_rounds
from tfbatch.estimators.knee import find_knee
from tfbatch.interleaved_rounds import Paced, first_visit, measure_in_rounds


class Steps:
    """Steps that take known seconds, with a while around them."""

    def __init__(self, *per_step, around=0.0):
        self.now = 100.0
        self.paces: list[tuple[int, int, int]] = []
        self._per_step, self._around = list(per_step), around

    def __call__(self, *, executions, warmup, at_once):
        per_step = self._per_step.pop(0) if len(self._per_step) > 1 else self._per_step[0]
        self.paces.append((warmup, executions, at_once))
        self.now += self._around + (warmup + executions) * at_once * per_step
        return per_step


def clock_of(monkeypatch, *steps):
    monkeypatch.setattr(
        interleaved_rounds.time, "perf_counter", lambda: sum(one.now for one in steps)
    )


def test_a_first_visit_tells_a_step_from_what_is_around_it(monkeypatch):
    steps = Steps(0.25, around=2.0)
    clock_of(monkeypatch, steps)
    found = first_visit(8, steps, most_at_once=4)

    assert steps.paces == [(1, 2, 1)]
    assert (found.per_step, found.around) == pytest.approx((0.25, 2.0))


@pytest.mark.parametrize(
    ("per_step", "seconds", "pace"),
    [
        (0.01, 0.5, (4, 5, 10)),
        (0.001, 0.5, (4, 16, 32)),
        (0.01, 0.1, (4, 5, 2)),
        (0.3, 0.5, (2, 2, 1)),
        (9.0, 0.5, (1, 2, 1)),
        (1e-9, 0.5, (4, 200, 32)),
    ],
    ids=["a tenth at once", "the most at once", "a short round", "slow", "very slow", "very quick"],
)
def test_a_round_has_as_many_steps_as_its_seconds_ask_for(per_step, seconds, pace):
    """Warm-up, measured executions, and steps in each."""
    steps = Steps(per_step)
    paced = Paced(8, steps, most_at_once=32, per_step=per_step, around=0.25)
    paced.measure(seconds)

    assert steps.paces == [pace]
    assert paced.rounds == [per_step]
    warmup, executions, at_once = pace
    assert paced.round_seconds(seconds) == pytest.approx(
        0.25 + (warmup + executions) * at_once * per_step
    )


def test_a_round_goes_by_the_pace_of_the_last():
    steps = Steps(0.1, 0.02)
    paced = Paced(8, steps, most_at_once=1, per_step=0.05, around=0.0)
    for _ in range(3):
        paced.measure(0.5)

    assert [executions for _, executions, _ in steps.paces] == [10, 5, 25]
    assert paced.rounds == [0.1, 0.02, 0.02]


def test_rounds_are_shortened_to_half_of_the_time_for_all_of_them(monkeypatch):
    """12 s for 5 rounds of 2 sizes with 2 kinds of steps each: 0.3 s a round and kind."""
    steps = Steps(0.01)
    clock_of(monkeypatch, steps)

    def visit(index):
        return [first_visit((8, 16)[index], steps, most_at_once=1) for _ in range(2)]

    measure_in_rounds([8, 16], visit, rounds=5, heartbeat=lambda: None, seconds=12.0)

    assert steps.paces[:6] == [(1, 2, 1)] * 6, "the smallest size twice: once without tracing"
    assert steps.paces[6:] == [(4, 30, 1)] * 20


class Device:
    """Steps of a clock that only they move: traced once, compiled for each size, room for some.

    Flat up to `room` examples, then in proportion; no memory beyond `memory`, and none beyond
    `memory_at_once` for several steps in one execution.
    """

    def __init__(
        self, *, flat=0.005, room=512, compilation=0.0, memory=1 << 20, memory_at_once=1 << 20
    ):
        self.now = 0.0
        self._memory_at_once = memory_at_once
        self.compiled: list[int] = []
        self._flat, self._room, self._compilation, self._memory = flat, room, compilation, memory

    def step(self, size):
        return self._flat * max(1.0, size / self._room)

    def visit(self, sizes):
        def look(index):
            return [first_visit(sizes[index], self._steps_of(sizes[index]), most_at_once=8)]

        return look

    def _steps_of(self, size):
        def steps(*, executions, warmup, at_once):
            if size > self._memory or (at_once > 1 and size > self._memory_at_once):
                raise MemoryError("no room")
            if size not in self.compiled:
                self.compiled.append(size)
                self.now += self._compilation
            self.now += 0.01 + (warmup + executions) * at_once * self.step(size)
            return self.step(size)

        return steps

    def measured(self, sizes, monkeypatch, **options):
        monkeypatch.setattr(interleaved_rounds.time, "perf_counter", lambda: self.now)
        return measure_in_rounds(
            sizes, self.visit(sizes), rounds=5, heartbeat=lambda: None, **options
        )


SIZES = [2**k for k in range(3, 16)]  # 8 to 32,768


def knee_of(found):
    ascending = [kinds[0].batch_size for kinds in found.visited]
    rounds = list(zip(*(kinds[0].rounds for kinds in found.visited), strict=True))
    return find_knee(ascending, rounds)


@pytest.mark.parametrize("seconds", [60.0, 2.0, 1.0], ids=str)
@pytest.mark.parametrize("room", [32, 512, 8192], ids=str)
def test_the_true_knee_is_found_behind_a_flat_part_also_when_the_time_cuts(
    room, seconds, monkeypatch
):
    """Small sizes are flat and large ones linear; compiling each takes longer than all steps."""
    device = Device(flat=0.0005, room=room, compilation=60.0)
    found = device.measured(SIZES, monkeypatch, seconds=seconds)
    sizes = [kinds[0].batch_size for kinds in found.visited]
    knee = knee_of(found)

    assert (knee.batch_size, knee.edge) == (room, None)
    assert sorted([*sizes, *found.left_out]) == SIZES
    assert found.left_out or seconds > 1, "else the time cuts nothing"
    assert found.too_large == ()
    assert max(sizes) >= min(8 * room, 32768), "the upper half is there, whatever the time"


def test_a_short_time_leaves_out_inner_sizes_and_never_the_ends(monkeypatch):
    """As on a GPU that a small model fills with 4,096 examples, in a tenth of a second."""
    device = Device(flat=0.0005, room=4096, compilation=60.0)
    found = device.measured(SIZES, monkeypatch, seconds=0.1, wanted=[32])

    assert found.left_out, "else the time cuts nothing"
    assert {8, 32, 512, 32768} <= {kinds[0].batch_size for kinds in found.visited}
    assert not set(found.left_out) & {8, 32, 512, 32768}


def test_compilation_is_priced_and_counts_neither_as_steps_nor_as_time(monkeypatch):
    ways = []
    for compilation in (0.0, 1000.0):
        device = Device(compilation=compilation)
        ways.append(device.measured(SIZES, monkeypatch, seconds=30.0))
    quick, slow = ways

    def times(found):
        return [(kinds[0].batch_size, kinds[0].rounds) for kinds in found.visited]

    assert times(quick) == times(slow)
    assert [kinds[0].compilation for kinds in slow.visited] == pytest.approx([1000.0] * len(SIZES))
    assert [kinds[0].compilation for kinds in quick.visited] == pytest.approx([0.0] * len(SIZES))


@pytest.mark.parametrize("memory", [8, 100, 3000, 20_000], ids=str)
def test_a_size_without_room_in_memory_ends_the_measurement_there(memory, monkeypatch):
    device = Device(room=64, memory=memory)
    found = device.measured(SIZES, monkeypatch, seconds=600.0)
    fitting = [size for size in SIZES if size <= memory]

    assert [kinds[0].batch_size for kinds in found.visited] == fitting
    assert found.too_large == tuple(size for size in SIZES if size > memory)
    assert found.left_out == ()
    if memory > 100:
        assert knee_of(found).batch_size == 64


def test_a_size_that_runs_out_of_memory_only_in_a_round_costs_no_smaller_one(monkeypatch):
    """A first visit has one step at once, a round several: 128 and 256 fit one by one alone."""
    device = Device(memory_at_once=100, memory=300)
    dropped = []
    sizes = [8, 16, 32, 64, 128, 256, 512]
    found = device.measured(sizes, monkeypatch, refused=lambda: dropped.append(1))

    assert [kinds[0].batch_size for kinds in found.visited] == [8, 16, 32, 64]
    assert {len(kinds[0].rounds) for kinds in found.visited} == {5}
    assert found.too_large == (128, 256, 512)
    assert found.left_out == ()
    assert dropped == [1]


def test_the_smallest_size_that_runs_out_of_memory_in_a_round_is_told(monkeypatch):
    with pytest.raises(MemoryError, match="no room"):
        Device(memory_at_once=4).measured([8, 16], monkeypatch)


def test_without_room_for_the_smallest_size_the_failure_is_told(monkeypatch):
    with pytest.raises(MemoryError, match="no room"):
        Device(memory=4).measured(SIZES, monkeypatch, seconds=60.0)


def test_sizes_whose_steps_alone_pass_the_time_are_left_out_at_the_upper_end(monkeypatch):
    """Twelve steps are the least: 12 * 0.1 s * 256 / 8 are 38 s, and half of the time is 50 s."""
    device = Device(flat=0.1, room=8)
    found = device.measured([8, 16, 32, 64, 128, 256, 512], monkeypatch, seconds=100.0)

    assert max(kinds[0].batch_size for kinds in found.visited) == 256
    assert 512 in found.left_out


def test_what_one_size_more_takes_is_expected_with_its_look_and_all_rounds():
    """Three rounds of three steps of 1, 2 and 4 s with 0.5 s around, and a look of three steps."""
    one, two, three = (
        [Paced(size, Steps(each), 1, per_step=each, around=0.5)]
        for size, each in ((8, 1.0), (16, 2.0), (32, 4.0))
    )
    expected = interleaved_rounds._expected_seconds([one, two], three, 3, 0.1)

    assert expected == pytest.approx((0.5 + 3 * 4) + 3 * (3 * 0.5 + 3 * (1 + 2 + 4)))
