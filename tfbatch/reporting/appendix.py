"""The appendix of a paper: methods, bounds, counts, seeds, runtime, versions, citations, figures.

Written as Markdown and as LaTeX that needs base packages only; every figure as PDF and SVG with the
numbers behind it as CSV. Nothing in it is typed by hand: it follows from the run folder.
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tfbatch.charts import Chart, Picture, Stack
from tfbatch.charts.matplotlib_figure import write_figure
from tfbatch.reporting.by_batch_size import by_batch_size
from tfbatch.reporting.checks import checks_of
from tfbatch.reporting.finalists import forest
from tfbatch.reporting.headline import answer_section, cost_of, duration
from tfbatch.reporting.hyperparameters import differing
from tfbatch.reporting.landscape import landscape, slope_note
from tfbatch.reporting.learning_curves import learning_curves
from tfbatch.reporting.recorded import RecordedRun
from tfbatch.reporting.to_target import to_target_chart, to_target_sentence
from tfbatch.run_folder.durable import cannot_be_written, write_whole
from tfbatch.run_folder.files import APPENDIX, TRIALS_CSV
from tfbatch.run_folder.reader import read_budget, read_settings
from tfbatch.scaling_rules import SCALING_RULES
from tfbatch.schema import JsonObject

Rows = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of an appendix.

    Attributes:
        caption: What it holds.
        columns: Headings.
        rows: Cells, as many in each row.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Rows


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure of an appendix.

    Attributes:
        name: The file's name without a suffix.
        caption: What it shows.
        picture: What is drawn.
    """

    name: str
    caption: str
    picture: Chart | Stack


@dataclasses.dataclass(frozen=True)
class Section:
    """A part with a heading.

    Attributes:
        heading: The heading.
        paragraphs: Sentences.
        tables: Below them.
        figures: Below these.
    """

    heading: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Figure, ...] = ()


@dataclasses.dataclass(frozen=True)
class Appendix:
    """The whole text.

    Attributes:
        title: Its title.
        sections: Its parts.
        references: What is cited, one line each.
    """

    title: str
    sections: tuple[Section, ...]
    references: tuple[str, ...]

    @property
    def figures(self) -> list[Figure]:
        """All figures."""
        return [figure for section in self.sections for figure in section.figures]

    def markdown(self) -> str:
        """As Markdown."""
        lines = [f"# {_in_markdown(self.title)}"]
        for section in self.sections:
            lines.append(f"## {_in_markdown(section.heading)}")
            lines += map(_in_markdown, section.paragraphs)
            for table in section.tables:
                rows = [table.columns, ("---",) * len(table.columns), *table.rows]
                parts = [_in_markdown(table.caption), "\n".join(map(_markdown_row, rows))]
                lines += [f"{parts[0]}:", parts[1]]
            figures = section.figures
            lines += [f"![{_in_markdown(f.caption)}](figures/{f.name}.svg)" for f in figures]
        cited = (f"- {_in_markdown(one)}" for one in self.references)
        lines += ["## References", "\n".join(cited)]
        return "\n\n".join(lines) + "\n"

    def latex(self) -> str:
        """As a document of LaTeX; its body can be put into another one."""
        parts = [_PREAMBLE, f"\\section*{{{escaped(self.title)}}}"]
        for section in self.sections:
            parts.append(f"\\subsection*{{{escaped(section.heading)}}}")
            parts += [escaped(text) for text in section.paragraphs]
            parts += [_latex_table(table) for table in section.tables]
            parts += [_latex_figure(figure) for figure in section.figures]
        items = "\n".join(f"\\item {escaped(one)}" for one in self.references)
        parts += [
            "\\subsection*{References}",
            f"\\begin{{itemize}}\n{items}\n\\end{{itemize}}",
            "\\end{document}",
        ]
        return "\n\n".join(parts) + "\n"


_PREAMBLE = """\\documentclass[10pt]{article}
\\usepackage[margin=25mm]{geometry}
\\usepackage[T1]{fontenc}
\\usepackage[utf8]{inputenc}
\\usepackage{graphicx}
\\usepackage{longtable}
\\setlength{\\parindent}{0pt}
\\setlength{\\parskip}{4pt}
\\sloppy
\\begin{document}"""

