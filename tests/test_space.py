"""The search space: what is declared to KerasTuner, what its values mean, what is refused."""

from __future__ import annotations

import random
from typing import Any

import keras_tuner
import pytest
from schedule_parameters import numeric_parameters
from search_fixtures import BASELINE, LOSS, NUM_EXAMPLES, make_config, make_space, small_derive

from tfbatch.configuration import Configuration
from tfbatch.errors import ConfigurationError, InputError
from tfbatch.hparams_log import declared
from tfbatch.instruments.open_bench import DEFAULT_OPTIMIZER
from tfbatch.optimizers import OPTIMIZERS, parameters_of
from tfbatch.request.search_config import (
    SEARCHES,
    BatchSizeGrid,
    Range,
    SearchConfig,
    as_options,
    load_search,
)
from tfbatch.schedules import SCHEDULES, make_family
from tfbatch.schema import Named, read_yaml, write_yaml
from tfbatch.search.columns import declare_columns
from tfbatch.search.space import SearchSpace
from tfbatch.training.workload import make_optimizer
from tfbatch.trial.derived import derive


def sampled(space, count):
    """Values of the active hyperparameters, drawn at random, both ends of each among them."""
    rng = random.Random(3)
    draws = []
    for number in range(count):
        hp = space.hyperparameters()
        for parameter in hp.space:
            share = number if number < 2 else rng.random()
            hp.values[parameter.name] = parameter.prob_to_value(min(share, 1 - 1e-9))
        active = {p.name: hp.values[p.name] for p in hp.space if hp.is_active(p)}
        draws.append(active)
    return draws


@pytest.mark.parametrize("num_examples", [1085, 45_000])
@pytest.mark.parametrize("name", SEARCHES.names())
def test_values_and_configurations_are_inverse(name, num_examples):
    space = SearchSpace(load_search(name).space, num_examples=num_examples)

    for values in sampled(space, 60):
        configuration = space.configuration(values)
        assert space.values(configuration) == values
        assert space.configuration(space.values(configuration)) == configuration
        assert Configuration.from_flat(configuration.flat()) == configuration


@pytest.mark.parametrize("name", SEARCHES.names())
def test_shipped_searches_describe_themselves_and_stay_within_their_space(name):
    search = load_search(name)
    space = SearchSpace(search.space, num_examples=1085)
    schedules = {schedule.name for schedule in search.space.schedules}

    assert search.description
    for values in sampled(space, 40):
        configuration = space.configuration(values)
        assert configuration.batch_size in space.batch_sizes
        assert configuration.schedule.name in schedules
        assert configuration.base_batch_size == search.space.base_batch_size
        assert configuration.scaling_rule.name == space.scaling_rule.name
        assert configuration.optimizer.name == search.space.optimizer.name


def test_values_mean_what_the_yaml_says():
    space = make_space(
        learning_rate_octaves={"min": -1, "max": 1},
        base_batch_size=128,
        scaling_rule="square_root",
        schedules=[{"name": "linear"}, {"name": "wsd", "cooldown": [0.1, 0.2], "shape": "linear"}],
        optimizer={"name": "sgd", "momentum": {"min": 0.5, "max": 0.9}, "weight_decay": 1e-4},
    )
    values = {
        "batch_size": 64,
        "base_learning_rate": 0.3,
        "learning_rate_octaves": -0.25,
        "warmup_fraction": 0.1,
        "schedule": "wsd",
        "schedule_wsd_cooldown": 0.2,
        "optimizer_momentum": 0.6,
    }

    assert space.configuration(values) == Configuration(
        batch_size=64,
        base_learning_rate=0.3,
        base_batch_size=128,
        scaling_rule="square_root",
        learning_rate_octaves=-0.25,
        warmup_fraction=0.1,
        schedule=Named(name="wsd", cooldown=0.2, shape="linear"),
        optimizer=Named(name="sgd", momentum=0.6, weight_decay=1e-4),
    )


