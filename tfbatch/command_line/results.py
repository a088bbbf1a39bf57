"""What the commands find, as `--json` prints it; see tfbatch.command_line.machine_output."""

from __future__ import annotations

from typing import Literal

import pydantic

from tfbatch.answer.answer import Answer, Number
from tfbatch.answer.plan import Plan
from tfbatch.comparison import RunComparison
from tfbatch.schema import JsonObject, Strict
from tfbatch.translation import Translation


class TuneResult(Strict):
    """What `tune` has found.

    Attributes:
        status: "complete"; "interrupted" where the run ended early; "nothing_learned" where no
            trial is better than chance; "stopped" where it was ended before there was an answer;
            "planned" with `--dry_run`.
        message: Why there is no answer, or why the run ended early; empty otherwise.
        run_dir: The run folder.
        files: Names of the files in it that say what was found.
        answer: The content of recommendation.json; None where there is no answer.
        plan: What the run is going to take, with `--dry_run`; else None.
    """

    status: Literal["complete", "interrupted", "nothing_learned", "stopped", "planned"]
    message: str = ""
    run_dir: str
    files: tuple[str, ...]
    answer: Answer | None = None
    plan: Plan | None = None


class TrainResult(Strict):
    """What `train` has come to.

    Attributes:
        metrics: By split, then by name.
        diverged: Why the training was ended early: its loss had grown beyond where it began, or was
            not finite. None where it was not.
        output: Where the model was saved, or None.
        reported: What the search reported of this configuration; None where it is not one's, or
            where its trials had callbacks that this training lacks.
    """

    metrics: dict[str, dict[str, Number]]
    diverged: str | None = None
    output: str | None = None
    reported: str | None = None


class InstrumentResult(Strict):
    """One instrument's part of a probe.

    Attributes:
        heading: What it measures.
        seconds: How long it took.
        failure: Why it failed, or None.
        conclusion: What follows, in words; None where it failed.
        reading: What it measured, with the attributes of its class in tfbatch/instruments; None
            where it failed.
    """

    heading: str
    seconds: float
    failure: str | None
    conclusion: str | None
    reading: JsonObject | None


class ProbeResult(Strict):
    """What `probe` has measured: the content of probe.json.

    Attributes:
        dataset: The data.
        model: The model.
        device: Where, such as "CPU, 2 threads".
        gpu: The GPUs with driver, libraries and settings; None without a GPU.
        batch_sizes: The sizes of interest.
        baseline_batch_size: The baseline's.
        instruments: What each has found, by its name.
        prediction: The predicted fastest batch size and what it rests on; None where nothing can be
            predicted.
        no_prediction_because: Why not; None otherwise.
        conclusion: What follows from all together, in sentences.
        verify_with: The command that searches around the prediction.
    """

    dataset: str
    model: str
    device: str
    gpu: str | None = None
    batch_sizes: tuple[int, ...]
    baseline_batch_size: int
    instruments: dict[str, InstrumentResult]
    prediction: JsonObject | None
    no_prediction_because: str | None
    conclusion: tuple[str, ...]
    verify_with: str


class CheckResult(Strict):
    """One question of a strict reviewer; see tfbatch.reporting.checks.

    Attributes:
        name: What is asked.
        verdict: "PASS", "FAIL", or "NOT APPLICABLE".
        evidence: What was looked at.
    """

    name: str
    verdict: Literal["PASS", "FAIL", "NOT APPLICABLE"]
    evidence: str


class ReportedRunResult(Strict):
    """One run of a report.

    Attributes:
        run_dir: The run folder.
        sentences: The answer in two sentences, or why there is none.
        answer: The content of recommendation.json; None where there is no answer.
        checks: What a reviewer asks; empty where there is no answer.
    """

    run_dir: str
    sentences: tuple[str, ...]
    answer: Answer | None
    checks: tuple[CheckResult, ...]


class ReportResult(Strict):
    """What `report` has drawn.

    Attributes:
        page: The page's path.
        appendix: The files of `--appendix`.
        runs: The runs on it.
    """

    page: str
    appendix: tuple[str, ...] = ()
    runs: tuple[ReportedRunResult, ...]


RESULTS: dict[str, type[pydantic.BaseModel]] = {
    "tune": TuneResult,
    "probe": ProbeResult,
    "train": TrainResult,
    "report": ReportResult,
    "compare": RunComparison,
    "translate": Translation,
}
"""The result of each command."""
