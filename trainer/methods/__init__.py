"""Training methods: one file and one class each."""

from collections.abc import Callable

from torch import nn

from fpl_fast.trainer.config import MethodConfig
from fpl_fast.trainer.methods.adaptive_equalization import AdaptiveEqualizationLearning
from fpl_fast.trainer.methods.base import Losses, Method, Phase, TrainingSet
from fpl_fast.trainer.methods.batch import Batch, Place, View
from fpl_fast.trainer.methods.context_consistency import ContextAwareConsistency
from fpl_fast.trainer.methods.corrmatch import CorrMatch
from fpl_fast.trainer.methods.cps import CrossPseudoSupervision
from fpl_fast.trainer.methods.cross_consistency import CrossConsistencyTraining
from fpl_fast.trainer.methods.cutmix_seg import CutMixSeg
from fpl_fast.trainer.methods.fixmatch import FixMatch
from fpl_fast.trainer.methods.gct import GuidedCollaborativeTraining
from fpl_fast.trainer.methods.mean_teacher import MeanTeacher
from fpl_fast.trainer.methods.supervised import Supervised
from fpl_fast.trainer.methods.u2pl import U2pl
from fpl_fast.trainer.methods.unimatch import UniMatch
from fpl_fast.trainer.methods.unimatch_v2 import UniMatchV2

__all__ = [
    "METHODS",
    "AdaptiveEqualizationLearning",
    "Batch",
    "ContextAwareConsistency",
    "CorrMatch",
    "CrossConsistencyTraining",
    "CrossPseudoSupervision",
    "CutMixSeg",
    "FixMatch",
    "GuidedCollaborativeTraining",
    "Losses",
    "MeanTeacher",
    "Method",
    "Phase",
    "Place",
    "Supervised",
    "TrainingSet",
    "U2pl",
    "UniMatch",
    "UniMatchV2",
    "View",
    "build_method",
]

METHODS: dict[str, type[Method]] = {
    "supervised": Supervised,
    "cps": CrossPseudoSupervision,
    "mean_teacher": MeanTeacher,
    "cutmix_seg": CutMixSeg,
    "cct": CrossConsistencyTraining,
    "gct": GuidedCollaborativeTraining,
    "cac": ContextAwareConsistency,
    "ael": AdaptiveEqualizationLearning,
    "u2pl": U2pl,
    "fixmatch": FixMatch,
    "unimatch": UniMatch,
    "unimatch_v2": UniMatchV2,
    "corrmatch": CorrMatch,
}
"""Class of each ``method.name``."""


def build_method(config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int = 255) -> Method:
    """Build the method that ``config.name`` names, with new networks.

    Args:
        config: Method and its numbers.
        make_network: Makes a network (N, 3, H, W) -> (N, C, h, w) of logits; called once for each that is needed.
        ignore_index: Label of pixels that the supervised loss leaves out.
    """
    return METHODS[config.name](config, make_network, ignore_index=ignore_index)
