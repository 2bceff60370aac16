"""Student kernels: infinite-width NTKs."""

from kdlib.kernels.analytic import Convolutional, FullyConnected, analytic_diagonal, analytic_ntk, centred_ntk

__all__ = ["Convolutional", "FullyConnected", "analytic_diagonal", "analytic_ntk", "centred_ntk"]
