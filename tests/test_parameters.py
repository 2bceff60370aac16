"""A notebook's parameters are refused before any work starts."""

import math

import pytest

from kdlib.tools.parameters import Choice, Folder, Integer, ParameterError, Real, Several, check

RULES = dict(
    n=Integer(1, 10),
    rho=Real(0, 1, open_below=True),
    pair=Several(Choice(("a", "b", "c")), least=2, most=2),
    where=Folder(),
)
GOOD = dict(n=3, rho=0.5, pair=["a", "b"], where="")


def test_good_parameters_pass_among_a_notebooks_own_names():
    check({**GOOD, "_hidden": 1, "math": math, "check": check, "In": [], "exit": 0}, **RULES)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(roh=0.3), "unknown parameter 'roh': did you mean 'rho'"),
        (dict(zzz=1), "this notebook takes n, pair"),
        (dict(n="3"), "'n' must be an integer"),
        (dict(n=True), "'n' must be an integer"),
        (dict(n=3.0), "'n' must be an integer"),
        (dict(n=11), "1..10"),
        (dict(rho=0), r"\(0, 1\]"),
        (dict(rho=math.nan), "finite"),
        (dict(rho="x"), "finite"),
        (dict(pair="ab"), "list"),
        (dict(pair=["a"]), "at least 2"),
        (dict(pair=["a", "a"]), "repeat"),
        (dict(pair=["a", "z"]), "each entry must be one of"),
        (dict(where="/no/such/folder"), "existing folder"),
        (dict(pair=["a", "b", "a"]), "at most 2"),
        (dict(rho=10**400), "finite"),
        (dict(rho=1e-320), "at least 1e-300"),
        (dict(In=["", "rho = 0.3", "data = 'cifar10'", "check"]), "unknown parameter 'data'"),
        (dict(In=["", "_rho = 0.3", "check"]), "unknown parameter '_rho': did you mean 'rho'"),
        (dict(In=3), "unknown parameter 'In'"),
    ],
)
def test_bad_parameters_are_refused(change, message):
    with pytest.raises(ParameterError, match=message):
        check({**GOOD, **change}, **RULES)


def test_all_problems_are_listed_at_once():
    with pytest.raises(ParameterError, match="roh.*'n' must.*'pair' has no value"):
        check(dict(n=0, rho=0.5, roh=1, where=""), **RULES)