_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_\allowbreak{}",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "\N{MULTIPLICATION SIGN}": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
    "\N{EN DASH}": "--",
    "…": r"\ldots{}",
}


def escaped(text: str) -> str:
    """Text as LaTeX prints it; a character that its base fonts lack becomes a question mark."""
    found = "".join(_LATEX.get(character, character) for character in text)
    return found.encode("latin-1", "replace").decode("latin-1")


_MARKDOWN = str.maketrans(
    {**{mark: f"\\{mark}" for mark in "\\`*_"}, "&": "&amp;", "<": "&lt;", ">": "&gt;"}
)


def _in_markdown(text: str) -> str:
    """Text as Markdown shows it: a name such as `__main__:f.<locals>.g` is no mark-up."""
    return text.translate(_MARKDOWN)


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(_in_markdown(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _latex_table(table: Table) -> str:
    widths = "".join(f"p{{{share:.3f}\\textwidth}}" for share in _shares(table))
    rows = [" & ".join(escaped(cell) for cell in row) + r" \\" for row in table.rows]
    head = " & ".join(f"\\textbf{{{escaped(name)}}}" for name in table.columns) + r" \\"
    return "\n".join(
        [
            f"{escaped(table.caption)}:",
            "",
            r"{\footnotesize\raggedright",
            f"\\begin{{longtable}}{{{widths}}}",
            r"\hline",
            head,
            r"\hline \endhead",
            *rows,
            r"\hline",
            r"\end{longtable}}",
        ]
    )


def _shares(table: Table) -> list[float]:
    """Shares of the text width: wide columns for long cells, but none narrower than a number."""
    columns = zip(table.columns, *table.rows, strict=True)
    lengths = [min(max(max(map(len, cells)), 8), 60) for cells in columns]
    room = 0.95 - 0.025 * len(lengths)
    return [room * length / sum(lengths) for length in lengths]


def _latex_figure(figure: Figure) -> str:
    return "\n".join(
        [
            r"\begin{figure}[ht]",
            r"\centering",
            f"\\includegraphics[width=\\textwidth]{{figures/{figure.name}.pdf}}",
            f"\\caption{{{escaped(figure.caption)}}}",
            r"\end{figure}",
        ]
    )


def write_appendix(run: RecordedRun, folder: Path | None = None) -> list[Path]:
    """Writes appendix.md, appendix.tex and the figures with their numbers.

    Args:
        run: A run with an answer or without one.
        folder: Where. Default: the folder `appendix` in the run folder.

    Returns:
        The files.

    Raises:
        InputError: Matplotlib is not installed.
        RunFolderError: A file cannot be written.
    """
    folder = run.path / APPENDIX if folder is None else folder
    try:
        return _written(appendix_of(run), folder)
    except OSError as error:
        remedy = "Make it a folder that can be written."
        raise cannot_be_written(folder, error, otherwise=remedy) from error


def _written(made: Appendix, folder: Path) -> list[Path]:
    figures, files = folder / "figures", []
    figures.mkdir(parents=True, exist_ok=True)
    for figure in made.figures:
        files += write_figure(figure.picture, figures / figure.name)
        numbers = figures / f"{figure.name}.csv"
        write_whole(numbers, csv_of(figure.picture))
        files.append(numbers)
    for name, text in (("appendix.md", made.markdown()), ("appendix.tex", made.latex())):
        write_whole(folder / name, text)
        files.append(folder / name)
    return files


def csv_of(picture: Chart | Stack) -> str:
    """The numbers behind a picture: a row for each point of each series."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(("chart", "series", "x", "y", "low", "high"))
    for chart in picture.charts if isinstance(picture, Stack) else (picture,):
        for series in chart.series:
            for index, (x, y) in enumerate(zip(series.x, series.y, strict=True)):
                ends = [part[index] if part else "" for part in (series.low, series.high)]
                writer.writerow((chart.title, series.name, x, y, *ends))
    return text.getvalue()


def appendix_of(run: RecordedRun) -> Appendix:
    """The appendix of a run, from what is in its folder."""
    settings, budget = read_settings(run.path), read_budget(run.path)
    return Appendix(
        title=f"Search of batch size, learning rate and schedule: {run.dataset}, {run.model}",
        sections=tuple(
            section
            for section in (
                Section("Methods", tuple(_methods(run, settings, budget))),
                _result(run),
                Section("What was searched", tables=(_bounds(run, settings),)),
                Section("Trainings", tables=(_counts(run),)),
                _seeds(run),
                _runtime(run),
                Section("Data", tuple(_splits(settings))),
                Section("Versions", tables=(_versions(run),)),
                _checks(run),
                Section("Figures", figures=tuple(_figures(run))),
            )
            if section.paragraphs or section.tables or section.figures
        ),
        references=tuple(_references(run, settings)),
    )


def _methods(run: RecordedRun, settings: JsonObject, budget: JsonObject) -> Iterable[str]:
    trials, answer = run.trials, run.answer
    sizes = ", ".join(map(str, trials.of_phase("search").batch_sizes())) or "none"
    length = "" if trials.total_examples is None else f" ({trials.total_examples:,} examples)"
    oracle = settings.get("search", {}).get("oracle", {}).get("name", "unknown")
    yield (
        f"We searched batch size, learning rate and decay schedule of {run.model} on {run.dataset} "
        f"jointly with tfbatch ({oracle}; {len(trials.of_phase('search'))} trials at batch sizes "
        f"{sizes}; budget of {budget.get('max_trials')} trials). Every whole training had the same "
        f"length in examples, {settings.get('trial_length')}{length}, whatever its batch size, and "
        f"was scored by {trials.objective} at its end, never by its best epoch. Lengths of "
        "schedules and warm-up are shares of the training."
    )
    if answer is None:
        yield f"The search has no answer: {run.reason}"
        return
    verified = answer.verification
    if verified is None:
        yield "Nothing was trained on fresh seeds: the scores are those of the search's own seeds."
        return
    seeds = max((one.seeds or 0 for one in verified.comparisons), default=0)
    yield (
        f"The best configuration of each of the best batch sizes and the baseline were trained "
        f"anew on up to {seeds} fresh seeds, the same for all, in rounds. The baseline was "
        "replaced only by a configuration that was shown to be better, or shown to be as good and "
        f"cheaper (by {_cheaper(answer.goal)}); as good means a deficit of at most "
        f"{verified.margin:.4g}. Intervals hold for all configurations and at every look; "
        "variances between seeds are moderated (Smyth 2004). Reported means are those of fresh "
        "seeds."
    )
    read = any(one.metrics.test for one in answer.contenders)
    yield (
        "The test split was read once, after the answer was final, by verified configurations only."
        if read
        else "The test split was not read."
    )


def _cheaper(goal: str) -> str:
    return {"time": "training seconds", "memory": "batch size"}.get(goal, "nothing")


def _result(run: RecordedRun) -> Section:
    section = answer_section(run, level=2)
    rows = tuple(tuple(str(cell) for cell in row) for row in section.rows)
    if not rows:
        return Section("Result")
    columns = tuple(map(str, section.columns)) or ("",) * len(rows[0])
    notes = tuple(note for note in section.notes if not note.startswith("It cost"))
    return Section("Result", notes, (Table("Recommended beside the baseline", columns, rows),))


def _bounds(run: RecordedRun, settings: JsonObject) -> Table:
    space: JsonObject = settings.get("search", {}).get("space", {})
    rows: list[tuple[str, str]] = []
    for name, value in space.items():
        if name == "schedules":
            rows += [_plug_in("schedule", schedule) for schedule in value or ()]
        elif name == "optimizer" and isinstance(value, dict):
            rows.append(_plug_in(name, value))
        elif name == "batch_size" and isinstance(value, dict):
            rows.append(("batch size", _grid(value, run)))
        elif name != "model" or value:
            rows.append((name.replace("_", " "), _values(value)))
    if run.space is not None and (rates := run.space.learning_rate_range()):
        rows.append(("learning rate at the base batch size", f"{rates[0]:.4g} to {rates[1]:.4g}"))
    rows += _asked_of_hp(run, space.get("model") or {})
    return Table("Bounds of the search", ("what", "values"), tuple(rows))


def _grid(value: JsonObject, run: RecordedRun) -> str:
    """The grid's own bounds, the data's, and what came of both."""
    tried = ", ".join(map(str, run.trials.of_phase("search").batch_sizes())) or "none"
    return (
        f"powers of two from {value['min']} to {value['max']}, at most an eighth of the training "
        f"split; tried: {tried}"
    )


def _asked_of_hp(run: RecordedRun, named: JsonObject) -> Iterable[tuple[str, str]]:
    """What the model's builder asks of `hp`: its bounds are in the builder's code alone."""
    for one in differing(run.trials.of_phase("search")):
        role, _, argument = one.key.partition("_")
        if role == "model" and argument not in named:
            there = {value for value in one.values if value is not None}
            yield f"{one.name} (values tried)", _values(sorted(there, key=_numbers_first))


def _numbers_first(value: float | str) -> tuple[bool, float | str]:
    return isinstance(value, str), value


def _plug_in(kind: str, value: JsonObject) -> tuple[str, str]:
    others = {key: part for key, part in value.items() if key != "name"}
    said = "; ".join(f"{key.replace('_', ' ')} {_values(part)}" for key, part in others.items())
    return f"{kind} {value.get('name')}", said or "no parameters of its own"


def _values(value: Any) -> str:
    if value is None:
        return "the optimizer's own"
    if isinstance(value, dict) and {"min", "max"} <= value.keys():
        return f"{value['min']:.4g} to {value['max']:.4g} ({value.get('sampling', 'linear')})"
    if isinstance(value, dict):
        return "; ".join(f"{key} {_values(part)}" for key, part in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_values, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _counts(run: RecordedRun) -> Table:
    rows = []
    for size in run.trials.batch_sizes():
        here = run.trials.of_batch_size(size)
        searched, fresh = here.of_phase("search", "baseline"), here.of_phase("confirmation")
        ends = {s: sum(t.status == s for t in here) for s in ("completed", "diverged", "oom")}
        other = len(here) - sum(ends.values())
        counts = (len(searched), len(fresh), *ends.values(), other)
        rows.append((str(size), *map(str, counts)))
    columns = ("batch size", "search", "fresh seeds", "completed", "diverged", "no memory", "other")
    return Table("Trainings by batch size, and how they ended", columns, tuple(rows))


def _seeds(run: RecordedRun) -> Section:
    rounds: dict[int, set[str]] = {}
    for trial in run.trials.of_phase("confirmation"):
        rounds.setdefault(trial.seed, set()).add(str(trial.configuration.batch_size))
    rows = tuple((str(seed), ", ".join(sorted(sizes, key=int))) for seed, sizes in rounds.items())
    told = (
        f"All seeds derive from the run's seed, {run.seed}, by SHA-256 of their purpose. A seed "
        "gives weights, order of examples and augmentation, which do not depend on the batch size; "
        f"every trial's seed stands in {TRIALS_CSV}."
    )
    tables = (Table("Fresh seeds", ("seed", "batch sizes"), rows),) if rows else ()
    return Section("Seeds", (told,), tables)


def _runtime(run: RecordedRun) -> Section:
    texts = [str(cost_of(run))]
    machine = run.machine
    where = " where the last command ran" if machine.nodes else ""
    told = f"Hardware{where}: {machine.hardware}. {machine.load}"
    texts += [told] if machine.hardware else []
    texts += [f"{name[0].upper()}{name[1:]}: {words}." for name, words in machine.nodes]
    rounds = run.step_seconds.rounds
    rows = tuple(
        (str(size), duration(seconds), str(len(times)))
        for size, times in sorted(rounds.items())
        if (seconds := run.step_seconds.median(size)) is not None
    )
    alone = "Seconds of a step, alone on the device, in interleaved rounds"
    tables = (Table(alone, ("batch size", "median", "rounds"), rows),) if rows else ()
    return Section("Runtime", tuple(texts), tables)


def _splits(settings: JsonObject) -> Iterable[str]:
    data = settings.get("dataset")
    if not isinstance(data, dict):
        return
    if description := data.get("description"):
        yield f"{data.get('name')}: {description}."
    if isinstance(splits := data.get("splits"), dict):
        parts = [f"{name}: {_split(value)}" for name, value in splits.items()]
        yield f"Splits: {'; '.join(parts)}."
    augmentation = data.get("augmentation")
    names = [str(one.get("name", one)) for one in augmentation or () if isinstance(one, dict)]
    yield f"Augmentation of the training split: {', '.join(names) or 'none'}."


def _split(value: Any) -> str:
    if isinstance(value, dict) and "fraction" in value:
        return f"{value['fraction']:.0%} of the source's {value.get('from')}"
    return f"the source's {value}"


def _versions(run: RecordedRun) -> Table:
    versions = run.machine.versions or tuple((run.answer.versions if run.answer else {}).items())
    return Table("Software", ("package", "version"), tuple(versions))


def _checks(run: RecordedRun) -> Section:
    rows = tuple((c.name, c.verdict, c.evidence) for c in checks_of(run.answer, run.trials))
    tables = (Table("Questions of a strict reviewer", ("question", "verdict", "evidence"), rows),)
    return Section("Checks", tables=tables if rows else ())


def _figures(run: RecordedRun) -> Iterable[Figure]:
    makers: tuple[tuple[str, Callable[[RecordedRun], Picture | None], str], ...] = (
        (
            "batch_size",
            by_batch_size,
            f"Throughput and {run.objective_name} against the batch size. What is dashed is "
            "predicted.",
        ),
        ("landscape", landscape, f"Every trial of the search. {slope_note(run)}"),
        ("learning_curves", learning_curves, "Learning curves by examples trained on."),
        (
            "finalists",
            forest,
            "Finalists on fresh seeds: a dot is one paired difference, the bar the interval.",
        ),
        ("to_target", to_target_chart, f"Steps to a target. {to_target_sentence(run)}"),
    )
    for name, make, caption in makers:
        picture = make(run)
        if isinstance(picture, Chart | Stack):
            yield Figure(name, caption, picture)


_SCHEDULES = {
    "cosine": "Loshchilov & Hutter 2017, SGDR: Stochastic gradient descent with warm restarts, "
    "arXiv 1608.03983",
    "wsd": "Hu et al. 2024, MiniCPM, arXiv 2404.06395",
    "one_cycle": "Smith & Topin 2018, Super-convergence, arXiv 1708.07120",
}
_ORACLES = {
    "bayesian": "Snoek et al. 2012, Practical Bayesian optimization of machine learning "
    "algorithms, arXiv 1206.2944",
    "hyperband": "Li et al. 2018, Hyperband: A novel bandit-based approach to hyperparameter "
    "optimization, arXiv 1603.06560",
    "random": "Bergstra & Bengio 2012, Random search for hyper-parameter optimization, JMLR 13",
    "tpe": "Bergstra et al. 2011, Algorithms for hyper-parameter optimization, NeurIPS 24; "
    "Watanabe 2023, Tree-structured Parzen estimator, arXiv 2304.11127",
}


def _references(run: RecordedRun, settings: JsonObject) -> Iterable[str]:
    """Of what this run has used, and of the rules by which it is reported."""
    searched = run.trials.of_phase("search", "baseline")
    for rule in sorted({t.configuration.scaling_rule.name for t in searched}):
        if rule in SCALING_RULES.names():
            yield f"Scaling rule {rule}: {SCALING_RULES.load(rule).SOURCE}"
    for schedule in sorted({t.configuration.schedule.name for t in searched} & set(_SCHEDULES)):
        yield f"Schedule {schedule}: {_SCHEDULES[schedule]}"
    oracle = settings.get("search", {}).get("oracle", {})
    for name in (oracle.get("name"), oracle.get("then", {}).get("name")):
        if name in _ORACLES:
            yield f"Search: {_ORACLES[name]}"
    yield (
        "Comparison of batch sizes: Shallue et al. 2019, Measuring the effects of data parallelism "
        "on neural network training, JMLR 20(112)"
    )
    yield (
        "Variances: Smyth 2004, Linear models and empirical Bayes methods, Statistical "
        "Applications in Genetics and Molecular Biology 3(1)"
    )
    yield "Software: Chollet et al., Keras, https://keras.io; O'Malley et al. 2019, KerasTuner"
