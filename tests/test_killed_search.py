"""A real search, killed with SIGKILL at random moments and started again each time."""

import json
import os
import random
import signal
import subprocess
import sys

import pytest

KILLS = 20


def start(run_dir, records_dir):
    command = [sys.executable, "-m", "tfbatch.tune", f"--run_dir={run_dir}", "--max_trials=5"]
    command += ["--trial_length=1 epoch", "--search=quick", "--batch_sizes=64,128"]
    return subprocess.Popen(
        command,
        env={**os.environ, "TFBATCH_RECORDS_DIR": str(records_dir)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def journal(run_dir):
    path = run_dir / "trials.jsonl"
    whole = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in whole]


def outcomes(rows):
    return {
        row["trial"]: (row["batch_size"], row["learning_rate"], row["seed"], row["score"])
        for row in rows
    }


@pytest.mark.slow
def test_a_search_killed_at_twenty_random_moments_has_every_trial_exactly_once(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(undisturbed, tmp_path / "records")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors

    moment = random.Random(20)
    kills = 0
    while kills < KILLS:
        process = start(killed, tmp_path / "records")
        try:
            # From the first import to the last trial: a start takes about six seconds.
            process.wait(timeout=moment.uniform(3, 14))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0
            kills += 1  # it was faster than the kill; what follows only reads the answer again
    process = start(killed, tmp_path / "records")
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 0, errors

    rows = journal(killed)
    assert len({row["trial"] for row in rows}) == len(rows)
    assert outcomes(rows) == outcomes(journal(undisturbed))
    answers = [
        json.loads((run / "recommendation.json").read_text()) for run in (undisturbed, killed)
    ]
    assert answers[0]["metrics"].keys() == answers[1]["metrics"].keys()
    assert answers[0]["trials"] == answers[1]["trials"]
