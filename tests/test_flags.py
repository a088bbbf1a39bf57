"""A flag's name means the same in every command: kind, bounds, and what its help says first."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from tfbatch.__main__ import command_module
from tfbatch.command_line.common_flags import threads_of
from tfbatch.command_line.running import parse_arguments, parse_flags
from tfbatch.errors import InputError

COMMANDS = ("compare", "export", "prepare", "probe", "report", "train", "translate", "tune")


def flags_by_name():
    """{flag: {command: absl's flag}}."""
    found: dict[str, dict[str, Any]] = {}
    for command in COMMANDS:
        values = importlib.import_module(command_module(command)).FLAGS
        for name in values:
            found.setdefault(name, {})[command] = values[name]
    return found


OWN_MEANING = {
    "batch_size": "of a training that is begun with another one, and of one that is translated",
    "from": "a run whose times are measured again, and one whose slope is used",
    "to": "an exporter, and a batch size: both read as what stands behind",
}
SHARED = {
    name: flags
    for name, flags in flags_by_name().items()
    if len(flags) > 1 and name not in OWN_MEANING
}


def test_some_flags_are_shared():
    assert {"dataset", "data_dir", "records_dir", "run_dir", "seed"} <= SHARED.keys()


@pytest.mark.parametrize("name", sorted(SHARED))
def test_a_flag_means_the_same_in_every_command_that_takes_it(name):
    kinds = {
        (
            type(flag).__name__,
            type(flag.parser).__name__,
            getattr(flag.parser, "lower_bound", None),
            getattr(flag.parser, "upper_bound", None),
        )
        for flag in SHARED[name].values()
    }
    assert len(kinds) == 1, kinds
    if name == "batch_sizes":  # a list that each command uses in its own way
        return
    sentences = {flag.help.split(". ")[0].rstrip(".") for flag in SHARED[name].values()}
    assert len(sentences) == 1, sentences
    defaults = {str(flag.default) for flag in SHARED[name].values()} - {"None"}
    assert len(defaults) <= 1, defaults


def test_no_two_flags_name_the_folder_of_a_run():
    assert not {"output_dir", "rundir", "logdir", "out_dir"} & flags_by_name().keys()


@pytest.mark.parametrize(
    ("command", "given"),
    [
        *(("tune", name) for name in ("data", "from", "callbacks", "trial_length", "for_length")),
        *(("tune", name) for name in ("objective", "run-dir", "dataset", "search")),
        ("train", "output"),
        ("probe", "data"),
    ],
)
def test_an_empty_text_does_not_silently_mean_the_default(command, given):
    """As of a shell variable that is not set: it would train something else."""
    main = importlib.import_module(command_module(command)).main
    with pytest.raises(InputError, match=f"`--{given.replace('-', '_')}` must have a value"):
        main([f"--{given}="])


def test_an_empty_text_is_a_value_where_it_is_the_default():
    values = importlib.import_module(command_module("tune")).FLAGS
    parse_flags(values, ["--model_arguments=", "--baseline="], usage="")
    assert (values.model_arguments, values.baseline) == ("", "")


def test_threads_are_a_number_or_all():
    assert [threads_of(text) for text in (None, "all", "3")] == [None, 0, 3]
    for text in ("0", "-1", "two", "1.5", ""):
        with pytest.raises(InputError, match="`--threads` must be a number >= 1 or"):
            threads_of(text)


def test_true_and_false_are_read_in_any_case():
    found = parse_arguments("a=true,b=False,c=TRUE,d=none,e=1,f=0.5", flag="--model_arguments")
    assert found == {"a": True, "b": False, "c": True, "d": "none", "e": 1, "f": 0.5}
    assert [type(value) for value in found.values()] == [bool, bool, bool, str, int, float]
