"""What a student is trained on: the distillation loss (`loss`), and the effective logits that minimise it
(`effective`).
"""

from kdlib.labels.effective import correction_threshold, effective_logits, is_corrected, label_jump, minimiser
from kdlib.labels.loss import DistillationLoss

__all__ = [
    "DistillationLoss",
    "correction_threshold",
    "effective_logits",
    "is_corrected",
    "label_jump",
    "minimiser",
]
