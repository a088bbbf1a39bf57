"""How the learning rate and the optimizer's numbers follow the batch size, one file each.

A file holds one pure function `scale(learning_rate, ratio)`, where `ratio` is the batch size
divided by the one that `learning_rate` was meant for, with `FORMULA`, its result in one line, and
`SOURCE`, who proposed it. It may also hold

- keyword-only parameters of `scale`, all required, which a configuration gives;
- `IN_EXAMPLES`, the names of those that are batch sizes: they reach `scale` divided, as `ratio`
  is, by the batch size that `learning_rate` was meant for;
- `scale_number(role, value, ratio)`, which returns what becomes of a number of the optimizer that
  has that role (see tfbatch.optimizers); without it every number stays as it is;
- `REQUIRES`, a role without which the rule has no meaning.

At `ratio` 1 a rule changes nothing, and scaling twice is scaling once by the product.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

from tfbatch.errors import InputError, did_you_mean
from tfbatch.plug_ins import Registry

SCALING_RULES = Registry(__name__, kind="scaling rule", folder=__path__)


def scaled(
    rule: str,
    learning_rate: float,
    *,
    batch_size: float,
    base_batch_size: float,
    parameters: Mapping[str, object] | None = None,
) -> float:
    """The learning rate at `batch_size` by a rule, from the one at `base_batch_size`.

    Args:
        rule: A file of tfbatch/scaling_rules.
        learning_rate: The learning rate at `base_batch_size`.
        batch_size: Examples in one update.
        base_batch_size: The batch size that `learning_rate` is meant for.
        parameters: The rule's own parameters; batch sizes among them in examples.

    Raises:
        InputError: An unknown rule, a parameter that it lacks or does not have, or an argument
            that is not positive and finite.
    """
    if not all(0 < number < math.inf for number in (learning_rate, batch_size, base_batch_size)):
        raise InputError(
            "`learning_rate`, `batch_size` and `base_batch_size` must be finite and > 0. Received: "
            f"{learning_rate=}, {batch_size=}, {base_batch_size=}."
        )
    module = SCALING_RULES.load(rule)
    given = _checked(rule, parameters or {})
    for name in getattr(module, "IN_EXAMPLES", ()):
        given[name] /= base_batch_size
    return float(module.scale(learning_rate, batch_size / base_batch_size, **given))


def scaled_number(
    rule: str, role: str, value: float, *, batch_size: float, base_batch_size: float
) -> float:
    """What a rule makes of a number of the optimizer that is meant for `base_batch_size`.

    The result can lie outside of what an optimizer takes (see tfbatch.trial.derived).

    Args:
        rule: A file of tfbatch/scaling_rules.
        role: What the number is, such as "second_moment"; see tfbatch.optimizers.
        value: The number at `base_batch_size`.
        batch_size: Examples in one update.
        base_batch_size: The batch size that `value` is meant for.

    Raises:
        InputError: An unknown rule.
    """
    module = SCALING_RULES.load(rule)
    if batch_size == base_batch_size or not hasattr(module, "scale_number"):
        return value
    return float(module.scale_number(role, value, batch_size / base_batch_size))


def rule_parameters(rule: str) -> list[str]:
    """The names of a rule's own parameters.

    Raises:
        InputError: An unknown rule.
    """
    scale = SCALING_RULES.load(rule).scale
    return [
        p.name for p in inspect.signature(scale).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]


def check_rule(rule: str, *, roles: Mapping[str, str], optimizer: str) -> None:
    """Refuses a rule that has no meaning for an optimizer.

    Args:
        rule: A file of tfbatch/scaling_rules.
        roles: The optimizer's numbers and their roles.
        optimizer: Its name, for the message.

    Raises:
        InputError: The rule requires a number that the optimizer does not have.
    """
    required = getattr(SCALING_RULES.load(rule), "REQUIRES", None)
    if required and required not in roles.values():
        raise InputError(
            f"The scaling rule {rule} is for optimizers with a {required.replace('_', ' ')}, "
            f"which {optimizer} has not. Choose another rule, such as `linear` or `square_root`. "
            f"Received: {rule!r}."
        )


def _checked(rule: str, parameters: Mapping[str, Any]) -> dict[str, float]:
    known = rule_parameters(rule)
    for name in parameters:
        if name not in known:
            allowed = f"Available: {', '.join(known)}." if known else "It has none."
            raise InputError(
                f"The scaling rule {rule} has no parameter `{name}`."
                f"{did_you_mean(name, known)} {allowed}"
            )
    for name in known:
        value = parameters.get(name)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is None or not number or not (math.isfinite(value) and value >= 0):
            raise InputError(
                f"`{name}` of the scaling rule {rule} must be a number >= 0. Received: {value!r}."
            )
    return {name: float(value) for name, value in parameters.items()}


__all__ = ["SCALING_RULES", "check_rule", "rule_parameters", "scaled", "scaled_number"]
