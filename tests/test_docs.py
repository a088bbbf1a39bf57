"""The site is built without a warning, holds every public name, and needs no network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from processes import HANG_SECONDS

import tfbatch
from tfbatch import layers

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_site_is_built_strictly_and_loads_nothing_from_the_network(tmp_path):
    pytest.importorskip("mkdocstrings", reason="not installed: pip install -e '.[dev]'")
    ended = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", f"--site-dir={tmp_path}"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "reference" / "tfbatch.html").read_text(encoding="utf-8")
    modules = {"callbacks", "layers", "models", "optimizers", "oracles", "schedules"}
    names = [name for name in tfbatch.__all__ if name not in modules]
    assert [name for name in names if f'id="tfbatch.{name}"' not in page] == []
    page = (tmp_path / "reference" / "layers.html").read_text(encoding="utf-8")
    assert [n for n in layers.__all__ if f'id="tfbatch.layers.{n}"' not in page] == []
    pages = "".join(p.read_text(encoding="utf-8") for p in tmp_path.rglob("*.html"))
    loaded = re.findall(r'<(?:script|link|img|iframe)[^>]+(?:src|href)="?https?://[^">]+', pages)
    assert loaded == []
