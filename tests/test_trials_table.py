"""The journal as a table: nothing is lost in trials.csv, and a DataFrame has the right types."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest
from search_fixtures import BASELINE, Trainer, finished, make_runner, open_folder

from tfbatch.errors import RunFolderError, SearchError
from tfbatch.run_folder import trials_table
from tfbatch.run_folder.files import TRIALS_CSV
from tfbatch.run_folder.journal import Journal, read_rows
from tfbatch.run_folder.trials_table import (
    column_order,
    csv_at_the_end,
    csv_text,
    to_frame,
    write_csv,
)
from tfbatch.schema import Named

WSD = BASELINE.model_copy(
    update={"batch_size": 64, "schedule": Named(name="wsd", cooldown=0.1 + 0.2)}
)
STEP = BASELINE.model_copy(update={"schedule": Named(name="step", at=[0.5, 0.75], holds=3)})
MESSAGE = 'a "quoted", text\r\nof two lines; ü'
ROWS: list[dict[str, Any]] = [
    finished("baseline", BASELINE, phase="baseline", loss=5e-324).row,
    finished("search-0001", WSD, loss=1 / 3).row,
    finished("search-0002", STEP, loss=math.nan, status="diverged").row | {"metric_loss": math.inf},
    {
        key: value
        for key, value in finished("search-0003", WSD, status="oom").row.items()
        if not key.startswith("metric_")
    }
    | {"message": MESSAGE},
]


def read(text):
    return list(csv.DictReader(text.splitlines(keepends=True), strict=True))


def test_every_value_of_the_journal_is_in_the_csv_exactly():
    found = read(csv_text(ROWS))

    assert len(found) == len(ROWS)
    for cells, row in zip(found, ROWS, strict=True):
        assert set(row) <= set(cells)
        for key, cell in cells.items():
            value = row.get(key)
            if value is None or value == "":
                assert cell == "", key
            elif isinstance(value, float) and not math.isfinite(value):
                assert cell == str(value)
            elif isinstance(value, int | float):
                assert type(value)(cell) == value, key
            elif isinstance(value, str):
                assert cell == value, key
            else:
                assert cell == "[0.5, 0.75]"


def test_the_csv_follows_rfc_4180():
    text = csv_text(ROWS)

    assert text.count("\r\n") == len(ROWS) + 1 + MESSAGE.count("\r\n")
    assert text.replace("\r\n", "").count("\n") == 0
    assert text.endswith('"a ""quoted"", text\r\nof two lines; ü"\r\n')


def test_pandas_reads_the_csv_as_the_frame_is():
    found = pd.read_csv(io.StringIO(csv_text(ROWS)))
    frame = to_frame(ROWS)

    assert list(found) == list(frame)
    for column in ("score", "metric_loss", "metric_val_loss", "learning_rate"):
        # Not exactly: pandas' own reader can be off by the last bit.
        pd.testing.assert_series_equal(found[column], frame[column], rtol=1e-15)


def test_columns_stand_in_one_order_whichever_trial_ended_first():
    order = column_order(ROWS)

    assert column_order(ROWS[::-1]) == order
    assert order[:6] == ["trial", "phase", "status", "score", "learning_rate", "batch_size"]
    assert order[order.index("schedule") :][:4] == [
        "schedule",
        "schedule_at",
        "schedule_cooldown",
        "schedule_holds",
    ]
    metrics = [c for c in order if c.startswith("metric_")]
    assert metrics == ["metric_loss", "metric_val_accuracy", "metric_val_loss"]
    assert order[-2:] == ["finished_at", "message"]
    assert sorted(order) == sorted({key for row in ROWS for key in row})
    assert column_order([{"new": 1, "message": "", "trial": "a"}]) == ["trial", "new", "message"]


def test_a_frame_has_types_that_do_not_depend_on_what_is_missing():
    frame = to_frame(ROWS)
    types = {column: str(kind) for column, kind in frame.dtypes.items()}

    assert {types[c] for c in ("batch_size", "examples", "steps", "seed")} == {"int64"}
    assert {types[c] for c in ("score", "metric_val_loss", "seconds")} == {"float64"}
    assert types["schedule_cooldown"] == "float64"
    assert types["schedule_holds"] == "Int64"
    assert types["finished_at"].startswith("datetime64")
    assert types["finished_at"].endswith(", UTC]")
    assert frame["finished_at"][0] == pd.Timestamp("2026-01-01", tz="UTC")
    assert frame["metric_loss"].to_list()[2] == math.inf
    assert frame["score"].isna().to_list() == [False, False, True, True]
    assert str(to_frame(ROWS[3:])["score"].dtype) == "float64"


def test_bytes_that_are_no_text_do_not_cost_the_file(tmp_path):
    write_csv(tmp_path / "t.csv", [{"trial": "a", "message": "file \udce4.h5"}])

    assert (tmp_path / "t.csv").read_bytes() == b"trial,message\r\na,file \\udce4.h5\r\n"


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / TRIALS_CSV
    write_csv(path, ROWS[:1])
    before = path.read_bytes()
    child = f"""
