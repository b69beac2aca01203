"""Fused losses for semantic segmentation from pseudo-labels.

Names are imported when they are first used, so that the help of the command line does without torch.
"""

from typing import TYPE_CHECKING

from fpl_fast.on_demand import names_on_demand

if TYPE_CHECKING:
    from fpl_fast.adaptive import adaptive_threshold
    from fpl_fast.analysis import PositiveGradientScore, positive_gradient_score
    from fpl_fast.consistency import consistency_loss
    from fpl_fast.functional import (
        LossStats,
        fuzzy_positive_assignment,
        fuzzy_positive_loss,
        pseudo_label_cross_entropy,
    )
    from fpl_fast.kernels.arguments import PseudoLabels
    from fpl_fast.label_losses import cross_entropy, ohem_cross_entropy
    from fpl_fast.modules import (
        ConsistencyLoss,
        CrossEntropy,
        FuzzyPositiveLoss,
        OhemCrossEntropy,
        PseudoLabelCrossEntropy,
    )
    from fpl_fast.ops.finish import balance_factor
    from fpl_fast.predictions import pseudo_labels

__version__ = "0.1.0"

__all__ = [
    "ConsistencyLoss",
    "CrossEntropy",
    "FuzzyPositiveLoss",
    "LossStats",
    "OhemCrossEntropy",
    "PositiveGradientScore",
    "PseudoLabelCrossEntropy",
    "PseudoLabels",
    "adaptive_threshold",
    "balance_factor",
    "consistency_loss",
    "cross_entropy",
    "fuzzy_positive_assignment",
    "fuzzy_positive_loss",
    "ohem_cross_entropy",
    "positive_gradient_score",
    "pseudo_label_cross_entropy",
    "pseudo_labels",
]

_HOMES = {
    "adaptive": ("adaptive_threshold",),
    "analysis": ("PositiveGradientScore", "positive_gradient_score"),
    "consistency": ("consistency_loss",),
    "functional": (
        "LossStats",
        "fuzzy_positive_assignment",
        "fuzzy_positive_loss",
        "pseudo_label_cross_entropy",
    ),
    "kernels.arguments": ("PseudoLabels",),
    "label_losses": ("cross_entropy", "ohem_cross_entropy"),
    "ops.finish": ("balance_factor",),
    "predictions": ("pseudo_labels",),
    "modules": (
        "ConsistencyLoss",
        "CrossEntropy",
        "FuzzyPositiveLoss",
        "OhemCrossEntropy",
        "PseudoLabelCrossEntropy",
    ),
}

if not TYPE_CHECKING:  # a type checker would take every name for one that exists
    __getattr__, __dir__ = names_on_demand(globals(), _HOMES)
