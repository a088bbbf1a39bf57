"""What a notebook shows of a result, and the quick start, executed as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from rich.table import Table
from test_answer import RUNS

import tfbatch
from tfbatch.answer.stored import answer_of
from tfbatch.errors import NothingLearnedError
from tfbatch.instruments.run_all import ProbeReport, Section
from tfbatch.notebook import paragraphs, table
from tfbatch.search.result import NothingLearned, Result

QUICK_START = Path(__file__).parents[1] / "examples" / "quick_start.ipynb"


def test_a_result_shows_its_answer_and_every_contender(tmp_path):
    RUNS["complete"](tmp_path)
    answer = answer_of(tmp_path)
    result = Result(
        run_dir=tmp_path, rows=[], interrupted=False, answer=answer, table=Table(), snippet=""
    )
    shown = result._repr_html_()

    assert f"batch size {answer.recommended.batch_size}" in shown
    for one in answer.contenders:
        assert f">{one.key}</td>" in shown
        assert f">{one.objective()}</td>" in shown
    assert f'bold">{answer.recommended_trial}</td>' in shown
    assert "<script" not in shown


def test_where_nothing_was_learned_the_reason_is_shown():
    reason = NothingLearnedError("a loss > 2 is no better than chance")
    shown = NothingLearned(run_dir=Path(), rows=[], interrupted=False, reason=reason)._repr_html_()

    assert "<strong>Nothing was learned.</strong>" in shown
    assert "a loss &gt; 2 is no better" in shown


def test_a_probe_shows_what_failed_too():
    failed = Section("curvature", "Curvature", None, "no memory", 1.0)
    shown = ProbeReport("CPU", (8,), 8, (failed,), None, "")._repr_html_()

    assert "Curvature" in shown
    assert "Failed: no memory" in shown


def test_predictions_keep_their_columns():
    found = tfbatch.translate_batch_size(32, 64, optimizer="sgd")

    assert found._repr_html_().startswith("<pre>Batch size 32 -&gt; 64")


def test_text_is_escaped():
    assert paragraphs(["a < b\nc"]) == "<p>a &lt; b<br>c</p>"
    assert "<td" in table(("x",), [("<b>",)])
    assert "&lt;b&gt;" in table(("x",), [("<b>",)])


def test_the_quick_start_is_stored_without_outputs():
    cells = json.loads(QUICK_START.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]

    assert len(code) >= 3
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
def test_the_quick_start_runs_from_beginning_to_end(tmp_path):
    pytest.importorskip("ipykernel", reason="not installed: pip install -e '.[test]'")
    client = pytest.importorskip("nbclient", reason="not installed: pip install -e '.[test]'")
    nbformat = pytest.importorskip("nbformat")
    shutil.copy(QUICK_START, tmp_path)
    notebook = nbformat.read(tmp_path / QUICK_START.name, as_version=4)
    client.NotebookClient(
        notebook, timeout=None, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [cell.outputs for cell in notebook.cells if cell.cell_type == "code"]

    assert "batch size" in outputs[0][-1]["data"]["text/html"]
    assert "is the difference noise?" in outputs[2][-1]["data"]["text/html"]
    assert "A prediction" in outputs[3][-1]["data"]["text/html"]
    assert (tmp_path / "quick_start_run" / "recommendation.json").exists()
