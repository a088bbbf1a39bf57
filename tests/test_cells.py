"""A space as cells: whatever form the rate has, its values mean the cell that they were made of."""

import keras_tuner
import pytest

from tfbatch.oracles import Premises, Setting
from tfbatch.oracles._cells import Cell, Cells
from tfbatch.schema import Named


def space(sizes=(16, 32, 64), base=None, octaves=None, schedules=("linear", "wsd")):
    hp = keras_tuner.HyperParameters()
    if len(sizes) > 1:
        hp.Choice("batch_size", list(sizes), ordered=True)
    for name, searched in (("base_learning_rate", base), ("learning_rate_octaves", octaves)):
        if isinstance(searched, tuple):
            sampling = "log" if name.startswith("base") else "linear"
            hp.Float(name, *searched, sampling=sampling)
        elif searched:
            hp.Choice(name, searched, ordered=True)
    if len(schedules) > 1:
        hp.Choice("schedule", list(schedules))
        with hp.conditional_scope("schedule", ["wsd"]):
            hp.Float("schedule_wsd_cooldown", 0.1, 0.3)
    return hp


def premises(*, base=0.01, batch_size=32, rate=0.04):
    def setting(values):
        size = values.get("batch_size", 16)
        learning_rate = values.get("base_learning_rate", base) * size / 32
        learning_rate *= 2 ** values.get("learning_rate_octaves", 0.0)
        return Setting(size, learning_rate, Named(name=values.get("schedule", "wsd")))

    return Premises(baseline=Setting(batch_size, rate, Named(name="constant")), setting=setting)


FORMS = {
    "a range of bases": {"base": (0.001, 1.0)},
    "a range of octaves": {"octaves": (-2.0, 2.5)},
    "two ranges": {"base": (0.01, 0.1), "octaves": (-1.0, 1.0)},
    "a list of octaves": {"octaves": [-3.0, -2.0, -1.0, 0.0, 1.0]},
    "two lists": {"base": [0.01, 0.02, 0.08], "octaves": [-1.0, 0.0, 1.0]},
    "a range and a list": {"base": (0.01, 0.1), "octaves": [-1.0, 0.0, 1.0]},
    "a list and a range": {"base": [0.01, 0.1], "octaves": (-2.0, 2.0)},
    "one rate": {},
}


@pytest.mark.parametrize("form", FORMS)
def test_values_mean_the_cell_that_they_were_made_of(form):
    cells = Cells(space(**FORMS[form]), premises())
    rates = cells.rates(step=0.5)

    assert len(set(rates)) == len(rates) == (1 if form == "one rate" else len(rates))
    for rate in rates:
        values = cells.values(Cell(64, rate), "wsd")
        assert cells.cell(values) == Cell(64, rate)
        assert values["schedule_wsd_cooldown"] == pytest.approx(0.2)
        assert "schedule_wsd_cooldown" not in cells.values(Cell(64, rate), "linear")


@pytest.mark.parametrize("form", ["two lists", "a list of octaves"])
def test_values_of_a_list_are_its_own_to_the_last_bit(form):
    """Another oracle looks them up there; 2 ** log2(0.02) is not 0.02."""
    cells = Cells(space(**FORMS[form]), premises())
    for rate in cells.rates(step=1.0):
        values = cells.values(Cell(64, rate), "linear")
        for name, key in (("base_learning_rate", "base"), ("learning_rate_octaves", "octaves")):
            assert name not in values or values[name] in FORMS[form][key]


def test_the_search_begins_at_the_rate_of_the_baseline():
    cells = Cells(space(octaves=[-3.0, -2.0, -1.0, 0.0, 1.0, 2.0]), premises())
    assert (cells.reference, cells.start) == (32, 2.0)
    other = Cells(space(base=(0.01, 1.0)), premises(batch_size=128, rate=0.16))
    assert other.reference == 64
    assert other.setting(Cell(128, other.start)).learning_rate == pytest.approx(0.16)
    assert other.rule_exponent() == pytest.approx(1.0)


def test_a_rate_outside_of_the_space_is_the_nearest_one():
    cells = Cells(space(octaves=(-1.0, 1.0)), premises(rate=1e-4))
    assert cells.start == -1.0
    assert cells.rates(step=1.0) == (-1.0, 0.0, 1.0)


def test_one_batch_size_and_one_schedule_are_known_from_what_values_mean():
    cells = Cells(space(sizes=(16,), octaves=[0.0, 1.0], schedules=("wsd",)), premises())
    assert (cells.sizes, cells.schedules) == ((16,), ("wsd",))
    assert cells.values(Cell(16, 1.0)) == {"learning_rate_octaves": 1.0}
