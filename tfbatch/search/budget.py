"""Whether a time limit suits the length of the trials: reported before the first one begins."""

from __future__ import annotations

import dataclasses
import math

from tfbatch.errors import InputError
from tfbatch.quantities import TrainingLength, plain_digits
from tfbatch.search.clock import side_by_side

ENOUGH_TRIALS = 8
"""A search of fewer trials than this gets the advice to shorten them."""
_ROOM = 0.9
"""A proposed length takes this share of the time: the prediction is of the first steps."""
_LEAST_SECONDS = 1e-3
_CERTAIN = 1.2
"""A trial that is predicted to take so many times the time that is left is refused."""


@dataclasses.dataclass(frozen=True)
class Budget:
    """A time limit and the predicted duration of a trial.

    Attributes:
        trial_seconds: Predicted seconds of the baseline's trial.
        left: Seconds left of the limit.
        finishing: Seconds of them reserved for the end; the first trial may use them too.
        at_once: Trials that run side by side.
        max_trials: Trials of the search.
        to_verify: Trials of one round of verification.
        length: Length of a trial.
        shortest: The shortest length that a trial can have.
        max_minutes: The limit.
        needed_trainings: What the search needs in trials of this length; None for one that goes on
            up to `max_trials` whole ones.
    """

    trial_seconds: float
    left: float
    finishing: float
    at_once: int
    max_trials: int
    to_verify: int
    length: TrainingLength
    shortest: TrainingLength
    max_minutes: float
    needed_trainings: float | None = None

    @property
    def has_room(self) -> bool:
        """Whether as many trials fit as a search needs."""
        return self._seconds_of(self._enough()) <= self._for_trials()

    @property
    def trial_minutes(self) -> str:
        """What a trial takes, such as "3.2 min"."""
        return _minutes(self.trial_seconds)

    @property
    def shortage(self) -> str:
        """What does not fit, such as "about 2 of 24 trials fit in the time, in addition to ..."."""
        also = "in addition to the baseline"
        also += " and one round of verification" if self.to_verify else ""
        if self.needed_trainings is None:
            return f"about {self.fitting()} of {self.max_trials} trials fit in the time, {also}"
        needed = plain_digits(self.needed_trainings)
        return f"a search that needs {needed} of them does not fit, {also}"

    def check(self) -> None:
        """Refuses a limit in which not even one trial can end.

        Raises:
            InputError: With a length and a limit that suit each other.
        """
        if self.trial_seconds > _CERTAIN * max(self.left, 0.0):
            raise InputError(
                f"A trial of {self.length} takes about {_minutes(self.trial_seconds)} here "
                f"(predicted from its first steps), and of --max_minutes={self.max_minutes:g} "
                f"only {_minutes(self.left)} are left. {_sentence(self.advice())} The same run "
                "folder accepts either, since no trial is in its journal."
            )

    def lines(self) -> list[str]:
        """Notes for the user, if fewer trials fit than a search needs."""
        if self.has_room:
            return []
        enough = "" if self.needed_trainings is not None else f" For {self._enough():g}:"
        advice = self.advice()
        return [
            f"A trial of {self.length} takes about {self.trial_minutes} here (predicted from its "
            f"first steps): {self.shortage}.{enough} {advice if enough else _sentence(advice)}"
            f"{'.' if enough else ''}"
        ]

    def fitting_length(self) -> TrainingLength | None:
        """The longest length with which enough trials fit, or fewer where none does; or None."""
        whole = range(int(self._enough()), 0, -1) if self.needed_trainings is None else ()
        lengths = (self._longest(count) for count in whole or [self._enough()])
        return next((length for length in lengths if length), None)

    def fitting(self) -> int:
        """Trials of the search that fit beside the baseline and one round of verification."""
        count = 0
        while count < self.max_trials and self._seconds_of(count + 1) <= self._for_trials():
            count += 1
        return count

    def advice(self) -> str:
        """Such as 'give --trial_length="2 epochs" or --max_minutes=25'."""
        spent = self.max_minutes * 60 - self._for_trials()
        minutes = math.ceil((self._seconds_of(self._enough()) / _ROOM + spent) / 60)
        more = f"--max_minutes={minutes}"
        shorter = self._longest(self._enough())
        return f'give --trial_length="{shorter}" or {more}' if shorter else f"give {more}"

    def _longest(self, searched: float) -> TrainingLength | None:
        """The longest length of two digits with which so many trials fit; None if none does."""
        share = _ROOM * self._for_trials() / max(self._seconds_of(searched), _LEAST_SECONDS)
        amount = self.length.amount * share
        if not 0 < share < 1:
            return None
        digits = 1 - math.floor(math.log10(amount))
        amount = math.floor(amount * 10**digits) / 10**digits
        if amount < self.shortest.amount:
            return None
        return TrainingLength(amount=amount, unit=self.length.unit)

    def _enough(self) -> float:
        if self.needed_trainings is not None:
            return self.needed_trainings
        return min(self.max_trials, ENOUGH_TRIALS)

    def _for_trials(self) -> float:
        return self.left - self.finishing

    def _seconds_of(self, searched: float) -> float:
        whole = int(searched)
        trials = side_by_side([self.trial_seconds] * (1 + whole), self.at_once)
        trials += (searched - whole) * self.trial_seconds / self.at_once
        return trials + side_by_side([self.trial_seconds] * self.to_verify, self.at_once)


def _minutes(seconds: float) -> str:
    return f"{max(seconds, 0.0) / 60:.1f} min" if seconds >= 60 else f"{max(seconds, 0.0):.0f} s"


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."
