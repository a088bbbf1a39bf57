"""The peak of memory of a training, in a process."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfbatch import device_memory
from tfbatch.callbacks import PeakMemory
from tfbatch.errors import InputError

X = np.ones((8, 2), "float32")


def fit(*callbacks, epochs=3):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    return model.fit(X, X[:, :1], epochs=epochs, callbacks=list(callbacks), verbose=0).history


@pytest.mark.slow
def test_what_one_epoch_takes_and_gives_back_is_in_the_peak_alone():
    class Takes(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                _, peak = device_memory.memory_use()
                held, _ = device_memory.memory_use()
                block = np.ones((peak - held + 300 * 10**6) // 8)
                del block

    memory = PeakMemory()
    history = fit(Takes(), memory)

    before, after, later = history["peak_memory_mb"]
    assert 250 < after - before < 400
    assert later == pytest.approx(after, abs=50)
    assert history["memory_mb"][1] < after - 200
    assert memory.peak_memory_mb == later
    assert memory.memory_mb == history["memory_mb"][-1]


def test_trap_29_the_peak_is_never_below_what_is_held():
    held, peak = device_memory.memory_use()

    assert 10**7 < held <= peak


def test_where_nothing_tells_the_memory_it_is_refused(monkeypatch):
    monkeypatch.setattr(device_memory, "resident", lambda: None)

    with pytest.raises(InputError, match="PeakMemory needs a GPU, or Linux's /proc/self/status"):
        fit(PeakMemory(), epochs=1)