def test_a_schedules_parameter_is_active_only_with_its_schedule():
    space = make_space(
        schedules=[
            {"name": "linear"},
            {"name": "wsd", "cooldown": [0.1, 0.2, 0.3]},
            {"name": "cosine", "final_fraction": {"min": 0.0, "max": 0.1}},
        ]
    )
    own = {
        "linear": set(),
        "wsd": {"schedule_wsd_cooldown"},
        "cosine": {"schedule_cosine_final_fraction"},
    }
    seen = set()
    for values in sampled(space, 60):
        chosen = values["schedule"]
        seen.add(chosen)
        assert {name for name in values if name.startswith("schedule_")} == own[chosen]
        assert space.configuration(values).schedule.arguments.keys() == {
            name.removeprefix(f"schedule_{chosen}_") for name in own[chosen]
        }
    assert seen == own.keys()


@pytest.mark.parametrize("optimizer", OPTIMIZERS.names())
def test_the_learning_rates_range_and_rule_are_the_optimizers_unless_the_yaml_has_its_own(
    optimizer,
):
    module = OPTIMIZERS.load(optimizer)
    space = make_space(base_learning_rate=None, optimizer={"name": optimizer})
    rate = next(p for p in space.hyperparameters().space if p.name == "base_learning_rate")

    assert (rate.min_value, rate.max_value) == module.BASE_LEARNING_RATE
    assert rate.sampling == "log"
    assert space.scaling_rule == Named(name=module.SCALING_RULE)
    assert space.range_of("base_learning_rate") == Range(
        min=rate.min_value, max=rate.max_value, sampling="log"
    )

    own = make_space(base_learning_rate=0.3, scaling_rule="none", optimizer={"name": optimizer})
    assert own.range_of("base_learning_rate") == 0.3
    assert own.scaling_rule == Named(name="none")


def alternatives(schedule):
    """Two values of each numeric parameter of a schedule, its default among them."""
    found = {}
    for parameter in numeric_parameters(schedule):
        low, high = parameter.span
        middle = (low + 2 * min(high, max(parameter.default, low + 1))) / 3
        values = [parameter.default, int(middle) if parameter.whole else middle]
        found[parameter.name] = sorted(set(values))
    return found


@pytest.mark.parametrize("schedule", SCHEDULES.names())
def test_a_yaml_can_search_every_number_of_every_schedule(schedule, tmp_path):
    """Alone with its defaults, and beside another one with each number as a list."""
    numbers = alternatives(schedule)
    written = read_yaml(SEARCHES.find("quick"))
    written["space"]["warmup_fraction"] = 0.0
    other = {"name": "constant" if schedule != "constant" else "linear"}
    for schedules in ([{"name": schedule}], [other, {"name": schedule, **numbers}]):
        written["space"]["schedules"] = schedules
        path = tmp_path / "mine.yaml"
        path.write_text(write_yaml(written))
        space = SearchSpace(load_search(str(path)).space, num_examples=1085)
        seen: dict[str, set[float]] = {name: set() for name in numbers}
        for values in sampled(space, 60):
            configuration = space.configuration(values)
            assert space.values(configuration) == values
            chosen = configuration.schedule
            make_family(chosen.name, **chosen.arguments)
            if chosen.name == schedule and len(schedules) > 1:
                assert chosen.arguments.keys() == numbers.keys()
                for name, value in chosen.arguments.items():
                    seen[name].add(value)
            else:
                assert not chosen.arguments
        if len(schedules) > 1:
            assert {name: sorted(values) for name, values in seen.items()} == numbers


def test_boundaries_of_steps_are_alternatives_as_text():
    """A list of numbers would be a search over single drops, and hardly meant so."""
    space = make_space(schedules=[{"name": "step", "boundaries": ["0.5", "0.5/0.75"]}])
    chosen = [space.configuration(values).schedule.arguments for values in sampled(space, 30)]

    assert {arguments["boundaries"] for arguments in chosen} == {"0.5", "0.5/0.75"}
    with pytest.raises(ValueError, match='boundaries: must be fractions with "/"'):
        make_space(schedules=[{"name": "step", "boundaries": [0.5, 0.75]}])


def test_a_warmup_is_searched_only_for_schedules_without_one_of_their_own():
    space = make_space(
        warmup_fraction=[0.03, 0.1],
        schedules=[{"name": "linear"}, {"name": "one_cycle", "peak_at": [0.2, 0.3]}],
    )
    for values in sampled(space, 60):
        configuration = space.configuration(values)
        cycle = configuration.schedule.name == "one_cycle"
        assert ("warmup_fraction" in values) is not cycle
        assert (configuration.warmup_fraction == 0) is cycle
        assert space.values(configuration) == values

    fixed = make_space(warmup_fraction=0.1, schedules=[{"name": "linear"}, {"name": "one_cycle"}])
    got = {
        (c.schedule.name, c.warmup_fraction) for c in map(fixed.configuration, sampled(fixed, 60))
    }
    assert got == {("linear", 0.1), ("one_cycle", 0.0)}


