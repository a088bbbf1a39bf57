"""A session of the court: what has ended is kept, what fails costs its own claims."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import re
import signal
import sys
import types
from pathlib import Path

import pydantic
import pytest

import tfbatch
from tests.court_fixtures import NoisyQuadratic, SimulatedCourt, make_workload
from tfbatch import claims as court
from tfbatch.claims import (
    __main__ as command,
)
from tfbatch.claims import (
    _try_claims,
    accumulated_batches,
    alignment,
    annealing,
    error_surface,
    extremes,
    gradient_noise,
    injected_noise,
    redundancy,
    same_budget,
)
from tfbatch.claims._changed_data import DataChange
from tfbatch.claims._changed_training import Curve
from tfbatch.claims._claim import Claim, Criterion, Evidence, UntestableError
from tfbatch.claims._court import Training
from tfbatch.claims._measurements import Measurements, returned
from tfbatch.claims._page import verdict_page
from tfbatch.claims._preset import PRESETS
from tfbatch.claims._request import make_court_request
from tfbatch.claims._session import LiveCourt, Session, no_memory, time_steps
from tfbatch.configuration import Configuration
from tfbatch.errors import InputError, RunFolderError, SearchError, StoppedError
from tfbatch.run_folder.files import FINGERPRINT, LIBRARY_LOG
from tfbatch.run_folder.folder import RunFolder
from tfbatch.search.progress import Progress
from tfbatch.training.step_times import StepTime

NEW_CARD = '''"""T1: a card of a newcomer."""

from tfbatch.claims._claim import Claim, Criterion, Evidence

CARD = "T1"
TITLE = "a card of a newcomer"
ORDER = 1.0
CLAIMS = (
    Claim("N1", "newcomers-claim", "It is so.", (Criterion("T1", "an effect"),)),
)


def collect(court):
    effects = tuple(1.0 + 0.01 * k for k in range(court.preset.seeds))
    yield Evidence("newcomers-claim", effects, 0.5, "points", "epochs", "tuned", "it was so")
'''


class Card:
    """A card that counts how often it was asked, and fails if told to."""

    TITLE, ORDER, __name__ = "a test", 1.0, "tests.card"

    def __init__(self, name, claims, *, fails=False):
        self.CARD, self.CLAIMS, self.fails = name, claims, fails
        self.collected = 0

    def collect(self, simulated):
        self.collected += 1
        for claim in self.CLAIMS:
            if self.fails:
                raise ValueError("a bug")
            if simulated.asks(claim.name):
                effects = tuple(2.0 + 0.1 * k for k in range(10))
                yield Evidence(claim.name, effects, 1.0, "points", "epochs", "tuned", "so")


def claim_of(name, card):
    return Claim(name.upper(), name, "It is so.", (Criterion(card, "an effect"),))


CONFIGURATION_32 = Configuration(batch_size=32, base_learning_rate=0.1)
ONE, OTHER = claim_of("one", "A"), claim_of("other", "A")
FAILING = claim_of("failing", "B")


def hold(folder, cards, claims, *, stops=False, machine="CPU", begins=lambda: None):
    request = types.SimpleNamespace(
        claims=claims,
        cards=cards,
        preset=types.SimpleNamespace(name="tiny"),
        seed=1,
        subject=types.SimpleNamespace(model="model", data=types.SimpleNamespace(name="data")),
    )
    simulated = SimulatedCourt()
    simulated._asked = {claim.name for claim in claims}
    seen = []
    progress = Progress(None)
    progress.on_begin = begins
    session = Session(
        request, simulated, folder, progress, lambda: stops, seen.append, machine=machine
    )
    return session.run(), seen


def test_a_card_that_has_ended_is_not_run_again_and_another_claim_adds_to_it(tmp_path):
    card = Card("A", (ONE, OTHER))

    first, _ = hold(tmp_path, [card], (ONE,))
    hold(tmp_path, [card], (ONE,))
    assert card.collected == 1
    assert first["one"].verdict.word == "HOLDS"

    both, _ = hold(tmp_path, [card], (ONE, OTHER))
    assert card.collected == 2
    assert both.count("HOLDS") == 2
    hold(tmp_path, [card], (OTHER,))
    assert hold(tmp_path, [card], (ONE, OTHER))[0].count("HOLDS") == 2
    assert card.collected == 2


def test_a_card_that_fails_costs_its_own_claims(tmp_path):
    cards = [Card("A", (ONE,)), Card("B", (FAILING,), fails=True)]

    found, seen = hold(tmp_path, cards, (ONE, FAILING))
    assert found["one"].verdict.word == "HOLDS"
    assert found["failing"].verdict.word == "NOT TRIED YET"
    assert "ValueError: a bug" in found.summary()
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [(ValueError("a bug"), 1), (RunFolderError("full"), 4), (UntestableError("no memory"), 0)],
)
def test_a_card_that_fails_decides_the_exit_code_and_leaves_its_traceback_in_the_log(
    tmp_path, monkeypatch, capfd, error, code
):
    def failing(request, objects, *, progress, stop_requested):
        cards = [Ends("B", (FAILING,), after=0, error=error), Card("A", (ONE,))]
        return hold(tmp_path, cards, (FAILING, ONE))[0]

    monkeypatch.setattr(_try_claims, "run_court", failing)
    with os.fdopen(2, "w", closefd=False) as stderr, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", stderr)  # pytest's own is not the descriptor
        assert command.main([f"--run_dir={tmp_path}"]) == code

    log = (tmp_path / LIBRARY_LOG).read_text(encoding="utf-8")
    assert f"{type(error).__name__}: {error}" in log
    assert "Traceback (most recent call last)" in log
    out, err = capfd.readouterr()
    assert f"Card B is missing: it failed: {type(error).__name__}: {error}." in out
    assert "HOLDS" in out
    assert (f"error: a card failed, with its traceback in {tmp_path}" in err) == bool(code)


def test_a_card_that_fails_is_a_warning_in_python(tmp_path, monkeypatch):
    def failing(request, objects, *, progress, stop_requested):
        card = Ends("B", (FAILING,), after=0, error=ValueError("math domain error"))
        return hold(tmp_path, [card], (FAILING,))[0]

    monkeypatch.setattr(_try_claims, "run_court", failing)
    with pytest.warns(RuntimeWarning, match="A card failed: math domain error"):
        found = tfbatch.try_claims("mlp", "digits", run_dir=tmp_path, verbose=0)
    assert isinstance(found.failure, ValueError)


def test_evidence_of_another_machine_is_found_anew(tmp_path):
    card = Card("A", (ONE,))
    for machine in ("CPU", "GPU", "GPU"):
        hold(tmp_path, [card], (ONE,), machine=machine)
    assert card.collected == 2


def test_an_effect_that_is_no_number_forbids_a_decision_and_costs_nothing_else(tmp_path):
    class Diverges(Card):
        def collect(self, simulated):
            for one in super().collect(simulated):
                lost = (math.nan, *one.effects[1:])
                if one.claim == "one":
                    one = dataclasses.replace(one, rivals=(lost,))
                yield one

    found, _ = hold(tmp_path, [Diverges("A", (ONE, OTHER))], (ONE, OTHER))

    assert found["one"].verdict.word == "INCONCLUSIVE"
    assert "1 of 20 effects are not finite" in found["one"].verdict.reason
    assert found["other"].verdict.word == "HOLDS"
    again, _ = hold(tmp_path, [Card("A", (ONE, OTHER))], (ONE, OTHER))
    assert again["one"].verdict.word == "INCONCLUSIVE"


class Ends(Card):
    """A card that ends, by an error or a signal, after so many of its claims."""

    def __init__(self, name, claims, *, after, error):
        super().__init__(name, claims)
        self.after, self.error = after, error

    def collect(self, simulated):
        for number, evidence in enumerate(super().collect(simulated)):
            if number == self.after:
                raise self.error
            yield evidence


@pytest.mark.parametrize("error", [ValueError("a bug"), StoppedError("the time is over")])
def test_what_a_card_has_yielded_before_it_ends_is_kept(tmp_path, error):
    found, _ = hold(tmp_path, [Ends("A", (ONE, OTHER), after=1, error=error)], (ONE, OTHER))

    assert found["one"].verdict.word == "HOLDS"
    assert found["other"].verdict.word == "NOT TRIED YET"
    again, _ = hold(tmp_path, [Card("A", (ONE, OTHER))], (ONE,), stops=True)
    assert again["one"].verdict.word == "HOLDS"


@pytest.mark.parametrize(("after", "said"), [(1, "has not told of everything"), (0, "is missing")])
def test_a_card_that_is_stopped_is_missing_only_if_it_has_told_of_nothing(tmp_path, after, said):
    card = Ends("A", (ONE, OTHER), after=after, error=StoppedError("the time is over"))
    found, _ = hold(tmp_path, [card], (ONE, OTHER))

    assert found.summary().endswith(f"Card A {said}: the session ended before its end.")
    assert found.count("HOLDS") == after


def doubled(task, value: Configuration, *, plus: float) -> tuple[StepTime, ...]:
    """Counts its calls in a file; the third one of a process is the last."""
    calls = Path(task.folder) / "calls"
    calls.write_text(calls.read_text() + f"{value.batch_size}\n", encoding="utf-8")
    task.left -= 1
    if task.left < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return (StepTime(value.batch_size, 2.0 * value.batch_size + plus, (math.nan, 1.0)),)


def measuring_court(engine, folder):
    """One that measures with an engine and trains nothing."""
    return LiveCourt(
        make_workload(),
        PRESETS["tiny"],
        1,
        runner=None,
        engine=engine,
        measurements=Measurements(folder, "CPU"),
        tensorboard=folder,
        objective=None,
        progress=Progress(None),
    )


def measure_all(folder, *, left):
    task = types.SimpleNamespace(folder=folder, left=left)
    engine = types.SimpleNamespace(call_alone=lambda f, *a, **o: f(task, *a, **o))
    live = measuring_court(engine, folder)
    sizes = [Configuration(batch_size=n, base_learning_rate=1.0) for n in range(1, 6)]
    return [live.measure(doubled, size, plus=0.5) for size in sizes]


def test_a_session_that_is_killed_measures_only_what_is_missing(tmp_path):
    (tmp_path / "calls").write_text("", encoding="utf-8")
    child = os.fork()
    if child == 0:  # ends by SIGKILL in its third measurement
        measure_all(tmp_path, left=2)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL

    found = measure_all(tmp_path, left=9)
    assert (tmp_path / "calls").read_text().split() == ["1", "2", "3", "3", "4", "5"]
    assert [one.seconds for (one,) in found] == [2.5, 4.5, 6.5, 8.5, 10.5]
    assert math.isnan(found[0][0].rounds[0])
    kept = sorted((tmp_path / "measurements").iterdir())[0]
    kept.write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"is damaged.*Remove it"):
        measure_all(tmp_path, left=9)


def test_what_another_device_measured_is_measured_anew(tmp_path):
    def on(device, value):
        return Measurements(tmp_path, device).recall(returned_number, (), {}, lambda: value)

    assert [on("CPU", 1.0), on("GPU", 2.0), on("CPU", 3.0), on("GPU", 4.0)] == [1.0, 2.0, 1.0, 2.0]


def number_of(task, *, number: int) -> float:
    del task
    return float(number)


def test_of_several_cases_those_that_have_ended_are_not_measured_again(tmp_path):
    cases, asked = [{"number": n} for n in range(4)], []

    def measure(missing, ended, *, fails):
        asked.append([case["number"] for case in missing])
        for index, case in enumerate(missing):
            if case["number"] == fails:
                raise ValueError("a bug")
            ended(index, number_of(None, **case))

    measurements = Measurements(tmp_path, "CPU")
    with pytest.raises(ValueError, match="a bug"):
        measurements.recall_each(number_of, cases, functools.partial(measure, fails=2))
    rest = functools.partial(measure, fails=None)
    assert measurements.recall_each(number_of, cases[::-1], rest) == [3.0, 2.0, 1.0, 0.0]
    assert measurements.recall_each(number_of, cases, rest) == [0.0, 1.0, 2.0, 3.0]
    assert asked == [[0, 1, 2, 3], [3, 2]]


def test_what_cards_measure_says_what_it_returns():
    for function in (
        time_steps,
        alignment.time_addresses,
        extremes.full_against_parts,
        extremes.descents_after_training,
        gradient_noise.gradient_noise_during,
        same_budget.operations_per_example,
        error_surface.error_of_an_update,
        error_surface.residual_of_a_neuron,
        redundancy.cost_of_copies,
        accumulated_batches.train_both_ways,
        annealing.ends_of_the_spectrum,
        injected_noise.descend_with_noise,
    ):
        assert pydantic.TypeAdapter(returned(function)).core_schema


def test_a_folder_that_holds_measurements_alone_is_not_cleared_for_other_settings(tmp_path):
    with RunFolder(tmp_path, identity={"seed": 1}, budget={}):
        Measurements(tmp_path, "CPU").recall(returned_number, (), {}, lambda: 1.0)
    with pytest.raises(InputError), RunFolder(tmp_path, identity={"seed": 2}, budget={}):
        pass
    assert list((tmp_path / "measurements").iterdir())


def returned_number() -> float:
    return math.nan


def test_a_session_that_is_stopped_says_which_cards_are_missing(tmp_path):
    found, _ = hold(tmp_path, [Card("A", (ONE,))], (ONE,), stops=True)

    assert found["one"].verdict.word == "NOT TRIED YET"
    assert "Card A is missing: the session ended before it." in found.summary()


def test_a_session_says_when_it_has_something_to_keep(tmp_path):
    card, before = Card("A", (ONE,)), []
    hold(tmp_path, [card], (ONE,), begins=lambda: before.append(card.collected))
    assert before == [0]


def test_ctrl_c_in_python_asks_the_session_to_end_once_cards_run(tmp_path, monkeypatch):
    def interrupted(request, objects, *, progress, stop_requested):
        if opened:
            progress.on_begin()
        signal.raise_signal(signal.SIGINT)
        asked.append(stop_requested())
        return hold(tmp_path, [Card("A", (ONE,))], (ONE,))[0]

    asked: list[bool] = []
    monkeypatch.setattr(_try_claims, "run_court", interrupted)
    ask = functools.partial(tfbatch.try_claims, "small_cnn", "digits", run_dir=tmp_path / "run")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        opened = True
        ask(verbose=0)
        assert asked == [True]
        opened = False
        with pytest.raises(KeyboardInterrupt):
            ask(verbose=0)
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_first_card_ends_the_command_as_it_says(
    tmp_path, monkeypatch, capfd, number, code
):
    def stopped(request, objects, *, progress, stop_requested):
        signal.raise_signal(number)
        assert stop_requested()
        raise StoppedError("Stopped before the first trial ended.")

    monkeypatch.setattr(_try_claims, "run_court", stopped)
    assert command.main([f"--run_dir={tmp_path / 'run'}"]) == code
    said = capfd.readouterr().err
    assert "Stopped before the first trial ended." in said
    assert "error:" not in said


def test_the_page_has_a_row_of_the_forest_for_every_test(tmp_path):
    """Of every kind of claim a forest of its own: what 0 and the margin mean differs."""
    margins = {"bigger-is-faster": 1.0, "large-can-match-small": 1.0, "full-batch-unsuited": 0.0}
    claims = tuple(court.find_claim(name) for name in (*margins, "same-epochs-large-is-worse"))
    evidence = tuple(
        Evidence(
            claim.name,
            (1.0, 2.0, 3.0),
            margins.get(claim.name, 1.0),
            "points",
            "epochs",
            "tuned",
            "so",
            part.name,
        )
        for claim in claims
        for part in claim.parts
    )
    found, _ = hold(tmp_path, [], claims)
    text = verdict_page(dataclasses.replace(found, evidence=evidence))

    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])
    rows, bands, axes = [], [], []
    for figure in data["figures"].values():
        layout = figure["layout"]
        rows.append(layout["yaxis"]["ticktext"])
        bands.append([entry["name"] for entry in figure["legend"] if entry["shape"] == "band"])
        axes.append(layout["xaxis"]["title"]["text"].replace("<br>", " "))
    assert [len(names) for names in rows] == [4, 1, 1]
    assert bands == [["too small to matter"], ["as good as equal"], []]
    assert "within the band it is as the claim says" in axes[1]
    assert "halves of the interval" in axes[2]
    assert rows[0][0] == ("? C13 bigger-is-faster\nINCONCLUSIVE, 3.1 would be seen, epochs, tuned")
    assert "Is a bigger batch faster here?" in text
    assert "Claims that contradict each other" in text


def test_the_page_says_what_was_equal_and_the_word_of_every_part(tmp_path):
    """What contradicts itself is explained by what is equal: it must stand beside the word."""
    claim = court.find_claim("smaller-generalizes-better")
    effects = {"epochs": (1.0, 1.1, 1.2), "updates": (-2.0, -1.9, -1.8)}
    evidence = tuple(
        Evidence(claim.name, values, 0.1, "of the metric", part, "tuned", "so", part)
        for part, values in effects.items()
    )
    found, _ = hold(tmp_path, [], (claim,))
    text = verdict_page(dataclasses.replace(found, evidence=evidence))

    parts = "epochs ✓ +1.1 [0.852, 1.35], updates ✗ -1.9 [-2.15, -1.65]"
    figures = "so: -1.9 [-2.15, -1.65] of the metric; after the same updates, tuned rates"
    said = f"✗ DOES NOT HOLD (reversed): A smaller batch generalizes better ({figures}; its parts: "
    assert said + parts in text
    assert f"generalizes better ({parts})" in text  # among the contradictions


def test_the_json_names_the_seeds_of_every_purpose(tmp_path):
    found, _ = hold(tmp_path, [], (court.find_claim("C13"),))
    simulated = SimulatedCourt()

    seeds = json.loads(found.to_json())["seeds"]
    assert seeds == {
        purpose: simulated.seeds(purpose, simulated.preset.count(purpose))
        for purpose in ("verdict", "pilot", "tuning")
    }


def test_what_older_statistics_found_is_found_again(tmp_path):
    """The evidence of a version whose statistics were others is not judged by today's rules."""
    card = Card("A", (ONE,))
    hold(tmp_path, [card], (ONE,))
    (path,) = (tmp_path / "evidence").iterdir()
    text = path.read_text(encoding="utf-8")
    path.write_text(re.sub(r'"version": \d+', '"version": 1', text), encoding="utf-8")

    assert hold(tmp_path, [card], (ONE,))[0]["one"].verdict.decided
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-9],
        lambda text: "[]",
        lambda text: text.replace('"machine"', '"device"'),
        lambda text: text.replace('"margin"', '"least"'),
    ],
)
def test_a_damaged_file_of_evidence_is_told_with_the_remedy_before_a_card_runs(tmp_path, damage):
    hold(tmp_path, [Card("B", (FAILING,))], (FAILING,))
    (path,) = (tmp_path / "evidence").iterdir()
    path.write_text(damage(path.read_text(encoding="utf-8")), encoding="utf-8")

    cards = [Card("A", (ONE,)), Card("B", (FAILING,))]
    with pytest.raises(RunFolderError, match=r"B\.json is damaged: .*Remove it: .*trains nothing"):
        hold(tmp_path, cards, (ONE, FAILING))
    assert cards[0].collected == 0
    path.unlink()
    assert hold(tmp_path, cards, (ONE, FAILING))[0].count("HOLDS") == 2


