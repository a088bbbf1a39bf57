"""README, the pages of docs/ and the notes hang together: evidence exists, links lead somewhere."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent


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
