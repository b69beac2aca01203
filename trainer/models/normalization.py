"""Colours that images are normalised by: as configured, or as the weights of the backbone were trained with."""

import dataclasses
from typing import NamedTuple

from fpl_fast.trainer.config import ModelConfig, RunConfig
from fpl_fast.trainer.data.transforms import IMAGENET_MEAN, IMAGENET_STD
from fpl_fast.trainer.models.backbone import pretrained_settings

__all__ = ["Normalization", "normalization", "own_normalization", "with_normalization"]


class Normalization(NamedTuple):
    """Mean and standard deviation of red, green and blue, in units of full scale."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def own_normalization(config: ModelConfig) -> Normalization:
    """Find the normalisation that belongs to a backbone.

    Weights expect the colours that they were trained with, which timm states for each backbone (0.5 for many). A
    backbone from random weights expects none and gets ImageNet's, as does one that timm says nothing of.

    Example:
        >>> own_normalization(ModelConfig(backbone="tf_efficientnet_lite0", pretrained=True)).mean
        (0.5, 0.5, 0.5)
        >>> own_normalization(ModelConfig(backbone="tf_efficientnet_lite0")).mean
        (0.485, 0.456, 0.406)
    """
    trained = config.pretrained or config.weights_file is not None
    settings = pretrained_settings(config.backbone, config.stem) if trained else None
    if settings is None:
        return Normalization(IMAGENET_MEAN, IMAGENET_STD)
    (red, green, blue), std = map(float, settings.mean), settings.std
    return Normalization((red, green, blue), (float(std[0]), float(std[1]), float(std[2])))


def normalization(config: RunConfig) -> Normalization:
    """Read the normalisation of a run; ``null`` is the backbone's own."""
    mean, std = config.data.mean, config.data.std
    if mean is not None and std is not None:
        return Normalization(mean, std)
    own = own_normalization(config.model)
    return Normalization(own.mean if mean is None else mean, own.std if std is None else std)


def with_normalization(config: RunConfig) -> RunConfig:
    """Write the numbers of the normalisation into a run, so that they stay what they are whatever timm says later."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, **normalization(config)._asdict()))
