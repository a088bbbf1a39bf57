"""The journal keeps every whole line, loses none, and never repairs what it cannot understand."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import pandas as pd
import pytest
from search_fixtures import BASELINE, finished

from tfbatch.errors import RunFolderError
from tfbatch.run_folder import journal as journal_module
from tfbatch.run_folder.journal import (
    SCHEMA_VERSION,
    Journal,
    decode_row,
    encode_row,
    read_rows,
)
from tfbatch.trial.finished_trial import read_row

ROWS = [
    {"trial": "baseline", "score": 0.1 + 0.2, "status": "completed", "message": ""},
    {"trial": "search-0001", "score": None, "status": "error", "message": 'a "quoted"\r\nü line'},
    {"trial": "search-0002", "score": 5e-324, "status": "completed", "message": "last"},
]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "trials.jsonl"


def write(path, rows):
    journal = Journal(path)
    for row in rows:
        journal.append(row)
    return path.read_bytes()


def line(**row):
    return json.dumps({"schema_version": SCHEMA_VERSION, **row}).encode() + b"\n"


def test_a_new_journal_is_an_empty_file(path):
    assert Journal(path).rows == []
    assert path.read_bytes() == b""


def test_appended_rows_are_read_back_exactly_and_in_order(path):
    content = write(path, ROWS)

    again = Journal(path)

    assert again.rows == ROWS
    assert again.find("search-0001") == ROWS[1]
    assert again.find("search-0009") is None
    assert path.read_bytes() == content
    assert len(content.splitlines()) == content.count(b"\n") == 3


def test_a_row_is_on_disk_before_it_is_announced(path, monkeypatch):
    journal = Journal(path)
    seen = []

    def fsync(descriptor):
        seen.append((os.fstat(descriptor).st_size, list(journal.rows)))

    monkeypatch.setattr(journal_module.os, "fsync", fsync)
    journal.append(ROWS[0])
    first = path.stat().st_size
    journal.append(ROWS[1])

    assert seen == [(first, []), (path.stat().st_size, [ROWS[0]])]


def test_a_last_line_torn_at_any_byte_is_cut_off_and_can_be_written_again(path):
    content = write(path, ROWS)
    start = content.rstrip(b"\n").rfind(b"\n") + 1
    assert len(content) - start > 50

    for end in range(start, len(content) - 1):
        path.write_bytes(content[:end])
        journal = Journal(path)
        assert journal.rows == ROWS[:2], f"torn after byte {end}"
        assert path.read_bytes() == content[:start], f"torn after byte {end}"
        journal.append(ROWS[2])
        assert path.read_bytes() == content, f"torn after byte {end}"


@pytest.mark.parametrize("after", [b"", b" ", b"\r"])
def test_a_last_line_that_lacks_its_end_alone_is_kept(path, after):
    """As an editor leaves it with which another line was removed."""
    content = write(path, ROWS)
    path.write_bytes(content[:-1] + after)
    assert read_rows(path) == ROWS
    assert path.read_bytes() == content[:-1] + after, "reading changes nothing"

    journal = Journal(path)
    assert journal.rows == ROWS
    assert path.read_bytes() == content[:-1] + after + b"\n"
    journal.append({"trial": "search-0003"})
    assert Journal(path).rows == [*ROWS, {"trial": "search-0003"}]


@pytest.mark.parametrize("rest", [b"7", b'"trial"', b"{}", b'["trial", "schema_version"]', b"\xff"])
def test_a_rest_that_is_no_row_is_cut_off(path, rest):
    content = write(path, ROWS)
    path.write_bytes(content + rest)

    assert read_rows(path) == Journal(path).rows == ROWS
    assert path.read_bytes() == content


DAMAGE = {
    "cut": b'{"schema_version": 2, "trial": "se\n',
    "empty": b"\n",
    "a list": b'["trial"]\n',
    "null": b"null\n",
    "a number": b"7\n",
    "bytes that are no text": b'{"schema_version": 2, "trial": "\xff\xfe"}\n',
    "zeros": b"\0" * 40 + b"\n",
    "no trial": b'{"schema_version": 2, "score": 1.0}\n',
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("number", [2, 3], ids=["middle line", "last line"])
def test_a_damaged_line_is_refused_with_its_number_and_nothing_is_changed(path, damage, number):
    lines = write(path, ROWS).splitlines(keepends=True)
    lines[number - 1] = damage
    path.write_bytes(b"".join(lines))

    with pytest.raises(RunFolderError, match=rf"trials\.jsonl: line {number} is damaged: .+"):
        Journal(path)
    assert path.read_bytes() == b"".join(lines)


def test_a_trial_is_never_written_twice(path):
    content = write(path, ROWS)

    with pytest.raises(ValueError, match=r"The trial search-0001 is in .*trials\.jsonl already"):
        Journal(path).append({**ROWS[1], "score": 3.0})
    assert path.read_bytes() == content


def test_a_repeated_trial_is_refused_with_its_line(path):
    path.write_bytes(line(trial="a") + line(trial="b") + line(trial="a"))

    with pytest.raises(RunFolderError, match=r"line 3 repeats the trial a: .* Remove one"):
        Journal(path)


@pytest.mark.parametrize(
    "other",
    [b'{"schema_version": 3, "trial": "b"}\n', b'{"trial": "b"}\n'],
    ids=["newer", "none"],
)
def test_another_schema_version_is_refused(path, other):
    path.write_bytes(line(trial="a") + other)

    with pytest.raises(RunFolderError, match=r"line 2 has another schema version than 2\. Use the"):
        Journal(path)


def test_non_finite_numbers_survive_in_a_file_of_strict_json(path):
    row = {"trial": "a", "nan": math.nan, "up": math.inf, "down": -math.inf, "number": 1.5}
    content = write(path, [row])

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    written = json.loads(content, parse_constant=refuse)
    read = Journal(path).rows[0]

    assert (written["nan"], written["up"], written["down"]) == ("nan", "inf", "-inf")
    assert math.isnan(read["nan"])
    assert (read["up"], read["down"], read["number"]) == (math.inf, -math.inf, 1.5)
    assert decode_row(encode_row({"x": -math.inf})) == {"x": -math.inf}


@pytest.mark.parametrize("text", ["inf", "-inf", "nan"])
def test_a_text_of_the_models_that_names_no_number_stays_one(path, text):
    configuration = BASELINE.model_copy(update={"model": {"norm": text, "order": 2}})
    row = {**finished("search-0001", configuration).row, "message": text, "metric_loss": math.inf}
    Journal(path).append(row)

    (read,) = read_rows(path)
    assert read == Journal(path).rows[0] == row
    assert read_row(read).configuration.model == {"norm": text, "order": 2}


def test_pandas_reads_the_file(path):
    losses = [0.1 + 0.2, math.nan, math.inf]
    write(path, [{"trial": f"t{i}", "metric_loss": loss} for i, loss in enumerate(losses)])

    frame = pd.read_json(path, lines=True, precise_float=True)

    assert list(frame["trial"]) == ["t0", "t1", "t2"]
    assert frame["metric_loss"].dtype == "float64"
    assert list(frame["metric_loss"].fillna(-1)) == [0.1 + 0.2, -1, math.inf]


def test_a_row_that_json_cannot_hold_changes_nothing(path):
    content = write(path, ROWS[:1])
    journal = Journal(path)

    with pytest.raises(TypeError):
        journal.append({"trial": "b", "score": object()})
    assert path.read_bytes() == content
    assert journal.rows == ROWS[:1]


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="cannot be used"):
        Journal(tmp_path)


def test_a_failing_disk_leaves_the_file_as_it_was(path, monkeypatch):
    content = write(path, ROWS[:2])
    journal = Journal(path)

    def fsync(descriptor):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(journal_module.os, "fsync", fsync)
        with pytest.raises(RunFolderError, match="every trial before this one is kept"):
            journal.append(ROWS[2])
    assert path.read_bytes() == content
    assert journal.find("search-0002") is None

    journal.append(ROWS[2])
    assert Journal(path).rows == ROWS


def test_a_file_that_may_not_grow_is_left_as_it_was(path):
    """The write is cut in the middle of the row, as on a full disk."""
    content = write(path, ROWS[:2])
    child = f"""
