"""neural-tangents on current JAX: the only file of this project that touches private JAX names.

neural-tangents 0.6.5 (its last release) imports names that JAX has since moved. They are put back for the
duration of the import and taken away again, so nothing outside neural-tangents sees them. Its TensorFlow-based
``experimental`` package, which kdlib does not use, is replaced by an empty module.

What this covers: ``stax``, ``predict``, Monte-Carlo kernels and empirical implementations 1 and 2. The rest of kdlib
takes ``stax`` from here, when it is needed, and knows nothing of the above.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import jax
import jax._src.core
import jax._src.util
import jax.core
import jax.extend.core
import jax.interpreters.ad

KNOWN_JAX = ((0, 7), (0, 11))  # oldest and newest minor release this module was written for


class IncompatibleJaxError(ImportError):
    """neural-tangents could not be imported on the installed JAX."""


def _absent(owner: Any, names: dict[str, object]) -> list[tuple[Any, str, object]]:
    """The (owner, name, value) triples that `owner` lacks."""
    return [(owner, name, value) for name, value in names.items() if not hasattr(owner, name)]


@contextlib.contextmanager
def _names_as_they_were() -> Iterator[None]:
    """Put back, for the duration of the block, what neural-tangents 0.6.5 imports from JAX."""
    extend, core = jax.extend.core, jax._src.core
    util = types.ModuleType("jax.util")
    util.__dict__.update(safe_map=jax._src.util.safe_map, safe_zip=jax._src.util.safe_zip)
    added = _absent(
        jax.core, {name: getattr(extend, name) for name in ("Jaxpr", "JaxprEqn", "Literal", "Primitive", "Var")}
    )
    added += _absent(jax.core, {"Value": getattr(core, "Value", object), "AbstractValue": core.AbstractValue})
    added += _absent(jax.interpreters.ad, {"zeros_like_p": extend.Primitive("zeros_like")})
    for owner, name, value in added:
        setattr(owner, name, value)
    has_util = "jax.util" in sys.modules
    if not has_util:
        sys.modules["jax.util"] = util
    try:
        yield
    finally:
        for owner, name, _ in added:
            delattr(owner, name)
        if not has_util:
            del sys.modules["jax.util"]


def _import_stax() -> Any:
    if "neural_tangents" in sys.modules:  # imported by the caller already: then their JAX suits it
        from neural_tangents import stax

        return stax
    sys.modules["neural_tangents.experimental"] = types.ModuleType("neural_tangents.experimental")
    try:
        with _names_as_they_were():
            from neural_tangents import stax

            return stax
    except (ImportError, AttributeError) as error:
        sys.modules.pop("neural_tangents.experimental", None)
        oldest, newest = (".".join(map(str, version)) for version in KNOWN_JAX)
        raise IncompatibleJaxError(
            f"neural-tangents 0.6.5 did not import on jax {jax.__version__}; this module knows jax {oldest} to "
            f"{newest}. Install the locked environment (`make environment`), or extend {__name__} by the name "
            f"that is missing: {error}"
        ) from error


stax = _import_stax()
