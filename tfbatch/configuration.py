"""One setting of everything that is searched. Nothing in it is counted in steps or derived."""

from __future__ import annotations

from typing import Any

from pydantic import Field, field_serializer, field_validator

from tfbatch.schema import JsonObject, Named, Strict, as_named, as_written, content_hash, validate

_NAMED = ("scaling_rule", "schedule", "optimizer")
"""The fields that are a plug-in's name with its arguments."""


class Configuration(Strict):
    """What one trial trains with.

    The learning rate is written as a base at a reference batch size, a rule, and an offset around
    the rule in octaves, so that it never goes stale when the batch size changes:

        def learning_rate():
            return scale(base_learning_rate, batch_size / base_batch_size) * 2**octaves

    The optimizer's numbers are meant for that reference batch size too, unless they are written as
    timescales; see tfbatch.trial.optimizer_numbers.

    Attributes:
        batch_size: Examples in one update.
        base_learning_rate: Peak learning rate at `base_batch_size`.
        base_batch_size: The reference batch size.
        scaling_rule: A file of tfbatch/scaling_rules with its parameters; one that has none may be
            written as its name alone.
        learning_rate_octaves: Offset from the rule, in factors of two.
        warmup_fraction: Share of the training that is warm-up, in [0, 1].
        schedule: A file of tfbatch/schedules with its parameters.
        optimizer: A file of tfbatch/optimizers with its parameters.
        model: Arguments of the model's builder, by name.
    """

    batch_size: int = Field(ge=1)
    base_learning_rate: float = Field(gt=0)
    base_batch_size: int = Field(default=32, ge=1)
    scaling_rule: Named = Named(name="linear")
    learning_rate_octaves: float = 0.0
    warmup_fraction: float = Field(default=0.0, ge=0, le=1)
    schedule: Named = Named(name="constant")
    optimizer: Named = Named(name="sgd")
    model: dict[str, bool | int | float | str] = {}

    @field_validator("scaling_rule", mode="before")
    @classmethod
    def _named_rule(cls, value: Any) -> Any:
        return as_named(value)

    @field_serializer("scaling_rule")
    def _written_rule(self, rule: Named) -> str | dict[str, Any]:
        return as_written(rule)

    def identity(self) -> str:
        """A short hash: equal for equal configurations."""
        return content_hash(self.model_dump(mode="json"))[:8]

    def flat(self) -> JsonObject:
        """Flat keys, as in the journal: `schedule` is a name, `schedule_X` its parameter X."""
        row = self.model_dump(mode="json", exclude=set(_NAMED))
        for role in _NAMED:
            named: Named = getattr(self, role)
            row[role] = named.name
            row.update({f"{role}_{key}": value for key, value in named.arguments.items()})
        row.update({f"model_{key}": value for key, value in row.pop("model").items()})
        return row

    @classmethod
    def from_flat(cls, row: JsonObject) -> Configuration:
        """The inverse of `flat`; other keys of the row are ignored.

        Raises:
            ConfigurationError: A key is missing or cannot be used.
        """
        fields = set(cls.model_fields) - set(_NAMED)
        data: dict[str, Any] = {key: row[key] for key in fields if key in row}
        for role in _NAMED:
            if role == "scaling_rule" and role not in row:  # it has a default
                continue
            start = f"{role}_"
            parameters = {
                key.removeprefix(start): value
                for key, value in row.items()
                if key.startswith(start) and value is not None
            }
            data[role] = {"name": row.get(role), **parameters}
        data["model"] = {
            key.removeprefix("model_"): value
            for key, value in row.items()
            if key.startswith("model_") and value is not None
        }
        return validate(cls, data, where="journal")
