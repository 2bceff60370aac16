"""Student kernels: NTKs of infinite width (`analytic`), and of finite networks (`finite`)."""

from kdlib.kernels.analytic import Convolutional, FullyConnected, analytic_diagonal, analytic_ntk, centred_ntk
from kdlib.kernels.finite.gram import empirical_ntk, explain
from kdlib.kernels.finite.operator import NTKOperator, ntk_operator
from kdlib.kernels.finite.prepared import CrossExampleError

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
