"""Optuna's estimator as an oracle: how it is told of a space, and what it leaves alone."""

import logging
import math
import warnings

import keras_tuner
import optuna
import pytest

from tfbatch.oracles import Premises, Proposal, Told, make_settings


@pytest.fixture
def hp():
    return keras_tuner.HyperParameters()


class Trials:
    """Asks the oracle, one trial at a time unless told otherwise."""

    def __init__(self, hp, *, direction="min", seed=3, initial_trials=4):
        settings = make_settings("tpe", initial_trials=initial_trials)
        self.oracle = settings.make(
            hp, direction=direction, seed=seed, total_examples=9, premises=Premises()
        )
        self.count, self.open = 0, []

    def propose(self, *, known=None, bound=math.inf):
        """The values of the next trial, which is then open; or None."""
        name = f"search-{self.count + 1:04d}"
        known = None if known is None else Proposal(known)
        proposal = self.oracle.propose(name, known=known, bound=bound)
        if proposal is None:
            return None
        self.count += 1
        self.open.append((name, proposal))
        return dict(proposal.values)

    def tell(self, score, *, tried=None):
        """Of the trial that was opened first."""
        name, proposal = self.open.pop(0)
        self.oracle.tell(name, Proposal(tried) if tried else proposal, Told(score))

    def forget(self):
        self.oracle.forget(self.open.pop(0)[0])


def distributions_of(hp):
    """How Optuna is told of each hyperparameter, and the values that their places mean."""
    coordinates = Trials(hp).oracle._coordinates
    return {one.name: (one.distribution, one._values) for one in coordinates}


def test_an_ordered_choice_is_a_place_among_ascending_numbers(hp):
    hp.Choice("batch_size", [64, 16, 32], ordered=True)
    hp.Choice("groups", [64, 16, 32], ordered=False)
    hp.Choice("kind", ["b", "a"])
    hp.Boolean("bias")
    hp.Fixed("units", 7)
    hp.Float("rate", 1e-4, 1.0, sampling="log")

    whole, category = (
        optuna.distributions.IntDistribution,
        optuna.distributions.CategoricalDistribution,
    )
    assert distributions_of(hp) == {
        "batch_size": (whole(0, 2), [16, 32, 64]),
        "groups": (category((0, 1, 2)), [64, 16, 32]),
        "kind": (category((0, 1)), ["b", "a"]),
        "bias": (category((0, 1)), [True, False]),
        "units": (category((0,)), [7]),
        "rate": (optuna.distributions.FloatDistribution(0, 1), []),
    }


def test_every_kind_of_hyperparameter_has_values_of_its_own_kind_and_range(hp):
    """At a share of 1 KerasTuner's whole numbers on a logarithmic scale are too large by one."""
    hp.Int("units", 16, 64, step=16)
    hp.Int("filters", 1, 3, sampling="log")
    hp.Float("rate", 0.0, 0.5, step=0.25)
    hp.Float("decay", 1e-3, 0.1, sampling="reverse_log")
    hp.Boolean("bias")
    hp.Fixed("kind", "relu")
    with hp.conditional_scope("bias", [True]):
        hp.Choice("scale", [0.5, 1.0])
    trials = Trials(hp)
    found = {}
    for number in range(24):
        values = trials.propose()
        assert ("scale" in values) == values["bias"]
        for name, value in values.items():
            found.setdefault(name, []).append(value)
        trials.tell(float(values["bias"] == (number % 3 == 0)))  # now one is better, now the other

    kinds = {name: {type(value) for value in values} for name, values in found.items()}
    assert kinds == {
        "units": {int},
        "filters": {int},
        "rate": {float},
        "decay": {float},
        "bias": {bool},
        "kind": {str},
        "scale": {float},
    }
    assert set(found["bias"][4:]) == {True, False}
    assert set(found["filters"]) == {1, 2, 3}
    assert set(found["rate"]) <= {0.0, 0.25, 0.5}
    assert all(1e-3 <= value <= 0.1 for value in found["decay"])
    filters = next(one for one in trials.oracle._coordinates if one.name == "filters")
    assert filters.at(1.0) == 3


def test_a_place_is_the_inverse_of_a_value(hp):
    hp.Int("units", 16, 64, step=16)
    hp.Int("filters", 8, 512, sampling="log")
    hp.Float("rate", 1e-4, 1.0, sampling="log")
    hp.Float("decay", 0.1, 0.1)
    for one in Trials(hp).oracle._coordinates:
        for share in (0.0, 0.3, 0.6, 1.0):
            value = one.at(share)
            assert one.at(one.place(value)) == pytest.approx(value)


def choices(hp, count=12):
    hp.Choice("rate", [0.01 * n for n in range(1, count + 1)], ordered=True)
    return hp


