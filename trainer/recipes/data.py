"""Settings of each data set, by the method whose setting it is: data, augmentation, network, optimiser, evaluation."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

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

__all__ = ["DATA", "DataRecipe"]


class DataRecipe(NamedTuple):
    """A data set of the recipes."""

    summary: str
    settings: Mapping[str, Callable[[MethodConfig], RunConfig]]
    """By name; the first serves methods whose own setting is missing."""


def _synthetic(method: MethodConfig) -> RunConfig:
    """Run for two CPU cores: tiny images, tiny networks from scratch, and a learning rate that suits them.

    Networks without ImageNet weights start with poor targets, which have half the weight that they have on VOC.
    """
    return RunConfig(
        data=SyntheticData(view="near"),
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


def _voc_u2pl(method: MethodConfig) -> RunConfig:
    """U2PL on PASCAL VOC: the network and the evaluation of AEL, and a tenth of the rate in the backbone."""
    config = _voc_ael(method)
    return dataclasses.replace(
        config,
        method=method,
        optim=dataclasses.replace(config.optim, lr=0.001, weight_decay=1e-4),
        train=dataclasses.replace(config.train, batch_unlabelled=16),
    )


def _city_u2pl(method: MethodConfig) -> RunConfig:
    """U2PL on Cityscapes: the network, the evaluation and the hard pixels of AEL, and one rate for all weights."""
    config = _city_ael(method)
    return dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, lr=0.01, head_lr_scale=1.0, weight_decay=5e-4),
        train=dataclasses.replace(config.train, batch_unlabelled=16),
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


def _synthetic_cac(method: MethodConfig) -> RunConfig:
    """CAC for two CPU cores."""
    config = _synthetic(method)
    return dataclasses.replace(
        config,
        augment=AugmentConfig(crop=(64, 96), scale_range=(0.75, 1.5), geometry="cac"),
        model=dataclasses.replace(config.model, head="cac"),
    )


def _voc_cac(method: MethodConfig) -> RunConfig:
    """CAC on PASCAL VOC: two processes of four images of each kind."""
    config = _cac(method, crop=320, base_size=400, lr=0.001)
    return dataclasses.replace(config, data=VocData())


def _city_cac(method: MethodConfig) -> RunConfig:
    """CAC on Cityscapes: four processes of two images of each kind, labelled ones in random colours."""
    config = _cac(method, crop=720, base_size=2048, lr=0.01, workers=4)
    augment = dataclasses.replace(config.augment, jitter=(0.4, 0.4, 0.4, 0.1))
    return dataclasses.replace(config, data=CityscapesData(), augment=augment)


def _folder_cac(method: MethodConfig) -> RunConfig:
    """CAC on images, labels and lists in a folder, with its numbers on VOC, but the images' own sizes."""
    config = _cac(method, crop=320, base_size=None, lr=0.001)
    return dataclasses.replace(config, data=FolderData(), train=TrainConfig())


def _cac(method: MethodConfig, *, crop: int, base_size: int | None, lr: float, workers: int = 2) -> RunConfig:
    """Settings of CAC that all data sets share."""
    return RunConfig(
        augment=AugmentConfig(crop=(crop, crop), scale_range=(0.5, 2.0), geometry="cac", base_size=base_size),
        model=ModelConfig(head="cac", stem="plain", pretrained=True),
        method=method,
        optim=OptimConfig(lr=lr, head_lr_scale=10.0, weight_decay=1e-4, decay_all=True),
        train=TrainConfig(precision="bf16-mixed", workers=workers),
        eval=EvalConfig(protocol="cac"),
    )


def _voc_unimatch(method: MethodConfig) -> RunConfig:
    """UniMatch on PASCAL VOC: four processes of two labelled and two unlabelled images; whole images to evaluate."""
    return dataclasses.replace(
        _unimatch(method, crop=321, lr=0.001, head_lr_scale=10.0), data=VocData(), eval=EvalConfig(protocol="whole")
    )


def _city_unimatch(method: MethodConfig) -> RunConfig:
    """UniMatch on Cityscapes: OHEM over the two labelled images of each process, windows that the border cuts."""
    method = dataclasses.replace(method, sup_loss="ohem", ohem_min_kept=200_000, ohem_group=2)
    return dataclasses.replace(
        _unimatch(method, crop=801, lr=0.005, workers=4),
        data=CityscapesData(),
        eval=EvalConfig(protocol="unimatch", window=(801, 801)),
    )


def _folder_unimatch(method: MethodConfig) -> RunConfig:
    """UniMatch on images, labels and lists in a folder, with its numbers on VOC."""
    return dataclasses.replace(
        _unimatch(method, crop=321, lr=0.001, head_lr_scale=10.0),
        data=FolderData(),
        train=TrainConfig(),
    )


