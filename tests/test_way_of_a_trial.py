"""A trial's way from its proposal to the journal and back: the files that get it in hand."""

import sys
from pathlib import Path

import pytest
import tiny_model

import tfbatch
from tfbatch.oracles import KerasTunerOracle
from tfbatch.trial.derived import derive
from tfbatch.trial.finished_trial import FinishedTrial
from tfbatch.trial.outcome import Outcome, TrialSpec

pytestmark = pytest.mark.slow
PACKAGE = Path(tfbatch.__file__).parent
TRIAL = "search-0001"
WAY = [
    "oracles/_keras_tuner.py",
    "search/loop.py",
    "search/trial_runner.py",
    "trial/trials.py",
    "trial/outcome.py",
    "search/serial_engine.py",
    "training/trial.py",
    "training/program_cache.py",
    "trial/finished_trial.py",
    "configuration.py",
    "run_folder/journal.py",
    "search/progress.py",
    "search/trainings.py",
]
"""As BUILD_NOTES.md lists it. With workers `search/worker_engine` and `workers/slot` hand the trial
over, and `training/context` takes it; here `search/serial_engine` does both."""


def is_the_trial(value):
    """Its specification, what it came to, or its row of the journal."""
    if isinstance(value, TrialSpec | FinishedTrial):
        return value.trial == TRIAL
    if isinstance(value, dict):
        return value.get("trial") == TRIAL
    return isinstance(value, Outcome)


def has_it(frame):
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(is_the_trial(frame.f_locals.get(name)) for name in names)


class Trace:
    """Every call on the way.

    Attributes:
        derived: How often `derive` was called.
        files: The files, in the order in which the trial comes to them.
        twice: Stacks of files in which the trial comes back to one that handed it on.
    """

    def __init__(self):
        self.derived, self.files, self.twice = 0, ["oracles/_keras_tuner.py"], []  # where it begins

    def __call__(self, frame, event, argument):
        if event != "call" or not frame.f_code.co_filename.startswith(str(PACKAGE)):
            return
        self.derived += frame.f_code is derive.__code__
        if has_it(frame):
            stack = self._stack(frame)
            if stack[0] not in self.files:
                self.files.append(stack[0])
            if len(set(stack)) < len(stack):
                self.twice.append(stack)

    def _stack(self, frame):
        stack = []
        while frame is not None:
            name = frame.f_code.co_filename
            if name.startswith(str(PACKAGE)) and has_it(frame):
                file = Path(name).relative_to(PACKAGE).as_posix()
                if stack[-1:] != [file]:
                    stack.append(file)
            frame = frame.f_back
        return stack


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """Of one trial of a real search, from the oracle's proposal until it is told of the end."""
    trace = Trace()
    propose, tell = KerasTunerOracle.propose, KerasTunerOracle.tell

    def begin(self, *arguments, **options):
        sys.setprofile(trace)
        return propose(self, *arguments, **options)

    def end(self, *arguments):
        tell(self, *arguments)
        sys.setprofile(None)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KerasTunerOracle, "propose", begin)
        patch.setattr(KerasTunerOracle, "tell", end)
        try:
            tfbatch.find_batch_size(
                tiny_model.build,
                "digits",
                batch_sizes=[32, 64],
                trial_length="1 epochs",
                max_trials=1,
                workers=0,
                run_dir=tmp_path_factory.mktemp("run"),
                verbose=0,
            )
        finally:
            sys.setprofile(None)
    return trace


def test_a_trial_goes_through_thirteen_files_at_most(trace):
    assert sorted(trace.files) == sorted(WAY)
    assert len(WAY) <= 13


def test_no_file_gets_a_trial_back_that_it_has_handed_on(trace):
    assert trace.twice == []


def test_what_follows_from_a_configuration_is_derived_once_a_trial(trace):
    assert trace.derived == 1
