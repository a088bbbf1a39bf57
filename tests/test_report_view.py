"""Looks at the report in headless Chromium: sizes, colors, keyboard, print.

Needs Chromium (or Chrome) and its driver. TFBATCH_CHROMIUM names the browser if it is not on the
PATH; TFBATCH_SCREENSHOT_DIR makes the tests save pictures of the page there.
"""

from __future__ import annotations

import base64
import os
import time
from pathlib import Path

import pytest
from browsers import new_browser, wait_for
from reported_runs import clean_run, row_of, searched, write_run
from search_fixtures import BASELINE

from tfbatch.reporting.finalists import forest
from tfbatch.reporting.importance import importance_of
from tfbatch.reporting.page import report_page
from tfbatch.reporting.recorded import read_recorded

pytest.importorskip("selenium", reason="selenium is not installed")
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

pytestmark = pytest.mark.slow
WIDTHS = {"desktop": 1280, "phone": 390, "paper": 717}
"""In CSS pixels; of the paper, A4 within Chromium's margins."""
SCREENS = ("desktop", "phone")
READY = "return document.documentElement.dataset.ready || ''"
DRAW = "const done = arguments[0]; window.drawAllFigures().then(() => done());"
MOST_ELEMENTS = 12_000
"""Also with 2,000 trials: about half are the points of one figure."""
OVERLAPS = """
// Texts of one picture that lie on one another, and what sticks out of the page.
const boxes = [...document.querySelectorAll('.plot')].flatMap(plot => {
  const texts = [...plot.querySelectorAll('.xtitle, .ytitle, .annotation-text, .xtick text')]
    .map(e => [e.textContent, e.getBoundingClientRect()]).filter(([, b]) => b.width);
  return texts.flatMap(([a, x], n) => texts.slice(n + 1)
    .filter(([, y]) => x.left + 2 < y.right && y.left + 2 < x.right && x.top + 2 < y.bottom
      && y.top + 2 < x.bottom).map(([b]) => `${a} / ${b}`));
});
// An axis title of a narrow chart can be cut at the picture's own edge.
const cut = [...document.querySelectorAll('.plot')].flatMap(plot => {
  const frame = plot.getBoundingClientRect();
  return [...plot.querySelectorAll('.xtitle, .ytick text')]
    .map(e => [e.textContent, e.getBoundingClientRect()]).filter(([, b]) => b.width)
    .filter(([, b]) => b.right > frame.right + 1 || b.left < frame.left - 1)
    .map(([text]) => `cut: ${text}`);
});
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
return [...boxes, ...cut, ...(wide ? ['the page is wider than the screen'] : [])];
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with new_browser(tmp_path_factory.mktemp("chromium"), webgl=True) as driver:
        yield driver


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of runs with 12, 200 and 2,000 trials, and of two runs."""
    folder = tmp_path_factory.mktemp("pages")
    runs = {str(count): clean_run(folder / f"run-{count}", count) for count in (12, 200)}
    rows = [row_of("baseline", "baseline", 1, BASELINE)]
    for number, one in enumerate(searched(1999), start=1):
        status = "diverged" if number % 7 == 0 else "completed"
        rows.append(row_of(f"search-{number:04d}", "search", number, one, status=status))
    runs["2000"] = write_run(folder / "run-2000", rows)
    read = {name: [read_recorded(path)] for name, path in runs.items()}
    read["two"] = [*read["12"], *read["200"]]
    # Of an accuracy: its name is longer, and so are those of the axes.
    read["docs"] = [read_recorded(Path(__file__).parents[1] / "docs" / "run")]
    for name, several in read.items():
        (folder / f"{name}.html").write_text(report_page(several).html(), encoding="utf-8")
    return folder


def opened(browser, page, *, device="desktop", scheme="light", media=""):
    """Opens a page, draws all of it, and returns the requests that went to a network."""
    size = {"width": WIDTHS[device], "height": 900, "deviceScaleFactor": 1}
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", size | {"mobile": device == "phone"}
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": [feature]})
    browser.get(page.as_uri())
    assert wait_for(lambda: browser.execute_script(READY)), browser.get_log("browser")
    browser.set_script_timeout(300)
    browser.execute_async_script(DRAW)


def keep_picture(browser, name):
    folder = os.environ.get("TFBATCH_SCREENSHOT_DIR")
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    time.sleep(0.5)
    content = {"captureBeyondViewport": True, "format": "png"}
    shot = browser.execute_cdp_cmd("Page.captureScreenshot", content)
    (Path(folder) / f"report-{name}.png").write_bytes(base64.b64decode(shot["data"]))


@pytest.mark.parametrize("name", ["12", "200", "2000", "two", "docs"])
def test_nothing_overlaps_and_nothing_is_asked_of_a_network(name, browser, pages):
    for device in SCREENS:
        for scheme in ("light", "dark"):
            opened(browser, pages / f"{name}.html", device=device, scheme=scheme)
            keep_picture(browser, f"{name}-{device}-{scheme}")
            assert browser.execute_script(OVERLAPS) == []
    count = "return document.querySelectorAll('*').length"
    assert browser.execute_script(count) < MOST_ELEMENTS
    loaded = browser.execute_script(
        "return performance.getEntriesByType('resource').map(e => e.name)"
        ".filter(n => !n.startsWith('data:') && !n.startsWith('blob:'))"
    )
    assert loaded == []
    log = browser.get_log("browser")
    assert [entry["message"] for entry in log if entry["level"] == "SEVERE"] == []


