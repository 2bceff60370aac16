"""How hard supervision is for a student: supervision complexity, data inefficiency."""

from kdlib.complexity.certified import CertifiedComplexity, certified_supervision_complexity
from kdlib.complexity.inefficiency import (
    DataInefficiency,
    data_inefficiency,
    expected_squared_norm,
    learning_threshold,
    noise_inefficiency,
    noise_norm,
)
from kdlib.complexity.leave_one_out import LeaveOneOut, leave_one_out
from kdlib.complexity.supervision import Complexity, adjusted_supervision_complexity, supervision_complexity

__all__ = [
    "CertifiedComplexity",
    "Complexity",
    "DataInefficiency",
    "LeaveOneOut",
    "adjusted_supervision_complexity",
    "certified_supervision_complexity",
    "data_inefficiency",
    "expected_squared_norm",
    "learning_threshold",
    "leave_one_out",
    "noise_inefficiency",
    "noise_norm",
    "supervision_complexity",
]
