"""Where nobody says how long a trial is, the time may decide, once for a run."""

import pytest
from search_fixtures import BASELINE, finished, make_request_of

from tfbatch.errors import InputError, SearchError
from tfbatch.quantities import TrainingLength
from tfbatch.request.task import Task
from tfbatch.run_folder.files import WALL_TIME
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.progress import Progress
from tfbatch.search.session import _measured_untrained, _say_if_time_is_over
from tfbatch.search.trial_length import settle_length
from tfbatch.training.devices import Devices
from tfbatch.training.evaluation import Untrained

SPLITS = {"train": 1085, "validation": 357, "test": 355}


class Engine:
    devices = Devices("CPU", (), 2, 1)

    def __init__(self, seconds):
        self.seconds, self.called = seconds, 0

    def call(self, task, baseline, *, total_examples, validation_seconds):
        self.called += 1
        if self.seconds is None:
            raise SearchError("its process ended")
        return self.seconds * total_examples / 21_700  # 20 epochs, the recipe's


def settle(engine, path, said=None, **changes):
    request = make_request_of(**{"max_minutes": 8.0, "run_dir": path, **changes})
    progress = Progress(None)
    progress.say = (said if said is not None else []).append
    return settle_length(
        request,
        engine=engine,
        baseline=BASELINE,
        batch_sizes=[8, 128],
        splits=SPLITS,
        untrained=Untrained({"loss": 2.3}, 0.1, "hash"),
        left=460.0,
        progress=progress,
    )


def begun(path, request):
    """A run folder with one finished trial."""
    with RunFolder(path, identity=request.identity(), budget=request.budget()) as folder:
        folder.journal.append(finished("baseline", BASELINE, phase="baseline").row)


def test_the_recipes_length_is_kept_where_enough_trials_fit(tmp_path):
    request, seconds = settle(Engine(10.0), tmp_path, said := [])

    assert (str(request.trial_length), seconds, said) == ("20 epochs", 10.0, [])
    assert "trial_length_chosen" not in request.budget()


def test_a_length_is_chosen_that_fits_the_time_and_its_reason_is_said(tmp_path):
    """9 trials and a round of 5, two at a time: 8 trials of 90 s where 452 s are left."""
    request, seconds = settle(Engine(90.0), tmp_path, said := [])

    # 0.9 * (460 - 5 - 25 * 0.1 * 355 / 357) / (8 * 90) of 20 epochs is 11.3
    assert request.trial_length == TrainingLength.parse("11 epochs")
    assert seconds == pytest.approx(90.0 * 11 / 20)
    assert request.budget()["trial_length_chosen"] is True
    (line,) = said
    assert line.startswith("Trials of 11 epochs: of the usual 20 epochs, which take about 1.5 min")
    assert "about 3 of 24 trials fit in the time" in line


@pytest.mark.parametrize("given", [{"trial_length": "20 epochs"}, {"max_minutes": None}])
def test_what_is_given_stays(tmp_path, given):
    engine = Engine(90.0)
    request, seconds = settle(engine, tmp_path, **given)

    assert (str(request.trial_length), seconds, engine.called) == ("20 epochs", None, 0)


def test_a_resumed_run_keeps_the_length_whatever_the_time_is_now(tmp_path):
    chosen, _ = settle(Engine(90.0), tmp_path)
    begun(tmp_path, chosen)
    engine = Engine(1.0)
    again, seconds = settle(engine, tmp_path, max_minutes=60.0)

    assert (again.trial_length, seconds, engine.called) == (chosen.trial_length, None, 0)
    assert again.has_chosen_length, "the next session has to find it again"
    without_limit, _ = settle(engine, tmp_path, max_minutes=None)
    assert (without_limit.trial_length, engine.called) == (chosen.trial_length, 0)
    with RunFolder(tmp_path, identity=without_limit.identity(), budget=without_limit.budget()):
        pass  # it is the same run
    anew, _ = settle(Engine(1.0), tmp_path, overwrite=True)
    assert str(anew.trial_length) == "20 epochs"


