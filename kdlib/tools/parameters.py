"""The parameters of a notebook, checked before any work starts.

papermill accepts any name and any value: a misspelt ``-p`` only prints a message, and the notebook then runs for
an hour with its default. The cell after a notebook's `parameters` cell calls `check`, which refuses.
"""

from __future__ import annotations

import ast
import difflib
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_LARGEST, _SMALLEST = 1e300, 1e-300  # of a number that can be computed with
_NOTEBOOK_NAMES = {"In", "Out", "exit", "quit", "get_ipython", "open"}


class ParameterError(ValueError):
    """A notebook was given a parameter that it does not know or cannot use."""


class Rule(Protocol):
    """What a parameter must obey."""

    def problem(self, value: Any, /) -> str | None:
        """What is wrong with `value`, or None."""
        ...


@dataclass(frozen=True)
class Integer:
    """An integer in `low..high`."""

    low: int
    high: int

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if isinstance(value, bool) or not isinstance(value, int):
            return f"must be an integer, not {value!r}"
        return None if self.low <= value <= self.high else f"must be in {self.low}..{self.high}, not {value}"


@dataclass(frozen=True)
class Real:
    """A finite number in `[low, high]`, or `(low, high]` with `open_below`."""

    low: float
    high: float
    open_below: bool = False

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not -_LARGEST <= value <= _LARGEST:
            return f"must be a finite number, not {value!r}"
        if 0 < abs(value) < _SMALLEST:
            return f"must be zero or at least {_SMALLEST:g} in size, not {value!r}"
        inside = self.low < value <= self.high if self.open_below else self.low <= value <= self.high
        return None if inside else f"must be in {'(' if self.open_below else '['}{self.low}, {self.high}], not {value}"


@dataclass(frozen=True)
class Choice:
    """One of `options`."""

    options: tuple[Any, ...]

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        return None if value in self.options else f"must be one of {self.options}, not {value!r}"


@dataclass(frozen=True)
class Several:
    """A list of `least` to `most` different values, each obeying `rule` (a list, for all its items)."""

    rule: Rule
    least: int = 1
    most: int | None = None

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if not isinstance(value, (list, tuple)) or len(value) < self.least:
            return f"must be a list of at least {self.least}, not {value!r}"
        if self.most is not None and len(value) > self.most:
            return f"must be a list of at most {self.most}, not {value!r}"
        if any(item == other for k, item in enumerate(value) for other in value[:k]):  # 4 and 4.0 are one
            return f"must not repeat an entry: {value!r}"
        return next((f"each entry {problem}" for item in value if (problem := self.rule.problem(item))), None)


@dataclass(frozen=True)
class Fields:
    """A dictionary of arguments of `of`, a class that checks them itself; `without` those that the notebook adds."""

    of: type
    without: tuple[str, ...] = ()

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        if not isinstance(value, dict):
            return f"must be a dictionary of {self.of.__name__}'s fields, not {value!r}"
        if given := [name for name in self.without if name in value]:
            return f"must not set {', '.join(given)}: the notebook does"
        try:
            self.of(**value)
        except (TypeError, ValueError) as error:
            return f"is not a {self.of.__name__}: {error}"
        return None


@dataclass(frozen=True)
class Text:
    """A string, empty for a default."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        return None if isinstance(value, str) else f"must be a text, not {value!r}"


@dataclass(frozen=True)
class Folder:
    """An existing folder, or the empty string for the default one."""

    def problem(self, value: Any) -> str | None:
        """What is wrong with `value`, or None."""
        fine = isinstance(value, str) and (not value or Path(value).is_dir())
        return None if fine else f"must be an existing folder or empty, not {value!r}"


def check(namespace: dict[str, Any], **rules: Rule) -> None:
    """Check the parameters in a notebook's `globals()` against their rules.

    Parameters
    ----------
    namespace
        the notebook's `globals()`.
    rules
        one rule (`Integer`, `Real`, `Choice`, `Several`, `Fields`, `Text`, `Folder`) for each parameter.

    Raises
    ------
    ParameterError
        a parameter without a rule (a misspelt name), without a value, of the wrong type or out of range;
        the message lists them all.
    """
    given = {
        name: value
        for name, value in namespace.items()
        if not name.startswith("_")
        and name not in _NOTEBOOK_NAMES
        and not isinstance(value, (types.ModuleType, types.FunctionType, types.BuiltinFunctionType, type))
    }
    problems = []
    for name in sorted((set(given) | _assigned(namespace)) - set(rules)):
        near = difflib.get_close_matches(name, rules, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"this notebook takes {', '.join(sorted(rules))}"
        problems.append(f"unknown parameter {name!r}: {hint}")
    for name, rule in rules.items():
        problem = "has no value" if name not in given else rule.problem(given[name])
        if problem:
            problems.append(f"parameter {name!r} {problem}")
    if problems:
        raise ParameterError("; ".join(problems))


def _assigned(namespace: dict[str, Any]) -> set[str]:
    """The names that earlier cells have set: also those that an import or the notebook itself has overwritten since."""
    cells = namespace.get("In", [])
    if not isinstance(cells, list):
        return {"In"}
    found = set()
    for cell in cells[:-1]:
        try:
            statements = ast.parse(cell).body
        except SyntaxError:  # a magic of the notebook's
            continue
        for statement in statements:
            targets = statement.targets if isinstance(statement, ast.Assign) else []
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found