def test_a_damaged_fingerprint_is_told_with_the_remedy(tmp_path):
    (tmp_path / FINGERPRINT).write_text("{", encoding="utf-8")
    with pytest.raises(RunFolderError, match=r"is damaged: .*Remove it"):
        hold(tmp_path, [], (ONE,))


def test_a_new_card_is_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(court, "__path__", [str(tmp_path), *court.__path__])
    monkeypatch.setattr(court.CARD_FILES, "_folder", tmp_path)
    (tmp_path / "newcomers.py").write_text(NEW_CARD, encoding="utf-8")
    (tmp_path / "_helper.py").write_text("", encoding="utf-8")
    court.cards.cache_clear()
    court.claims.cache_clear()
    try:
        assert [card.CARD for card in court.cards()] == ["T1"]
        assert court.find_claim("newcomers-claim").number == "N1"
        assert "newcomers-claim" in command.listing()
        found, _ = hold(tmp_path, court.cards(), (court.find_claim("N1"),))
        assert found["N1"].verdict.word == "HOLDS"
    finally:
        court.cards.cache_clear()
        court.claims.cache_clear()


def test_a_request_is_checked_before_any_work(tmp_path):
    subject = {"dataset": "digits", "model": "small_cnn", "run_dir": tmp_path}

    request = make_court_request(**subject, claim=["bigger-is-faster"], preset="tiny")
    assert [card.CARD for card in request.cards] == ["X1"]
    assert str(request.trial_length) == "10 epochs"
    assert "X1" in command.outline(request)
    with pytest.raises(InputError, match="`preset` must be one of"):
        make_court_request(**subject, preset="huge")
    with pytest.raises(InputError, match="`max_minutes` must be > 0"):
        make_court_request(**subject, max_minutes=0)


