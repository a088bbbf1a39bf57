"""Amounts as people write them: lengths of training, bytes of memory, and measured numbers.

Nothing in a configuration is counted in steps, which change with the batch size: a length is a
number of epochs or of examples.
"""

from __future__ import annotations

import contextlib
import decimal
import math
import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from tfbatch.errors import InputError
from tfbatch.schema import Strict

_PATTERN = re.compile(r"\s*([0-9]+(?:_[0-9]+)*(?:\.[0-9]+)?)\s*(epochs?|examples?)\s*")


class TrainingLength(Strict):
    """A length of training, e.g. `TrainingLength.parse("5 epochs")`.

    Attributes:
        amount: Positive number.
        unit: "epochs" (passes over the training split) or "examples".
    """

    amount: float = Field(gt=0)
    unit: Literal["epochs", "examples"]

    @classmethod
    def parse(cls, text: str) -> TrainingLength:
        """Reads "5 epochs", "0.5 epochs" or "200_000 examples".

        Raises:
            InputError: Another form, a count of steps, or an amount that is not positive.
        """
        match = _PATTERN.fullmatch(str(text))
        if not match or not 0 < float(match[1]) < math.inf:
            hint = (
                " Steps are not allowed: they change with the batch size."
                if ("step" in str(text))
                else ""
            )
            raise InputError(
                "A length of training must be a positive number of epochs or examples, such as "
                f'"5 epochs" or "200_000 examples".{hint} Received: {text!r}.'
            )
        unit: Literal["epochs", "examples"] = "epochs" if match[2][1] == "p" else "examples"
        return cls(amount=float(match[1].replace("_", "")), unit=unit)

    def examples(self, num_examples: int) -> int:
        """The length in examples, at least 1, for a training split of `num_examples`."""
        factor = num_examples if self.unit == "epochs" else 1
        return max(1, math.ceil(self.amount * factor - 1e-9))

    def __str__(self) -> str:
        """The form that `parse` reads."""
        return f"{Decimal(repr(self.amount)).normalize():f} {self.unit}"


def _read(value: object) -> object:
    return value if isinstance(value, (TrainingLength, dict)) else TrainingLength.parse(str(value))


TrainingLengthText = Annotated[
    TrainingLength, BeforeValidator(_read), PlainSerializer(str, return_type=str)
]
"""The pydantic field type: a string in YAML and JSON, a `TrainingLength` in Python."""


def four_decimals(value: float, *beside: float, sign: str = "") -> str:
    """Such as "0.8123"; three significant digits where four decimals would show next to nothing.

    Args:
        value: The number.
        beside: Others of the same sentence, such as a deviation or the ends of an interval: each of
            them is written as its largest needs it.
        sign: "+" to have it also before a positive number.
    """
    largest = max((abs(v) for v in (value, *beside) if math.isfinite(v)), default=0.0)
    return f"{value:{sign}.3g}" if 0 < largest < 0.001 else f"{value:{sign}.4f}"


def plain_digits(value: float, digits: int = 3) -> str:
    """So many digits, or all before the point, without an exponent: "0.83", "12.5", "1,234"."""
    if abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}"
    short = f"{value:.{digits}g}"
    return f"{decimal.Decimal(short):f}" if "e" in short else short


_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def bytes_of(budget: float | str | None) -> float | None:
    """Bytes from a number or a text.

    Raises:
        InputError: Neither, or not > 0.
    """
    if budget is None:
        return None
    found: float | None = None
    if isinstance(budget, str):
        match = re.fullmatch(r"\s*([\d_.]+)\s*([KMGT]?I?B?)\s*", budget.upper())
        unit = match[2] if match else ""
        if match and unit in _UNITS:
            with contextlib.suppress(ValueError):
                found = float(match[1]) * _UNITS[unit]
    elif isinstance(budget, int | float) and not isinstance(budget, bool):
        found = float(budget)
    if found is None or not 0 < found < float("inf"):
        raise InputError(
            "`memory_budget` must be > 0: a number of bytes, or a text such as '1.5 GB' or "
            f"'800 MiB'. Received: {budget!r}."
        )
    return found