def _unimatch(method: MethodConfig, *, crop: int, lr: float, head_lr_scale: float = 1.0, workers: int = 4) -> RunConfig:
    """Settings of UniMatch that all data sets share. Its loaders jitter four or six crops an unlabelled image."""
    return RunConfig(
        augment=AugmentConfig(crop=(crop, crop), scale_range=(0.5, 2.0), geometry="unimatch"),
        model=ModelConfig(head="unimatch", pretrained=True),
        method=method,
        optim=OptimConfig(lr=lr, head_lr_scale=head_lr_scale, weight_decay=1e-4, decay_all=True),
        train=TrainConfig(precision="bf16-mixed", workers=workers),
    )


def _voc_corrmatch(method: MethodConfig) -> RunConfig:
    """CorrMatch on PASCAL VOC: UniMatch with the encoder at output stride 8."""
    return _wide(_voc_unimatch(method))


def _city_corrmatch(method: MethodConfig) -> RunConfig:
    """CorrMatch on Cityscapes: UniMatch with the encoder at output stride 8, and fewer hard pixels."""
    config = _wide(_city_unimatch(method))
    return dataclasses.replace(config, method=dataclasses.replace(config.method, ohem_min_kept=100_000))


def _folder_corrmatch(method: MethodConfig) -> RunConfig:
    """CorrMatch on images, labels and lists in a folder, with its numbers on VOC."""
    return _wide(_folder_unimatch(method))


def _wide(config: RunConfig) -> RunConfig:
    return dataclasses.replace(config, model=dataclasses.replace(config.model, output_stride=8))


def _synthetic_unimatch_v2(method: MethodConfig) -> RunConfig:
    """UniMatch V2 for two CPU cores: a tiny transformer from scratch, which all of its weights learn at one rate."""
    config = _synthetic(method)
    return dataclasses.replace(
        config,
        model=ModelConfig(backbone="test_vit", head="dpt", output_stride=None),
        optim=OptimConfig(algorithm="adamw", lr=1e-3, weight_decay=0.01, decay_all=True),
    )


def _voc_unimatch_v2(method: MethodConfig) -> RunConfig:
    """UniMatch V2 on PASCAL VOC: four processes of four images of each kind; whole images to evaluate."""
    config = dataclasses.replace(_unimatch_v2(method, crop=518), data=VocData(), eval=EvalConfig(protocol="whole"))
    return dataclasses.replace(config, train=dataclasses.replace(config.train, batch_labelled=16, batch_unlabelled=16))


def _city_unimatch_v2(method: MethodConfig) -> RunConfig:
    """UniMatch V2 on Cityscapes: OHEM as UniMatch, windows of 798 x 798 whose probabilities are averaged."""
    method = dataclasses.replace(method, sup_loss="ohem", ohem_min_kept=200_000, ohem_group=2)
    return dataclasses.replace(
        _unimatch_v2(method, crop=798),
        data=CityscapesData(),
        eval=EvalConfig(protocol="ael", window=(798, 798)),
    )


def _folder_unimatch_v2(method: MethodConfig) -> RunConfig:
    """UniMatch V2 on images, labels and lists in a folder, with its numbers on VOC."""
    return dataclasses.replace(_unimatch_v2(method, crop=518), data=FolderData(), train=TrainConfig())


def _unimatch_v2(method: MethodConfig, *, crop: int) -> RunConfig:
    """Settings of UniMatch V2 that all data sets share: DINOv2-small, AdamW, and the augmentation of UniMatch."""
    return RunConfig(
        augment=AugmentConfig(crop=(crop, crop), scale_range=(0.5, 2.0), geometry="unimatch"),
        model=ModelConfig(backbone="vit_small_patch14_dinov2", head="dpt", output_stride=None, pretrained=True),
        method=method,
        optim=OptimConfig(algorithm="adamw", lr=5e-6, head_lr_scale=40.0, weight_decay=0.01, decay_all=True),
        train=TrainConfig(precision="bf16-mixed", workers=4),
    )


DATA = {
    "synthetic": DataRecipe(
        "procedural street scenes, minutes on a CPU",
        {"cps": _synthetic, "cac": _synthetic_cac, "unimatch_v2": _synthetic_unimatch_v2},
    ),
    "folder": DataRecipe(
        "your images, index-PNG labels and list files",
        {
            "cps": _folder,
            "cac": _folder_cac,
            "unimatch": _folder_unimatch,
            "corrmatch": _folder_corrmatch,
            "unimatch_v2": _folder_unimatch_v2,
        },
    ),
    "voc": DataRecipe(
        "PASCAL VOC 2012 with SBD's labels",
        {
            "cps": _voc_cps,
            "cac": _voc_cac,
            "ael": _voc_ael,
            "u2pl": _voc_u2pl,
            "unimatch": _voc_unimatch,
            "corrmatch": _voc_corrmatch,
            "unimatch_v2": _voc_unimatch_v2,
        },
    ),
    "city": DataRecipe(
        "Cityscapes",
        {
            "cps": _city_cps,
            "cac": _city_cac,
            "ael": _city_ael,
            "u2pl": _city_u2pl,
            "unimatch": _city_unimatch,
            "corrmatch": _city_corrmatch,
            "unimatch_v2": _city_unimatch_v2,
        },
    ),
}
