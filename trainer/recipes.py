"""Recipes: named runs ``<data>/<method>``, generated from what is known of each data set and of each method.

A recipe is a function that returns a RunConfig; nothing else in the trainer knows of recipes.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

from fpl_fast.trainer.config import (
    AugmentConfig,
    EvalConfig,
    FolderData,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    SyntheticData,
    TrainConfig,
)
from fpl_fast.trainer.config_io import nearest

__all__ = ["make_recipe", "recipe_descriptions"]


class _DataRecipe(NamedTuple):
    summary: str
    config: Callable[[], RunConfig]  # everything but the method
    cps_weight: float  # factor of the unsupervised loss without CutMix
    cutmix_weight: float  # and with it
    weighting: str  # pixel weight of the fuzzy positive loss


class _MethodRecipe(NamedTuple):
    summary: str
    method: MethodConfig


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


# Weights and weighting of "folder" are those of the published code on PASCAL VOC; on Cityscapes it takes 6 and 5, with
# OHEM, and "concave". Networks without ImageNet weights start with poor targets: "synthetic" halves what they count.
_DATA = {
    "synthetic": _DataRecipe("procedural street scenes, minutes on a CPU", _synthetic, 0.75, 0.5, "concave"),
    "folder": _DataRecipe("your images, index-PNG labels and list files", _folder, 1.5, 1.0, "none"),
}

_METHODS = {
    "supervised": _MethodRecipe("labelled images only", MethodConfig(name="supervised")),
    "cps": _MethodRecipe("cross pseudo supervision", MethodConfig(loss="ce", cutmix=False)),
    "cps_cutmix": _MethodRecipe("cross pseudo supervision with CutMix", MethodConfig(loss="ce")),
    "fpl_cps": _MethodRecipe("fuzzy positives in cross pseudo supervision", MethodConfig(loss="fpl", cutmix=False)),
    "fpl_cps_cutmix": _MethodRecipe("fuzzy positives in CPS with CutMix", MethodConfig(loss="fpl")),
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
    weight = what.cutmix_weight if how.method.cutmix else what.cps_weight
    changed = dataclasses.replace(how.method, unsup_weight=weight, weighting=what.weighting)
    return dataclasses.replace(what.config(), recipe=name, method=changed)
