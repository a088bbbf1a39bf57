"""What every oracle of tfbatch/oracles must do, and what some of them do beside it."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from typing import Any

import keras_tuner
import numpy as np
import pytest
from search_fixtures import loss_of, make_space

from tfbatch import oracles
from tfbatch.errors import ConfigurationError, InputError
from tfbatch.oracles import ORACLES, Premises, Prices, Proposal, Told, make_settings
from tfbatch.oracles._bayesian import SpreadBayesianOracle

WHOLE = [name for name in ORACLES.names() if not ORACLES.load(name).Settings.in_parts]
"""Those that propose whole trainings alone; test_trunks.py and test_hyperband.py have others."""
EACH = pytest.mark.parametrize("name", WHOLE)
MODELS = ("bayesian", "tpe")
"""Those that learn from the scores."""
ONE_NUMBER: dict[str, Any] = {
    "batch_size": [32],
    "warmup_fraction": 0.0,
    "schedules": [{"name": "constant"}],
}
SMALL = ONE_NUMBER | {"base_learning_rate": [0.01 * n for n in range(1, 13)]}
FEW: dict[str, int] = {"initial_trials": 4, "values_of_range": 12}


class Asked:
    """An oracle as the search uses it: one trial at a time unless told otherwise."""

    def __init__(self, name, space, *, seed=5, direction="min", **parameters):
        known = ORACLES.load(name).Settings.model_fields
        written = {key: value for key, value in (FEW | parameters).items() if key in known}
        settings = make_settings(name, **written)
        self.oracle = settings.make(
            space.hyperparameters(),
            direction=direction,
            seed=seed,
            total_examples=1000,
            premises=Premises(),
        )
        self.open: dict[str, Proposal] = {}
        self.count = 0

    def propose(self, *, known=None, bound=math.inf):
        """The values, or None; the trial is open until `tell` or `forget`."""
        self.count += 1
        trial = f"search-{self.count:04d}"
        known = None if known is None else Proposal(known)
        proposal = self.oracle.propose(trial, known=known, bound=bound)
        if proposal is None:
            return None
        self.open[trial] = proposal
        return dict(proposal.values)

    def tell(self, score, *, tried=None):
        """Of the trial that was opened first."""
        trial = next(iter(self.open))
        proposal = self.open.pop(trial)
        self.oracle.tell(trial, Proposal(tried) if tried else proposal, Told(score))

    def forget(self):
        """The same."""
        trial = next(iter(self.open))
        del self.open[trial]
        self.oracle.forget(trial)


def proposals(asked, space, count, *, bound=math.inf):
    """What an oracle asks for when it is told a closed-form loss."""
    found = []
    for _ in range(count):
        values = asked.propose(bound=bound)
        assert values is not None
        found.append(values)
        asked.tell(loss_of(space.configuration(values)))
    return found


@pytest.mark.quick_cases("grid", "random", "sobol")
@EACH
def test_proposals_lie_in_the_space_and_are_plain_python(name):
    space = make_space()

    for values in proposals(Asked(name, space), space, 5):
        assert space.values(space.configuration(values)) == values
        assert {type(value) for value in values.values()} <= {int, float, str}
        assert values["batch_size"] in (16, 32, 64)
        assert 0.001 <= values["base_learning_rate"] <= 1.0
        assert ("schedule_wsd_cooldown" in values) == (values["schedule"] == "wsd")


@pytest.mark.quick_cases("grid", "random", "sobol")
@EACH
def test_the_same_seed_and_scores_give_the_same_proposals(name):
    space = make_space(**ONE_NUMBER | {"batch_size": [16, 32, 64]})
    first = proposals(Asked(name, space, seed=5), space, 6)

    assert proposals(Asked(name, space, seed=5), space, 6) == first
    assert proposals(Asked(name, space, seed=6), space, 4) != first[:4]


@pytest.mark.quick_cases("grid", "random", "sobol")
@EACH
def test_no_proposal_is_repeated(name):
    """KerasTuner's Gaussian process alone would: its favorite is not one that it has not seen."""
    space = make_space(**ONE_NUMBER | {"base_learning_rate": [0.01 * n for n in range(1, 13)]})
    found = proposals(Asked(name, space), space, 9)

    assert len({str(sorted(values.items())) for values in found}) == 9


