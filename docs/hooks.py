"""What the pages take from the code while the site is built, so that no list is kept twice.

`<!-- commands -->` becomes the flags of every command. `<!-- plug-ins: schedules -->` becomes an
entry of the API reference for every file of tfbatch/schedules: a new file needs no line here.
`<!-- json schemas -->` becomes the JSON schema of every command's document.
"""

from __future__ import annotations

import ast
import importlib
import json
import re
from pathlib import Path
from typing import Any

from absl import flags

from tfbatch.__main__ import COMMANDS, command_module
from tfbatch.command_line.machine_output import Document
from tfbatch.command_line.results import RESULTS

PACKAGE = Path(__file__).parent.parent / "tfbatch"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls it with the text of each page."""
    markdown = markdown.replace("<!-- commands -->", commands())
    markdown = markdown.replace("<!-- json schemas -->", schemas())
    return re.sub(
        r"<!-- plug-ins: (\w+) -->",
        lambda found: "\n\n".join(f"::: {name}" for name in plug_ins(found[1])),
        markdown,
    )


def commands() -> str:
    """A section for each command: what it does, and a table of its flags."""
    sections = []
    for name in COMMANDS:
        module = importlib.import_module(command_module(name))
        rows = [row(module.FLAGS[flag]) for flag in sorted(set(module.FLAGS))]
        sections += [f"## tfbatch {name}", *told(module.__doc__ or ""), "\n".join([*HEAD, *rows])]
    return "\n\n".join(sections)


def schemas() -> str:
    """A section for each command: the JSON schema of its document."""
    sections = []
    for name, result in RESULTS.items():
        schema = json.dumps(Document[result].model_json_schema(), indent=1)
        sections += [f"## The document of `{name}`", f"```json\n{schema}\n```"]
    return "\n\n".join(sections)


HEAD = ("| flag | default | meaning |", "| --- | --- | --- |")


def told(docstring: str) -> list[str]:
    """A command's docstring as Markdown, its usage as a block."""
    paragraphs = docstring.strip().split("\n\n")
    return [f"```text\n{p}\n```" if p.startswith("usage: ") else p for p in paragraphs]


def row(flag: flags.Flag) -> str:
    """A flag as a row of the table."""
    default = "" if flag.default in (None, "") else f"`{flag.default}`"
    meaning = (flag.help or "").replace("|", "\\|").replace("\n", " ")
    return f"| `--{flag.name}` | {default} | {meaning} |"


def plug_ins(folder: str) -> list[str]:
    """The names of what the files of a folder offer: the class a file is named after, or all."""
    found = []
    for path in sorted((PACKAGE / folder).glob("*.py")):
        if path.name.startswith("_"):
            continue
        module = f"tfbatch.{folder}.{path.stem}"
        classes = [
            node.name
            for node in ast.parse(path.read_text(encoding="utf-8")).body
            if isinstance(node, ast.ClassDef) and node.name.lower() == path.stem.replace("_", "")
        ]
        found.append(f"{module}.{classes[0]}" if classes else module)
    return found
