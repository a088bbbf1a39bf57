"""The appendix of a paper: it follows from the run folder, and LaTeX can read it."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
import subprocess

import pytest
from search_fixtures import BASELINE, Trainer, make_runner, open_folder
from test_answer import RUNS

import tfbatch.report
from tfbatch.answer.step_seconds import StepSeconds
from tfbatch.charts import Chart, Series
from tfbatch.errors import RunFolderError
from tfbatch.reporting.appendix import (
    Appendix,
    Figure,
    Section,
    Table,
    _bounds,
    _runtime,
    appendix_of,
    csv_of,
    escaped,
    write_appendix,
)
from tfbatch.reporting.page import run_sections
from tfbatch.reporting.recorded import RecordedRun, read_recorded
from tfbatch.run_folder.cluster_nodes import ClusterNode, read_nodes, write_nodes
from tfbatch.run_folder.fingerprint import write_fingerprint


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("appendix") / "run"
    RUNS["out of memory"](path)
    return read_recorded(path)


def test_the_text_states_what_the_journal_has(run):
    text = appendix_of(run).markdown()

    assert f"{len(run.trials.of_phase('search'))} trials at batch sizes 16, 64, 512" in text
    assert "2 fresh seeds, the same for all" in text
    assert f"as good means a deficit of at most {run.answer.verification.margin:.4g}" in text
    assert "| 512 | 1 | 0 | 0 | 0 | 1 | 0 |" in text
    assert "batch size | 16, 32, 64" in text
    for trial in run.trials.of_phase("confirmation"):
        assert f"| {trial.seed} |" in text
    assert "Goyal et al. 2017" in text, "the linear rule, which the trials have"
    assert "Loshchilov" not in text, "no trial had a cosine"


def test_a_grid_of_batch_sizes_is_no_interval(run):
    space = {"batch_size": {"min": 8, "max": 1024}, "base_learning_rate": {"min": 1e-3, "max": 0.1}}
    rows = dict(_bounds(run, {"search": {"space": space}}).rows)

    assert rows["batch size"] == (
        "powers of two from 8 to 1024, at most an eighth of the training split; tried: 16, 64, 512"
    )
    assert rows["base learning rate"] == "0.001 to 0.1 (linear)"


def test_what_the_builder_asks_of_hp_is_there_with_the_values_that_were_tried(tmp_path):
    with open_folder(tmp_path / "run") as folder:
        runner = make_runner(folder, Trainer())
        for number, (layers, more) in enumerate(
            [(3, {"units": 128}), (1, {}), (3, {"units": 16})], start=1
        ):
            asked = BASELINE.model_copy(update={"model": {"layers": layers, "width": 8, **more}})
            runner.run(runner.spec(f"search-{number:04d}", "search", number, asked))
        trials = runner.trials
    run = RecordedRun(tmp_path, "digits", "mine:build", 1, trials, None)
    rows = dict(_bounds(run, {"search": {"space": {"model": {}}}}).rows)

    units = {"model units (values tried)": "16, 128"}
    assert rows == {"model layers (values tried)": "1, 3", **units}
    named = dict(_bounds(run, {"search": {"space": {"model": {"layers": [1, 3]}}}}).rows)
    assert named == {"model": "layers 1, 3", **units}


def test_the_median_of_an_even_number_of_rounds_lies_between_the_middle_ones(run):
    rounds = {16: (1.0, 2.0, 3.0, 10.0), 64: ()}
    measured = dataclasses.replace(run, step_seconds=StepSeconds(rounds=rounds))

    assert _runtime(measured).tables[0].rows == (("16", "2.5 s", "4"),)


def test_names_in_angle_brackets_and_underscores_are_text(run):
    name = "__main__:main.<locals>.build_model"
    text = appendix_of(dataclasses.replace(run, model=name)).markdown()

    assert "<locals>" not in text
    assert "__main__" not in text
    assert r"\_\_main\_\_:main.&lt;locals&gt;.build\_model" in text.splitlines()[0]
    assert r"\textless{}locals\textgreater{}" in escaped(name)
    figure = Figure("name_of_file", "a_b", None)
    section = Section("h_1", ("p*p & `q`",), (Table("c_1", ("x_1",), (("<b>",),)),), (figure,))
    text = Appendix("t", (section,), ("r_1",)).markdown()
    assert text == (
        "# t\n\n## h\\_1\n\np\\*p &amp; \\`q\\`\n\nc\\_1:\n\n| x\\_1 |\n| --- |\n| &lt;b&gt; |\n\n"
        "![a\\_b](figures/name_of_file.svg)\n\n## References\n\n- r\\_1\n"
    )


def test_of_a_cluster_appendix_and_report_tell_who_trained_from_who_directed(tmp_path):
    RUNS["complete"](tmp_path)
    write_fingerprint(tmp_path, [])
    nodes = [ClusterNode(f"10.0.0.{n}", "Xeon, 4 threads", 4) for n in range(1, 7)]
    write_nodes(tmp_path, "Xeon, 4 threads", nodes)
    run = read_recorded(tmp_path)
    text, page = appendix_of(run).markdown(), dict(run_sections(run, level=2)[-1].rows)

    named = "6 nodes: 10.0.0.1, 10.0.0.2, 10.0.0.3, 10.0.0.4 and 2 more"
    assert f"{named}: 4 workers on Xeon, 4 threads." in text
    assert "Hardware where the last command ran: " in text
    assert page[named] == "4 workers on Xeon, 4 threads"
    assert page["step times and verification"] == "on Xeon, 4 threads alone"
    assert page["hardware where the last command ran"] == run.machine.hardware
    assert "hardware" not in page


def test_a_node_of_an_earlier_session_stays_with_the_trials_that_it_made(tmp_path):
    def node(address, kind="Xeon, 4 threads", workers=4):
        return ClusterNode(address, kind, workers)

    write_nodes(tmp_path, "Xeon, 4 threads", [node("10.0.0.1"), node("10.0.0.2")])
    write_nodes(tmp_path, "Xeon, 4 threads", [node("10.0.0.2", workers=2), node("10.0.0.3")])

    found = [(one["address"], one["workers"]) for one in read_nodes(tmp_path)]
    assert found == [("10.0.0.1", 4), ("10.0.0.2", 2), ("10.0.0.3", 4)]


def test_a_run_without_an_answer_says_why(tmp_path):
    from test_answer import Trainer
    from test_answer import run as make

    make(tmp_path, Trainer({"baseline": "oom", "search-0001": "oom", "search-0002": "oom"}))
    text = appendix_of(read_recorded(tmp_path)).markdown()

    assert "The search has no answer: None of 3 trials completed" in text
    assert "Fresh seeds:" not in text


def test_latex_is_balanced_and_escaped(run):
    text = appendix_of(run).latex()

    body = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert body.count("{") == body.count("}")
    opened = re.findall(r"\\begin\{(\w+)\}", text)
    assert sorted(opened) == sorted(re.findall(r"\\end\{(\w+)\}", text))
    assert {"document", "longtable", "itemize"} <= set(opened)
    outside = body.replace("$\\pm$", "")
    assert not set("%#$") & set(outside), "unescaped"
    cells = [line for line in outside.splitlines() if " & " in line]
    assert all("&" not in line for line in outside.splitlines() if line not in cells)
    assert text.encode("latin-1")


def test_every_character_that_latex_takes_for_its_own_is_escaped():
    found = escaped("50 % of a_b & {c} ~ ^ $ # \\ < > ± 5 \N{SNOWMAN} <b>")

    assert found == (
        r"50 \% of a\_\allowbreak{}b \& \{c\} \textasciitilde{} \textasciicircum{} \$ \# "
        r"\textbackslash{} \textless{} \textgreater{} $\pm$ 5 ? "
        r"\textless{}b\textgreater{}"
    )


def test_the_numbers_behind_a_figure_are_all_there():
    series = Series("one", (16.0, 32.0), (0.5, 0.25), low=(0.4, 0.2), high=(0.6, 0.3))
    rows = list(csv.DictReader(csv_of(Chart("c", "x", "y", (series,))).splitlines()))

    assert [(row["x"], row["y"], row["low"], row["high"]) for row in rows] == [
        ("16.0", "0.5", "0.4", "0.6"),
        ("32.0", "0.25", "0.2", "0.3"),
    ]


def test_a_cell_with_a_bar_stays_one_cell(run):
    made = appendix_of(run)
    section = made.sections[0].__class__("x", tables=(Table("t", ("a|b",), (("c|d",),)),))
    text = made.__class__("t", (section,), ()).markdown()

    assert r"| a\|b |" in text
    assert r"| c\|d |" in text


def test_the_command_writes_text_figures_and_numbers_and_again_the_same(run, capsys):
    pytest.importorskip("matplotlib", reason="not installed: pip install -e '.[appendix]'")
    page = run.path.parent / "page.html"
    assert tfbatch.report.main([str(run.path), f"--page={page}", "--appendix"]) == 0
    printed = capsys.readouterr().out
    folder = run.path / "appendix"
    names = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    made = appendix_of(run)

    figures = [f"figures/{f.name}.{kind}" for f in made.figures for kind in ("csv", "pdf", "svg")]
    assert names == sorted(["appendix.md", "appendix.tex", *figures])
    assert len(made.figures) >= 2
    assert all(f"Written: {folder / name}" in printed for name in names)
    before = {name: (folder / name).read_bytes() for name in names}
    assert all(part.startswith(b"%PDF") for name, part in before.items() if name.endswith(".pdf"))
    write_appendix(run)
    assert {name: (folder / name).read_bytes() for name in names} == before


def test_an_appendix_that_cannot_be_written_is_one_sentence(run, tmp_path):
    (tmp_path / "appendix").write_text("a file")

    with pytest.raises(RunFolderError, match=r"appendix cannot be written: .*Make it a folder"):
        write_appendix(run, tmp_path / "appendix")


@pytest.mark.slow
def test_latex_compiles_it(run, tmp_path):
    pytest.importorskip("matplotlib", reason="not installed: pip install -e '.[appendix]'")
    latex = shutil.which("pdflatex")
    if not latex:
        pytest.skip("needs pdflatex, e.g. Debian's texlive-latex-base")
    write_appendix(run, tmp_path)
    ended = subprocess.run(
        [latex, "-interaction=nonstopmode", "-halt-on-error", "appendix.tex"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )

    assert ended.returncode == 0, ended.stdout[-2000:]
    assert (tmp_path / "appendix.pdf").read_bytes().startswith(b"%PDF")