@EACH
def test_an_exhausted_space_is_told_apart_from_a_proposal(name):
    space = make_space(**ONE_NUMBER | {"base_learning_rate": [0.01, 0.1], "batch_size": [16, 32]})
    asked = Asked(name, space)
    found = proposals(asked, space, 4)

    assert sorted((v["batch_size"], v["base_learning_rate"]) for v in found) == [
        (16, 0.01),
        (16, 0.1),
        (32, 0.01),
        (32, 0.1),
    ]
    assert asked.propose() is None


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("name", ["random", "bayesian"])
def test_the_last_of_many_configurations_is_found(name, seed):
    """Drawn blindly: KerasTuner gives up after 20 draws of what was tried."""
    rates = [0.001 * 2.0**k for k in range(8)]
    sizes = [8, 16, 32, 64, 128]
    space = make_space(**ONE_NUMBER | {"base_learning_rate": rates, "batch_size": sizes})
    asked = Asked(name, space, seed=seed, initial_trials=41)
    found = proposals(asked, space, 40)

    pairs = {(values["batch_size"], values["base_learning_rate"]) for values in found}
    assert pairs == set(itertools.product(sizes, rates))
    assert asked.propose() is None


def test_a_whole_number_at_the_end_of_its_range_stays_in_it():
    """Where the optimizer over the Gaussian process ends at its bound, which is exactly 1."""
    hp = keras_tuner.HyperParameters()
    hp.Int("units", 8, 256, sampling="log")
    hp.Fixed("kind", "mlp")
    hp.Int("filters", 1, 64, sampling="reverse_log")
    hp.Int("layers", 1, 3)
    hp.Float("rate", 0.001, 0.1, sampling="log")
    oracle = SpreadBayesianOracle(
        objective=keras_tuner.Objective("score", "min"),
        hyperparameters=hp,
        num_initial_points=2,
        seed=1,
    )
    ends = {"units": (8, 256), "filters": (1, 64), "layers": (1, 3), "rate": (0.001, 0.1)}

    for end, share in enumerate((np.zeros(4), np.ones(4))):
        values = oracle._vector_to_values(share)
        assert values.pop("kind") == "mlp"
        assert values == {name: pytest.approx(both[end]) for name, both in ends.items()}
    between = np.full(4, 0.7)
    plain = keras_tuner.oracles.BayesianOptimizationOracle._vector_to_values(oracle, between)
    assert oracle._vector_to_values(between) == plain


@EACH
def test_fewer_configurations_than_initial_trials_are_each_asked_once(name):
    space = make_space(**ONE_NUMBER | {"base_learning_rate": 0.1, "batch_size": [16, 32, 64]})
    asked = Asked(name, space, initial_trials=8)

    assert sorted(v["batch_size"] for v in proposals(asked, space, 3)) == [16, 32, 64]
    assert asked.propose() is None


@EACH
def test_a_space_of_one_configuration_is_asked_once(name):
    space = make_space(**ONE_NUMBER | {"base_learning_rate": 0.1})
    asked = Asked(name, space, initial_trials=1)

    assert asked.propose() == {}, "the one configuration, which has no values"
    asked.tell(1.0)
    assert asked.propose() is None


@EACH
def test_a_listed_switch_of_one_value_leaves_one_configuration(name):
    sgd = {"name": "sgd", "momentum": 0.9, "nesterov": [True]}
    space = make_space(**ONE_NUMBER | {"base_learning_rate": 0.1, "optimizer": sgd})
    asked = Asked(name, space, initial_trials=1)
    values = asked.propose()

    assert values is not None
    assert space.configuration(values).optimizer.arguments["nesterov"] is True
    asked.tell(1.0)
    assert asked.propose() is None