import resource, signal, sys
from pathlib import Path
from tfbatch.run_folder.trials_table import write_csv
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
write_csv(Path({str(path)!r}), [{{"trial": "b", "message": "long" * 100}}])
"""
    done = subprocess.run(
        [sys.executable, "-c", child], capture_output=True, text=True, check=False
    )

    assert "RunFolderError" in done.stderr
    assert "cannot be written" in done.stderr
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "ending", [None, SearchError("no trial"), KeyboardInterrupt()], ids=["end", "error", "ctrl-c"]
)
def test_every_end_of_a_run_leaves_a_csv_equal_to_the_journal(tmp_path, ending):
    trainer = Trainer(ends={"search-0001": "diverged"})

    def run():
        with (
            open_folder(tmp_path / "run") as folder,
            csv_at_the_end(folder.path, folder.journal.rows, lambda text: None),
        ):
            runner = make_runner(folder, trainer)
            runner.run(runner.spec("baseline", "baseline", 1, BASELINE))
            runner.run(runner.spec("search-0001", "search", 1, WSD))
            assert not (folder.path / TRIALS_CSV).exists()
            if ending:
                raise ending

    if ending:
        with pytest.raises(type(ending)) as caught:
            run()
        assert caught.value is ending
    else:
        run()

    rows = read_rows(tmp_path / "run" / "trials.jsonl")
    assert (tmp_path / "run" / TRIALS_CSV).read_bytes().decode() == csv_text(rows)
    assert [row["trial"] for row in rows] == ["baseline", "search-0001"]
    assert rows[1]["status"] == "diverged"


def test_a_csv_that_cannot_be_written_costs_no_answer(tmp_path):
    said: list[str] = []
    with (
        open_folder(tmp_path / "run") as folder,
        csv_at_the_end(folder.path, folder.journal.rows, said.append),
    ):
        (folder.path / TRIALS_CSV).mkdir()

    assert len(said) == 1
    assert "trials.csv cannot be written" in said[0]


def test_a_journal_in_use_is_read_up_to_its_last_whole_line(tmp_path):
    path = tmp_path / "trials.jsonl"
    journal = Journal(path)
    for row in ROWS[:3]:
        journal.append(row)
    content = path.read_bytes()
    path.write_bytes(content[:-10])

    assert [row["trial"] for row in read_rows(path)] == ["baseline", "search-0001"]
    assert path.read_bytes() == content[:-10]
    path.write_bytes(content + content)
    with pytest.raises(RunFolderError, match="line 4 repeats the trial baseline"):
        read_rows(path)
    with pytest.raises(RunFolderError, match="cannot be read"):
        read_rows(tmp_path / "none.jsonl")


def test_metric_columns_are_those_of_the_journal():
    assert any(key.startswith(trials_table.METRIC) for key in ROWS[0])
