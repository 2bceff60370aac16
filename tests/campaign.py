"""A copy of the repository with a tiny campaign of its own, for tests that run or change one."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from kdlib.tools.files import read_rows
from kdlib.tools.provenance import ROOT

RECIPE = {"epochs": 2, "batch_size": 32}
TINY = {
    "seeds": [0],
    "stages": 4,
    "points": 12,
    "ridge": 0.001,
    "methods": ["baseline", "offline", "online"],
    "along": ["offline", "online"],
    "temperatures": [1.0],
    "soft_ratios": [1.0],
    "temperature_scaling": "squared",
    "tasks": {
        "tiny": {
            "data": "fashion-mnist",
            "train_examples": 512,
            "validation_examples": 50,
            "test_examples": 50,
            "noise": 0.0,
        }
    },
    "teachers": {"perceptron": RECIPE},
    "students": {"perceptron": RECIPE},
}


class Place:
    """The copy, with a scale `tiny` that is `TINY` but for what is given."""

    def __init__(self, folder: Path, **changes):
        ignored = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
        for name in ("kdlib", "workflow", "book", "data", "requirements", "results", "benchmarks"):
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        for name in ("_config.yml", "_toc.yml"):
            shutil.copy(ROOT / name, folder)
        self.folder = folder
        self.runs = folder / "_build" / "tiny" / "runs"
        self.campaign = folder / "_build" / "tiny" / "campaign"
        self.environment = {**os.environ, "PYTHONPATH": str(folder), "KDLIB_SLOTS": str(folder / "slots")}
        self.environment.pop("KDLIB_RECORDS", None)
        self.write(**changes)

    def write(self, **changes):
        """Write the scale: `TINY` with these sections instead of its own."""
        text = yaml.safe_dump({"campaign": {**TINY, **changes}})
        (self.folder / "workflow" / "scales" / "tiny.yaml").write_text(text)

    def reproduce(self, *words) -> subprocess.Popen:
        """Start the campaign, up to its tables."""
        command = [sys.executable, "-m", "workflow.reproduce", "--scale", "tiny", "--tables-only", *words]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, *words, status: int = 0) -> str:
        """Run the campaign to its end, which must have this exit status or, for 1, any other; what it printed."""
        driver = self.reproduce(*words)
        output = driver.communicate(timeout=500)[0]
        assert (driver.returncode == 0) == (status == 0), output[-3000:]
        return output

    def due(self) -> int:
        """How many notebooks of the campaign would run now."""
        output = self.finish("--dry-run")
        found = re.search(r"^node\s+(\d+)", output, re.M)
        assert found or "Nothing to be done" in output, output
        return int(found.group(1)) if found else 0

    def tables(self) -> tuple[list[dict], list[dict]]:
        """The tables `runs` and `along`."""
        runs, along = (read_rows(self.folder / f"_build/tiny/records/{name}.csv") for name in ("runs", "along"))
        return runs, along

    def edit(self, name: str, old: str, new: str):
        """Replace a text in a file of the copy; it must be there."""
        path = self.folder / name
        text = path.read_text()
        assert old in text, f"{name} does not hold {old!r}"
        path.write_text(text.replace(old, new, 1))

    def append(self, name: str, text: str):
        """Add a text at the end of a file of the copy."""
        with open(self.folder / name, "a") as file:
            file.write(text)