def test_what_an_optimizer_must_take_covers_the_momentum_of_a_schedule():
    """A worker makes each before any trial; tests/test_program.py sees the refusal itself."""
    cycle = {"name": "one_cycle", "cycle_momentum": [False, True]}
    searched = {"schedules": [cycle], "warmup_fraction": 0.0}
    options = make_space(**searched, optimizer={"name": "sgd"}).optimizer_options()
    assert all(
        (o.schedule, o.optimizer)
        == (Named(name="one_cycle", cycle_momentum=True), Named(name="sgd"))
        for o in options
    )
    momenta = {"name": "sgd", "momentum": [0.0, 0.9]}
    options = make_space(**searched, optimizer=momenta).optimizer_options()
    assert {o.schedule.name for o in options} == {"one_cycle"}
    assert {o.optimizer.arguments["momentum"] for o in options} == {0.0, 0.9}
    plain = make_space(schedules=[{"name": "linear"}], optimizer=momenta).optimizer_options()
    assert {o.schedule.name for o in plain} == {"constant"}


def test_what_has_one_value_is_not_searched():
    space = make_space(
        batch_size=[32],
        base_learning_rate=0.1,
        warmup_fraction=0.03,
        schedules=[{"name": "cosine", "final_fraction": 0.01}],
    )

    assert space.hyperparameters().space == []
    configuration = space.configuration({})
    assert configuration.batch_size == 32
    assert configuration.base_learning_rate == 0.1
    assert configuration.schedule == Named(name="cosine", final_fraction=0.01)
    assert space.values(configuration) == {}


def test_one_schedule_may_still_have_a_searched_parameter():
    space = make_space(schedules=[{"name": "wsd", "cooldown": [0.1, 0.2]}])

    for values in sampled(space, 10):
        assert "schedule" not in values
        assert space.configuration(values).schedule == Named(
            name="wsd", cooldown=values["schedule_wsd_cooldown"]
        )


def test_whole_numbers_and_fractions_may_be_mixed():
    space = make_space(
        schedules=[{"name": "cosine", "final_fraction": [0, 0.01]}],
        optimizer={"name": "sgd", "momentum": [0, 0.9], "weight_decay": 0},
    )
    configuration = space.configuration(sampled(space, 1)[0])

    assert configuration.schedule == Named(name="cosine", final_fraction=0.0)
    assert configuration.optimizer == Named(name="sgd", momentum=0.0, weight_decay=0.0)


@pytest.mark.parametrize(
    ("num_examples", "sizes"),
    [
        (45_000, [8, 16, 32, 64, 128, 256, 512, 1024]),
        (1085, [8, 16, 32, 64, 128]),
        (1024, [8, 16, 32, 64, 128]),
        (1023, [8, 16, 32, 64]),
        (64, [8]),
    ],
)
def test_the_grid_ends_at_an_eighth_of_the_training_split(num_examples, sizes):
    space = SearchSpace(load_search("joint").space, num_examples=num_examples)

    assert space.batch_sizes == sizes


def test_an_empty_grid_is_refused_with_its_numbers():
    with pytest.raises(InputError, match=r"min=8, max=1024, 63 training examples"):
        SearchSpace(load_search("joint").space, num_examples=63)


