"""One run, one folder: locked while open, never another run's, never anybody else's files."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tfbatch.dataset_info.own_data import OwnData
from tfbatch.errors import InputError, RunFolderError
from tfbatch.request.request import data_identity
from tfbatch.run_folder import durable, files, folder
from tfbatch.run_folder.durable import write_whole
from tfbatch.run_folder.files import LIBRARY_LOG as LOG
from tfbatch.run_folder.fingerprint import hardware, software
from tfbatch.run_folder.folder import RunFolder, check_run_dir, differences

IDENTITY = {"seed": 1, "search": {"space": {"batch_size": {"min": 8, "max": 512}}}}


FILES = {name: value for name, value in vars(files).items() if name.isupper()}


def spelled(module):
    """Names of a run folder's files that a module writes as text, docstrings apart."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    documentation = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }  # text that stands alone
    for node in ast.walk(tree):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div):
            joined = getattr(node.right, "value", None)
            yield from {joined} & set(FILES.values()) if isinstance(joined, str) else ()
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str):
            continue
        if id(node) not in documentation:  # "data" alone is a word of English
            yield from (name for name in FILES.values() if "." in name[1:] and name in node.value)


def test_no_other_module_spells_the_name_of_a_file(tmp_path):
    package = Path(files.__file__).parents[1]
    modules = set(package.rglob("*.py")) - {Path(files.__file__)}

    found = {str(m.relative_to(package)): sorted(set(spelled(m))) for m in sorted(modules)}

    assert {module: names for module, names in found.items() if names} == {}
    assert len(FILES) == len(set(FILES.values()))
    offender = tmp_path / "offender.py"
    offender.write_text('"""best.yaml"""\nx = f"{y}/best.yaml"\nz = y / "weights"\n')
    assert sorted(spelled(offender)) == ["best.yaml", "weights"]


def run_folder(path, **changes):
    return RunFolder(path, **{"identity": IDENTITY, "budget": {"max_trials": 3}, **changes})


def begin(path, **changes):
    """Leaves a run with one trial and every kind of file."""
    with run_folder(path, **changes) as run:
        run.journal.append({"trial": "baseline"})
        (run.weights / "baseline.weights.h5").touch()
        (run.tensorboard / "baseline").mkdir(parents=True)
        (path / "recommendation.json").write_text("{}")
        (path / LOG).write_text("being written by the command that opened the folder")


def tree(path):
    return {
        str(p.relative_to(path)): p.read_bytes() if p.is_file() else None
        for p in sorted(path.rglob("*"))
    }


def test_a_new_folder_is_made_with_its_parents_and_settings(tmp_path):
    with run_folder(tmp_path / "a" / "b") as run:
        settings = json.loads((run.path / "config.json").read_text())

        assert settings == {"identity": IDENTITY, "budget": {"max_trials": 3}}
        assert run.journal.rows == []
        assert run.weights.is_dir()
        assert run.tensorboard == run.path / "tensorboard"


def test_the_same_settings_continue_a_run(tmp_path):
    begin(tmp_path)
    with run_folder(tmp_path) as run:
        assert run.journal.rows == [{"trial": "baseline"}]


def test_the_budget_may_change(tmp_path):
    begin(tmp_path)
    with run_folder(tmp_path, budget={"max_trials": 30, "max_minutes": 5.0}) as run:
        assert run.journal.rows == [{"trial": "baseline"}]
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["budget"] == {"max_trials": 30, "max_minutes": 5.0}


def test_a_single_trial_whose_line_lacks_its_end_is_not_removed_for_other_settings(tmp_path):
    begin(tmp_path)
    row = json.dumps({"trial": "baseline", "schema_version": 2})
    (tmp_path / "trials.jsonl").write_text(row)  # as an editor leaves it
    with pytest.raises(InputError, match="other settings"), run_folder(tmp_path, identity={}):
        pass
    assert (tmp_path / "trials.jsonl").read_text() == row


def test_other_settings_are_refused_with_every_difference(tmp_path):
    begin(tmp_path)
    before = tree(tmp_path)
    other = {"search": {"space": {"batch_size": {"min": 8, "max": 1024}}}, "model": "resnet"}

    with (
        pytest.raises(InputError, match="was begun with other settings") as raised,
        run_folder(tmp_path, identity=other),
    ):
        pass

    assert str(raised.value).splitlines()[1:4] == [
        "  seed: 1 -> (absent)",
        "  search.space.batch_size.max: 512 -> 1024",
        "  model: (absent) -> resnet",
    ]
    assert "--run_dir=DIR" in str(raised.value)
    assert "--overwrite" in str(raised.value)
    assert tree(tmp_path) == before


