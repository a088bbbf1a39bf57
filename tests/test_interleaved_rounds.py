"""How long rounds of steps are, by a clock that only the steps move."""

from __future__ import annotations

import pytest

from tfbatch import interleaved_rounds
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

    assert steps.paces[:4] == [(1, 2, 1)] * 4
    assert steps.paces[4:] == [(4, 30, 1)] * 20


def test_what_one_size_more_takes_is_expected_of_the_last_one(monkeypatch):
    """Three rounds of three steps of 1, 2 and 4 s with 0.5 s around, and a look of three steps.

    What came around the first size's steps was tracing, and comes once.
    """
    one, two = (
        [Paced(size, Steps(each), 1, per_step=each, around=around)]
        for size, each, around in ((8, 1.0, 9.0), (16, 2.0, 0.5))
    )
    expected = interleaved_rounds._expected_seconds([one, two], 32, 3, 0.1)

    assert expected == pytest.approx(3 * 4 + 3 * (3 * 0.5 + 3 * (1 + 2 + 4)))
    assert interleaved_rounds._expected_seconds([one], 16, 3, 0.1) == pytest.approx(
        3 * 2 + 3 * 3 * (1 + 2)
    )