def test_open_trials_are_not_proposed_again(hp):
    trials = Trials(choices(hp))
    found = [trials.propose()["rate"] for _ in range(12)]

    assert len(set(found)) == 12
    assert trials.propose() is None, "all are open"


def test_what_was_tried_instead_is_not_proposed_again_and_what_was_not_tried_may_be(hp):
    trials = Trials(choices(hp), initial_trials=2)
    tried = [0.01 * n for n in range(1, 7)]
    for rate in tried:
        assert trials.propose() is not None
        trials.tell(rate, tried={"rate": rate})
    found = []
    while (values := trials.propose()) is not None:
        found.append(values["rate"])
        trials.tell(1.0)

    assert sorted(found) == [0.01 * n for n in range(7, 13)]


def test_a_refused_draw_repels_the_next(hp, monkeypatch):
    """The estimator alone draws its favorites again, until the rest is left to chance."""
    hp.Choice("batch_size", [2**k for k in range(3, 10)], ordered=True)
    hp.Choice("octaves", [float(k) for k in range(-3, 4)], ordered=True)
    trials = Trials(hp, initial_trials=8)
    monkeypatch.setattr(trials.oracle, "_blind", lambda number: iter(()))
    best = []
    for _ in range(25):
        values = trials.propose()
        assert values is not None, "nothing was left to chance"
        score = abs(math.log2(values["batch_size"] / 64)) + abs(values["octaves"] - 1)
        best.append(score)
        trials.tell(score)

    assert min(best) == 0.0


def test_a_choice_that_is_too_large_leaves_a_search_below_the_bound(hp):
    """Of eleven batch sizes one fits: the estimator draws others, all of which are refused."""
    hp.Choice("batch_size", [2**k for k in range(11)], ordered=True)
    hp.Float("rate", 0.1, 1.0)
    trials = Trials(hp)
    for _ in range(9):
        values = trials.propose(bound=2)
        assert values["batch_size"] == 1
        trials.tell(values["rate"])


@pytest.mark.parametrize("place", range(1, 12, 3))
def test_a_replayed_search_goes_on_identically_with_what_was_tried_instead(hp, place):
    """In the journal are the trials that were made, not the proposals."""
    hp.Float("rate", 0.01, 1.0, sampling="log")
    hp.Choice("schedule", ["linear", "wsd"])
    with hp.conditional_scope("schedule", ["wsd"]):
        hp.Float("cooldown", 0.1, 0.4)

    def session(known):
        trials, made = Trials(hp), []
        for number in range(14):
            values = trials.propose(known=known[number] if number < len(known) else None)
            if number % 5 == 3 and number >= len(known):
                values["rate"] = 0.01 / values["rate"]
            made.append(values)
            if number % 5 == 1:
                trials.forget()
            else:
                trials.tell(abs(math.log(values["rate"] / 0.1)), tried=values)
        return made

    whole = session(())
    assert session(whole[:place]) == whole


def test_a_forgotten_trial_teaches_nothing(hp):
    """Whatever its values were: left open in the study it would repel what is proposed next."""
    hp.Float("rate", 0.0, 1.0)

    def proposals(forgotten):
        trials, found = Trials(hp, initial_trials=2), []
        for number in range(8):
            values = trials.propose(known={"rate": forgotten} if number == 3 else None)
            if number == 3:
                trials.forget()
                continue
            found.append(values)
            trials.tell(abs(values["rate"] - 0.3))
        return found

    assert proposals(0.3) == proposals(0.9)


def test_optuna_says_nothing_writes_nothing_and_keeps_its_verbosity(
    hp, capfd, tmp_path, monkeypatch
):
    """It would announce each study, and warn that its arguments are experimental."""
    monkeypatch.chdir(tmp_path)
    said = []
    listener = logging.Handler()
    listener.emit = said.append
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    logging.getLogger("optuna").addHandler(listener)
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            trials = Trials(choices(hp), initial_trials=2)
            for number in range(8):
                trials.propose()
                trials.forget() if number == 3 else trials.tell(float(number))
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(before)
        logging.getLogger("optuna").removeHandler(listener)

    assert [record.getMessage() for record in said] == []
    assert [str(one.message) for one in seen] == []
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []


def test_random_numbers_of_others_are_left_alone_and_have_no_effect(hp):
    import numpy as np

    hp.Float("rate", 0.0, 1.0)

    def proposals(seed):
        np.random.seed(seed)
        trials = Trials(hp)
        found = []
        for _ in range(8):
            found.append(trials.propose())
            trials.tell(1.0)
        return found, np.random.random()

    np.random.seed(1)
    untouched = np.random.random()
    first, drawn = proposals(1)
    assert drawn == untouched
    assert proposals(2)[0] == first
