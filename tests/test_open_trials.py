"""A search that was stopped makes the trials that it had begun, not others in their places."""

import json

import numpy as np
import pytest
from search_fixtures import Trainer, make_config, make_runner, open_folder
from test_oracle_in_parts import BASELINE, NUM_EXAMPLES, Search, SearchClock, SearchSpace

from tfbatch.errors import SearchError
from tfbatch.oracles import Part, Proposal
from tfbatch.run_folder.files import JOURNAL, OPEN_TRIALS
from tfbatch.schema import Named
from tfbatch.search.open_trials import OpenTrials
from tfbatch.search.progress import Progress
from tfbatch.search.trial_runner import InterruptedTrialError


def search(path, trainer, *, said=None, largest=None, most=6, look=lambda found: None):
    progress = Progress(None)
    if said is not None:
        progress.say = said.append
    config = make_config(oracle="bayesian", max_trials=most)
    with open_folder(path) as folder:
        found = Search(
            config,
            baseline=BASELINE,
            space=SearchSpace(config.space, num_examples=NUM_EXAMPLES),
            runner=make_runner(folder, trainer),
            clock=SearchClock(None),
            seed=7,
            untrained=2.3,
            progress=progress,
            largest_batch_size=largest,
            on_trial=look,
        )
        found.run(stop_requested=lambda: False)
        return found._trials


def stopped_with(path, name):
    """A run in which a trial was stopped behind which others have ended."""
    search(path, Trainer())
    journal = path / JOURNAL
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    journal.write_text("".join(json.dumps(r) + "\n" for r in rows if r["trial"] != name))
    values = {
        "batch_size": 64,
        "base_learning_rate": 0.0123,
        "warmup_fraction": 0.1,
        "schedule": "linear",
    }
    OpenTrials(path).keep({name: Proposal(values)})
    return rows


def test_proposals_come_back_from_the_file_as_they_were(tmp_path):
    part = Part(total_examples=900, parent="search-0001", schedule=Named(name="wsd", cooldown=0.2))
    known = {
        "search-0002": Proposal({"batch_size": 32, "rate": 0.1 + 0.2, "flag": True}, part),
        "search-0003": Proposal({"schedule": "wsd", "one": 1.0}, None, seed=2),
    }
    OpenTrials(tmp_path).keep(known)
    found = OpenTrials(tmp_path)
    assert found.begun == known
    kinds = [type(v) for p in found.begun.values() for v in p.values.values()]
    assert kinds == [int, float, bool, str, float]
    assert [path.name for path in tmp_path.iterdir()] == [OPEN_TRIALS]


@pytest.mark.parametrize("name", ["search-0002", "search-0005"])
def test_a_trial_that_was_stopped_is_made_as_it_was_begun(tmp_path, name):
    rows = stopped_with(tmp_path / "run", name)
    trainer = Trainer()
    trials = search(tmp_path / "run", trainer)
    assert [spec.trial for spec in trainer.ran] == [name]
    made = trials.find(name).configuration
    assert (made.batch_size, made.base_learning_rate) == (64, 0.0123)
    assert (made.schedule.name, made.warmup_fraction) == ("linear", 0.1)
    assert {t.trial for t in trials} == {row["trial"] for row in rows}


def test_what_no_longer_fits_is_proposed_anew(tmp_path):
    stopped_with(tmp_path / "run", "search-0002")
    trials = search(tmp_path / "run", Trainer(), largest=32)
    assert trials.find("search-0002").configuration.batch_size <= 32


def test_a_damaged_file_is_told_and_costs_no_more_than_the_trials_that_ran(tmp_path):
    stopped_with(tmp_path / "run", "search-0002")
    (tmp_path / "run" / OPEN_TRIALS).write_text('{"search-0002": {"val')
    said = []
    trials = search(tmp_path / "run", Trainer(), said=said)
    assert any("cannot be read" in one for one in said)
    assert trials.find("search-0002").configuration.base_learning_rate != 0.0123
    assert len(trials) == 7


def test_what_was_begun_is_made_after_two_stops_too(tmp_path):
    """A session that ends before it has come to all of them keeps the others."""
    rows = stopped_with(tmp_path / "run", "search-0002")
    open_trials = OpenTrials(tmp_path / "run")
    journal = tmp_path / "run" / JOURNAL
    kept = [row for row in rows if row["trial"] not in ("search-0002", "search-0005")]
    journal.write_text("".join(json.dumps(row) + "\n" for row in kept))
    second = Proposal({**open_trials.begun["search-0002"].values, "base_learning_rate": 0.0456})
    open_trials.keep({**open_trials.begun, "search-0005": second})

    trainer = Trainer()
    trainer.interrupt_at = "search-0002"
    with pytest.raises(InterruptedTrialError):
        search(tmp_path / "run", trainer)
    assert set(OpenTrials(tmp_path / "run").begun) == {"search-0002", "search-0005"}
    again = Trainer()
    trials = search(tmp_path / "run", again)
    assert trials.find("search-0002").configuration.base_learning_rate == 0.0123
    assert trials.find("search-0005").configuration.base_learning_rate == 0.0456
    assert [spec.trial for spec in again.ran] == ["search-0002", "search-0005"]


def test_numbers_of_numpy_are_kept_and_anything_else_is_named(tmp_path):
    OpenTrials(tmp_path).keep({"search-0001": Proposal({"batch_size": np.int64(64)})})
    assert OpenTrials(tmp_path).begun["search-0001"].values == {"batch_size": 64}
    with pytest.raises(SearchError, match="must be int, float, str or bool"):
        OpenTrials(tmp_path).keep({"search-0001": Proposal({"batch_size": object()})})


def test_while_trials_are_replayed_nobody_is_told_of_them(tmp_path):
    """Once, when the last one is replayed; or at the end, where not all of them are."""
    looks = []

    def look(found):
        looks.append(found._next)

    search(tmp_path / "run", Trainer(), look=look)
    assert looks == [1, 2, 3, 4, 5, 6, 7]
    looks.clear()
    search(tmp_path / "run", Trainer(), look=look)
    assert looks == [7]
    looks.clear()
    search(tmp_path / "run", Trainer(), look=look, most=3)
    assert looks == [4]


def test_the_file_has_what_runs_when_a_search_is_stopped(tmp_path):
    trainer = Trainer()
    trainer.interrupt_at = "search-0003"
    with pytest.raises(InterruptedTrialError):
        search(tmp_path / "run", trainer)
    begun = OpenTrials(tmp_path / "run").begun
    assert list(begun) == ["search-0003"]
    ran = trainer.ran[-1].configuration
    assert begun["search-0003"].values["base_learning_rate"] == ran.base_learning_rate