@pytest.mark.parametrize(
    ("epochs", "every"), [(10, None), (8, None), (7.9, 1012), (2, 256), (0.25, 32)]
)
def test_a_short_training_is_evaluated_eight_times_too(epochs, every):
    """So that a target can be reached and kept, and an oscillation be seen, in a short one too."""
    workload = make_workload(examples=round(1024 * epochs))

    assert workload.evaluated_every == every


def test_trainings_on_a_share_of_the_data_are_evaluated_as_many_times():
    asked = []

    class Recording(LiveCourt):
        def measure_each(self, function, cases, *, seconds):
            asked.extend(cases)
            return [Curve((1.0,), (0.5,), diverged=False) for _ in cases]

    def train(**workload):
        asked.clear()
        training = Training(CONFIGURATION_32, 512, 1, change=DataChange(share=0.25))
        court = Recording(
            make_workload(**workload),
            PRESETS["tiny"],
            1,
            runner=types.SimpleNamespace(run_all=lambda specs: []),
            engine=None,
            measurements=None,
            tensorboard=None,
            objective=types.SimpleNamespace(name="val_loss", direction="min"),
            progress=Progress(None),
        )
        court.train([training])
        return asked[0].get("evaluated_every")

    assert train(examples=2048) == round(256 / 4)
    assert train(examples=20_480) is None