def test_listed_batch_sizes_may_be_any_up_to_the_whole_split():
    assert make_space(batch_size=[1000, 7, 96, 7]).batch_sizes == [7, 96, 1000]
    with pytest.raises(InputError, match=r"must not exceed the 1000 training .* Received: 1001, 2"):
        make_space(batch_size=[7, 1001, 2000])


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"momentun": 0.9}, r"sgd has no parameter `momentun`\. Did you mean `momentum`\?"),
        ({"momentun": [0.8, 0.9]}, r"sgd has no parameter `momentun`"),
        ({"momentum": 1.5}, r"sgd refuses momentum=1\.5: .*must be a float between"),
        ({"momentum": [0.9, 1.5]}, r"sgd refuses momentum=1\.5"),
        ({"momentum": {"min": 0.5, "max": 1.5}}, r"sgd refuses momentum=1\.5"),
        ({"momentum": "high"}, r"`momentum` of sgd must be a number\. Received: 'high'"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_what_an_optimizer_does_not_take_is_refused_before_any_trial(optimizer, message):
    """KerasTuner would fail on it in every single trial."""
    with pytest.raises(ValueError, match=message):  # from a file it is a ConfigurationError
        make_all_optimizers(make_space(optimizer={"name": "sgd", **optimizer}))


def make_all_optimizers(space):
    return [make_optimizer(c, 1.0, small_derive(c)) for c in space.optimizer_options()]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"optimizer": {"name": "sgd", "weight_decay_epochs": [0.05, 1]}},
            r"must be > batch size /",
        ),
        (
            {"optimizer": {"name": "sgd", "momentum_half_life": [10, 0]}},
            r"must be > 0\. Received: 0",
        ),
        ({"optimizer": {"name": "sgd", "nesterov": [True, 1]}}, r"true or false\. Received: 1"),
        (
            {"optimizer": {"name": "sgd", "momentum": 0.9, "one_minus_momentum": [0.1, 0.2]}},
            r"must have its momentum once",
        ),
    ],
    ids=str,
)
def test_a_number_without_meaning_at_one_of_the_batch_sizes_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        make_space(**change)


def test_a_rule_and_an_optimizer_are_searched_like_a_schedule():
    space = make_space(
        batch_size=[16],
        base_learning_rate=0.1,
        warmup_fraction=0.0,
        scaling_rule={"name": "power", "alpha": {"min": 0.4, "max": 1.0}},
        schedules=[{"name": "linear"}],
        optimizer={
            "name": "sgd",
            "nesterov": [False, True],
            "one_minus_momentum": {"min": 0.005, "max": 0.3, "sampling": "log"},
            "global_clipnorm": [0, 1],
        },
    )
    names = [p.name for p in space.hyperparameters().space]

    assert names == [
        "scaling_rule_alpha",
        "optimizer_nesterov",
        "optimizer_one_minus_momentum",
        "optimizer_global_clipnorm",
    ]
    assert space.parameter_names() == [n for n in names if n != "optimizer_nesterov"]
    assert space.scaling_rule == Named(name="power", alpha=0.4)
    assert space.derived_numbers() == ["momentum"]
    assert len(make_all_optimizers(space)) == 1 + 1 + 1 + 1 + 1
    for values in sampled(space, 20):
        configuration = space.configuration(values)
        assert configuration.scaling_rule.arguments == {"alpha": values["scaling_rule_alpha"]}
        assert type(configuration.optimizer.arguments["nesterov"]) is bool  # 1 is refused
        assert small_derive(configuration).optimizer["nesterov"] in (True, False)
        assert space.values(configuration) == values


def test_the_space_says_where_a_number_is_held():
    adam = make_space(
        batch_size=[32, 256, 512],
        base_learning_rate=None,
        scaling_rule="adam_sde",
        optimizer={"name": "adam"},
    )

    assert adam.held_numbers() == {"beta_1": [512]}
    assert adam.derived_numbers() == ["beta_1", "beta_2", "epsilon"]
    assert make_space().held_numbers() == {}


@pytest.mark.parametrize("num_examples", [1437, 45_000])
@pytest.mark.parametrize("name", SEARCHES.names())
def test_what_a_shipped_search_proposes_can_be_derived(name, num_examples):
    search = load_search(name)
    space = SearchSpace(search.space, num_examples=num_examples)
    for values in sampled(space, 20):
        derived = derive(
            space.configuration(values), num_examples=num_examples, total_examples=10_000
        )
        assert 0 < derived.learning_rate < 1e3
        assert derived.optimizer.keys() == parameters_of(search.space.optimizer.name).keys()
        assert set(derived.derived_numbers) <= set(space.derived_numbers())
    for configuration in space.optimizer_options():
        make_optimizer(
            configuration,
            1.0,
            derive(configuration, num_examples=num_examples, total_examples=10_000),
        )


@pytest.mark.parametrize("name", SEARCHES.names())
def test_a_search_written_out_and_read_again_is_the_same(name):
    search = load_search(name)

    assert type(search).model_validate(search.model_dump(mode="json")) == search


