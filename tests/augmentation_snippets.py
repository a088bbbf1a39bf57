"""The recipe that each augmentation shows in its docstring."""

from __future__ import annotations

import re
import textwrap

from ruamel.yaml import YAML

from tfbatch.augmentations import AUGMENTATIONS


def snippet(name):
    """The list under `augmentation:` in the docstring; its last item is the plug-in itself."""
    found = re.search(r"^ +augmentation:\n(?: +- .*\n)+", AUGMENTATIONS.load(name).__doc__, re.M)
    assert found, f"show a recipe's `augmentation:` in the docstring of augmentations/{name}.py"
    shown = YAML(typ="safe", pure=True).load(textwrap.dedent(found.group()))["augmentation"]
    assert shown[-1]["name"] == name
    return shown


def mixes(name):
    """Whether it is of the kind that mixes two examples."""
    return hasattr(AUGMENTATIONS.load(name), "mix")
