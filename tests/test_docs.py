"""The API reference is built without a warning, and holds every public name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from processes import HANG_SECONDS

import tfbatch
from tfbatch import layers

BUILD = Path(__file__).parent.parent / "docs" / "build_reference.py"


@pytest.mark.slow
def test_the_reference_is_built_without_warnings(tmp_path):
    pytest.importorskip("pdoc", reason="pdoc is not installed: pip install -e '.[dev]'")
    ended = subprocess.run(
        [sys.executable, BUILD, tmp_path],
        capture_output=True,
        text=True,
        timeout=HANG_SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    page = (tmp_path / "tfbatch.html").read_text(encoding="utf-8")
    assert [name for name in tfbatch.__all__ if name not in page] == []
    page = (tmp_path / "tfbatch" / "layers.html").read_text(encoding="utf-8")
    assert [name for name in layers.__all__ if f'id="{name}"' not in page] == []
