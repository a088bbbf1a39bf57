"""What a user asks of the court; checked as far as possible without TensorFlow."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from tfbatch.claims import Card, can_be_tried, cards, claims, find_card, find_claim
from tfbatch.claims._claim import Claim
from tfbatch.claims._preset import Preset, find_preset
from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLength
from tfbatch.request.execution import Execution
from tfbatch.request.model_and_data import (
    ModelAndData,
    ModelAndDataOptions,
    resolve_model_and_data,
)
from tfbatch.request.request import DEFAULT_RUNS, data_identity
from tfbatch.schema import as_plain, check_numbers, expanded
from tfbatch.seeds import derive_seed
from tfbatch.trial.objective import Objective


@dataclasses.dataclass(frozen=True)
class CourtRequest:
    """One session of the court, resolved: every default filled in.

    Attributes:
        subject: Model and data.
        claims: What is judged.
        cards: The experiments for it, in the order in which they run.
        objective: The metric that claims are about.
        trial_length: Length of a training at the baseline's batch size.
        preset: How large the experiments are.
        seed: Everything random derives from it.
        max_minutes: Time limit, or None.
        execution: How trainings are run.
        run_dir: The run folder.
        overwrite: Start anew.
    """

    subject: ModelAndData
    claims: tuple[Claim, ...]
    cards: tuple[Card, ...]
    objective: Objective
    trial_length: TrainingLength
    preset: Preset
    seed: int
    max_minutes: float | None
    execution: Execution
    run_dir: Path
    overwrite: bool

    def identity(self, **more: object) -> dict[str, object]:
        """Everything that makes two sessions comparable; which claims are tried does not."""
        subject = self.subject
        return {
            "command": "claims",
            "dataset": data_identity(subject.data),
            "model": subject.model,
            "objective": str(self.objective),
            "trial_length": str(self.trial_length),
            "baseline": subject.baseline.model_dump(mode="json"),
            "preset": dataclasses.asdict(self.preset),
            "seed": self.seed,
            **({"model_arguments": subject.model_arguments} if subject.model_arguments else {}),
            **subject.task.identity(),
            "precision": self.execution.precision,
            "jit_compile": self.execution.jit_compile,
            "strategy": self.execution.strategy,
            **more,
        }


def make_court_request(
    *,
    claim: Sequence[str] = (),
    card: Sequence[str] = (),
    preset: str = "small",
    objective: str | None = None,
    trial_length: str | None = None,
    max_minutes: float | None = None,
    seed: int = 1,
    run_dir: Path | None = None,
    overwrite: bool = False,
    execution: Execution | None = None,
    **subject: Unpack[ModelAndDataOptions],
) -> CourtRequest:
    """Resolves everything that a user can ask, importing no TensorFlow.

    Args:
        claim: Names or numbers of claims. Default: all that can be tried.
        card: Short names of cards: all claims that need one of them, with whatever else these need.
        preset: "tiny", "small" or "full".
        objective: METRIC, METRIC:min or METRIC:max, of the validation split. Default: the data's.
        trial_length: Length of a training. Default: the preset's multiple of the data's.
        max_minutes: Time limit, earlier sessions included.
        seed: Everything random derives from it.
        run_dir: The run folder.
        overwrite: Start anew.
        execution: How trainings are run.
        **subject: See resolve_model_and_data.

    Raises:
        InputError: The first thing that cannot be used.
    """
    max_minutes, seed = as_plain((max_minutes, seed))
    check_numbers(seed=seed)
    if max_minutes is not None:
        check_numbers(max_minutes=max_minutes)
    if max_minutes is not None and not (max_minutes > 0 and math.isfinite(max_minutes)):
        raise InputError(f"`max_minutes` must be > 0. Received: {max_minutes}.")
    derive_seed(seed)
    size = find_preset(preset)
    chosen = chosen_claims(claim, card)
    needed = {name for one in chosen for name in one.cards}
    execution = execution or Execution()
    resolved = resolve_model_and_data(apart=execution.workers != 0, **subject)
    judged = Objective.parse(objective or resolved.data.objective)
    _check_validated(judged)
    length = resolved.data.trial_length
    if trial_length:
        length = TrainingLength.parse(trial_length)
    else:
        length = length.model_copy(update={"amount": length.amount * size.length})
    folder = run_dir or Path(DEFAULT_RUNS) / f"{resolved.name}-claims-{size.name}"
    return CourtRequest(
        subject=resolved,
        claims=chosen,
        cards=tuple(one for one in cards() if one.CARD in needed),
        objective=judged,
        trial_length=length,
        preset=size,
        seed=seed,
        max_minutes=max_minutes,
        execution=execution,
        run_dir=expanded(folder),
        overwrite=overwrite,
    )


def _check_validated(objective: Objective) -> None:
    """Refuses what is not of the validation split, of which every card reads its metric.

    Raises:
        InputError: It is of the training split.
    """
    if not objective.name.startswith("val_"):
        raise InputError(
            "The objective of claims must be of the validation split, which all experiments are "
            f"judged by. Received: {objective}. Give val_{objective} (--objective=val_{objective})."
        )


def chosen_claims(claim: Sequence[str], card: Sequence[str]) -> tuple[Claim, ...]:
    """The claims that are asked for and can be tried.

    Raises:
        InputError: An unknown name, a claim that needs a card that does not exist yet, or no claim.
    """
    asked = [find_claim(name) for name in claim]
    for one in asked:
        if not can_be_tried(one):
            missing = sorted(set(one.cards) - {found.CARD for found in cards()})
            raise InputError(
                f"`{one.name}` cannot be tried yet: it needs {', '.join(missing)}. "
                "`python -m tfbatch.claims --list` says which claims can be."
            )
    wanted = {find_card(name).CARD for name in card}
    found = [
        one
        for one in claims()
        if can_be_tried(one)
        and (one in asked or (wanted & set(one.cards)) or not (asked or wanted))
    ]
    if not found:
        raise InputError(f"No claim can be tried with {', '.join(card)} alone.")
    return tuple(found)