@EACH
def test_true_and_false_are_both_asked_for(name):
    sgd = {"name": "sgd", "momentum": 0.9, "nesterov": [True, False]}
    space = make_space(**ONE_NUMBER | {"base_learning_rate": 0.1, "optimizer": sgd})
    asked = Asked(name, space, initial_trials=2)
    found = [values["optimizer_nesterov"] for values in proposals(asked, space, 2)]

    assert {type(value) for value in found} == {bool}
    assert set(found) == {True, False}
    assert asked.propose() is None


@pytest.mark.quick_cases("grid", "random", "sobol")
@EACH
def test_many_equally_bad_scores_do_not_end_a_search(name):
    """Three failed trials in a row end a search of KerasTuner's own loop."""
    space = make_space(**ONE_NUMBER)
    asked = Asked(name, space)

    for _ in range(10):
        values = asked.propose()
        assert values is not None
        asked.tell(2.3)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("direction", ["min", "max"])
def test_an_oracle_with_a_model_moves_towards_the_better_scores(name, direction):
    space = make_space(**ONE_NUMBER)
    asked = Asked(name, space, direction=direction, initial_trials=6)
    sign = 1.0 if direction == "min" else -1.0
    distances = []
    for _ in range(12):
        values = asked.propose()
        assert values is not None
        distance = abs(math.log10(values["base_learning_rate"] / 0.1))
        distances.append(distance)
        asked.tell(sign * distance)

    assert sum(distance < 0.15 for distance in distances[6:]) >= 2


def grid(*, seed=5, **space):
    """Everything that a grid of four values of a range asks for."""
    made = make_space(**space)
    asked = Asked("grid", made, seed=seed, values_of_range=4)
    found = proposals(asked, made, asked.oracle.size)
    assert asked.propose() is None
    return found


def test_a_grid_is_every_combination_once():
    """3 batch sizes, 4 rates, 2 warm-ups, and linear or one of three wsd."""
    found = grid()
    rates = sorted({values["base_learning_rate"] for values in found})

    assert len(found) == len({str(sorted(v.items())) for v in found}) == 3 * 4 * 2 * (1 + 3)
    assert rates == pytest.approx([0.001, 0.01, 0.1, 1.0])
    assert (rates[0], rates[-1]) == (0.001, 1.0), "both ends, exactly"
    assert all(("schedule_wsd_cooldown" in v) == (v["schedule"] == "wsd") for v in found)


def test_every_beginning_of_a_grid_has_all_batch_sizes_alike():
    found = grid()
    for end in range(0, len(found), 3):
        assert sorted(v["batch_size"] for v in found[end : end + 3]) == [16, 32, 64]
        rest = [{k: v for k, v in p.items() if k != "batch_size"} for p in found[end : end + 3]]
        assert rest[0] == rest[1] == rest[2]
    rates = [v["base_learning_rate"] for v in found[::3]]
    assert rates != sorted(rates), "the rest is drawn"


def test_a_grid_does_not_depend_on_what_its_trials_came_to():
    """Asked again from the journal it continues: KerasTuner's own begins anew (issue 1055)."""
    space = make_space()
    first, again = (Asked("grid", space, values_of_range=4) for _ in range(2))
    whole = [first.propose() for _ in range(8)]  # none of them ended

    continued = []
    for number in range(8):
        continued.append(again.propose())
        again.tell(float(number)) if number % 2 else again.forget()
    assert continued == whole


def test_a_grid_that_nobody_would_wait_for_is_refused():
    rates = {"base_learning_rate": [0.001 * n for n in range(1, 2002)]}
    with pytest.raises(InputError, match=r"at most 10,000 configurations\. .*values_of_range"):
        grid(**ONE_NUMBER | rates | {"batch_size": [8, 16, 32, 64, 128]})


def test_only_a_grid_knows_its_size():
    space = make_space()
    known = {name for name in WHOLE if Asked(name, space).oracle.size is not None}
    assert known == {"grid"}