class CourtOfLittleMemory(SimulatedCourt):
    """A batch of more than 200 examples does not fit."""

    def train(self, trainings):
        if large := [t.configuration.batch_size for t in trainings if not fits(t)]:
            super().train([t for t in trainings if fits(t)])
            self.too_large.add(large[0])
            raise UntestableError(no_memory(large[0]))
        return super().train(trainings)


def fits(training):
    return training.configuration.batch_size <= 200


def test_a_size_that_runs_out_of_memory_is_left_out_and_costs_no_other_part(tmp_path):
    """The largest one begins the card anew without it; all data in a batch is one part alone."""
    cards = [same_budget, extremes]
    claims = tuple(
        one
        for one in court.claims()
        if one.name in ("same-epochs-large-is-worse", "full-batch-unsuited", "only-64-and-1")
    )
    simulated = CourtOfLittleMemory(NoisyQuadratic(), step=lambda size: 1e-3 * (64 + size))
    simulated._asked = {claim.name for claim in claims}
    request = types.SimpleNamespace(
        claims=claims,
        cards=cards,
        preset=PRESETS["tiny"],
        seed=1,
        subject=types.SimpleNamespace(model="model", data=types.SimpleNamespace(name="data")),
    )
    session = Session(
        request,
        simulated,
        tmp_path,
        Progress(None),
        lambda: False,
        lambda verdicts: None,
        machine="CPU",
    )
    found = session.run()

    evidence = {(one.claim, one.part): one for one in found.evidence}
    assert simulated.study.sizes == (2, 8, 32, 128)
    assert "less that at 128" in evidence["same-epochs-large-is-worse", "tuned"].finding
    assert found["only-64-and-1"].verdict.decided
    full = found["full-batch-unsuited"].verdict
    assert full.word == "NOT TESTABLE HERE"
    assert "batch size 1024 does not fit" in full.reason
    assert "--baseline=batch_size" in full.reason
    assert found.missing == ()


