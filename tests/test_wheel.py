"""The wheel that `pip install .` makes: whole, of one version, and enough for the command line."""

import os
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import yaml

import kdlib
from kdlib.tools.provenance import ROOT


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The wheel, built from a copy of what is committed, as an installer leaves it."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    shutil.copytree(ROOT / "kdlib", source / "kdlib", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    run = subprocess.run([sys.executable, "-c", build], capture_output=True, text=True, cwd=source, timeout=300)
    assert run.returncode == 0, run.stderr
    (wheel,) = source.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return wheel.name, target


def test_it_holds_the_library_and_nothing_else(unpacked):
    name, folder = unpacked
    assert name.startswith(f"kdlib-{kdlib.__version__}-")
    here = {path.relative_to(ROOT) for path in (ROOT / "kdlib").rglob("*.py")}
    assert {path.relative_to(folder) for path in (folder / "kdlib").rglob("*.py")} == here
    assert {path.name.split("-")[0] for path in folder.iterdir()} == {"kdlib"}


def test_the_version_is_said_once():
    """The citation names the same; no other file of the repository's own has it."""
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == kdlib.__version__
    assert f'version = "{kdlib.__version__}"' not in (ROOT / "pyproject.toml").read_text()


def test_the_command_line_works_from_there(unpacked, tmp_path):
    _, folder = unpacked
    draw = np.random.default_rng(0)
    features = draw.normal(size=(40, 60))
    truth = features @ draw.normal(size=60)
    for name, array in (
        ("gram", features @ features.T),
        ("labels", np.sign(truth).astype(int)),
        ("good", truth),
        ("bad", draw.normal(size=40)),
    ):
        np.save(tmp_path / f"{name}.npy", array)
    command = [sys.executable, "-m", "kdlib", "choose", "gram.npy", "labels.npy", "good.npy", "bad.npy"]
    run = subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(folder)},
    )
    assert run.returncode == 0 and run.stdout.splitlines()[1].startswith("good"), run.stdout + run.stderr
