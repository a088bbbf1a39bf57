"""Headless Chromium for tests that look at a page."""

from __future__ import annotations

import contextlib
import os
import shutil
import time

import pytest

PAGE_SECONDS = 300
"""Until a page shows what it should, on the slowest machine."""


def wait_for(probe):
    """What the probe returns as soon as it is true, otherwise None."""
    deadline = time.monotonic() + PAGE_SECONDS
    while time.monotonic() < deadline:
        if result := probe():
            return result
        time.sleep(0.2)
    return None


@contextlib.contextmanager
def new_browser(profile, *, webgl=False):
    """A driver of Chromium, with its own software for WebGL where that is asked for."""
    from selenium import webdriver
    from selenium.webdriver.chrome.options import Options
    from selenium.webdriver.chrome.service import Service

    options = Options()
    options.binary_location = _executable(
        "TFBATCH_CHROMIUM", "chromium", "chromium-browser", "google-chrome"
    )
    # With an explicit path selenium does not look for a driver to download.
    service = Service(executable_path=_executable("TFBATCH_CHROMEDRIVER", "chromedriver"))
    drawing = "--use-angle=swiftshader --enable-unsafe-swiftshader" if webgl else "--disable-gpu"
    flags = (
        f"--headless=new --no-sandbox {drawing} --disable-quic --no-first-run "
        "--disable-background-networking --disable-component-update --disable-sync"
    )
    for flag in flags.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=service)
    try:
        yield driver
    finally:
        driver.quit()


def _executable(variable, *names):
    candidates = (os.environ[variable],) if variable in os.environ else names
    for path in map(shutil.which, candidates):
        if path:
            return path
    pytest.skip(f"needs {' or '.join(candidates)}; {variable} can name another executable")
