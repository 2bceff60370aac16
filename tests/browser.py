"""A Chromium for the tests of the rendered pages: find one, or get one (`python tests/browser.py --install`)."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")
APPLICATIONS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--no-first-run",
)


def find() -> str | None:
    """Path of a browser: `$CHROMIUM`, one on the PATH, an application, or the one Playwright downloaded."""
    for candidate in (os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *APPLICATIONS):
        if candidate and Path(candidate).exists():
            return candidate
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        path = playwright.chromium.executable_path
    return path if Path(path).exists() else None


def install() -> str | None:
    """Try the ways of getting a browser, until one works: the system's packages as root, then Playwright's download."""
    playwright = [sys.executable, "-m", "playwright", "install"]
    ways = [[*playwright, "--with-deps", "chromium"], [*playwright, "chromium"]]
    if shutil.which("apt-get") and os.geteuid() == 0:
        # Debian's own package first; on Ubuntu it is a stub for another package manager, and the next way follows.
        ways = [["sh", "-c", "apt-get update -qq && apt-get install -y -qq chromium"], *ways]
    for way in ways:
        if find():
            break
        print("no browser yet, trying:", " ".join(way[-3:]), flush=True)
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        try:
            subprocess.run(way, env=environment, stdout=subprocess.DEVNULL, timeout=600)
        except (subprocess.TimeoutExpired, OSError) as error:
            print(f"  {error}")
    return find()


def contrast(page, element):
    """WCAG contrast between an element's text and what is painted behind it, layer over layer."""
    text, *layers = page.evaluate(
        """element => {
            const layers = [getComputedStyle(element).color];
            for (let at = element; at; at = at.parentElement) layers.push(getComputedStyle(at).backgroundColor);
            return layers;
        }""",
        element,
    )
    numbers = lambda colour: [float(value) for value in re.findall(r"[\d.]+", colour)]
    behind = [255.0, 255.0, 255.0]
    for layer in reversed(layers):
        *colour, alpha = (*numbers(layer), 1.0)[:4] if len(numbers(layer)) == 3 else numbers(layer)
        behind = [alpha * above + (1 - alpha) * below for above, below in zip(colour, behind, strict=True)]
    luminance = []
    for colour in (numbers(text)[:3], behind):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (v / 255 for v in colour)]
        luminance.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(luminance) + 0.05) / (min(luminance) + 0.05)


if __name__ == "__main__":
    path = install() if "--install" in sys.argv else find()
    if path is None:
        sys.exit("no Chromium or Chrome: install one and put it on the PATH, or set CHROMIUM to its executable")
    print(f"browser: {path}")
