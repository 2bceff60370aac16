"""Tasks whose spectrum is known exactly: regression on the circle, with smooth features or with a rough kernel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kdlib.tools.arrays import integer, number


@dataclass(frozen=True)
class CircleTask:
    """Inputs are angles, uniform on `[0, 2 pi)`; the student is linear in Fourier features.

    The features of frequency `k = 1..frequencies` are `k^{-decay} (cos k theta, sin k theta)`, before them the constant
    one. So the kernel is `1 + sum_k k^{-2 decay} cos k(theta - theta')`, its eigenfunctions are the Fourier modes and
    its spectrum is `1, k^{-2 decay} / 2` (twice each). The teacher is `sum_k a_k cos k theta + b_k sin k theta`, and
    its weight vector holds `k^{decay}` times those numbers: `||w*||` is known, not estimated.

    Attributes
    ----------
    cosines, sines
        the pairs `(k, a_k)` and `(k, b_k)` of the teacher.
    """

    frequencies: int
    decay: float
    cosines: tuple[tuple[int, float], ...] = ((5, 0.5),)
    sines: tuple[tuple[int, float], ...] = ((1, 2.0), (3, 1.0))

    def __post_init__(self):
        integer("frequencies", self.frequencies, least=1)
        number("decay", self.decay)
        for name in ("cosines", "sines"):
            ks = [integer(f"a frequency of {name}", k, least=1, most=self.frequencies) for k, _ in getattr(self, name)]
            if len(set(ks)) < len(ks):
                raise ValueError(f"{name} must name each frequency once, not {ks}")

    def sample(self, n, seed):
        """`(n,)` angles, independent and uniform."""
        return np.random.default_rng(seed).uniform(0, 2 * np.pi, n)

    def features(self, theta):
        """`phi(theta)`, `(n, 1 + 2 frequencies)`."""
        k = np.arange(1, self.frequencies + 1)
        angles = np.outer(theta, k)
        return np.concatenate(
            [np.ones((len(theta), 1)), np.cos(angles) * k**-self.decay, np.sin(angles) * k**-self.decay], 1
        )

    @property
    def teacher_weights(self):
        """`w*`, `(1 + 2 frequencies,)`."""
        weights = np.zeros(1 + 2 * self.frequencies)
        for offset, terms in ((0, self.cosines), (self.frequencies, self.sines)):
            for k, value in terms:
                weights[offset + k] = value * k**self.decay
        return weights

    def teacher(self, theta):
        """`z_t(theta)`, written as the trigonometric sum itself."""
        theta = np.asarray(theta)
        cosines = sum((a * np.cos(k * theta) for k, a in self.cosines), np.zeros_like(theta))
        return cosines + sum((b * np.sin(k * theta) for k, b in self.sines), np.zeros_like(theta))


@dataclass(frozen=True)
class LaplaceCircle:
    """Angles, uniform on `[0, 2 pi)`, and the kernel `exp(-d)` of their distance `d` along the circle.

    Its eigenfunctions are the Fourier modes `exp(i k theta)`, its eigenvalues fall like `1 / k^2`.

    Attributes
    ----------
    modes
        number of Fourier modes kept, a power of two; also the number of grid points.
    """

    modes: int = 2**14

    def sample(self, n, seed):
        """`(n,)` angles, independent and uniform."""
        return np.random.default_rng(seed).uniform(0, 2 * np.pi, n)

    @staticmethod
    def kernel(a, b):
        """`(len(a), len(b))`."""
        distance = np.abs(np.subtract.outer(a, b))
        return np.exp(-np.minimum(distance, 2 * np.pi - distance))

    @property
    def frequencies(self):
        """`k` of each mode, `(modes,)`."""
        return np.round(np.fft.fftfreq(self.modes) * self.modes).astype(int)

    @property
    def eigenvalues(self):
        """`mu_k = (1 - (-1)^k exp(-pi)) / (pi (1 + k^2))`, `(modes,)`; they sum to `k(x, x) = 1` up to the cut."""
        k = self.frequencies
        return (1 - np.where(k % 2, -1.0, 1.0) * np.exp(-np.pi)) / (np.pi * (1 + k**2.0))

    @property
    def grid(self):
        """`(modes,)` angles; half a step off zero, so that no function here is evaluated at its jump."""
        return (np.arange(self.modes) + 0.5) * 2 * np.pi / self.modes

    def energies(self, function):
        """Squared Fourier coefficients `|c_k|^2` of a function of the angle, `(modes,)`."""
        return np.abs(np.fft.fft(function(self.grid)) / self.modes) ** 2


@dataclass(frozen=True)
class SobolevCircle:
    """Angles, uniform on `[0, 2 pi)`, and the kernel `cosh(pi - d) / sinh(pi)` of their distance `d`.

    Its norm is `||f||^2 = (1/2) int f'^2 + f^2`. So the least-norm interpolant is known between any two neighbours, and
    its norm is a sum over gaps: no Gram matrix, and as many examples as one likes (D7).
    """

    DIAGONAL = float(1 / np.tanh(np.pi))  # k(x, x)

    def sample(self, n, seed):
        """`(n,)` angles, independent and uniform."""
        return np.random.default_rng(seed).uniform(0, 2 * np.pi, n)

    @staticmethod
    def kernel(a, b):
        """`(len(a), len(b))`."""
        distance = np.abs(np.subtract.outer(a, b))
        return np.cosh(np.pi - np.minimum(distance, 2 * np.pi - distance)) / np.sinh(np.pi)

    @staticmethod
    def squared_norm(theta, targets):
        """`||w_n||^2` of the interpolant of `(n,)` targets at `(n,)` angles in `[0, 2 pi)`, no two the same."""
        order = np.argsort(theta)
        theta, left = np.asarray(theta, float)[order], np.asarray(targets, float)[order]
        gap, right = np.diff(np.append(theta, theta[0] + 2 * np.pi)), np.roll(left, -1)
        if not gap.min() > 0:
            raise ValueError("two angles are the same, or lie outside [0, 2 pi): they have no interpolant")
        # ((a^2 + b^2) cosh g - 2 a b) / (2 sinh g), without cancellation
        return float(np.sum((left - right) ** 2 / np.sinh(gap) + (left**2 + right**2) * np.tanh(gap / 2)) / 2)

    @staticmethod
    def gaps_covering(theta, points):
        """The gaps between neighbours that cover each of these points, `(len(points),)`."""
        theta = np.sort(np.asarray(theta, float))
        gap = np.diff(np.append(theta, theta[0] + 2 * np.pi))
        return gap[(np.searchsorted(theta, points) - 1) % len(theta)]
