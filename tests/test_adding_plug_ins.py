"""A callback is one new file: found, exported and named in errors, with no list to edit."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tfbatch import callbacks
from tfbatch.errors import InputError

NEW = '''"""Counts the updates."""

import keras


class CountUpdates(keras.callbacks.Callback):
    """Counts the updates."""

    def on_train_begin(self, logs=None):
        self.updates = 0

    def on_train_batch_end(self, batch, logs=None):
        self.updates += 1
'''


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A second folder of callbacks, in front of the package's own."""
    monkeypatch.setattr(callbacks, "__path__", [str(tmp_path), *callbacks.__path__])
    monkeypatch.setattr(callbacks.CALLBACKS, "_folder", tmp_path)
    yield tmp_path
    sys.modules.pop("tfbatch.callbacks.count_updates", None)
    vars(callbacks).pop("count_updates", None)


def test_a_new_callback_is_exported_and_works_in_fit(folder):
    import keras
    import numpy

    (folder / "count_updates.py").write_text(NEW, encoding="utf-8")
    assert "CountUpdates" in callbacks.__all__
    assert "CountUpdates" in dir(callbacks)
    counted = callbacks.CountUpdates()
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(loss="mse")
    model.fit(numpy.ones((6, 1)), numpy.ones(6), batch_size=2, verbose=0, callbacks=[counted])
    assert counted.updates == 3


def test_a_callback_file_without_its_class_is_refused_with_the_name_it_must_have(folder):
    (folder / "count_updates.py").write_text(NEW.replace("CountUpdates", "Other"), encoding="utf-8")
    with pytest.raises(InputError, match="class CountUpdates"):
        _ = callbacks.CountUpdates
    with pytest.raises(InputError, match="Available: count_updates"):
        callbacks.class_name("count_update")


@pytest.mark.parametrize("file", callbacks.CALLBACKS.names())
def test_every_callback_file_exports_the_class_of_its_name(file):
    assert callbacks.class_name(file) in callbacks.__all__


def test_listing_the_callbacks_imports_no_tensorflow():
    program = "import sys; from tfbatch import callbacks; callbacks.__all__, dir(callbacks); "
    program += "sys.exit('keras' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