def test_a_folder_with_its_own_arrays_may_be_moved(tmp_path):
    """Also one whose settings name the place, as earlier versions wrote them."""
    data = OwnData(name="data", kind="stored", where="runs/after/data/1f")
    stored = data_identity(data)
    assert "where" not in stored
    assert data_identity(data.model_copy(update={"kind": "function"}))["where"] == data.where
    begin(tmp_path, identity={"dataset": {**stored, "where": "runs/before/data/1f"}})

    with run_folder(tmp_path, identity={"dataset": stored}) as run:
        assert run.journal.rows == [{"trial": "baseline"}]
    with (
        pytest.raises(InputError, match="kind: stored -> function"),
        run_folder(tmp_path, identity={"dataset": {**stored, "kind": "function"}}),
    ):
        pass


def test_what_has_no_name_to_import_is_known_by_what_earlier_versions_called_it(tmp_path):
    """They called a partial and a callable object by their class, without brackets."""
    data = {"name": "partial", "kind": "function", "where": "functools:partial"}
    now = {"model": "my.models:<Builder>", "dataset": {**data, "where": "functools:<partial>"}}
    begin(tmp_path, identity={"model": "my.models:Builder", "dataset": data})

    with run_folder(tmp_path, identity=now):
        pass
    with pytest.raises(InputError, match=r"model: my.models:<Builder> -> my.models:build"):
        begin(tmp_path, identity={**now, "model": "my.models:build"})


def test_a_refused_folder_is_not_left_locked(tmp_path):
    begin(tmp_path)
    refused = run_folder(tmp_path, identity={})  # a name, since its end would free the lock too
    with pytest.raises(InputError), refused:
        pass
    with run_folder(tmp_path):
        pass


def test_a_folder_is_unlocked_after_an_exception(tmp_path):
    failed = run_folder(tmp_path)
    with pytest.raises(ZeroDivisionError), failed:
        raise ZeroDivisionError
    with run_folder(tmp_path):
        pass


def test_overwriting_begins_anew(tmp_path):
    begin(tmp_path)
    with run_folder(tmp_path, identity={"seed": 2}, overwrite=True) as run:
        assert run.journal.rows == []
        assert list(tree(tmp_path)) == [".lock", "config.json", LOG, "trials.jsonl", "weights"]
    settings = json.loads((tmp_path / "config.json").read_text())
    assert settings["identity"] == {"seed": 2}


RESTARTS = {"changed settings": {"identity": {"seed": 2}}, "overwrite": {"overwrite": True}}


@pytest.mark.parametrize("changes", RESTARTS.values(), ids=RESTARTS)
def test_starting_anew_leaves_what_no_run_has_written(tmp_path, changes):
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "HEAD").write_text("ref: refs/heads/main")
    with run_folder(tmp_path, overwrite="overwrite" in changes) as run:  # ended before any trial
        (tmp_path / "notes.md").write_text("mine")
        (run.weights / "baseline.weights.h5").touch()
        (tmp_path / ".recommendation.json.partial").touch()
        (tmp_path / ".partial-best.keras").touch()

    with run_folder(tmp_path, **changes):
        pass

    assert (tmp_path / ".git" / "HEAD").read_text() == "ref: refs/heads/main"
    assert (tmp_path / "notes.md").read_text() == "mine"
    assert list((tmp_path / "weights").iterdir()) == []
    assert not list(tmp_path.glob(".*partial*"))


def test_every_file_of_a_run_is_kept_or_removed_when_it_starts_anew():
    named = set(FILES.values()) - {files.SET_ASIDE, files.PARTIAL}  # these lie deeper
    assert named == {*folder._KEPT, *folder._WRITTEN}
    assert not {*folder._KEPT} & {*folder._WRITTEN}


