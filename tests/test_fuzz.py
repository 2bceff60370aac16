"""A few seconds of `fuzz.py` (`make fuzz` runs it at length), and the doorway for arrays against whatever comes."""

import fuzz
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from kdlib.tools.arrays import gram_matrix, real_array

ANY_ARRAY = arrays.arrays(
    dtype=arrays.scalar_dtypes(), shape=arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
)


@pytest.mark.parametrize("kind, count", [("calls", 600), ("parameters", 800), ("files", 250)])
def test_wrong_input_is_refused_in_our_words(kind, count):
    found = list(fuzz.KINDS[kind](count, seed=11))
    assert len(found) > 0.9 * count and sum(one.kind == "refused" for one in found) > 0.7 * count
    assert [one.case for one in found if one.kind in fuzz.BAD] == []


def test_the_judge_sees_what_must_not_happen():
    """It would notice a value, a number that is not finite, and an exception of another library."""
    assert fuzz.judged("a", lambda: 1.0, wrong=True).kind == "accepted"
    assert fuzz.judged("b", lambda: (1.0, np.array([np.nan])), wrong=False).kind == "accepted"
    assert fuzz.judged("c", lambda: np.linalg.solve(np.eye(2), np.ones(3)), wrong=True).kind == "foreign"
    assert fuzz.judged("d", lambda: {}["x"], wrong=True).kind == "foreign"
    assert fuzz.judged("e", lambda: real_array("x", np.nan), wrong=True).kind == "refused"


@settings(max_examples=300, deadline=None)
@given(ANY_ARRAY)
def test_an_array_is_finite_and_real_or_refused(value):
    try:
        found = real_array("x", value)
    except (ValueError, TypeError) as error:
        assert "x" in str(error)
    else:
        assert found.dtype == np.float64 and found.shape == value.shape and np.isfinite(found).all()
        assert value.dtype.kind in "fiub"


@settings(max_examples=300, deadline=None)
@given(st.one_of(ANY_ARRAY, arrays.arrays(np.float64, (3, 3))))
def test_a_gram_is_symmetric_or_refused(value):
    try:
        found = gram_matrix("K", value)
    except (ValueError, TypeError):
        return
    assert found.ndim == 2 and np.diagonal(found).min() >= 0
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-6 * np.abs(found).max())
