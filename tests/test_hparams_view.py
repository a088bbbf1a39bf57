"""Opens a search in a real TensorBoard and looks at the HParams view in headless Chromium.

Needs Chromium (or Chrome) and its driver. TFBATCH_CHROMIUM names the browser if it is not on the
PATH; TFBATCH_SCREENSHOT_DIR makes the tests save pictures of the views there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, TypeVar

import pytest
from browsers import new_browser, wait_for
from processes import HANG_SECONDS

from tfbatch.curves_log import CurveWriter, set_aside, write_layout
from tfbatch.hparams_log import Column, Metric, RealInterval, write_experiment, write_trial

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium import webdriver
from selenium.common.exceptions import JavascriptException

pytestmark = pytest.mark.slow
T = TypeVar("T")

COLUMNS = (
    Column("batch_size", "batch size", domain=(64, 128, 256, 512, 1024)),
    Column("learning_rate", "learning rate", domain=RealInterval()),
    Column("schedule", domain=("cosine", "step")),
    Column("warmup_fraction", "warmup", domain=RealInterval(0.0, 0.2)),
    Column("schedule_final_fraction", "final fraction", domain=RealInterval(0.0, 0.1)),
    Column("schedule_step_factor", "step factor", domain=RealInterval(0.1, 0.5)),
)
LENGTH = 45_000
METRICS = (Metric("val_accuracy", "max"), Metric("val_loss", "min"))
HEADER = [
    "Trial ID",
    "Show Metrics",
    "status",
    "batch size",
    "learning rate",
    "schedule",
    "warmup",
    "val_accuracy (higher is better)",
    "val_loss (lower is better)",
]


@dataclasses.dataclass(frozen=True)
class Trial:
    """What the search would hand over; the numbers are made up."""

    batch_size: int
    learning_rate: float
    schedule: str
    warmup: float
    parameter: float
    status: str = "completed"
    val_accuracy: float | None = None
    val_loss: float | None = None

    def values(self):
        is_cosine = self.schedule == "cosine"
        return {
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "schedule": self.schedule,
            "warmup_fraction": self.warmup,
            "schedule_final_fraction": self.parameter if is_cosine else None,
            "schedule_step_factor": None if is_cosine else self.parameter,
        }

    def metrics(self):
        metrics = {"val_accuracy": self.val_accuracy, "val_loss": self.val_loss}
        return {name: value for name, value in metrics.items() if value is not None}


TRIALS = {
    "trial-00": Trial(64, 0.05, "cosine", 0.05, 0.01, "completed", 0.9127, 0.2883),
    "trial-01": Trial(128, 0.1, "cosine", 0.05, 0.0, "completed", 0.9164, 0.2761),
    "trial-02": Trial(256, 0.21, "step", 0.02, 0.2, "completed", 0.9098, 0.2954),
    "trial-03": Trial(256, 0.18, "cosine", 0.1, 0.02, "completed", 0.9171, 0.2742),
    "trial-04": Trial(512, 7.3, "step", 0.0, 0.5, "diverged", 0.1, math.nan),
    "trial-05": Trial(512, 0.41, "cosine", 0.15, 0.05, "completed", 0.9142, 0.2817),
    "trial-06": Trial(1024, 0.62, "step", 0.05, 0.1, "oom"),
    "trial-07": Trial(512, 0.33, "step", 0.1, 0.3, "completed", 0.9071, 0.3028),
    "trial-08": Trial(128, 9.6, "cosine", 0.02, 0.1, "diverged", None, math.inf),
    "trial-09": Trial(64, 0.004, "step", 0.0, 0.2, "error"),
}
COMPLETED = {name for name, trial in TRIALS.items() if trial.status == "completed"}

# The page nests shadow roots, which selectors do not look into.
FIND = """
const find = (selector, root = document) => [...root.querySelectorAll('*')].flatMap(element => [
  ...(element.matches(selector) ? [element] : []),
  ...(element.shadowRoot ? find(selector, element.shadowRoot) : []),
]);
"""
TABLE = """
const grid = find('tf-hparams-table-view').flatMap(view => find('vaadin-grid', view.shadowRoot))[0];
const text = cell => cell.querySelector('slot').assignedNodes().map(n => n.textContent).join('');
const rows = selector => [...grid.shadowRoot.querySelectorAll(selector)]
  .filter(row => !row.hidden && row.getClientRects().length)
  .map(row => [...row.querySelectorAll('[part~=cell]:not([part~=details-cell])')]
    .map(cell => text(cell).replace(/\\s+/g, ' ').trim()));