@pytest.mark.parametrize("name", ["bayesian", "grid", "random"])
def test_the_first_three_oracles_are_written_as_in_the_run_folders_that_there_are(name):
    """What is written is part of what identifies a run: each names the others' parameters too."""
    written = read_yaml(SEARCHES.find("quick"))
    config = SearchConfig.model_validate({**written, "oracle": {"name": name}})
    given = SearchConfig.model_validate({**written, "oracle": {"name": name, "initial_trials": 3}})

    defaults = {"name": name, "initial_trials": 8, "values_of_range": 5}
    assert config.model_dump(mode="json")["oracle"] == defaults
    assert given.model_dump(mode="json")["oracle"] == defaults | {"initial_trials": 3}
    assert SearchConfig.model_validate({**written, "oracle": name}) == config


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "unknown key": ({"max_trails": 3}, r"max_trails: is not a known key\. .*`max_trials`"),
    "no space": ({"space": None}, "space: "),
    "no description": ({"description": None}, "description: "),
    "no trials": ({"max_trials": 0}, r"max_trials: .*Received: 0"),
    "unknown oracle": (
        {"oracle": {"name": "annealing"}},
        r"oracle: Unknown oracle `annealing`\..* Available: bayesian, grid, hyperband, random, ",
    ),
    "no seeds": ({"confirmation": {"seeds": -1}}, r"confirmation\.seeds: .*Received: -1"),
    "no goal": ({"confirmation": {"goal": "speed"}}, r"confirmation\.goal: .*Received: 'speed'"),
    "no tolerance": ({"confirmation": {"tolerance": -0.1}}, r"confirmation\.tolerance: .*-0\.1"),
    "unknown key in space": (
        {"space": {"batchsize": [32]}},
        r"space\.batchsize: is not a known key\. Did you mean `batch_size`\?",
    ),
    "batch size 0": ({"space": {"batch_size": [0, 32]}}, r"space: batch_size: .*>= 1"),
    "no batch sizes": ({"space": {"batch_size": []}}, r"space\.batch_size\.list: .*at least 1"),
    "fractional batch size": (
        {"space": {"batch_size": [1.5]}},
        r"space\.batch_size\.list\.0: .*Received: 1\.5",
    ),
    "range upside down": (
        {"space": {"base_learning_rate": {"min": 0.1, "max": 0.01, "sampling": "log"}}},
        r"space\.base_learning_rate\.range: `0 < min < max` must hold",
    ),
    "logarithm of zero": (
        {"space": {"base_learning_rate": {"min": 0.0, "max": 0.1, "sampling": "log"}}},
        r"space\.base_learning_rate\.range: `0 < min < max` must hold",
    ),
    "learning rate 0": (
        {"space": {"base_learning_rate": [0.1, 0.0]}},
        r"space: base_learning_rate: every value must be > 0\. Received: 0\.0",
    ),
    "negative learning rate": (
        {"space": {"base_learning_rate": {"min": -0.1, "max": 0.1}}},
        r"space: base_learning_rate: every value must be > 0\. Received: -0\.1",
    ),
    "warm-up over all": (
        {"space": {"warmup_fraction": [0.0, 1.5]}},
        r"space: warmup_fraction: every value must be in \[0, 1\]\. Received: 1\.5",
    ),
    "no schedules": ({"space": {"schedules": []}}, r"space\.schedules: .*at least 1"),
    "unknown schedule": (
        {"space": {"schedules": [{"name": "cosin"}]}},
        r"space: Unknown schedule `cosin`\. Did you mean `cosine`\?",
    ),
    "schedule twice": (
        {"space": {"schedules": [{"name": "linear"}, {"name": "linear"}]}},
        r"space: schedules: each schedule may be listed once",
    ),
    "unknown parameter of a schedule": (
        {"space": {"schedules": [{"name": "wsd", "cooldwn": 0.1}]}},
        r"space: schedule wsd: cooldwn: is not a known key\. Did you mean `cooldown`\?",
    ),
    "parameter of a schedule out of range": (
        {"space": {"schedules": [{"name": "wsd", "cooldown": [0.1, 1.5]}]}},
        r"space: schedule wsd: cooldown: .*Received: 1\.5",
    ),
    "range of a schedule out of range": (
        {"space": {"schedules": [{"name": "wsd", "cooldown": {"min": 0.5, "max": 1.5}}]}},
        r"space: schedule wsd: cooldown: .*Received: 1\.5",
    ),
    "numbers of a schedule that do not go together": (
        {"space": {"schedules": [{"name": "restarts", "cycles": [2, 6], "length_factor": [1, 5]}]}},
        r"space: schedule restarts: the first cycle must be at least 0\.001 .*cycles=6",
    ),
    "warm-up before a schedule that has its own": (
        {"space": {"warmup_fraction": [0.0, 0.1], "schedules": [{"name": "one_cycle"}]}},
        r"space: warmup_fraction: must be 0, since one_cycle .* Received: 0\.1",
    ),
    "a mapping that is no range": (
        {"space": {"schedules": [{"name": "wsd", "cooldown": {"low": 0.1, "high": 0.2}}]}},
        r"space: schedule wsd: cooldown: min: is required",
    ),
    "unknown optimizer": (
        {"space": {"optimizer": {"name": "adan"}}},
        r"space: Unknown optimizer `adan`\. Did you mean `adam`\?",
    ),
    "unknown parameter of an optimizer": (
        {"space": {"optimizer": {"name": "sgd", "momentun": 0.9}}},
        r"space: The optimizer sgd has no parameter `momentun`\. Did you mean `momentum`\?",
    ),
    "a rule for other optimizers": (
        {"space": {"scaling_rule": "adam_sde"}},
        r"space: The scaling rule adam_sde is for optimizers with a second moment",
    ),
    "a rule that lacks its parameter": (
        {"space": {"scaling_rule": "power"}},
        r"space: `alpha` of the scaling rule power must be a number >= 0\. Received: None",
    ),
    "a rule with a bad value": (
        {"space": {"scaling_rule": {"name": "power", "alpha": [0.5, -1]}}},
        r"space: `alpha` of the scaling rule power must be a number >= 0\. Received: -1",
    ),
    "a grid of one value": (
        {"oracle": {"name": "grid", "values_of_range": 1}},
        r"oracle: grid: values_of_range: .*Received: 1",
    ),
    "no values of an optimizer": (
        {"space": {"optimizer": {"name": "sgd", "momentum": []}}},
        r"space: .*must not be empty",
    ),
    "an argument of the model without a value": (
        {"space": {"model": {"norm": None}}},
        r"space: model: norm: every value must be .*Received: None\. .*leave `norm` out",
    ),
    "arguments of the model with and without a value": (
        {"space": {"model": {"norm": [None, "batch"]}}},
        r"space: model: norm: every value must be .*Received: \[None, 'batch'\]\. In place of null",
    ),
    "arguments of the model of two kinds": (
        {"space": {"model": {"units": [1, True]}}},
        r"space: model: units: .* all of one kind\. Received: \[1, True\]",
    ),
    "lists as arguments of the model": (
        {"space": {"model": {"units": [[8, 16], [32]]}}},
        r"space: model: units: every value must be .*Received: \[\[8, 16\], \[32\]\]",
    ),
    "an infinite argument of the model": (
        {"space": {"model": {"norm": [1.0, float("inf")]}}},
        r"space: model: norm: every value must be a finite number.*Received: \[1\.0, inf\]",
    ),
    "unknown rule": (
        {"space": {"scaling_rule": "square"}},
        r"space: Unknown scaling rule `square`\. Did you mean `square_root`\?",
    ),
}


@pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)
def test_a_search_that_cannot_be_used_is_refused_with_file_and_key(tmp_path, change, message):
    written = read_yaml(SEARCHES.find("quick"))
    change = {k: {**written[k], **v} if isinstance(v, dict) else v for k, v in change.items()}
    path = tmp_path / "mine.yaml"
    path.write_text(write_yaml(written | change))

    with pytest.raises(ConfigurationError, match=rf"^{path}: {message}") as raised:
        load_search(str(path))
    assert max(map(len, str(raised.value).replace(str(path), "").splitlines())) < 220


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: [1, 2\noracle: x\n", r"line \d+, column \d+: "),
        ("max_trials: 3\nmax_trials: 4\n", r"line 2, column 1: .*duplicate key"),
        ("\tspace: 1\n", r"line 1, column 1: "),
        ("just text\n", "must hold a mapping of keys to values. Received: str"),
        ("", "must hold a mapping of keys to values. Received: NoneType"),
    ],
    ids=["open bracket", "key twice", "tab", "no mapping", "empty"],
)
def test_malformed_yaml_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=rf"^{path}: {message}"):
        load_search(str(path))


def test_an_unknown_search_lists_the_known_ones():
    with pytest.raises(ConfigurationError, match=r"Unknown search `joit`\. Did you mean `joint`\?"):
        load_search("joit")


