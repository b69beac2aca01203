"""Recipes: named runs ``<data>/<method>``, generated from the settings of each data set and each method.

A recipe is a function that returns a RunConfig; nothing else in the trainer knows of recipes. On the public data sets a
recipe with a backbone and a part of the labels is a cell of the paper's tables; that grid is generated, too.
docs/choices.md explains the choices where the papers and their code leave something open.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, cast

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
from fpl_fast.trainer.methods.adaptive_equalization import AelConfig
from fpl_fast.trainer.methods.cps import CpsConfig
from fpl_fast.trainer.methods.cutmix_seg import CutMixSegConfig
from fpl_fast.trainer.methods.mean_teacher import MeanTeacherConfig
from fpl_fast.trainer.methods.supervised import SupervisedConfig
from fpl_fast.trainer.nearest import nearest
from fpl_fast.trainer.published import BACKBONES, PARTITIONS, Published, find_published
from fpl_fast.trainer.schedule import LABELLED_PARTS, NUM_IMAGES, num_steps

__all__ = [
    "DATA_SUMMARIES",
    "METHOD_SUMMARIES",
    "Cell",
    "grid",
    "make_recipe",
    "published_number",
    "recipe_names",
]

_STREET = (0, 1, 3, 4, 5)  # sky, building, road, pavement, tree: the classes that AEL leaves out on Cityscapes

_Setting = Callable[[MethodConfig], RunConfig]
_Numbers = dict[str, Any]


class _DataRecipe(NamedTuple):
    summary: str
    settings: Mapping[str, _Setting]  # by name; the first serves methods whose own setting is missing


class _MethodRecipe(NamedTuple):
    summary: str
    method: MethodConfig
    setting: str = "cps"  # method whose data handling, network, optimiser and schedule it is published with
    numbers: Mapping[str, _Numbers] = {}  # by data set: settings of the method in its tables


def _synthetic(method: MethodConfig) -> RunConfig:
    """Run for two CPU cores: tiny images, tiny networks from scratch, and a learning rate that suits them.

    Networks without ImageNet weights start with poor targets, which have half the weight that they have on VOC.
    """
    return RunConfig(
        data=SyntheticData(),
        augment=AugmentConfig(crop=(64, 96), scales=(0.75, 1.0, 1.5)),
        model=ModelConfig(backbone="test_resnet", head_channels=64, low_channels=24),
        method=method,
        optim=OptimConfig(lr=0.05),
        train=TrainConfig(steps=600, batch_labelled=4, batch_unlabelled=4, workers=0, threads=1),
        eval=EvalConfig(every=200),
    )


def _folder(method: MethodConfig) -> RunConfig:
    r"""Run on images, labels and lists in the default layout of FolderData, with the numbers of CPS on VOC.

    CamVid with an eighth of its labels, on a small network::

        fpl-fast train folder/fpl_cps_cutmix --data.root camvid --data.labelled lists/labelled_1_8.txt \
            --data.unlabelled lists/unlabelled_1_8.txt --data.label_ignore [11] \
            --model.backbone resnet18 --augment.crop [256,256] --train.steps 5000
    """
    return RunConfig(data=FolderData(), model=ModelConfig(pretrained=True), method=method)


def _voc_cps(method: MethodConfig) -> RunConfig:
    """CPS on PASCAL VOC as FPL ran it: weight decay for eight processes, images padded to 512 x 512."""
    return RunConfig(
        data=VocData(),
        augment=AugmentConfig(crop=(512, 512)),
        model=ModelConfig(pretrained=True),
        method=method,
        optim=OptimConfig(weight_decay=8e-4),
        train=TrainConfig(precision="bf16-mixed"),
        eval=EvalConfig(protocol="cps", window=(512, 512)),
    )


def _city_cps(method: MethodConfig) -> RunConfig:
    """CPS on Cityscapes: eight processes, OHEM, windows of 800 x 800."""
    return RunConfig(
        data=CityscapesData(),
        augment=AugmentConfig(crop=(800, 800)),
        model=ModelConfig(pretrained=True),
        method=dataclasses.replace(method, sup_loss="ohem"),
        optim=OptimConfig(weight_decay=8e-4),
        train=TrainConfig(precision="bf16-mixed", workers=4),
        eval=EvalConfig(protocol="cps", window=(800, 800)),
    )


def _voc_ael(method: MethodConfig) -> RunConfig:
    """AEL on PASCAL VOC: eight processes of two labelled images and one mixed one; whole images to evaluate."""
    return dataclasses.replace(_ael(method, crop=513), data=VocData(), eval=EvalConfig(protocol="whole"))


def _city_ael(method: MethodConfig) -> RunConfig:
    """AEL on Cityscapes: windows of 769 x 769 whose probabilities are averaged."""
    return dataclasses.replace(
        _ael(method, crop=769, workers=4), data=CityscapesData(), eval=EvalConfig(protocol="ael", window=(769, 769))
    )


def _ael(method: MethodConfig, *, crop: int, workers: int = 2) -> RunConfig:
    """Settings of AEL that both data sets share: network, optimiser, batches, continuous scales, OHEM."""
    return RunConfig(
        augment=AugmentConfig(crop=(crop, crop), scale_range=(0.5, 2.0)),
        model=ModelConfig(head="ael", output_stride=8, pretrained=True),
        method=dataclasses.replace(method, sup_loss="ohem", ohem_min_kept=100_000, ohem_group=2),
        optim=OptimConfig(lr=0.00125, head_lr_scale=10.0, weight_decay=8e-4, decay_all=True),
        train=TrainConfig(batch_labelled=16, batch_unlabelled=8, precision="bf16-mixed", workers=workers),
    )


_DATA = {
    "synthetic": _DataRecipe("procedural street scenes, minutes on a CPU", {"cps": _synthetic}),
    "folder": _DataRecipe("your images, index-PNG labels and list files", {"cps": _folder}),
    "voc": _DataRecipe("PASCAL VOC 2012 with SBD's labels", {"cps": _voc_cps, "ael": _voc_ael}),
    "city": _DataRecipe("Cityscapes", {"cps": _city_cps, "ael": _city_ael}),
}

_CONCAVE: _Numbers = {"weighting": "concave"}
_WEIGHED: dict[str, _Numbers] = {
    "synthetic": _CONCAVE,
    "city": _CONCAVE,
}  # pixel weights of the fuzzy positive loss outside AEL
_PLAIN: dict[str, _Numbers] = {
    "synthetic": {"unsup_weight": 0.75} | _CONCAVE,
    "folder": {"unsup_weight": 1.5},
    "voc": {"unsup_weight": 1.5},
    "city": {"unsup_weight": 6.0} | _CONCAVE,
}
_MIXED: dict[str, _Numbers] = {
    "synthetic": {"unsup_weight": 0.5} | _CONCAVE,
    "city": {"unsup_weight": 5.0} | _CONCAVE,
}
_CUTMIX_SEG: _Numbers = {
    "mix_boxes": 1, "mix_area": (0.5, 0.5), "confidence_threshold": 0.97, "ignore_padding": True, "divide_by_all": True,
}  # fmt: skip
_AEL: _Numbers = {"mix_boxes": 1, "mix_area": (0.5, 0.5), "weighting": "concave", "convex_scale": 4.0}
_AEL_VOC: _Numbers = {"paste_draws": 1, "paste_exclude": (0,), "component_area": 0.03, "bank_area": 0.03}
_AEL_CITY: _Numbers = {"paste_exclude": (0, 1, 2, 8, 10)}
_AEL_STREET: _Numbers = {"paste_exclude": _STREET}
# As AEL on PASCAL VOC: without the gate, an early teacher's errors would become labels and reinforce themselves.
_SURE: _Numbers = {"confidence_threshold": 0.7}

_METHODS = {
    "supervised": _MethodRecipe("labelled images only", SupervisedConfig()),
    "mean_teacher": _MethodRecipe("Mean Teacher", MeanTeacherConfig(loss="mse", unsup_weight=100.0), numbers=_WEIGHED),
    "fpl_mean_teacher": _MethodRecipe(
        "fuzzy positives in Mean Teacher", MeanTeacherConfig(loss="fpl"), numbers=_WEIGHED
    ),
    "cutmix_seg": _MethodRecipe("CutMix-Seg", CutMixSegConfig(loss="mse", **_CUTMIX_SEG), numbers=_WEIGHED),
    "fpl_cutmix_seg": _MethodRecipe(
        "fuzzy positives in CutMix-Seg", CutMixSegConfig(loss="fpl", **_CUTMIX_SEG), numbers=_WEIGHED
    ),
    "cps": _MethodRecipe("cross pseudo supervision", CpsConfig(loss="ce", cutmix=False), numbers=_PLAIN),
    "fpl_cps": _MethodRecipe(
        "fuzzy positives in cross pseudo supervision", CpsConfig(loss="fpl", cutmix=False), numbers=_PLAIN
    ),
    "cps_cutmix": _MethodRecipe("cross pseudo supervision with CutMix", CpsConfig(loss="ce"), numbers=_MIXED),
    "fpl_cps_cutmix": _MethodRecipe("fuzzy positives in CPS with CutMix", CpsConfig(loss="fpl"), numbers=_MIXED),
    "ael": _MethodRecipe(
        "Adaptive Equalization Learning",
        AelConfig(loss="ce", **_AEL),
        "ael",
        {"synthetic": _AEL_STREET | _SURE, "folder": _SURE, "voc": _AEL_VOC | _SURE, "city": _AEL_CITY},
    ),
    "fpl_ael": _MethodRecipe(
        "fuzzy positives in AEL",
        AelConfig(loss="fpl", **_AEL),
        "ael",
        {"synthetic": _AEL_STREET, "voc": _AEL_VOC, "city": _AEL_CITY},
    ),
}

DATA_SUMMARIES = {name: data.summary for name, data in _DATA.items()}
METHOD_SUMMARIES = {name: method.summary for name, method in _METHODS.items()}


def recipe_names() -> list[str]:
    """List the name of every recipe.

    Example:
        >>> "folder/fpl_cps_cutmix" in recipe_names()
        True
    """
    return [f"{data}/{method}" for data in _DATA for method in _METHODS]


def make_recipe(name: str, *, partition: str | None = None) -> RunConfig:
    """Build the configuration of the recipe ``<data>/<method>``.

    Args:
        name: One of ``recipe_names()``.
        partition: Part of a public data set that is labelled, "1/32" ... "1/2", with the steps that belong to it;
            default "1/8".

    Raises:
        ValueError: There is no such recipe (the nearest name is given) or no such part.

    Example:
        >>> make_recipe("city/fpl_cps_cutmix", partition="1/16").train.steps
        44544
    """
    data, _, method = name.partition("/")
    if data not in _DATA or method not in _METHODS:
        remedy = nearest(name, recipe_names()) or ": fpl-fast recipes lists them"
        raise ValueError(f"recipe: no such recipe {name!r}{remedy}")
    how, settings = _METHODS[method], _DATA[data].settings
    setting = how.setting if how.setting in settings else next(iter(settings))
    config = settings[setting](dataclasses.replace(how.method, **how.numbers.get(data, {})))
    config = dataclasses.replace(config, recipe=name)
    if data in NUM_IMAGES:
        return _at_partition(config, setting, partition or "1/8")
    if partition is not None:
        raise ValueError(f"--partition goes with the data sets {' and '.join(NUM_IMAGES)}, got {name!r}")
    return config


def _at_partition(config: RunConfig, setting: str, partition: str) -> RunConfig:
    if partition not in LABELLED_PARTS:
        raise ValueError(f"--partition must be one of {', '.join(LABELLED_PARTS)}, got {partition!r}")
    assert isinstance(config.data, VocData | CityscapesData)
    steps = num_steps(config.data.kind, setting, partition)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, partition=cast("Any", partition)),
        train=dataclasses.replace(config.train, steps=steps),
    )


class Cell(NamedTuple):
    """A cell of the paper's tables, or a run that they have no number for."""

    recipe: str
    backbone: str
    partition: str
    steps: int
    published: Published | None

    @property
    def command(self) -> str:
        """Command that trains the cell, without the folder of the data."""
        return f"fpl-fast train {self.recipe} --backbone {self.backbone} --partition {self.partition}"


def published_number(config: RunConfig) -> Published | None:
    """Find the paper's number for the recipe, backbone and partition of a run; other settings are not compared."""
    data, _, method = config.recipe.partition("/")
    if data not in PARTITIONS or not isinstance(config.data, VocData | CityscapesData) or data != config.data.kind:
        return None
    return find_published(data, method, config.model.backbone, config.data.partition)


def grid() -> list[Cell]:
    """List every cell: method x data set x backbone x part of the labels.

    Example:
        >>> next(cell for cell in grid() if cell.recipe == "voc/fpl_cps_cutmix").command
        'fpl-fast train voc/fpl_cps_cutmix --backbone resnet50 --partition 1/16'
    """
    return [
        Cell(
            f"{data}/{method}",
            backbone,
            partition,
            make_recipe(f"{data}/{method}", partition=partition).train.steps,
            find_published(data, method, backbone, partition),
        )
        for data, partitions in PARTITIONS.items()
        for method in _METHODS
        for backbone in BACKBONES
        for partition in partitions
    ]
