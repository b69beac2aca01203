"""Settings of each method, and the numbers that its tables have for a data set."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from fpl_fast.trainer.config import MethodConfig
from fpl_fast.trainer.methods.adaptive_equalization import AelConfig
from fpl_fast.trainer.methods.context_consistency import CacConfig
from fpl_fast.trainer.methods.corrmatch import CorrMatchConfig
from fpl_fast.trainer.methods.cps import CpsConfig
from fpl_fast.trainer.methods.cross_consistency import CctConfig
from fpl_fast.trainer.methods.cutmix_seg import CutMixSegConfig
from fpl_fast.trainer.methods.fixmatch import FixMatchConfig
from fpl_fast.trainer.methods.gct import GctConfig
from fpl_fast.trainer.methods.mean_teacher import MeanTeacherConfig
from fpl_fast.trainer.methods.supervised import SupervisedConfig
from fpl_fast.trainer.methods.u2pl import U2plConfig
from fpl_fast.trainer.methods.unimatch import UniMatchConfig
from fpl_fast.trainer.methods.unimatch_v2 import UniMatchV2Config

__all__ = ["METHODS", "MethodRecipe"]

Numbers = dict[str, Any]


class MethodRecipe(NamedTuple):
    """A method of the recipes."""

    summary: str
    method: MethodConfig
    setting: str = "cps"
    """Method whose data handling, network, optimiser and schedule it is published with."""
    numbers: Mapping[str, Numbers] = {}
    """By data set: settings of the method in its tables."""


# Sky, building, road, pavement and tree of the near view of street scenes: those that AEL leaves out on Cityscapes.
_STREET = (0, 1, 2, 3, 4)

_CONCAVE: Numbers = {"weighting": "concave"}
_WEIGHED: dict[str, Numbers] = {
    "synthetic": _CONCAVE,
    "city": _CONCAVE,
}  # pixel weights of the fuzzy positive loss outside AEL
_PLAIN: dict[str, Numbers] = {
    "synthetic": {"unsup_weight": 0.75} | _CONCAVE,
    "folder": {"unsup_weight": 1.5},
    "voc": {"unsup_weight": 1.5},
    "city": {"unsup_weight": 6.0} | _CONCAVE,
}
_MIXED: dict[str, Numbers] = {
    "synthetic": {"unsup_weight": 0.5} | _CONCAVE,
    "city": {"unsup_weight": 5.0} | _CONCAVE,
}
_CUTMIX_SEG: Numbers = {
    "mix_boxes": 1, "mix_area": (0.5, 0.5), "confidence_threshold": 0.97, "ignore_padding": True, "divide_by_all": True,
}  # fmt: skip
# Background to CCT: flat, construction, nature and sky on Cityscapes, and in the near view of the street scenes.
_CCT: dict[str, Numbers] = {
    "synthetic": {"background": (0, 1, 2, 3, 4, 5)} | _CONCAVE,
    "voc": {"sup_loss": "annealed"},
    "folder": {"sup_loss": "annealed"},
    "city": {"background": (0, 1, 2, 3, 4, 8, 9, 10)} | _CONCAVE,
}
# The ramp takes 3 epochs. The detector sees the tiny street scenes enlarged, so that its maps have 3 x 5 cells.
_GCT: dict[str, Numbers] = {
    "synthetic": {"detector_channels": 8, "detector_scale": 2} | _CONCAVE,
    "city": {"ramp_share": 3 / 137} | _CONCAVE,
}
# Labelled images train alone for 5 epochs of 80. The bank holds 2 steps with ResNet-50 on PASCAL VOC, 1 on Cityscapes.
_CAC: dict[str, Numbers] = {
    "synthetic": {"bank_cells": 384, "start_share": 5 / 80},
    "folder": {"start_share": 5 / 80},
    "voc": {"start_share": 5 / 80, "bank_steps": 2},
    "city": {"start_share": 5 / 80, "bank_steps": 1, "bank_cells": 64_800},
}
_AEL: Numbers = {"mix_boxes": 1, "mix_area": (0.5, 0.5), "weighting": "concave", "convex_scale": 4.0}
_AEL_VOC: Numbers = {"paste_draws": 1, "paste_exclude": (0,), "component_area": 0.03, "bank_area": 0.03}
_AEL_CITY: Numbers = {"paste_exclude": (0, 1, 2, 8, 10)}
_AEL_STREET: Numbers = {"paste_exclude": _STREET}
# As AEL on PASCAL VOC: without the gate, an early teacher's errors would become labels and reinforce themselves.
_SURE: Numbers = {"confidence_threshold": 0.7}
_U2PL: Numbers = {"mix_boxes": 1, "mix_area": (0.5, 0.5)}
# The public code divides the contrastive loss by the number of processes once more than it shows: 4 and 8.
_U2PL_NUMBERS: dict[str, Numbers] = {
    "synthetic": {"bank_size": 2000, "bank_size_first": 2000, "keys_per_step": 128, "anchors": 64} | _CONCAVE,
    "folder": {"contrast_weight": 0.25, "warmup_share": 1 / 80, "follow_share": 2 / 80},
    "voc": {"contrast_weight": 0.25, "warmup_share": 1 / 80, "follow_share": 2 / 80, "aux_weight": 0.0},
    "city": {"contrast_weight": 0.125, "follow_share": 1 / 200} | _CONCAVE,
}
# The gate of the public code is 0.95, and 0 on Cityscapes. Fuzzy positives need uncertain pixels, and have no gate;
# their concave weights lessen pixels whose first rejected class is nearly as probable.
_GATE: dict[str, Numbers] = {"synthetic": _SURE, "city": {"confidence_threshold": 0.0}}
_GATED: Numbers = {"loss": "ce", "confidence_threshold": 0.95}
_UNGATED: Numbers = {"loss": "fpl", "weighting": "concave"}
# The threshold of CorrMatch starts at 0.85 and moves; on Cityscapes it stays 0. On synthetic scenes it starts lower.
_CORRMATCH: dict[str, Numbers] = {"synthetic": _SURE, "city": {"confidence_threshold": 0.0, "threshold_momentum": 1.0}}

METHODS = {
    "supervised": MethodRecipe("labelled images only", SupervisedConfig()),
    "mean_teacher": MethodRecipe("Mean Teacher", MeanTeacherConfig(loss="mse", unsup_weight=100.0), numbers=_WEIGHED),
    "fpl_mean_teacher": MethodRecipe(
        "fuzzy positives in Mean Teacher", MeanTeacherConfig(loss="fpl"), numbers=_WEIGHED
    ),
    "cutmix_seg": MethodRecipe("CutMix-Seg", CutMixSegConfig(loss="mse", **_CUTMIX_SEG), numbers=_WEIGHED),
    "fpl_cutmix_seg": MethodRecipe(
        "fuzzy positives in CutMix-Seg", CutMixSegConfig(loss="fpl", **_CUTMIX_SEG), numbers=_WEIGHED
    ),
    "cct": MethodRecipe("Cross-Consistency Training", CctConfig(loss="mse", unsup_weight=30.0), numbers=_CCT),
    "fpl_cct": MethodRecipe("fuzzy positives in Cross-Consistency Training", CctConfig(loss="fpl"), numbers=_CCT),
    "gct": MethodRecipe("Guided Collaborative Training", GctConfig(loss="mse", unsup_weight=100.0), numbers=_GCT),
    "fpl_gct": MethodRecipe("fuzzy positives in Guided Collaborative Training", GctConfig(loss="fpl"), numbers=_GCT),
    "cac": MethodRecipe("Directional Context-Aware Consistency", CacConfig(), "cac", _CAC),
    "cps": MethodRecipe("cross pseudo supervision", CpsConfig(loss="ce", cutmix=False), numbers=_PLAIN),
    "fpl_cps": MethodRecipe(
        "fuzzy positives in cross pseudo supervision", CpsConfig(loss="fpl", cutmix=False), numbers=_PLAIN
    ),
    "cps_cutmix": MethodRecipe("cross pseudo supervision with CutMix", CpsConfig(loss="ce"), numbers=_MIXED),
    "fpl_cps_cutmix": MethodRecipe("fuzzy positives in CPS with CutMix", CpsConfig(loss="fpl"), numbers=_MIXED),
    "ael": MethodRecipe(
        "Adaptive Equalization Learning",
        AelConfig(loss="ce", **_AEL),
        "ael",
        {"synthetic": _AEL_STREET | _SURE, "folder": _SURE, "voc": _AEL_VOC | _SURE, "city": _AEL_CITY},
    ),
    "fpl_ael": MethodRecipe(
        "fuzzy positives in AEL",
        AelConfig(loss="fpl", **_AEL),
        "ael",
        {"synthetic": _AEL_STREET, "voc": _AEL_VOC, "city": _AEL_CITY},
    ),
    "u2pl": MethodRecipe("U2PL, unreliable pseudo-labels", U2plConfig(loss="ce", **_U2PL), "u2pl", _U2PL_NUMBERS),
    "fpl_u2pl": MethodRecipe("fuzzy positives in U2PL", U2plConfig(loss="fpl", **_U2PL), "u2pl", _U2PL_NUMBERS),
    "fixmatch": MethodRecipe(
        "FixMatch", FixMatchConfig(**_GATED), "unimatch", _GATE | {"synthetic": _SURE | {"unsup_weight": 0.5}}
    ),
    "fpl_fixmatch": MethodRecipe(
        "fuzzy positives in FixMatch", FixMatchConfig(**_UNGATED), "unimatch", {"synthetic": {"unsup_weight": 0.5}}
    ),
    "unimatch": MethodRecipe("UniMatch", UniMatchConfig(**_GATED), "unimatch", _GATE),
    "fpl_unimatch": MethodRecipe("fuzzy positives in UniMatch", UniMatchConfig(**_UNGATED), "unimatch"),
    "corrmatch": MethodRecipe("CorrMatch", CorrMatchConfig(loss="ce", gated=True), "corrmatch", _CORRMATCH),
    "fpl_corrmatch": MethodRecipe("fuzzy positives in CorrMatch", CorrMatchConfig(**_UNGATED), "corrmatch", _CORRMATCH),
    "unimatch_v2": MethodRecipe("UniMatch V2", UniMatchV2Config(**_GATED), "unimatch_v2", {"synthetic": _SURE}),
    "fpl_unimatch_v2": MethodRecipe("fuzzy positives in UniMatch V2", UniMatchV2Config(**_UNGATED), "unimatch_v2"),
}
