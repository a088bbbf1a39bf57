"""What a run is going to take, before it begins."""

from __future__ import annotations

import math

from rich.table import Table

from tfbatch.schema import Strict

NOTICEABLE = 0.05
"""A share of the time of a training that no difference between runs explains."""


class PlannedStage(Strict):
    """A stage of a run that is planned.

    Attributes:
        name: Such as "verification".
        trials: Its trials.
        examples: What they train on.
        trainings: What they cost, in full trainings of the baseline.
        seconds: Of the clock, from the end of the stage before.
    """

    name: str
    trials: int = 0
    examples: int = 0
    trainings: float = 0.0
    seconds: float = 0.0


class Plan(Strict):
    """What a run is going to take: predicted, nothing of it was trained.

    Attributes:
        stages: In their order.
        length: Of a trial, such as "20 epochs".
        workers: Trials side by side.
        training_seconds: Of the updates of one training, alone on the device, by batch size.
        baseline: The user's batch size.
        disk_bytes: What weights and end states take at most.
        limit: What ends the search early, such as "--max_minutes=10"; "" if nothing does.
        has_whole: Whether a training of the search comes to its full length.
    """

    stages: tuple[PlannedStage, ...]
    length: str
    workers: int
    training_seconds: dict[int, float]
    baseline: int
    disk_bytes: int
    limit: str = ""
    has_whole: bool = True

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return math.fsum(stage.seconds for stage in self.stages)

    def table(self) -> Table:
        """Stage by stage."""
        table = Table(title="Planned (predicted from step times; no trial was run)")
        for column in ("stage", "trials", "examples", "trainings", "minutes"):
            table.add_column(column, justify="left" if column == "stage" else "right")
        for one in [*self.stages, self._total()]:
            if one.name == _ALL:
                table.add_section()
            table.add_row(
                one.name,
                f"{one.trials}" if one.trials else "",
                f"{one.examples:,}" if one.examples else "",
                f"{one.trainings:.1f}" if one.trials else "",
                f"{one.seconds / 60:.1f}",
            )
        return table

    def _total(self) -> PlannedStage:
        return PlannedStage(
            name=_ALL,
            trials=sum(one.trials for one in self.stages),
            examples=sum(one.examples for one in self.stages),
            trainings=math.fsum(one.trainings for one in self.stages),
            seconds=self.seconds,
        )

    def lines(self) -> list[str]:
        """What a training takes, whether tuning can pay for itself, and the disk."""
        at_once = f", {self.workers} side by side" if self.workers > 1 else ""
        ended = f" {self.limit} ends it early." if self.limit else ""
        if not self.has_whole:
            ended += (
                " No training of the search comes to its full length: only the baseline could be "
                "recommended."
            )
        return [
            f"Trials of {self.length}{at_once}; a training counts as one at the baseline's batch "
            f"size, {self.baseline}.{ended}",
            self._pays(),
            f"Disk: at most {self.disk_bytes / 1e6:,.0f} MB of weights and end states.",
        ]

    def _pays(self) -> str:
        """After how many trainings the time for tuning has come back, at best."""
        own = self.training_seconds[self.baseline]
        fastest = min(self.training_seconds, key=lambda size: self.training_seconds[size])
        saved = own - self.training_seconds[fastest]
        lead = (
            f"Does it pay? The updates of a training take {_duration(own)} at batch size "
            f"{self.baseline}, alone on the device"
        )
        if saved < NOTICEABLE * own:
            return (
                f"{lead}, and no batch size is noticeably faster: tuning can pay by a better "
                "result alone."
            )
        count = math.ceil(self.seconds / saved)
        return (
            f"{lead}, and {_duration(self.training_seconds[fastest])} at batch size {fastest}, the "
            f"fastest: at most {_duration(saved)} can be saved in each training, so that the "
            f"{_duration(self.seconds)} of tuning come back after {count:,} trainings of this "
            "length at the earliest, or one that is as long as all of them."
        )


_ALL = "all"


def _duration(seconds: float) -> str:
    if seconds < 1:
        return f"{1e3 * seconds:.3g} ms"
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
