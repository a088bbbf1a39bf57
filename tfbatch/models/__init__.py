"""Model builders, one file each.

A file holds `build(input_shape, num_classes, *, normalization=...)`, which returns an uncompiled
`keras.Model` from float32 [batch, *input_shape] to logits, float32 [batch, num_classes]. The
normalization is "none", "batch", "group" or "layer", by default that of the paper the model is
named after. In a network with convolutions, only those are normalized.
"""

from __future__ import annotations

import functools
import importlib.machinery
import re
from pathlib import Path

from tfbatch.errors import InputError, did_you_mean
from tfbatch.plug_ins import Registry

MODELS = Registry(__name__, kind="model", folder=__path__)


def check_model_name(name: str) -> None:
    """Refuses an unknown model name or an ill-formed `module:function`, importing nothing.

    Raises:
        InputError: No model has the name, and it is not a `module:function`.
    """
    if is_keras_application(name):
        return
    if ":" not in name:
        if name not in MODELS.names():
            known = [*MODELS.names(), *keras_applications()]
            raise InputError(
                f"Unknown model `{name}`.{did_you_mean(name, known)} "
                f"Available: {', '.join(MODELS.names())}; any model of keras.applications, such as "
                "MobileNetV2; or package.module:function."
            )
        return
    module, function = name.split(":", 1)
    if not module or not function.isidentifier():
        raise InputError(
            "`--model` must be a model's name or package.module:function. "
            f"Received: {name!r}. Available names: {', '.join(MODELS.names())}."
        )


def is_keras_application(name: str) -> bool:
    """Whether a name is that of a model in keras.applications, such as "MobileNetV2"."""
    mine = name in MODELS.names() or ":" in name
    return not mine and name in keras_applications()


@functools.cache
def keras_applications() -> tuple[str, ...]:
    """Names of the models in keras.applications, read from its text: importing takes seconds."""
    found = importlib.machinery.PathFinder.find_spec("keras")
    if found is None or not found.origin:
        return ()
    text = (Path(found.origin).parent / "applications" / "__init__.py").read_text(encoding="utf-8")
    return tuple(sorted(re.findall(r"import ([A-Z]\w+) as", text)))


__all__ = ["MODELS", "check_model_name", "is_keras_application", "keras_applications"]
