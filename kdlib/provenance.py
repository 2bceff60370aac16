"""What a run was made with: device, versions, and a hash of the source."""

from __future__ import annotations

import hashlib
import platform
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path

import jax

ROOT = Path(__file__).resolve().parent.parent  # of the repository


def device_name() -> str:
    """What JAX computes on, e.g. "cpu" or "NVIDIA H100"."""
    return jax.devices()[0].device_kind


@lru_cache(maxsize=1)
def provenance() -> dict:
    """What the run was made with: versions, platform, and a hash of kdlib's source."""
    digest = hashlib.sha256()
    for path in sorted((ROOT / "kdlib").rglob("*.py")):
        digest.update(path.read_bytes())
    versions = {name: version(name) for name in ("jax", "jaxlib", "neural-tangents", "numpy", "scipy")}
    return {
        "python": platform.python_version(),
        **versions,
        "machine": platform.machine(),
        "kdlib": digest.hexdigest()[:12],
    }