def test_the_ends_of_a_range_are_its_options():
    assert as_options({"min": 0.1, "max": 0.2}, where="x") == [0.1, 0.2]
    assert as_options([3, 1], where="x") == [3, 1]
    assert as_options("linear", where="x") == ["linear"]


@pytest.mark.parametrize("ends", [(1, 1), (2, 1)])
def test_a_range_needs_two_ends_in_order(ends):
    with pytest.raises(ValueError, match="`min < max` must hold"):
        Range(min=ends[0], max=ends[1])


def test_batch_sizes_are_declared_in_order():
    declared = make_space().hyperparameters().space[0]

    assert isinstance(declared, keras_tuner.engine.hyperparameters.Choice)
    assert (declared.name, declared.values, declared.ordered) == ("batch_size", [16, 32, 64], True)


def test_what_is_measured_by_default_is_what_the_default_search_trains():
    space = load_search("joint").space

    assert space.optimizer == DEFAULT_OPTIMIZER
    assert space.scaling_rule is None  # the optimizer's own, as a bench takes it
    assert space.batch_size == BatchSizeGrid()


def columns_of(space, folder):
    declare_columns(
        folder, space=space, objective=LOSS, metrics={"val_loss": "min"}, baseline=BASELINE
    )
    return {column.name: column for column in declared(folder)[0]}


def test_a_column_of_choices_has_values_of_the_type_that_a_row_has(tmp_path):
    """TensorBoard filters by equality: "True" is never True."""
    hp = keras_tuner.HyperParameters()
    hp.Boolean("residual")
    hp.Choice("activation", ["relu", "gelu"])
    space = SearchSpace(
        make_config().space,
        num_examples=NUM_EXAMPLES,
        model_hyperparameters=hp.get_config()["space"],
    )
    columns = columns_of(space, tmp_path)
    configuration = space.configuration(*sampled(space, 1))

    for name, kind in (("residual", bool), ("activation", str)):
        choices = columns[f"model_{name}"].domain
        assert {type(value) for value in choices} == {kind}
        assert configuration.model[name] in choices


def conditional_questions():
    """A builder's, where `kind` opens `units`, and `units` opens `dropout`."""
    hp = keras_tuner.HyperParameters()
    hp.Choice("kind", ["flat", "deep", "wide"])
    with hp.conditional_scope("kind", ["deep", "wide"]):
        hp.Int("units", 32, 128, step=32)
        with hp.conditional_scope("units", [64, 128]):
            hp.Boolean("dropout")
    return hp.get_config()["space"]


def model_space(arguments=None, *, asked=None, **model):
    """The space of a builder that asks questions, with arguments of a user's."""
    return SearchSpace(
        make_config(model=model).space,
        num_examples=NUM_EXAMPLES,
        model_arguments=arguments,
        model_hyperparameters=conditional_questions() if asked is None else asked,
    )


def models_of(space):
    """Each combination of the model's arguments that is drawn, as sorted pairs."""
    configurations = [space.configuration(values) for values in sampled(space, 200)]
    assert all(space.configuration(space.values(c)) == c for c in configurations)
    return {tuple(sorted(c.model.items())) for c in configurations}


def asked_units():
    hp = keras_tuner.HyperParameters()
    hp.Choice("units", [32, 128])
    return hp.get_config()["space"]


def test_a_value_of_the_users_is_not_searched_though_the_builder_asks_for_it():
    for space in (
        model_space({"units": 64}, asked=asked_units()),
        model_space(asked=asked_units(), units=64),
        model_space({"units": 64}, asked=asked_units(), units=[16, 32]),
    ):
        names = [parameter.name for parameter in space.hyperparameters().space]
        assert "model_units" not in names
        assert models_of(space) == {(("units", 64),)}
        assert {c.model["units"] for c in space.optimizer_options()} == {64}