def test_naming_the_length_that_was_chosen_leaves_the_command_without_it_usable(tmp_path):
    chosen, _ = settle(Engine(90.0), tmp_path)
    begun(tmp_path, chosen)
    named, seconds = settle(Engine(1.0), tmp_path, trial_length=str(chosen.trial_length))
    assert (named.budget()["trial_length_chosen"], seconds) == (True, None)
    with RunFolder(tmp_path, identity=named.identity(), budget=named.budget()):
        pass
    again, _ = settle(Engine(1.0), tmp_path)
    assert again.trial_length == chosen.trial_length

    other, _ = settle(Engine(1.0), tmp_path, trial_length="12 epochs")
    assert "trial_length_chosen" not in other.budget()
    with pytest.raises(InputError, match="begun with other settings"):
        RunFolder(tmp_path, identity=other.identity(), budget=other.budget()).__enter__()
    (tmp_path / "trials.jsonl").unlink()
    alone, _ = settle(Engine(1.0), tmp_path, trial_length=str(chosen.trial_length))
    assert "trial_length_chosen" not in alone.budget()


def test_a_run_that_began_with_the_recipes_length_goes_on_with_it(tmp_path):
    usual, _ = settle(Engine(1.0), tmp_path)
    begun(tmp_path, usual)
    again, _ = settle(Engine(90.0), tmp_path)

    assert str(again.trial_length) == "20 epochs"


def test_a_run_that_verifies_nothing_keeps_no_time_for_it(tmp_path):
    """9 trials, two at a time: 0.9 * (460 - 5 - one evaluation of 0.1) / (5 * 120) of 20 epochs."""
    said = []
    request, _ = settle(Engine(120.0), tmp_path, said, verification_seeds=0)

    assert request.trial_length == TrainingLength.parse("13 epochs")
    assert "in addition to the baseline." in said[0]


@pytest.mark.parametrize(("minutes", "over"), [(2.0, True), (9.0, False), (None, False)])
def test_a_session_without_time_says_so_before_anything_begins(tmp_path, minutes, over):
    request = make_request_of(run_dir=tmp_path / "run", max_minutes=minutes)
    progress, said = Progress(None), []
    progress.say = said.append
    _say_if_time_is_over(request, progress)
    assert not said, "there is no run yet"
    begun(request.run_dir, request)
    (request.run_dir / WALL_TIME).write_text('{"seconds": 141.0}')
    _say_if_time_is_over(request, progress)

    assert bool(said) == over
    if over:
        assert "--max_minutes are used up" in said[0]
        assert "took 2.4" in said[0]


def test_weights_of_classes_are_said_not_to_be_in_the_loss_that_trials_are_compared_by(tmp_path):
    class Measures:
        def call(self, task, baseline):
            return Untrained({"loss": 2.3, "accuracy": 0.1}, 0.1, "hash")

    for objective, weighted, told in [("val_loss", {1: 5.0}, 1), ("val_loss", None, 0)]:
        request = make_request_of(
            run_dir=tmp_path, objective=objective, task=Task(class_weight=weighted)
        )
        progress, said = Progress(None), []
        progress.say = said.append
        _measured_untrained(request, Measures(), BASELINE, progress)
        assert sum("`class_weight` weights the training alone" in line for line in said) == told


def test_a_length_that_is_too_short_to_learn_is_not_chosen(tmp_path):
    """50 updates of the baseline are 1.47 epochs; one trial beside it and a round of five fit."""
    request, _ = settle(Engine(1300.0), tmp_path)
    assert str(request.trial_length) == "1.5 epochs"
    hopeless, _ = settle(Engine(1e6), tmp_path)
    assert str(hopeless.trial_length) == "20 epochs"


def test_a_prediction_that_fails_changes_nothing(tmp_path):
    request, seconds = settle(Engine(None), tmp_path)

    assert (str(request.trial_length), seconds) == ("20 epochs", None)