def test_colors_follow_the_scheme(browser, pages):
    paper = "return getComputedStyle(document.querySelector('.plot .main-svg')).backgroundColor"
    found = {}
    for scheme in ("light", "dark"):
        opened(browser, pages / "12.html", scheme=scheme)
        found[scheme] = browser.execute_script(paper)

    assert found == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 25, 31)"}


def test_the_table_is_sorted_and_filtered_by_the_keyboard(browser, pages):
    opened(browser, pages / "200.html")
    header = next(
        b for b in browser.find_elements(By.CSS_SELECTOR, "th button") if b.text == "val_loss"
    )
    cells = (
        "return [...document.querySelectorAll('.sortable tbody tr')]"
        ".map(r => r.children[3].textContent)"
    )
    header.send_keys(Keys.ENTER)
    ascending = [float(cell) for cell in browser.execute_script(cells)]
    header.send_keys(Keys.ENTER)
    descending = [float(cell) for cell in browser.execute_script(cells)]

    assert ascending == sorted(ascending)
    assert len(ascending) == 50
    assert descending == sorted(descending, reverse=True)
    browser.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("search-0007")
    assert len(browser.execute_script(cells)) == 1


def test_a_failed_trial_has_its_log_one_click_away(browser, pages):
    opened(browser, pages / "2000.html")
    browser.find_element(By.CSS_SELECTOR, "input[type=search]").send_keys("search-0007")
    button = browser.find_element(By.CSS_SELECTOR, ".sortable td button")
    button.send_keys(Keys.ENTER)

    assert browser.find_element(By.CSS_SELECTOR, ".sortable pre").text == "diverged of search-0007"
    assert button.get_attribute("aria-expanded") == "true"


def test_a_legend_hides_a_line_and_a_switch_changes_the_axis(browser, pages):
    opened(browser, pages / "12.html")
    lines = "return [...document.querySelectorAll('.plot')][0].data.map(t => t.visible)"
    button = browser.find_element(By.CSS_SELECTOR, ".legend button")
    button.send_keys(Keys.ENTER)

    assert browser.execute_script(lines)[0] is False
    assert browser.execute_script(lines)[1] is True
    active = "return document.activeElement.getAttribute('aria-pressed')"
    assert browser.execute_script(active) == "false"  # the keyboard stays where it was


NUMBERS = """
// Of each figure: its columns and its rows, once the numbers are asked for.
const found = {};
for (const figure of document.querySelectorAll('figure')) {
  const more = [...figure.querySelectorAll('details')]
    .find(part => part.textContent.startsWith('Numbers'));
  if (!more) continue;
  more.open = true;
  more.dispatchEvent(new Event('toggle'));
  const cells = row => [...row.children].map(cell => cell.textContent);
  found[figure.querySelector('figcaption').textContent] = {
    head: cells(more.querySelector('thead tr')),
    rows: [...more.querySelectorAll('tbody tr')].map(cells)};
}
return found;
"""


def test_the_numbers_name_their_rows_and_have_the_ends_of_bars_and_the_shades(browser, pages):
    opened(browser, pages / "200.html")
    found = browser.execute_script(NUMBERS)
    run = read_recorded(pages / "run-200")

    finalists = found["Finalists against baseline"]
    assert finalists["head"] == ["series", "row", *finalists["head"][2:3], "low", "high", "about"]
    chart, table = forest(run), {tuple(row[:2]): row for row in finalists["rows"]}
    for series in chart.series:
        if series.low is None:
            continue
        for x, y, low, high in zip(series.x, series.y, series.low, series.high, strict=True):
            name = chart.y_names[int(y)].replace("<br>", " ").replace("<b>", "").replace("</b>", "")
            shown = [float(cell) for cell in table[series.name, name][2:5]]
            assert shown == pytest.approx([x, low, high], rel=1e-4)
    importance = found["Importance of hyperparameters"]
    assert importance["head"] == ["series", "row", "share"]
    assert {row[1] for row in importance["rows"]} == {name for name, _ in importance_of(run).shares}
    trials = found["Trials of the search"]
    assert trials["head"][-2:] == ["val_loss", "about"]
    shades = [row[-2] for row in trials["rows"] if row[0] == "trials of the run's length"]
    scores = [trial.score for trial in run.trials.searched().completed()]
    assert [float(shade) for shade in shades] == pytest.approx(scores, rel=1e-4)
    (picture,) = (one for one in found.values() if "quantity" in one["head"])
    assert {"low", "high"} < set(picture["head"])


def test_it_prints_in_light_colors_within_the_paper(browser, pages):
    opened(browser, pages / "12.html", scheme="dark")
    printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})
    pdf = base64.b64decode(printed["data"])

    assert pdf.startswith(b"%PDF")
    opened(browser, pages / "docs.html", device="paper", scheme="dark", media="print")
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    beyond = """
        const edge = document.documentElement.clientWidth;
        return [...document.querySelectorAll('table, td, th, .plot, .plot svg')]
          .filter(e => e.getBoundingClientRect().right > edge + 1)
          .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 20)}`);
    """
    assert wait_for(lambda: not browser.execute_script(beyond)), browser.execute_script(beyond)
    keep_picture(browser, "print")
    assert browser.execute_script("return document.querySelector('.modebar').offsetWidth") == 0
    body = "return getComputedStyle(document.body).backgroundColor"
    assert browser.execute_script(body) in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    folder = os.environ.get("TFBATCH_SCREENSHOT_DIR")
    if folder:
        (Path(folder) / "report.pdf").write_bytes(pdf)
