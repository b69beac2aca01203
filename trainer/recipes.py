"""Recipes: named runs ``<data>/<method>``, generated from what is known of each data set and of each method.

A recipe is a function that returns a RunConfig; nothing else in the trainer knows of recipes.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

from fpl_fast.trainer.config import (
    AugmentConfig,
    CityscapesData,
    EvalConfig,
    FolderData,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SyntheticData,
    TrainConfig,
    VocData,
)
from fpl_fast.trainer.config_io import nearest

__all__ = ["make_recipe", "recipe_descriptions"]


class _DataRecipe(NamedTuple):
    summary: str
    config: Callable[[], RunConfig]  # everything but the method
    cps_weight: float  # factor of the unsupervised loss without CutMix
    cutmix_weight: float  # and with it
    weighting: Literal["none", "linear", "convex", "concave"]  # pixel weight of the fuzzy positive loss
    paste_exclude: tuple[int, ...]  # classes that AEL never pastes
    sup_loss: Literal["ce", "ohem"] = "ce"


class _MethodRecipe(NamedTuple):
    summary: str
    method: MethodConfig
    unsup_weight: float | None = None  # None: the data set's, for CPS
    weighting: str | None = None  # likewise


def _synthetic() -> RunConfig:
    """Small enough for two CPU cores: tiny images, tiny networks from scratch, and a learning rate that suits them."""
    return RunConfig(
        data=SyntheticData(),
        augment=AugmentConfig(crop=(64, 96), scales=(0.75, 1.0, 1.5)),
        model=ModelConfig(backbone="test_resnet", head_channels=64, low_channels=24),
        optim=OptimConfig(lr=0.05),
        train=TrainConfig(steps=600, batch_labelled=4, batch_unlabelled=4, workers=0, threads=1),
        eval=EvalConfig(every=200),
    )


def _folder() -> RunConfig:
    r"""Images, labels and lists in the layout that FolderData has for defaults.

    CamVid with an eighth of its labels, on a small network::

        fpl-fast train folder/fpl_cps_cutmix --data.root camvid --data.labelled lists/labelled_1_8.txt \
            --data.unlabelled lists/unlabelled_1_8.txt --data.label_ignore [11] \
            --model.backbone resnet18 --augment.crop [256,256] --train.steps 5000
    """
    return RunConfig(data=FolderData())


def _voc() -> RunConfig:
    """CPS on an eighth of PASCAL VOC: 34 epochs, evaluated on whole images padded to 512 x 512."""
    return RunConfig(
        data=VocData(),
        augment=AugmentConfig(crop=(512, 512)),
        train=TrainConfig(steps=39_338),
        eval=EvalConfig(protocol="cps", window=(512, 512)),
    )


def _city() -> RunConfig:
    """CPS on an eighth of Cityscapes: 137 epochs on 8 processes, evaluated in windows of 800 x 800."""
    return RunConfig(
        data=CityscapesData(),
        augment=AugmentConfig(crop=(800, 800)),
        optim=OptimConfig(weight_decay=8e-4),
        train=TrainConfig(steps=44_525),
        eval=EvalConfig(protocol="cps", window=(800, 800)),
    )


_STREET = (0, 1, 3, 4, 5)  # sky, building, road, pavement, tree: what AEL leaves out on Cityscapes

# Weights, weighting and supervised loss are those of the published code; "folder" takes those of PASCAL VOC. Networks
# without ImageNet weights start with poor targets: "synthetic" halves what they count.
_DATA = {
    "synthetic": _DataRecipe("procedural street scenes, minutes on a CPU", _synthetic, 0.75, 0.5, "concave", _STREET),
    "folder": _DataRecipe("your images, index-PNG labels and list files", _folder, 1.5, 1.0, "none", ()),
    "voc": _DataRecipe("PASCAL VOC 2012 with SBD's labels", _voc, 1.5, 1.0, "none", (0,)),
    "city": _DataRecipe("Cityscapes", _city, 6.0, 5.0, "concave", (0, 1, 2, 8, 10), sup_loss="ohem"),
}

_PLAIN: dict[str, Any] = {"cutmix": False}
_ONE_BOX: dict[str, Any] = {"mix_boxes": 1, "mix_area": (0.5, 0.5), "confidence_threshold": 0.97}

_AEL: dict[str, Any] = {"name": "ael", "mix_boxes": 1, "mix_area": (0.5, 0.5)}

_METHODS = {
    "supervised": _MethodRecipe("labelled images only", MethodConfig(name="supervised")),
    "cps": _MethodRecipe("cross pseudo supervision", MethodConfig(loss="ce", cutmix=False)),
    "cps_cutmix": _MethodRecipe("cross pseudo supervision with CutMix", MethodConfig(loss="ce")),
    "fpl_cps": _MethodRecipe("fuzzy positives in cross pseudo supervision", MethodConfig(loss="fpl", cutmix=False)),
    "fpl_cps_cutmix": _MethodRecipe("fuzzy positives in CPS with CutMix", MethodConfig(loss="fpl")),
    "mean_teacher": _MethodRecipe("Mean Teacher", MethodConfig(name="mean_teacher", loss="mse", **_PLAIN), 100.0),
    "fpl_mean_teacher": _MethodRecipe(
        "fuzzy positives in Mean Teacher", MethodConfig(name="mean_teacher", loss="fpl", **_PLAIN), 1.0
    ),
    "cutmix_seg": _MethodRecipe("CutMix-Seg", MethodConfig(name="cutmix_seg", loss="mse", **_ONE_BOX), 1.0),
    "fpl_cutmix_seg": _MethodRecipe(
        "fuzzy positives in CutMix-Seg", MethodConfig(name="cutmix_seg", loss="fpl", **_ONE_BOX), 1.0
    ),
    "ael": _MethodRecipe("Adaptive Equalization Learning", MethodConfig(loss="ce", **_AEL), 1.0),
    "fpl_ael": _MethodRecipe("fuzzy positives in AEL", MethodConfig(loss="fpl", **_AEL), 1.0, "concave"),
}


def recipe_descriptions() -> dict[str, str]:
    """The name of every recipe with one line on what it trains.

    Example:
        >>> "folder/fpl_cps_cutmix" in recipe_descriptions()
        True
    """
    return {
        f"{data}/{method}": f"{how.summary}; {what.summary}"
        for data, what in _DATA.items()
        for method, how in _METHODS.items()
    }


def make_recipe(name: str) -> RunConfig:
    """The configuration of the recipe ``<data>/<method>``.

    Raises:
        ValueError: There is no such recipe; the nearest name is given.
    """
    data, _, method = name.partition("/")
    if data not in _DATA or method not in _METHODS:
        raise ValueError(f"recipe: no such recipe {name!r}{nearest(name, recipe_descriptions())}")
    what, how = _DATA[data], _METHODS[method]
    weight = how.unsup_weight
    if weight is None:
        weight = what.cutmix_weight if how.method.cutmix else what.cps_weight
    changed = dataclasses.replace(
        how.method,
        unsup_weight=weight,
        weighting=how.weighting or what.weighting,
        sup_loss=what.sup_loss,
        paste_exclude=what.paste_exclude if how.method.name == "ael" else (),
    )
    return dataclasses.replace(what.config(), recipe=name, method=changed)
