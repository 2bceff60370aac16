"""Collect the wheels of the experiments for a machine without a network: `make wheels`.

For a machine with JAX for its GPU already there. What the experiments need besides JAX is taken from the lock, with its
hashes, into one folder, which is carried over; there, `make environment ACCELERATOR=cuda WHEELS=FOLDER` installs from
it into an environment that sees the machine's own packages.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOTS = (
    "flax", "optax", "matplotlib", "pillow", "pooch", "pyyaml", "requests", "tqdm", "neural-tangents", "ipykernel",
    "papermill", "myst-nb", "jsonschema", "snakemake", "setuptools",
)  # fmt: skip
THERE = ("jax", "jaxlib", "numpy", "scipy", "ml-dtypes", "opt-einsum")  # what comes with JAX for a GPU

SOURCES = ("connection-pool",)  # published as sources only, in Python alone: built here


def needed(roots: tuple[str, ...], without: tuple[str, ...], locked: dict[str, str]) -> list[str]:
    """Names of all packages that the roots need, of those that the lock has, as this environment's metadata say."""
    found, waiting = set(), [canonicalize_name(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name in found or name in without or name not in locked:
            continue
        found.add(name)
        try:
            wanted = [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # of another platform
            continue
        waiting += [
            canonicalize_name(one.name) for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})
        ]
    return sorted(found)


def read_lock(path: Path) -> dict[str, str]:
    """`{name: its lines in the lock}`, hashes included; the last where markers give a package several versions."""
    entries = re.split(r"\n(?=[a-zA-Z0-9])", path.read_text())
    return {canonicalize_name(re.split(r"[=\[ ;]", entry)[0]): entry.rstrip() for entry in entries if "==" in entry}


def collect(folder: Path, lock: Path, python: str, without: tuple[str, ...]) -> list[str]:
    """Download the wheels for this version of Python on Linux (x86-64) into `folder`; returns their packages."""
    locked = read_lock(lock)
    names = needed(ROOTS, tuple(map(canonicalize_name, (*THERE, *without))), locked)
    folder.mkdir(parents=True, exist_ok=True)
    listed, sources = folder / "requirements.txt", folder / "sources.txt"
    text = lambda chosen: "\n".join(locked[name] for name in chosen) + "\n"
    platforms = [f"--platform=manylinux_2_{minor}_x86_64" for minor in (28, 27, 17, 12, 5)] + [
        "--platform=linux_x86_64"
    ]
    pip = lambda *words: subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    listed.write_text(text(name for name in names if name not in SOURCES))
    pip(
        "download", "--quiet", "--no-deps", "--only-binary=:all:", "--require-hashes", f"--python-version={python}",
        *platforms, "-d", str(folder), "-r", str(listed),
    )  # fmt: skip
    sources.write_text(text(name for name in names if name in SOURCES))
    pip("wheel", "--quiet", "--no-deps", "--require-hashes", "-w", str(folder), "-r", str(sources))
    sources.unlink()
    return names


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--lock", type=Path, default=Path("requirements/requirements.lock"))
    parser.add_argument("--python-version", default="3.12", help="of the machine that it is for")
    parser.add_argument("--without", nargs="*", default=[], help="more packages that are there")
    options = parser.parse_args()
    packages = collect(options.folder, options.lock, options.python_version, tuple(options.without))
    size = sum(path.stat().st_size for path in options.folder.glob("*.whl"))
    print(f"{options.folder}: {len(packages)} wheels, {size / 1e6:.0f} MB")