import resource, signal, sys
from pathlib import Path
from tfbatch.errors import RunFolderError
from tfbatch.run_folder.journal import Journal

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({len(content) + 20},) * 2)
journal = Journal(Path(sys.argv[1]))
try:
    journal.append({{"trial": "search-0002", "message": "long" * 50}})
except RunFolderError as error:
    assert journal.find("search-0002") is None
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", child, str(path)], capture_output=True, text=True, check=True
    )

    assert "trials.jsonl cannot be written: " in done.stdout
    assert "Free some space and run the same command again" in done.stdout
    assert path.read_bytes() == content
    assert Journal(path).rows == ROWS[:2]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 16 KiB."""
    mount = tmp_path / "disk"
    mount.mkdir()
    try:
        command = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(mount)]
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("only root may mount; test_a_file_that_may_not_grow covers the same code")
    yield mount
    subprocess.run(["umount", str(mount)], check=True)


def test_on_a_full_disk_every_trial_before_is_kept(small_disk):
    path = small_disk / "trials.jsonl"
    journal = Journal(path)
    content = b""

    with pytest.raises(RunFolderError, match="No space left on device"):  # noqa: PT012
        for number in range(20):
            journal.append({"trial": f"search-{number:04d}", "message": "traceback" * 300})
            content = path.read_bytes()

    assert len(content) > 4096
    assert path.read_bytes() == content
    again = Journal(path)
    assert [row["trial"] for row in again.rows] == [row["trial"] for row in journal.rows]
    again.append({"trial": "after some space was freed"})