return grid ? {header: rows('thead tr').at(-1) ?? [], rows: rows('tbody tr')} : null;
"""
CLICK = "find(arguments[0]).filter(e => e.textContent.trim() === arguments[1])[0].click();"
LINES = "return find('g.foreground path').length;"


def _shown(number):
    """How the table shows numbers, but not strings."""
    return f"{number:#.5g}"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with new_browser(tmp_path_factory.mktemp("chromium")) as driver:
        # A page of 1920x1080, so that all columns fit, in a picture of 1600x900.
        size = {"width": 1920, "height": 1080, "deviceScaleFactor": 1600 / 1920, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        yield driver


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("run") / "tensorboard"
    write_experiment(log_dir, columns=COLUMNS, metrics=METRICS)
    for name, trial in TRIALS.items():
        write_trial(
            log_dir / name,
            values=trial.values(),
            metrics=trial.metrics(),
            status=trial.status,
            step=LENGTH,
        )
        writer = CurveWriter(log_dir / name)
        writer.write(LENGTH // 2, {"val_loss": 1.0, "val_accuracy": 0.5})
        writer.write(LENGTH, {"val_loss": math.nan, **trial.metrics()})
        writer.close()
        if trial.status != "completed":
            set_aside(log_dir / name)
    write_layout(log_dir, {"val_loss": ["val_loss"], "loss": ["loss", "val_loss"]})
    return log_dir


@pytest.fixture(scope="module")
def address(log_dir, tmp_path_factory):
    with socket.socket() as free_socket:
        free_socket.bind(("127.0.0.1", 0))
        port = free_socket.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    output = tmp_path_factory.mktemp("tensorboard") / "output.txt"
    with output.open("w") as stream:
        process = subprocess.Popen(command, stdout=stream, stderr=subprocess.STDOUT)

    def has_loaded():
        if process.poll() is not None:
            pytest.fail(f"TensorBoard ended:\n{output.read_text()}")
        with contextlib.suppress(OSError):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/data/runs") as response:
                runs = json.load(response)
            failed = {f"{name}/curves" for name in set(TRIALS) - COMPLETED}
            return set(runs) == {".", *TRIALS, *failed}
        return False

    try:
        assert wait_for(has_loaded), f"not loaded:\n{output.read_text()}"
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(timeout=HANG_SECONDS)


@dataclasses.dataclass(frozen=True)
class Table:
    """The visible cells of the table view."""

    header: list[str] = dataclasses.field(default_factory=list)
    rows: list[list[str]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass
class View:
    """The HParams page."""

    browser: webdriver.Chrome

    def table(self):
        # The parts of the page appear one after the other.
        with contextlib.suppress(JavascriptException):
            table = self.browser.execute_script(FIND + TABLE)
            return Table(**table) if table else Table()
        return Table()

    def rows(self, expected):
        """Cells by trial and column, once the table has the expected trials."""

        def probe():
            table = self.table()
            rows = [dict(zip(table.header, row, strict=False)) for row in table.rows]
            by_trial = {row.get("Trial ID", ""): row for row in rows}
            return by_trial if by_trial.keys() == expected else None

        rows = wait_for(probe)
        assert rows is not None, f"expected {sorted(expected)}, the page shows {self.table()}"
        return rows

    def click(self, selector, text):
        self.browser.execute_script(FIND + CLICK, selector, text)

    def save_picture(self, name):
        folder = os.environ.get("TFBATCH_SCREENSHOT_DIR")
        if folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            time.sleep(1.0)  # The page fades and slides.
            self.browser.save_screenshot(str(Path(folder) / name))


@pytest.fixture
def view(browser, address):
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get(f"{address}/#hparams")
    return View(browser)


def test_every_trial_has_a_row(view):
    rows = view.rows(set(TRIALS))
    view.save_picture("tensorboard_hparams.png")
    assert view.table().header == HEADER
    for name, trial in TRIALS.items():
        assert rows[name]["batch size"] == _shown(trial.batch_size)
        assert rows[name]["learning rate"] == _shown(trial.learning_rate)
        assert rows[name]["schedule"] == trial.schedule
        assert rows[name]["status"] == trial.status
    assert rows["trial-03"]["val_accuracy (higher is better)"] == "0.91710"
    assert rows["trial-04"]["val_accuracy (higher is better)"] == "0.10000"
    assert rows["trial-04"]["val_loss (lower is better)"] == ""
    assert rows["trial-09"]["val_loss (lower is better)"] == ""


def test_cells_of_inactive_parameters_are_empty(view):
    view.rows(set(TRIALS))
    view.click("paper-checkbox.hparam-checkbox", "final fraction")
    assert wait_for(lambda: "final fraction" in view.table().header)
    expected = {
        name: _shown(trial.parameter) if trial.schedule == "cosine" else ""
        for name, trial in TRIALS.items()
    }

    def cells():
        return {name: row["final fraction"] for name, row in view.rows(set(TRIALS)).items()}

    # The cells follow the header.
    assert wait_for(lambda: cells() == expected), cells()


def test_rows_can_be_filtered(view):
    view.rows(set(TRIALS))
    view.click("paper-checkbox.discrete-value-checkbox", "completed")
    view.rows(set(TRIALS) - COMPLETED)
    view.click("paper-checkbox.discrete-value-checkbox", "diverged")
    view.rows({"trial-06", "trial-09"})
    # The learning rate is the only shown column without choices before the warm-up.
    view.browser.execute_script(FIND + "find('paper-input')[0].value = '0.1';")
    view.rows({"trial-06"})


def test_parallel_coordinates_show_every_completed_trial(view):
    view.rows(set(TRIALS))
    view.click("paper-tab", "PARALLEL COORDINATES VIEW")
    lines = wait_for(lambda: view.browser.execute_script(FIND + LINES))
    view.save_picture("tensorboard_hparams_parallel.png")
    assert lines == len(COMPLETED)


def test_every_trial_is_one_run_over_examples_and_a_final_value_is_no_chart(address):
    def asked(path):
        with urllib.request.urlopen(f"{address}/data/plugin/{path}") as response:
            return json.load(response)

    tags = asked("scalars/tags")
    failed = {f"{name}/curves" for name in set(TRIALS) - COMPLETED}
    assert COMPLETED | failed <= set(tags)
    assert set().union(*tags.values()) == {"val_loss", "val_accuracy"}
    points = asked("scalars/scalars?run=trial-03&tag=val_loss")
    assert [(step, round(value, 4)) for _, step, value in points][:2] == [
        (LENGTH // 2, 1.0),
        (LENGTH, 0.2742),
    ]
    assert {step for _, step, _ in points} == {LENGTH // 2, LENGTH}
    titles = [
        c["title"] for part in asked("custom_scalars/layout")["category"] for c in part["chart"]
    ]
    assert titles == ["val_loss", "loss"]


def test_page_logs_no_errors(view):
    view.rows(set(TRIALS))
    time.sleep(1.0)
    log: list[dict[str, Any]] = view.browser.get_log("browser")
    assert [entry["message"] for entry in log if entry["level"] == "SEVERE"] == []
