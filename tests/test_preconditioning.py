"""Only an optimizer that keeps second moments gives a preconditioner of its own."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from tfbatch.instruments.noise_scale import slots_preconditioner
from tfbatch.optimizers import LARS


def trained(optimizer):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(optimizer, "mse")
    random = np.random.default_rng(0)
    x, y = random.normal(size=(8, 3)), random.normal(size=(8, 2))
    model.fit(x, y, batch_size=4, verbose=0)
    return model


@pytest.mark.quick_cases("sgd")
@pytest.mark.parametrize(
    "make",
    [
        lambda: keras.optimizers.SGD(0.1, momentum=0.9),
        lambda: LARS(0.1, momentum=0.9),
        lambda: keras.optimizers.Lion(0.01),
        lambda: keras.optimizers.Muon(0.01),
    ],
    ids=["sgd", "lars", "lion", "muon"],
)
def test_momentum_is_no_second_moment(make):
    """The velocities of LARS have signs: their roots are NaN. Its P is measured, as that of SGD."""
    assert slots_preconditioner(trained(make())) is None


@pytest.mark.quick_cases("RMSprop", "Adam")
@pytest.mark.parametrize("name", ["Adam", "AdamW", "Nadam", "Lamb", "RMSprop", "Adagrad"])
def test_second_moments_give_finite_scales(name):
    model = trained(getattr(keras.optimizers, name)(0.01))
    scales, source = slots_preconditioner(model)

    assert f"v of {name} after 2 updates" == source
    for scale, variable in zip(scales, model.trainable_variables, strict=True):
        assert scale.shape == variable.shape
        assert np.isfinite(scale).all()
        assert (np.asarray(scale) > 0).all()