def test_where_the_baseline_runs_out_of_memory_the_card_says_so_and_ends(tmp_path):
    class Tiny(CourtOfLittleMemory):
        def train(self, trainings):
            sizes = [training.configuration.batch_size for training in trainings]
            self.too_large.update(sizes)
            raise UntestableError(no_memory(sizes[0]))

    simulated = Tiny(NoisyQuadratic())
    session = Session(
        types.SimpleNamespace(
            claims=(court.find_claim("C5"),),
            cards=[same_budget],
            preset=PRESETS["tiny"],
            seed=1,
            subject=types.SimpleNamespace(model="m", data=types.SimpleNamespace(name="d")),
        ),
        simulated,
        tmp_path,
        Progress(None),
        lambda: False,
        lambda verdicts: None,
        machine="CPU",
    )

    ((card, why),) = session.run().missing
    assert card == "X4"
    assert "does not fit into the memory" in why


def test_a_trial_that_ran_out_of_memory_is_a_size_that_is_too_large_and_no_failure(tmp_path):
    training, other = (Training(CONFIGURATION_32, 640, seed) for seed in (1, 2))
    oom = types.SimpleNamespace(
        trial=training.name, status="oom", configuration=CONFIGURATION_32, message="no memory"
    )
    runner = types.SimpleNamespace(spec=lambda *_: None, run_all=lambda specs: [oom])
    live = LiveCourt(
        make_workload(),
        PRESETS["tiny"],
        1,
        runner=runner,
        engine=None,
        measurements=None,
        tensorboard=tmp_path,
        objective=None,
        progress=Progress(None),
    )

    with pytest.raises(UntestableError, match="batch size 32 does not fit"):
        live.train([training, other])
    assert live.too_large == {32}
    assert "another --run_dir" in no_memory(32)  # this one recalls that it did not fit


