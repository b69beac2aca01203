"""Configuration of a run: one frozen, typed value, checked when it is made (io.py reads and writes it).

Every number of a run lives here, so that the ``config.yaml`` of a run folder is enough to repeat it.
"""

from fpl_fast.trainer.config.data import (
    CityscapesData,
    DataConfig,
    FileData,
    FolderData,
    PublicData,
    SyntheticData,
    VocData,
)
from fpl_fast.trainer.config.method import (
    ConfidencePart,
    ConsistencyConfig,
    CutMixPart,
    EmaPart,
    FlipPart,
    MethodConfig,
    MethodPart,
    PairedCutMixPart,
    PartnerPart,
    PastePart,
    PseudoLabelConfig,
)
from fpl_fast.trainer.config.run import RunConfig
from fpl_fast.trainer.config.training import AugmentConfig, EvalConfig, ModelConfig, OptimConfig, TrainConfig
from fpl_fast.trainer.config.views import ColourPart, PairedCropsPart, PairedWeakStrongConfig, WeakStrongConfig

__all__ = [
    "AugmentConfig",
    "CityscapesData",
    "ColourPart",
    "ConfidencePart",
    "ConsistencyConfig",
    "CutMixPart",
    "DataConfig",
    "EmaPart",
    "EvalConfig",
    "FileData",
    "FlipPart",
    "FolderData",
    "MethodConfig",
    "MethodPart",
    "ModelConfig",
    "OptimConfig",
    "PairedCropsPart",
    "PairedCutMixPart",
    "PairedWeakStrongConfig",
    "PartnerPart",
    "PastePart",
    "PseudoLabelConfig",
    "PublicData",
    "RunConfig",
    "SyntheticData",
    "TrainConfig",
    "VocData",
    "WeakStrongConfig",
]
