"""What simulated searches came to, repetition by repetition, and its one stored form."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from replay.measures import Course

CAP = 25.0
"""Full trainings of the baseline, by examples, at which a search is ended."""
BUDGETS = np.unique(
    np.round(np.concatenate([[1.0, 2.0, 3.5, 9.0, 25.0], 2 ** np.arange(-3, 8.1, 0.125)]), 3)
)
"""Full trainings at which the regret is kept."""
Array = npt.NDArray[np.float64]
Key = tuple[str, str, str]
"""Metric, engine, search."""


@dataclasses.dataclass(frozen=True)
class Results:
    """One search on one table; everything in full trainings of the baseline and tolerances.

    Attributes:
        until: What was spent until the answer came within the tolerance, [repetitions]. Where it
            never did: the cap, or what the whole search cost if that is more.
        found: Whether it did, [repetitions].
        stays: As `until`, and it stayed there.
        end: What the whole search cost, [repetitions].
        regret: At `BUDGETS`, [repetitions, budgets].
        unit: What a full training of the baseline is: examples, or seconds.
        process_seconds: Of the search itself, each repetition, mean.
    """

    until: Array
    found: Array
    stays: Array
    end: Array
    regret: Array
    unit: float
    process_seconds: float

    @classmethod
    def of(
        cls,
        courses: Sequence[Course],
        *,
        tolerances: Sequence[float],
        before: Sequence[float],
        unit: float,
        process_seconds: float,
    ) -> Results:
        """Measures courses.

        Args:
            courses: In full trainings of the baseline.
            tolerances: Of each.
            before: The regret of the baseline, of each.
            unit: See above.
            process_seconds: See above.
        """
        pairs = list(zip(courses, tolerances, strict=True))
        first = np.array([course.until(tolerance) for course, tolerance in pairs])
        stays = np.array([course.for_good(tolerance) for course, tolerance in pairs])
        end = np.array([course.end for course in courses])
        never, ahead = np.maximum(end, CAP), zip(pairs, before, strict=True)
        return cls(
            until=np.where(np.isfinite(first), first, never),
            found=np.isfinite(first).astype(np.float64),
            stays=np.where(np.isfinite(stays), stays, never),
            end=end,
            regret=np.stack([c.at(BUDGETS, before=b) / t for (c, t), b in ahead]),
            unit=unit,
            process_seconds=process_seconds,
        )

    def regret_at(self, budget: float) -> Array:
        """The regret of each repetition at a budget, [repetitions]."""
        place = int(np.searchsorted(BUDGETS, budget + 1e-9)) - 1
        return self.regret[:, place]


_ARRAYS = ("until", "found", "stays", "end", "regret")


def read(path: Path) -> dict[Key, Results]:
    """What is kept; nothing where there is no file yet."""
    if not path.exists():
        return {}
    with np.load(path, allow_pickle=False) as archive:
        about = json.loads(str(archive["about"]))
        return {
            (row["metric"], row["engine"], row["search"]): Results(
                **{name: archive[f"{place}/{name}"].astype(np.float64) for name in _ARRAYS},
                unit=row["unit"],
                process_seconds=row["process_seconds"],
            )
            for place, row in enumerate(about)
        }


def write(path: Path, kept: Mapping[Key, Results]) -> None:
    """Writes all of it, in the order of the keys."""
    about, arrays = [], {}
    for place, key in enumerate(sorted(kept)):
        results = kept[key]
        row = dict(zip(("metric", "engine", "search"), key, strict=True))
        about.append(
            {**row, "unit": results.unit, "process_seconds": round(results.process_seconds, 4)}
        )
        for name in _ARRAYS:
            arrays[f"{place}/{name}"] = getattr(results, name).astype(np.float16)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, about=np.array(json.dumps(about)), **arrays)