def without_memory(*_):
    raise SearchError("Memory was exhausted in `a function`")


def test_a_measurement_that_lacks_memory_costs_its_own_part_alone(tmp_path):
    engine = types.SimpleNamespace(call_alone=without_memory, call_each=without_memory)
    live = measuring_court(engine, tmp_path)
    for measure in (
        lambda: live.measure(extremes.full_against_parts),
        lambda: live.measure_each(number_of, [{"number": 1}], seconds=1.0),
    ):
        with pytest.raises(UntestableError, match="Memory was exhausted"):
            measure()
    assert live.failures == {"Memory was exhausted in `a function`"}


class CourtOfNoMeasurement(SimulatedCourt):
    """A court that lacks the memory for what is measured."""

    def measure(self, function, *arguments, **options):
        self.failures.add("no memory")
        raise UntestableError("no memory")


def test_a_card_tells_the_rest_where_a_measurement_lacks_memory():
    simulated = CourtOfNoMeasurement(NoisyQuadratic(), step=lambda size: 1e-3 * (64 + size))
    told = {one.claim: one for one in extremes.collect(simulated)}

    assert told["full-batch-is-a-mini-batch"].untestable == "no memory"
    assert told["sgd-has-no-guarantee"].untestable == "no memory"
    for claim in ("one-example-hardly-converges", "only-64-and-1", "full-batch-unsuited"):
        assert told[claim].effects
    for card in (error_surface, gradient_noise, injected_noise, annealing):
        assert list(card.collect(simulated))