def test_overwriting_does_not_follow_links(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    begin(tmp_path / "run")
    (tmp_path / "run" / "tensorboard" / "baseline").rmdir()
    (tmp_path / "run" / "tensorboard").rmdir()
    (tmp_path / "run" / "tensorboard").symlink_to(elsewhere)

    with run_folder(tmp_path / "run", overwrite=True):
        pass
    assert not (tmp_path / "run" / "tensorboard").exists()
    assert (elsewhere / "kept").exists()


def test_overwriting_removes_the_settings_last(tmp_path, monkeypatch):
    """A run killed while it clears a folder must still know the folder as its own."""
    begin(tmp_path)
    removed = []
    unlink = Path.unlink

    def noted(path, missing_ok=False):
        removed.append((path.name, (tmp_path / "config.json").exists()))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", noted)
    with run_folder(tmp_path, overwrite=True):
        pass
    assert removed
    assert all(settings_there for _, settings_there in removed)


FOREIGN = {
    "files": {"thesis.tex": "a", "figures/one.png": "b"},
    "another program's config.json": {"config.json": '{"model_type": "bert"}', "model.bin": "b"},
    "a config.json that is a list": {"config.json": "[1, 2]", "model.bin": "b"},
    "a config.json that is no JSON": {"config.json": "[section]", "model.bin": "b"},
}


@pytest.mark.parametrize("overwrite", [False, True], ids=["", "overwrite"])
@pytest.mark.parametrize("files", FOREIGN.values(), ids=FOREIGN)
def test_a_folder_of_other_files_is_refused_and_nothing_in_it_is_touched(
    tmp_path, files, overwrite
):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(content)
    before = tree(tmp_path)

    with pytest.raises(InputError, match="holds files but no run of tfbatch"):
        check_run_dir(tmp_path)
    assert tree(tmp_path) == before

    with (
        pytest.raises(InputError, match="holds files but no run of tfbatch"),
        run_folder(tmp_path, overwrite=overwrite),
    ):
        pass
    after = tree(tmp_path)
    after.pop(".lock", None)
    assert after == before


def test_damaged_settings_of_a_run_are_refused_but_may_be_overwritten(tmp_path):
    begin(tmp_path)
    (tmp_path / "config.json").write_text('{"identity": ')

    with (
        pytest.raises(RunFolderError, match=r"config\.json is damaged.*--overwrite"),
        run_folder(tmp_path),
    ):
        pass
    with run_folder(tmp_path, overwrite=True) as run:
        assert run.journal.rows == []


@pytest.mark.parametrize("place", ["file/run", "file"], ids=["below a file", "a file"])
def test_a_place_that_cannot_be_a_folder_is_refused(tmp_path, place):
    (tmp_path / "file").touch()
    message = r"run folder .* cannot be written: .*--run_dir=DIR"

    with pytest.raises(InputError, match=message):
        check_run_dir(tmp_path / place)
    with pytest.raises(InputError, match=message), run_folder(tmp_path / place):
        pass


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs Linux's /proc")
def test_an_unwritable_folder_is_refused():
    with pytest.raises(InputError, match=r"run folder /proc/.* cannot be written: .*--run_dir"):
        check_run_dir(Path("/proc/self"))


def test_checking_a_usable_folder_leaves_it_empty(tmp_path):
    assert check_run_dir(tmp_path / "new") == tmp_path / "new"
    assert tree(tmp_path / "new") == {}
    (tmp_path / "new" / LOG).touch()  # from a command that found its flags unusable
    assert check_run_dir(tmp_path / "new") == tmp_path / "new"


HOLDER = """
import sys
from pathlib import Path
from tfbatch.run_folder.folder import RunFolder

with RunFolder(Path(sys.argv[1]), identity={}, budget={}):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that has `tmp_path` open."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "locked\n"
    with process:
        yield process
        process.kill()


def test_a_second_process_is_refused_until_the_first_is_killed(tmp_path, holder):
    for overwrite in (False, True):
        with (
            pytest.raises(RunFolderError, match=r"Another run has .* open"),
            run_folder(tmp_path, identity={}, overwrite=overwrite),
        ):
            pass

    holder.kill()
    holder.wait()

    with run_folder(tmp_path, identity={}) as run:
        assert run.journal.rows == []


def test_two_runs_in_one_process_cannot_have_the_same_folder(tmp_path):
    with (
        run_folder(tmp_path),
        pytest.raises(RunFolderError, match="Another run has"),
        run_folder(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("before", "now", "lines"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1}, {"a": 2}, ["a: 1 -> 2"]),
        ({"a": {"b": None}}, {"a": {"b": "x"}}, ["a.b: null -> x"]),
        ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] -> [2, 1]"]),
        ({"a": {"b": 1}}, {"a": 1}, ['a: {"b": 1} -> 1']),
        ({"a": 1}, {"b": 1}, ["a: 1 -> (absent)", "b: (absent) -> 1"]),
    ],
    ids=["none", "value", "nested", "list", "kind", "key"],
)
def test_differences_are_named_by_their_path(before, now, lines):
    assert differences(before, now) == lines


def test_a_text_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "answer.json"
    write_whole(path, "first")
    assert path.read_text() == "first"

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(durable.os, "fsync", full)
    with pytest.raises(RunFolderError, match=r"json cannot be written: .*No space .* Free some"):
        write_whole(path, "second")
    assert path.read_text() == "first"


def test_the_remedy_for_what_cannot_be_written_follows_from_its_cause(tmp_path, monkeypatch):
    def read_only(descriptor):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(durable.os, "fsync", read_only)
    with pytest.raises(RunFolderError, match=r"denied\. Make its folder writable and run"):
        write_whole(tmp_path / "answer.json", "first")
    with pytest.raises(RunFolderError, match=r"denied\. Take another\.$"):
        write_whole(tmp_path / "answer.json", "first", otherwise="Take another.")


def test_the_fingerprint_names_hardware_and_software():
    versions = software()
    machine = hardware(["/physical_device:GPU:0"])

    assert {"python", "tensorflow", "keras", "keras-tuner"} <= versions.keys()
    assert machine["cores"] == len(os.sched_getaffinity(0))
    assert machine["memory_bytes"] > 2**20
    assert machine["accelerators"] == ["/physical_device:GPU:0"]
    assert machine["processor"]
    json.dumps([versions, machine], allow_nan=False)


def test_what_utf_8_cannot_hold_is_written_as_an_escape(tmp_path):
    """A folder's name of another encoding stands in the report of its run."""
    write_whole(tmp_path / "report.html", "a\udce9")

    assert (tmp_path / "report.html").read_text(encoding="utf-8") == r"a\udce9"
