"""Sources that AutoGraph writes into the temporary directory."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest
import tensorflow as tf

from tfbatch.process.generated_files import remove_generated_files
from tfbatch.workers.slot import Slot, Start


def converted():
    """A function whose `if` needs AutoGraph, with another one within it."""

    @tf.function
    def outer(x):
        def inner(y):
            if y > 0:
                return 2 * y
            return -y

        if x < 100:
            return inner(x)
        return x

    return outer


def test_what_was_converted_is_removed_and_still_traced_and_differentiated(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    function = converted()
    assert function(tf.constant(3.0)) == 6
    assert list(tmp_path.glob("__autograph*"))

    remove_generated_files()
    remove_generated_files()

    assert not list(tmp_path.rglob("__autograph*"))
    assert function(tf.constant(-3)) == 3  # another dtype: traced anew
    with tf.GradientTape() as tape:
        x = tf.Variable(4.0)
        y = function(x)
    assert tape.gradient(y, x) == 2


@tf.function
def _absolute(x):
    if x < 0:
        return -x
    return x


def _begin():
    """A worker's start converts nothing here."""


def _convert(fails):
    function = _absolute if fails else converted()  # a function is converted once
    function(tf.constant(1.0))
    found = list(Path(tempfile.gettempdir()).glob("__autograph*"))
    if fails:
        raise ValueError(f"{len(found)} files")
    return len(found)


@pytest.mark.slow
def test_trap_a_worker_that_is_killed_leaves_no_generated_files(tmp_path, monkeypatch):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.delenv("PYTHONDONTWRITEBYTECODE", raising=False)
    slot = Slot(Start(tmp_path / "worker.log", None, _begin, ()))
    try:
        slot.submit(_convert, False)
        assert slot.result() >= 1
        slot.submit(_convert, True)
        with pytest.raises(ValueError, match=r"[1-9] files"):
            slot.result()
        assert not list(folder.rglob("__autograph*"))
    finally:
        slot.close()
    assert not list(folder.rglob("__autograph*"))
