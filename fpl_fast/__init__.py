"""Fused losses for semantic segmentation from pseudo-labels."""

from fpl_fast.analysis import PositiveGradientScore, positive_gradient_score
from fpl_fast.functional import (
    LossStats,
    balance_factor,
    fuzzy_positive_assignment,
    fuzzy_positive_loss,
    pseudo_label_cross_entropy,
)
from fpl_fast.labelled import cross_entropy, ohem_cross_entropy
from fpl_fast.modules import CrossEntropy, FuzzyPositiveLoss, OhemCrossEntropy, PseudoLabelCrossEntropy

__version__ = "0.1.0"

__all__ = [
    "CrossEntropy",
    "FuzzyPositiveLoss",
    "LossStats",
    "OhemCrossEntropy",
    "PositiveGradientScore",
    "PseudoLabelCrossEntropy",
    "balance_factor",
    "cross_entropy",
    "fuzzy_positive_assignment",
    "fuzzy_positive_loss",
    "ohem_cross_entropy",
    "positive_gradient_score",
    "pseudo_label_cross_entropy",
]
