"""What a replay table holds, and which tables there are. Imports no TensorFlow.

A table is a grid of batch sizes, learning rates and schedules. A rate is written in coordinates
without a scale: octaves around the scaling rule, `rule(base rate, B / base B) * 2**octaves`.

Of each batch size and rate there are

- a trunk: a warm-up, then a constant rate, in parts, one for each length;
- for each length a cool-down: a branch of the trunk whose rate falls to 0 in a straight line. Trunk
  and cool-down together are the schedule `wsd` of that length;
- one cosine from the start, of the full length;
- in some tables, branches of the trunk to another batch size, at half of the full length's trunk.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from tfbatch.oracles import BATCH_SIZE, Part
from tfbatch.scaling_rules import scaled
from tfbatch.schema import Named, Strict

Kind = Literal["trunk", "cool_down", "cosine", "switched"]
OCTAVES = "learning_rate_octaves"


@dataclasses.dataclass(frozen=True, order=True)
class Training:
    """One training of a table, or a part of one; its seed apart.

    Attributes:
        batch_size: Examples in an update.
        octaves: The rate's offset from the scaling rule, in factors of two.
        kind: What it is.
        length: Examples from the beginning to its end; of a trunk, the length of the schedule whose
            cool-down begins at its end.
        from_batch_size: Of one that switched: the trunk's; else 0.
    """

    batch_size: int
    octaves: float
    kind: Kind
    length: int
    from_batch_size: int = 0


class TablePlan(Strict):
    """What a table holds.

    Attributes:
        name: The file's name.
        role: Searches are developed on the tables of "development". The held-out ones are read
            once, when nothing is changed any more. The search was changed after that: its next
            judge is a table that does not exist yet.
        reason: Why it has this role.
        data: A recipe in pipelines/, or `cifar10_part` (see make.py).
        model: A file of tfbatch/models.
        base_learning_rate: At `base_batch_size`, 0 octaves from the rule.
        base_batch_size: The reference batch size.
        scaling_rule: A file of tfbatch/scaling_rules.
        momentum: Of SGD.
        batch_sizes: Of the grid.
        octaves: Of the grid.
        seeds: Trainings of each cell, with different seeds.
        search_seeds: How many of them, the first ones, a search may see; the others judge it.
        total_examples: The full length.
        epoch_examples: Size of the training split: a training is evaluated at the end of each
            epoch, and at its own end.
        shares: The lengths, as shares of the full one.
        cool_down: Share of a length that cools down.
        warmup_examples: Of trunks and cosines alike.
        switches: From which batch size to which.
        switch_octaves: Of the switches.
    """

    name: str = Field(pattern=r"^\w+$")
    role: Literal["development", "held_out"]
    reason: str
    data: str
    model: str
    base_learning_rate: float = Field(gt=0)
    base_batch_size: int = Field(default=32, ge=1)
    scaling_rule: str = "linear"
    momentum: float = Field(default=0.9, gt=0, lt=1)
    batch_sizes: tuple[int, ...] = Field(min_length=1)
    octaves: tuple[float, ...] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0)
    seeds: int = Field(default=6, ge=1)
    search_seeds: int = Field(default=3, ge=0)
    total_examples: int = Field(ge=1)
    epoch_examples: int = Field(ge=1)
    shares: tuple[float, ...] = (0.125, 0.25, 0.5, 1.0)
    cool_down: float = Field(default=0.2, gt=0, lt=1)
    warmup_examples: int = Field(default=0, ge=0)
    switches: tuple[tuple[int, int], ...] = ()
    switch_octaves: tuple[float, ...] = (-1.0, 0.0, 1.0)

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths in examples, ascending; the last one is the full length."""
        return tuple(round(share * self.total_examples) for share in self.shares)

    @property
    def switch_length(self) -> int:
        """A switch is at the end of the trunk of this length: the longest that is at most half."""
        return max(x for x in self.lengths if 2 * x <= self.total_examples)

    def learning_rate(self, batch_size: int, octaves: float) -> float:
        """The peak rate."""
        return (
            scaled(
                self.scaling_rule,
                self.base_learning_rate,
                batch_size=batch_size,
                base_batch_size=self.base_batch_size,
            )
            * 2.0**octaves
        )

    def trunk_end(self, batch_size: int, length: int) -> int:
        """Examples at which a trunk ends: with the first update that reaches the cool-down."""
        return -(-self._cool_down_from(length) // batch_size) * batch_size

    def _cool_down_from(self, length: int) -> int:
        return round((1 - self.cool_down) * length)

    def trainings(self) -> list[Training]:
        """Everything of one seed, cell by cell, parents first."""
        found = []
        for size, octaves in itertools.product(self.batch_sizes, self.octaves):
            for length in self.lengths:
                found.append(Training(size, octaves, "trunk", length))
                found.append(Training(size, octaves, "cool_down", length))
            if octaves in self.switch_octaves:
                found += [
                    Training(new, octaves, "switched", self.total_examples, size)
                    for old, new in self.switches
                    if old == size
                ]
            found.append(Training(size, octaves, "cosine", self.total_examples))
        return found

    def parent(self, training: Training) -> Training | None:
        """The trunk from whose end a training goes on, or None."""
        if training.kind == "cosine":
            return None
        if training.kind == "cool_down":
            return dataclasses.replace(training, kind="trunk")
        if training.kind == "switched":
            old = training.from_batch_size
            return Training(old, training.octaves, "trunk", self.switch_length)
        before = [length for length in self.lengths if length < training.length]
        return dataclasses.replace(training, length=before[-1]) if before else None

    def end(self, training: Training) -> int:
        """Examples from the beginning to its end."""
        if training.kind == "trunk":
            return self.trunk_end(training.batch_size, training.length)
        return training.length

    def start(self, training: Training) -> int:
        """Examples before it: of its parent."""
        parent = self.parent(training)
        return self.end(parent) if parent else 0

    def updates(self, training: Training) -> int:
        """Its own updates, without its parent's."""
        return -(-(self.end(training) - self.start(training)) // training.batch_size)

    def seconds(
        self, training: Training, step_seconds: Mapping[int, float], evaluation_seconds: float
    ) -> float:
        """A prediction of its own updates and evaluations, by those of one."""
        own = self.end(training) - self.start(training)
        evaluations = -(-own // self.epoch_examples)
        updates = self.updates(training) * step_seconds[training.batch_size]
        return updates + evaluations * evaluation_seconds

    def values(self, training: Training) -> dict[str, float | str]:
        """The hyperparameters of a proposal; a schedule is that of the first ancestor."""
        schedule = "cosine" if training.kind == "cosine" else "constant"
        return {
            BATCH_SIZE: training.batch_size,
            OCTAVES: training.octaves,
            "schedule": schedule,
        }

    def part(self, training: Training, parent: str | None) -> Part | None:
        """The part of a training that it is; None for a whole one."""
        if training.kind == "cosine":
            return None
        if training.kind == "trunk":
            return Part(to_examples=self._cool_down_from(training.length), parent=parent)
        schedule = Named(name="linear")
        if training.kind == "switched":
            left = self.total_examples - self.start(training)
            share = self.cool_down * self.total_examples / left
            schedule = Named(name="wsd", cooldown=share, shape="linear")
        total = None if training.length == self.total_examples else training.length
        return Part(total_examples=total, parent=parent, schedule=schedule)

    def training(
        self, values: Mapping[str, object], part: Part | None, parent: Training | None
    ) -> Training:
        """The inverse of `values` and `part`.

        Args:
            values: A hyperparameter that has one value only may be absent.
            part: The part, or None.
            parent: The training that the parent's name stands for.

        Raises:
            LookupError: The plan has no such training.
        """
        size, octaves = values.get(BATCH_SIZE), values.get(OCTAVES)
        size = self.batch_sizes[0] if size is None else int(str(size))
        octaves = self.octaves[0] if octaves is None else float(str(octaves))
        if part is None:
            found = Training(size, octaves, "cosine", self.total_examples)
        elif part.schedule is None:
            ends = {self._cool_down_from(length): length for length in self.lengths}
            found = Training(size, octaves, "trunk", ends.get(part.to_examples or 0, 0))
        elif part.schedule.name == "linear":
            length = part.total_examples or self.total_examples
            found = Training(size, octaves, "cool_down", length)
        else:
            old = parent.batch_size if parent else 0
            found = Training(size, octaves, "switched", self.total_examples, old)
        if found not in self.trainings() or self.parent(found) != parent:
            raise LookupError(f"The plan of {self.name} has no {found} with the parent {parent}.")
        return found

    @model_validator(mode="after")
    def _lengths_can_be(self) -> TablePlan:
        if list(self.shares) != sorted(set(self.shares)) or self.shares[-1] != 1:
            raise ValueError("shares must ascend and end with 1")
        if self.shares[0] <= 0 or self.search_seeds > self.seeds:
            raise ValueError("shares must be > 0, and search_seeds at most seeds")
        if self.warmup_examples >= self._cool_down_from(self.lengths[0]):
            raise ValueError("the warm-up must end before the first cool-down begins")
        for size in self.batch_sizes:
            ends = [self.trunk_end(size, length) for length in self.lengths]
            short = [x for end, x in zip(ends, self.lengths, strict=True) if end >= x]
            if short or len(set(ends)) < len(ends):
                raise ValueError(
                    f"batch size {size}: every length needs an update of the trunk and one of the "
                    "cool-down of its own"
                )
        if self.switches:
            if min(self.shares) > 0.5:
                raise ValueError("switches need a length of at most half of the full one")
            known = set(self.batch_sizes)
            if not {size for pair in self.switches for size in pair} <= known:
                raise ValueError("switches must be between batch sizes of the grid")
            if any(old == new for old, new in self.switches):
                raise ValueError("a switch must change the batch size")
        return self


def _octaves_apart(low: int, high: int) -> tuple[int, ...]:
    return tuple(2**k for k in range(round(math.log2(low)), round(math.log2(high)) + 1))


def _two_octaves_apart(sizes: tuple[int, ...]) -> tuple[tuple[int, int], ...]:
    both = itertools.permutations(sizes, 2)
    return tuple((old, new) for old, new in both if max(old, new) == 4 * min(old, new))


_DIGITS = _octaves_apart(16, 512)
_DIGITS_EPOCH = 1_085

PLANS = (
    TablePlan(
        name="digits_mlp",
        role="development",
        reason="cheap, and a model without convolutions: what fails here needs no larger table",
        data="digits",
        model="mlp",
        base_learning_rate=0.02,
        batch_sizes=_DIGITS,
        total_examples=40 * _DIGITS_EPOCH,
        epoch_examples=_DIGITS_EPOCH,
        warmup_examples=_DIGITS_EPOCH,
        switches=_two_octaves_apart(_DIGITS),
    ),
    TablePlan(
        name="digits_small_cnn",
        role="development",
        reason="the same images with the model of the held-out table: what changes is the model",
        data="digits",
        model="small_cnn",
        base_learning_rate=0.02,
        batch_sizes=_DIGITS,
        total_examples=40 * _DIGITS_EPOCH,
        epoch_examples=_DIGITS_EPOCH,
        warmup_examples=_DIGITS_EPOCH,
    ),
    TablePlan(
        name="digits_mlp_long",
        role="development",
        reason="ten times the length of digits_mlp: a rate that was tuned short, trained long",
        data="digits",
        model="mlp",
        base_learning_rate=0.02,
        batch_sizes=(32, 128, 512),
        seeds=3,
        search_seeds=0,
        total_examples=400 * _DIGITS_EPOCH,
        epoch_examples=_DIGITS_EPOCH,
        shares=(0.1, 1.0),
        warmup_examples=_DIGITS_EPOCH,
    ),
    TablePlan(
        name="cifar10_small_cnn",
        role="held_out",
        reason=(
            "data that no other table has, photographs with augmentation, noisier and dearer: the "
            "table that is most like what users train, so nothing may be fitted to it"
        ),
        data="cifar10_part",
        model="small_cnn",
        base_learning_rate=0.01,
        batch_sizes=_octaves_apart(32, 1024),
        total_examples=8 * 10_000,
        epoch_examples=10_000,
        warmup_examples=2_500,
    ),
)
"""Fixed before anything was searched on them."""


def plan_of(name: str) -> TablePlan:
    """A table's plan.

    Raises:
        LookupError: There is none of this name.
    """
    for plan in PLANS:
        if plan.name == name:
            return plan
    raise LookupError(f"Unknown table {name}. There are {', '.join(p.name for p in PLANS)}.")
