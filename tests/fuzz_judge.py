"""What became of one case of `fuzz.py`: refused in our words, a value, or what must not happen."""

from __future__ import annotations

import resource
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

SLOW, MEMORY = 10.0, 2**30


@dataclass
class Outcome:
    """Of one case: "refused", "value", "same", or one of those that must not happen; and what it was."""

    kind: str
    case: str


def judged(case: str, call, wrong: bool, same=None) -> Outcome:
    """Run a case. `wrong`: no value may come back; `same(value)`: it is the one of undamaged input."""
    began, before = time.monotonic(), _peak()
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            value = call()
    except (ValueError, TypeError) as error:
        return Outcome("refused" if _is_ours(error) else "foreign", f"{case}: {type(error).__name__}: {error}")
    except Exception as error:
        return Outcome("foreign", f"{case}: {type(error).__name__}: {error}")
    finally:
        seconds, grown = time.monotonic() - began, _peak() - before
    if seconds > SLOW or grown > MEMORY:
        return Outcome("slow", f"{case}: {seconds:.0f} s, {grown / 2**20:.0f} MB")
    if same is not None and same(value):
        return Outcome("same", case)
    if wrong or not _finite(value):
        return Outcome("accepted", f"{case}: {value!r:.120}")
    return Outcome("value", case)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _is_ours(error: BaseException) -> bool:
    """Whether it was raised by kdlib itself, or by Python for a wrong signature."""
    last = traceback.extract_tb(error.__traceback__)[-1].filename
    return "kdlib" in last or "fuzz" in Path(last).name


def _finite(value) -> bool:
    """Whether all numbers in a result are."""
    if isinstance(value, (tuple, list)):
        return all(map(_finite, value))
    if isinstance(value, (float, np.ndarray)) and np.asarray(value).dtype.kind == "f":
        return bool(np.isfinite(value).all())
    return all(map(_finite, vars(value).values())) if type(value).__module__.startswith("kdlib") else True
