"""kdlib: the library behind *Knowledge distillation, verified*. Follow the way of the data, from the top down::

    data         images with their labels, and tasks on the circle
    labels       what a student is trained on: the distillation loss, effective logits
    training     networks, recipes, teachers, and the one training loop
    kernels      neural tangent kernels, of infinite width and of finite networks
    path         the students of all n from one Cholesky factor
    complexity   supervision complexity (also as a certified interval), data inefficiency
    bounds, margin, dynamics    transfer risk; margin bounds; flows
    difficulty, choice          everything for your own pair; which of your teachers
    experiments, ledger    the papers' experiments; checks, records and the pages that show them
    tools        what every room uses, and what only notebooks use

A module imports what stands above it, and `tools`. Where JAX is installed, importing kdlib switches it to 64-bit
arrays, because theorems are checked to rounding; labels, path, complexity, bounds, margin, difficulty and choice work
without JAX. `kdlib.choose` is `kdlib.choice.choose`.
"""

import importlib

try:
    import jax
except ModuleNotFoundError:
    pass
else:
    jax.config.update("jax_enable_x64", True)

__version__ = "0.1.0"


def __getattr__(name: str):
    """`kdlib.choose`, imported when it is asked for: NumPy and SciPy are enough for it."""
    if name == "choose":  # not by an import statement: a training does not depend on the code behind it
        return importlib.import_module("kdlib.choice").choose
    raise AttributeError(f"module 'kdlib' has no attribute {name!r}")
