"""Every script in examples/ runs, and its `main` takes what makes it short."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from processes import HANG_SECONDS

from tfbatch.run_folder.journal import Journal

pytestmark = pytest.mark.usefixtures("short_rounds")

FOLDER = Path(__file__).parents[1] / "examples"
# The others show a callback each: test_callback_examples.py and test_batch_growth.py run them.
SCRIPTS = {
    path.stem: path
    for path in sorted(FOLDER.glob("*.py"))
    if "find_batch_size(" in path.read_text(encoding="utf-8")
}
# Long enough to learn more than luck can do on the validation split:
ENOUGH = {
    "custom_train_step": {"trial_length": "6_000 examples"},
    "tabular": {"trial_length": "20 epochs"},
    "text": {"trial_length": "2_000 examples"},
    "image": {"trial_length": "4_000 examples", "baseline": "learning_rate=0.1"},
}


def test_there_are_examples():
    assert len(SCRIPTS) >= 5


def test_every_other_example_is_run_by_a_test_of_its_callback():
    tests = "".join(
        (Path(__file__).parent / f"test_{name}.py").read_text(encoding="utf-8")
        for name in ("callback_examples", "batch_growth")
    )
    others = {path.stem for path in FOLDER.glob("*.py")} - set(SCRIPTS)
    assert others
    assert {
        name for name in others if f'"{name}"' not in tests and f"{name}.py" not in tests
    } == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_an_example_finds_a_recommendation(name, tmp_path):
    namespace = runpy.run_path(str(SCRIPTS[name]), run_name=name)
    result = namespace["main"](
        max_trials=1,
        run_dir=tmp_path / "run",
        workers=0,
        verbose=0,
        seed=3,
        **ENOUGH.get(name, {"trial_length": "128 examples"}),
    )

    rows = Journal(tmp_path / "run" / "trials.jsonl").rows
    assert {row["status"] for row in rows} == {"completed"}, [row["message"] for row in rows]
    assert {row["phase"] for row in rows} == {"baseline", "search", "confirmation"}
    assert result.batch_size in {row["batch_size"] for row in rows}
    assert result.learning_rate > 0
    objective = result.recommendation["objective"].split(":")[0]
    assert all(np.isfinite(row[f"metric_{objective}"]) for row in rows)
    assert f"batch size {result.batch_size}" in result.summary()
    for name in ("best.yaml", "recommendation.json"):
        assert (tmp_path / "run" / name).stat().st_size > 0
    custom = {k: v for k, v in namespace.items() if _is_model_class(v)}
    model = keras.saving.load_model(tmp_path / "run" / "best.keras", custom_objects=custom)
    assert model.count_params() > 0


def _is_model_class(value):
    return isinstance(value, type) and issubclass(value, keras.Model)


@pytest.mark.slow
def test_an_example_runs_as_a_script_with_worker_processes(tmp_path):
    """As a user types it, in a folder of their own; but for fewer and shorter trials."""
    script = SCRIPTS["tabular"].read_text(encoding="utf-8")
    for written, shorter in (("max_trials: int = 9", "max_trials: int = 2"), ('"40 ep', '"20 ep')):
        assert written in script
        script = script.replace(written, shorter)
    (tmp_path / "tabular.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "tabular.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(FOLDER.parent)},
        capture_output=True,
        text=True,
        check=False,
        timeout=HANG_SECONDS,
    )

    assert done.returncode == 0, done.stderr
    assert "Recommended: batch size" in done.stdout or "Keep your baseline" in done.stdout
    (run,) = (tmp_path / "tfbatch_runs").iterdir()
    assert {row["status"] for row in Journal(run / "trials.jsonl").rows} == {"completed"}
