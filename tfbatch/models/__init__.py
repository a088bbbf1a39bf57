"""Model builders, one file each.

A file holds `build(input_shape, num_classes, *, normalization=...)`, which returns an uncompiled
`keras.Model` from float32 [batch, *input_shape] to logits, float32 [batch, num_classes]. The
normalisation is "none", "batch", "group" or "layer", by default that of the paper the model is
named after. In a network with convolutions they are what is normalised.
"""

from __future__ import annotations

from tfbatch.errors import InputError
from tfbatch.registry import Registry

MODELS = Registry(__name__, kind="model", folder=__path__)


def check_model_name(name: str) -> None:
    """Refuses an unknown model name or an ill-formed `module:function`, importing nothing.

    Raises:
        InputError: As it says.
    """
    if ":" not in name:
        MODELS.check(name)
        return
    module, function = name.split(":", 1)
    if not module or not function.isidentifier():
        raise InputError(
            "`--model` must be a model's name or package.module:function. "
            f"Received: {name!r}. Available names: {', '.join(MODELS.names())}."
        )


__all__ = ["MODELS", "check_model_name"]