@pytest.mark.slow
def test_the_bayesian_oracle_stays_away_from_what_diverged():
    space = make_space(**ONE_NUMBER)
    asked = Asked("bayesian", space, initial_trials=8)
    rates = []
    for _ in range(16):
        values = asked.propose()
        assert values is not None
        rates.append(values["base_learning_rate"])
        asked.tell(2.3 if rates[-1] > 0.1 else 1.0 - 0.1 * math.log10(rates[-1] / 0.001))

    assert sum(rate > 0.1 for rate in rates[:8]) >= 1
    assert sum(rate > 0.2 for rate in rates[8:]) <= 1


@pytest.mark.parametrize("name", MODELS)
def test_what_was_tried_instead_is_what_is_learned_from(name):
    """The mirrored values are tried, and 0.9 is best: its own proposals would point to 0.0011."""
    space = make_space(**ONE_NUMBER)
    asked = Asked(name, space, initial_trials=16)
    for _ in range(16):
        values = asked.propose()
        assert values is not None
        rate = 0.001 / values["base_learning_rate"]
        asked.tell(abs(math.log10(rate / 0.9)), tried={"base_learning_rate": rate})

    values = asked.propose()
    assert values is not None
    assert values["base_learning_rate"] > 0.3


@EACH
def test_what_was_tried_instead_may_be_of_another_schedule(name):
    """Then other hyperparameters are active than those that were proposed."""
    space = make_space()
    asked = Asked(name, space, initial_trials=2)
    plain = {"batch_size": 16, "base_learning_rate": 0.1, "warmup_fraction": 0.0}
    for schedule in ({"schedule": "linear"}, {"schedule": "wsd", "schedule_wsd_cooldown": 0.1}):
        assert asked.propose() is not None
        asked.tell(1.0, tried={**plain, **schedule})
    for values in proposals(asked, space, 1):
        assert space.values(space.configuration(values)) == values


