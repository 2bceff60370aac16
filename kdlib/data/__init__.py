"""Image sets by name as arrays in disjoint splits (`images`), their files (`readers`, `sources`), and tasks on the
circle.
"""

from kdlib.data.circle import CircleTask, LaplaceCircle
from kdlib.data.images import FASHION_CLASSES, SPLITS, Dataset, Split, load
from kdlib.data.sources import DataUnavailableError

__all__ = [
    "FASHION_CLASSES",
    "SPLITS",
    "CircleTask",
    "DataUnavailableError",
    "Dataset",
    "LaplaceCircle",
    "Split",
    "load",
]
