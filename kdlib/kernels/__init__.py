"""Student kernels: NTKs of infinite width, and of finite networks."""

from kdlib.kernels.analytic import Convolutional, FullyConnected, analytic_diagonal, analytic_ntk, centred_ntk
from kdlib.kernels.empirical import empirical_ntk, explain
from kdlib.kernels.engine import CrossExampleError
from kdlib.kernels.operator import NTKOperator, ntk_operator

__all__ = [
    "Convolutional",
    "CrossExampleError",
    "FullyConnected",
    "NTKOperator",
    "analytic_diagonal",
    "analytic_ntk",
    "centred_ntk",
    "empirical_ntk",
    "explain",
    "ntk_operator",
]