@EACH
def test_an_oracle_writes_no_files(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = make_space()
    proposals(Asked(name, space), space, 3)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.quick_cases("grid", "random", "sobol")
@EACH
def test_no_batch_size_from_the_bound_on_is_proposed_and_all_below_are(name):
    """In a continuous space; the bound moves in both directions, as from one device to another."""
    space = make_space(**ONE_NUMBER | {"batch_size": [8, 16, 32, 64, 128]})
    asked = Asked(name, space, initial_trials=24)
    sizes = [[v["batch_size"] for v in proposals(asked, space, 8, bound=b)] for b in (64, 17)]

    assert set(sizes[0]) == {8, 16, 32}
    assert set(sizes[1]) == {8, 16}
    assert max(v["batch_size"] for v in proposals(asked, space, 8)) >= 64, "the bound is gone"


@EACH
def test_what_is_left_below_the_bound_is_asked_once_each(name):
    space = make_space(**SMALL | {"batch_size": [8, 16, 32], "base_learning_rate": [0.01, 0.1]})
    asked = Asked(name, space)
    found = proposals(asked, space, 4, bound=32)

    pairs = [(values["batch_size"], values["base_learning_rate"]) for values in found]
    assert sorted(pairs) == list(itertools.product([8, 16], [0.01, 0.1]))


@pytest.mark.quick_cases("grid", "random", "sobol")
@EACH
def test_a_search_replayed_from_its_journal_goes_on_as_if_it_had_not_been_stopped(name):
    """Trials end by a score, teach nothing, and meet a bound from the fourth on."""
    space = make_space(**ONE_NUMBER | {"batch_size": [16, 32, 64, 128]})

    def end(asked, values):
        if values["batch_size"] == 16:
            asked.forget()
        else:
            asked.tell(loss_of(space.configuration(values)))

    def bound(number):
        return math.inf if number < 4 else 64

    whole, asked = [], Asked(name, space)
    for number in range(7):
        whole.append(asked.propose(bound=bound(number)))
        end(asked, whole[-1])

    again = Asked(name, space)
    for number in range(5):
        assert again.propose(known=whole[number], bound=bound(number)) == whole[number]
        end(again, whole[number])
    for number in range(5, 7):
        assert again.propose(bound=bound(number)) == whole[number]
        end(again, whole[number])


@pytest.mark.quick_cases("bayesian", "grid", "random", "sobol")
@EACH
def test_a_search_of_two_workers_replayed_goes_on_as_if_it_had_not_been_stopped(name):
    """Each proposal from the second on is made while another trial runs."""
    space = make_space(**ONE_NUMBER | {"batch_size": [16, 32, 64, 128]})

    def session(known):
        asked, found = Asked(name, space), []
        for number in range(7):
            found.append(asked.propose(known=known[number] if number < len(known) else None))
            if number:
                ended = next(iter(asked.open.values()))
                asked.tell(100 * loss_of(space.configuration(dict(ended.values))))
        return found

    whole = session([])
    assert session(whole[:6]) == whole


def test_a_bound_that_was_found_beside_a_first_trial_costs_no_other_its_place():
    """The largest of the first four may be begun before another one has lacked memory."""
    space = make_space(**ONE_NUMBER | {"batch_size": [16, 32, 64, 128]})

    def session(known, bounds):
        asked, found = Asked("bayesian", space, initial_trials=8), []
        for number in range(6):
            values = known[number] if number < len(known) else None
            found.append(asked.propose(known=values, bound=bounds.get(number, math.inf)))
            asked.tell(loss_of(space.configuration(found[-1])))
        return found

    whole = session([], {})
    largest = max(range(4), key=lambda number: whole[number]["batch_size"])
    assert session(whole[:4], {largest: whole[largest]["batch_size"]}) == whole


@EACH
def test_what_an_earlier_session_ran_counts_whatever_this_version_would_propose(name):
    space = make_space(**SMALL)
    asked = Asked(name, space)
    known = [{"base_learning_rate": 0.01 * n} for n in range(1, 9)]
    for values in known:
        assert asked.propose(known=values) == values
        asked.tell(values["base_learning_rate"])
    others = proposals(asked, space, 2)

    assert all(values not in known for values in others)


@EACH
def test_a_forgotten_trial_is_not_asked_for_again_and_ends_nothing(name):
    """Three failures in a row end a search of KerasTuner's own loop."""
    space = make_space(**SMALL)
    asked = Asked(name, space)
    found = []
    for _ in range(5):
        found.append(asked.propose())
        asked.forget()

    assert None not in found
    assert len({str(values) for values in found}) == 5


@pytest.mark.quick_cases("tpe", "grid", "random", "sobol")
@EACH
def test_a_name_may_be_declared_under_two_conditions(name):
    """KerasTuner allows it; each declaration has values of its own."""
    hp = keras_tuner.HyperParameters()
    hp.Choice("kind", ["cnn", "mlp"])
    hp.Int("scale", 1, 3)
    with hp.conditional_scope("kind", ["cnn"]):
        hp.Choice("units", [16, 32])
    with hp.conditional_scope("kind", ["mlp"]):
        hp.Choice("units", [1000, 2000, 3000])
    oracle = make_settings(name, **(FEW if name in MODELS else {})).make(
        hp, direction="min", seed=1, total_examples=9
    )
    for number in range(8):
        proposal = oracle.propose(str(number), known=None, bound=math.inf)
        values = dict(proposal.values)
        assert values["units"] in ([16, 32] if values["kind"] == "cnn" else [1000, 2000, 3000])
        oracle.tell(str(number), proposal, Told(values["units"] / 1000 + values["scale"]))


def test_a_grid_of_a_builders_own_hyperparameters_has_values_of_their_kind():
    hp = keras_tuner.HyperParameters()
    hp.Int("units", 16, 64, step=16)
    hp.Int("filters", 8, 512, sampling="log")
    hp.Float("rate", 0.0, 0.5, step=0.25)
    hp.Boolean("bias")
    hp.Fixed("kind", "relu")
    oracle = make_settings("grid", values_of_range=3).make(
        hp, direction="min", seed=1, total_examples=9
    )
    values = {name: set() for name in ("units", "filters", "rate", "bias", "kind")}
    for number in range(oracle.size):
        proposal = oracle.propose(str(number), known=None, bound=math.inf)
        for name, value in proposal.values.items():
            values[name].add(value)

    assert values["units"] == {16, 48, 64}
    assert {type(value) for value in values["units"] | values["filters"]} == {int}
    assert min(values["filters"]) == 8
    assert max(values["filters"]) == 512
    assert values["rate"] == {0.0, 0.25, 0.5}
    assert values["bias"] == {True, False}
    assert values["kind"] == {"relu"}


NEW = '''"""Two rungs: each learning rate, then the best one with each batch size."""

from tfbatch.oracles import OracleSettings, Proposal


class Settings(OracleSettings):
    """Waits for the first rung before it proposes the second."""

    rates: tuple[float, ...] = (0.01, 0.1)

    def make(self, hyperparameters, *, direction, seed, total_examples, premises):
        return Rungs(self.rates, sign=1 if direction == "min" else -1)


class Rungs:
    size = None

    def __init__(self, rates, *, sign):
        self.rung = [{"batch_size": 32, "base_learning_rate": rate} for rate in rates]
        self.sign, self.open, self.scores, self.first = sign, set(), [], True

    def propose(self, trial, *, known, bound):
        if not self.rung and not self.open and self.first:
            best = min(self.scores)[1]
            self.rung = [{**best, "batch_size": size} for size in (16, 64) if size < bound]
            self.first = False
        if not self.rung and known is None:
            return None
        proposed = Proposal(self.rung.pop(0)) if self.rung else known
        self.open.add(trial)
        return known or proposed

    def tell(self, trial, proposal, told):
        self.open.remove(trial)
        self.scores.append((self.sign * told.score, dict(proposal.values)))

    def forget(self, trial):
        self.open.remove(trial)
'''


@pytest.fixture
def space():
    return make_space(**ONE_NUMBER | {"batch_size": [16, 32, 64]})


@pytest.fixture
def rungs(tmp_path, monkeypatch, space):
    """One more file in a second folder, in front of the package's own."""
    folder = tmp_path / "oracles"
    folder.mkdir()
    (folder / "rungs.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(oracles, "__path__", [str(folder), *oracles.__path__])
    monkeypatch.setattr(ORACLES, "_folder", folder)
    yield "rungs"
    sys.modules.pop("tfbatch.oracles.rungs", None)
    vars(oracles).pop("rungs", None)


def test_a_new_file_is_an_oracle_that_a_search_may_name(rungs, space):
    asked = Asked(rungs, space)
    first = [asked.propose(), asked.propose()]
    assert asked.propose() is None, "it waits for the first rung"
    asked.tell(2.0)
    asked.tell(1.0)

    assert [values["base_learning_rate"] for values in first] == [0.01, 0.1]
    assert proposals(asked, space, 2) == [
        {"batch_size": size, "base_learning_rate": 0.1} for size in (16, 64)
    ]
    with pytest.raises(ConfigurationError, match=r"rungs: rats: is not a known key\. Did you mean"):
        make_settings(rungs, rats=[0.1])


def test_settings_are_checked_without_tensorflow():
    program = (
        "import sys; from tfbatch import oracles; dir(oracles); "
        "[oracles.make_settings(name) for name in oracles.ORACLES.names()]; "
        "from tfbatch.request.search_config import load_search; load_search('joint'); "
        "sys.exit('keras_tuner' in sys.modules or 'tensorflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_unknown_oracle_is_refused_with_those_that_there_are():
    with pytest.raises(InputError, match=r"Unknown oracle `gird`\. Did you mean `grid`\?"):
        make_settings("gird")


def test_prices_are_of_updates_and_evaluations_or_else_of_examples():
    prices = Prices(
        {32: 0.25, 128: 0.5}, evaluation_seconds=3, epoch_examples=1000, start_seconds=2
    )

    assert prices.cost(32, 2100) == 2 + 66 * 0.25 + 3 * 3
    assert prices.cost(80, 160) == 2 + 2 * 0.375 + 3  # half way between the two
    assert prices.cost(256, 256) == 2 + 1.0 + 3  # twice as large as the largest: twice the time
    assert prices.cost(8, 16) == 2 + 2 * 0.25 + 3
    assert (prices.unit, Prices().unit) == ("seconds", "examples")
    assert Prices().cost(32, 2100) == 2100