def test_values_that_the_user_lists_take_the_place_of_the_builders():
    space = model_space(asked=asked_units(), units=[64, 256])

    assert [p.name for p in space.hyperparameters().space].count("model_units") == 1
    assert models_of(space) == {(("units", 64),), (("units", 256),)}


def test_whole_numbers_among_fractions_reach_the_builder_as_fractions():
    """KerasTuner refuses a choice between numbers of two types."""
    for listed in ([0, 0.25, 0.5], [0.25, 0, 0.5], [0, 1.0]):
        found = [dict(model)["rate"] for model in models_of(model_space(asked=[], rate=listed))]
        assert {type(value) for value in found} == {float}
        assert set(found) == set(listed)


@pytest.mark.parametrize("listed", [[False, True], [True, False, True], [True], [False, False]])
@pytest.mark.parametrize("asked", [[], None], ids=["not asked", "asked"])
def test_listed_switches_reach_the_builder_as_true_and_false(listed, asked):
    """KerasTuner makes whole numbers of them, which are others in a journal and in HParams."""
    space = model_space({"kind": "deep", "units": 64}, asked=asked, dropout=listed)
    found = [dict(model)["dropout"] for model in models_of(space)]

    assert {type(value) for value in found} == {bool}
    assert set(found) == set(listed)
    assert space.parameter_names() == ["schedule_cooldown"]
    assert set(space.model_choices()["model_dropout"]) == set(listed)
    (declared,) = (p for p in space.hyperparameters().space if p.name == "model_dropout")
    assert declared.default is listed[0]


def test_a_journals_zero_or_one_of_a_switch_is_the_value_that_is_searched():
    """As earlier versions wrote it: the same configuration would be proposed once more."""
    space = model_space(asked=[], dropout=[False, True])
    [values] = sampled(space, 1)
    configuration = space.configuration({**values, "model_dropout": 1})

    assert configuration.model == {"dropout": 1}
    assert space.values(configuration)["model_dropout"] is True


def test_a_switch_of_a_schedule_is_true_or_false():
    space = make_space(
        schedules=[{"name": "one_cycle", "cycle_momentum": [False, True]}], warmup_fraction=0.0
    )
    configurations = [space.configuration(values) for values in sampled(space, 20)]
    found = [c.schedule.arguments["cycle_momentum"] for c in configurations]

    assert {type(value) for value in found} == {bool}
    assert set(found) == {True, False}


def test_a_range_of_the_users_is_whole_numbers_where_the_builder_asks_for_these():
    space = model_space({"kind": "wide"}, units={"min": 3, "max": 6})

    units = {dict(model)["units"] for model in models_of(space)}
    assert units == {3, 4, 5, 6}
    assert {type(number) for number in units} == {int}


@pytest.mark.parametrize(
    ("arguments", "listed", "wanted"),
    [
        ({"kind": "flat"}, {}, {("flat",)}),
        ({"kind": "deep", "units": 32}, {}, {("deep", 32)}),
        ({"kind": "deep", "units": 64}, {}, {("deep", 64, True), ("deep", 64, False)}),
        (
            {"units": 64},
            {"kind": ["flat", "wide"]},
            {("flat", 64), ("wide", 64, True), ("wide", 64, False)},
        ),
        ({}, {"kind": ["flat"], "units": [64]}, {("flat",)}),
        (
            {},
            {"kind": ["deep"], "units": [32, 128]},
            {("deep", 32), ("deep", 128, True), ("deep", 128, False)},
        ),
    ],
)
def test_what_depends_on_a_value_of_the_users_is_searched_where_it_is_asked(
    arguments, listed, wanted
):
    space = model_space(arguments, **listed)
    models = [dict(model) for model in models_of(space)]

    assert {tuple(m[n] for n in ("kind", "units", "dropout") if n in m) for m in models} == wanted


def test_a_column_says_what_its_number_belongs_to(tmp_path):
    optimizer = {"name": "sgd", "momentum": {"min": 0.5, "max": 0.99}}
    columns = columns_of(make_space(optimizer=optimizer, model={"units": [8, 16]}), tmp_path)

    assert columns["schedule_cooldown"].description == "Only with some schedules."
    assert columns["optimizer_momentum"].description == "Of the optimizer."
    assert columns["model_units"].description == "Argument of the model's builder."
