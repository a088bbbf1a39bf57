"""README, the pages of docs/ and the notes hang together: evidence exists, links lead somewhere."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

import tfbatch
from tfbatch import layers, oracles

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "BUILD_NOTES.md", *sorted((ROOT / "docs").rglob("*.md"))]
FORMER_SECTIONS = [
    "start",
    "search-python--m-tfbatchtune",
    "more-machines-more-devices",
    "look-tensorboard",
    "use-the-answer",
    "from-python",
    "your-model",
    "your-data",
    "measure-before-any-search-python--m-tfbatchprobe",
    "in-your-own-project-callbacks-oracles-layers",
    "data",
    "export-the-trials",
    "where-do-i-add-",
    "what-is-searched",
]


def module_of(path):
    """A script of docs/, which is no package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(text):
    """What `#...` can lead to: headings as GitHub and MkDocs name them, and named places."""
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', text))


def links(path):
    """The targets of a page's links and images that are files."""
    text = path.read_text(encoding="utf-8")
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return [target for target in found if "://" not in target]


@pytest.mark.parametrize("anchor", FORMER_SECTIONS)
def test_a_link_to_a_former_section_of_the_readme_leads_to_its_page(anchor):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert anchor in anchors(readme)
    if f'id="{anchor}"' in readme:
        (line,) = (line for line in readme.splitlines() if f'id="{anchor}"' in line)
        assert "](docs/" in line


def test_every_link_of_a_page_leads_to_a_file():
    offenders = [
        f"{path.relative_to(ROOT)}: {target}"
        for path in PAGES
        for target in links(path)
        if not (path.parent / target.partition("#")[0]).exists()
    ]

    assert offenders == []


@pytest.mark.parametrize(("name", "most"), [("README.md", 10_000), ("BUILD_NOTES.md", 20_000)])
def test_what_is_read_first_is_short(name, most):
    """Figures go into docs/ and benchmarks/results/, decisions of one part into docs/design/."""
    assert len((ROOT / name).read_bytes()) <= most


def test_every_public_name_has_an_entry_in_the_reference():
    texts = [p.read_text(encoding="utf-8") for p in (ROOT / "docs" / "reference").glob("*.md")]
    entries = set(re.findall(r"^::: ([\w.]+)$", "\n".join(texts), flags=re.MULTILINE))
    modules = {"callbacks", "layers", "models", "optimizers", "oracles", "schedules"}
    names = {f"tfbatch.{name}" for name in set(tfbatch.__all__) - modules}
    names |= {f"tfbatch.layers.{name}" for name in layers.__all__}
    names |= {f"tfbatch.oracles.{name}" for name in oracles.__all__}

    assert names - entries == set()


def test_the_pages_take_commands_and_plug_ins_from_the_code():
    hooks = module_of(ROOT / "docs" / "hooks.py")
    text = hooks.on_page_markdown("<!-- commands -->\n<!-- plug-ins: callbacks -->")

    assert "| `--max_trials` |  | Configurations that the search tries." in text
    assert "## tfbatch export" in text
    assert "::: tfbatch.callbacks.peak_memory.PeakMemory" in text
    assert "<!--" not in text


def test_the_picture_of_the_readme_is_what_its_command_draws():
    picture = module_of(ROOT / "docs" / "picture.py")

    assert (ROOT / "docs" / "search.svg").read_text(encoding="utf-8") == picture.draw(
        ROOT / "docs" / "run"
    )


def test_every_benchmark_and_search_states_its_result_and_where_its_evidence_is():
    benchmarks = [p for p in (ROOT / "benchmarks").glob("*.py") if p.stem != "process_tree"]
    heads = {p: ast.get_docstring(ast.parse(p.read_text(encoding="utf-8"))) for p in benchmarks}
    heads |= {p: p.read_text(encoding="utf-8") for p in (ROOT / "tuner_configs").glob("*.yaml")}
    offenders = []
    for path, head in heads.items():
        evidence = re.search(r"^(?:# )?Evidence: (.+)$", head, flags=re.MULTILINE)
        stated = re.search(r"^(?:# )?Result: .+$", head, flags=re.MULTILINE)
        found = evidence and (
            evidence[1].startswith("none yet") or (ROOT / evidence[1].strip()).is_file()
        )
        if not (stated and found):
            offenders.append(path.name)

    assert len(heads) > 15
    assert offenders == []


def test_the_results_that_the_notes_and_pages_name_exist():
    texts = [ROOT / "BUILD_NOTES.md", *(ROOT / "docs").rglob("*.md")]
    named = {
        name
        for path in texts
        for name in re.findall(r"`(benchmarks/[\w/.]+)`", path.read_text(encoding="utf-8"))
    }

    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