def test_what_lacked_memory_is_told_and_measured_again_in_the_next_session(tmp_path):
    class Lacks(Card):
        lacking = True

        def collect(self, simulated):
            for one in super().collect(simulated):
                if self.lacking and one.claim == "one":
                    simulated.failures.add("no memory")
                    one = dataclasses.replace(one, effects=(), untestable="not known: no memory")
                yield one

    card = Lacks("A", (ONE, OTHER))
    found, _ = hold(tmp_path, [card], (ONE, OTHER))
    assert found["one"].verdict.word == "NOT TESTABLE HERE"
    assert found["other"].verdict.word == "HOLDS"

    card.lacking = False
    assert hold(tmp_path, [card], (ONE, OTHER))[0]["one"].verdict.word == "HOLDS"


def test_evidence_that_the_rule_refuses_costs_its_own_part(tmp_path):
    exact = Claim("E", "exact", "It is so.", (Criterion("A", "a value", "exact"),))

    class Refused(Card):
        def collect(self, simulated):
            for one in super().collect(simulated):
                changes = {"effects": (math.nan,), "margin": 0.0} if one.claim == "exact" else {}
                yield dataclasses.replace(one, **(changes or {"margin": 0.0}))

    found, _ = hold(tmp_path, [Refused("A", (exact, ONE))], (exact, ONE))
    assert found["exact"].verdict.word == found["one"].verdict.word == "INCONCLUSIVE"
    assert "1 of 1 effects are not finite" in found["exact"].verdict.reason
    assert "margin of a claim of difference must be > 0" in found["one"].verdict.reason


def test_an_objective_of_the_training_split_is_refused_with_that_of_the_validation_split(tmp_path):
    """What experiments read themselves is of the validation split: one table had both."""
    subject = {"dataset": "digits", "model": "small_cnn", "run_dir": tmp_path}
    with pytest.raises(InputError, match=r"Received: accuracy:max. Give val_accuracy:max"):
        make_court_request(**subject, objective="accuracy")
