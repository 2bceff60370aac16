"""What tests share: random numbers, a copy of the repository, a browser, waiting, and ending what was started."""

import subprocess
import time

import browser
import numpy as np
import psutil
import pytest
from campaign import Place
from playwright.sync_api import sync_playwright


@pytest.fixture
def rng():
    """A generator of the test's own: its data do not depend on which other tests run."""
    return np.random.default_rng(0)


@pytest.fixture
def make_place(tmp_path):
    """`make_place(seeds=[7])`: a copy of the repository whose tiny scale differs so."""
    return lambda **changes: Place(tmp_path / "place", **changes)


@pytest.fixture(scope="session")
def wait_for():
    """`wait_for(condition, what)`: until it is true, or fail."""

    def wait(condition, what, seconds=180):
        until = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > until:
                pytest.fail(f"waited for {what}")
            time.sleep(0.1)

    return wait


@pytest.fixture(scope="session")
def kill_all():
    """`kill_all(process)`: it and everything below it, wherever their sessions are, at once."""

    def kill(process: subprocess.Popen):
        below = psutil.Process(process.pid).children(recursive=True)
        for other in (psutil.Process(process.pid), *below):
            try:
                other.kill()
            except psutil.NoSuchProcess:
                pass
        psutil.wait_procs(below, timeout=30)
        process.wait()

    return kill


@pytest.fixture(scope="session")
def chromium():
    """A Chromium without a window; a test that needs one fails where there is none."""
    executable = browser.find()
    if executable is None:
        pytest.fail("no browser: run `make browser`, or set CHROMIUM to the executable of a Chromium or Chrome")
    with sync_playwright() as playwright:
        instance = playwright.chromium.launch(executable_path=executable, args=list(browser.FLAGS))
        yield instance
        instance.close()
