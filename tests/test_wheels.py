"""The wheels for a machine without a network: what is needed, from the lock, and nothing of JAX."""

import re

import pytest

from kdlib.tools.provenance import ROOT
from workflow import wheels


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-cuda.lock"])
def test_what_is_needed_is_taken_from_the_lock_with_its_hashes(name):
    locked = wheels.read_lock(ROOT / "requirements" / name)
    found = wheels.needed(wheels.ROOTS, wheels.THERE, locked)
    assert {"papermill", "nbclient", "snakemake", "neural-tangents", "flax", "matplotlib"} <= set(found)
    assert not [one for one in found if re.match("jax|nvidia|numpy|scipy|tensorflow|playwright|basedpyright", one)]
    assert all("--hash=sha256:" in locked[one] for one in found)
    assert set(wheels.SOURCES) <= set(found)


def test_a_root_that_is_there_already_is_left_out():
    locked = wheels.read_lock(ROOT / "requirements" / "requirements.lock")
    assert "flax" not in wheels.needed(wheels.ROOTS, (*wheels.THERE, "flax"), locked)
