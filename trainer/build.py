"""Building hardware, networks and methods from a configuration."""

import dataclasses
import logging
import math
import os
from functools import partial
from typing import cast

import timm
import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from fpl_fast.trainer.compiled import compile_networks
from fpl_fast.trainer.config import FlipPart, ModelConfig, RunConfig, TrainConfig
from fpl_fast.trainer.methods import Method, build_method
from fpl_fast.trainer.models.backbone import pretrained_name
from fpl_fast.trainer.models.network import build_network
from fpl_fast.trainer.models.normalization import Normalization, normalization, own_normalization
from fpl_fast.trainer.models.packaged_weights import packaged_weights

__all__ = [
    "build_method_networks",
    "check_batches",
    "count_devices",
    "describe_start",
    "make_fabric",
    "make_network",
    "uses_cuda",
    "without_pretraining",
]


_LOGGER = logging.getLogger(__name__)


def make_fabric(config: TrainConfig, *, alone: bool = False) -> Fabric:
    """Launch device, precision and processes; processes that torchrun or srun has started are taken over.

    Args:
        config: Hardware of the run.
        alone: Whether this is one process on one device, regardless of launcher and configuration.

    Raises:
        ValueError: The device cannot run the precision, there are too few devices, or srun's tasks are not known.
    """
    cuda = uses_cuda(config)
    devices, num_nodes = (1, 1) if alone else count_devices(config)
    if cuda and torch.cuda.device_count() < devices:
        raise ValueError(f"train.devices must be at most the {torch.cuda.device_count()} GPUs here, got {devices}")
    if not cuda and config.precision == "16-mixed":
        raise ValueError("train.precision must be '32-true' or 'bf16-mixed' on a CPU, got '16-mixed'")
    if config.threads:
        torch.set_num_threads(config.threads)
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)  # otherwise every process would introduce itself
    fabric = Fabric(
        accelerator="cuda" if cuda else "cpu",
        devices=devices,
        num_nodes=num_nodes,
        precision=config.precision,
        strategy=DDPStrategy(gradient_as_bucket_view=True) if devices * num_nodes > 1 else "auto",
        plugins=LightningEnvironment() if alone else None,
    )
    fabric.launch()
    if not fabric.is_global_zero:
        logging.getLogger("fpl_fast").setLevel(logging.ERROR)  # the first process speaks for all
    return fabric


def uses_cuda(config: TrainConfig) -> bool:
    """Whether a run computes on GPUs on this machine."""
    return config.accelerator == "cuda" or (config.accelerator == "auto" and torch.cuda.is_available())


def count_devices(config: TrainConfig) -> tuple[int, int]:
    """Devices of this machine and number of machines: as torchrun or srun started the processes, or as configured.

    Raises:
        ValueError: srun was not told how many tasks a machine has.
    """
    env = os.environ
    if TorchElasticEnvironment.detect():  # comes first: torchrun may itself have been started by srun
        return int(env["LOCAL_WORLD_SIZE"]), int(env["GROUP_WORLD_SIZE"])
    if SLURMEnvironment.detect():
        if int(env["SLURM_NTASKS"]) > 1 and "SLURM_NTASKS_PER_NODE" not in env:
            raise ValueError(f"srun must be given --ntasks-per-node, got {env['SLURM_NTASKS']} tasks without it")
        return int(env.get("SLURM_NTASKS_PER_NODE", 1)), int(env.get("SLURM_NNODES", 1))
    return config.devices, 1


def make_network(config: ModelConfig, num_classes: int) -> nn.Module:
    """Build a freshly initialised network from (N, 3, H, W) to smaller logits (N, num_classes, h, w).

    Raises:
        ValueError: There is no such backbone, or it cannot have that output stride.
    """
    return build_network(
        config.backbone,
        num_classes,
        head=config.head,
        stem=config.stem,
        output_stride=config.output_stride,
        head_channels=config.head_channels,
        low_channels=config.low_channels,
        pretrained=config.pretrained and config.weights_file is None,
        weights_file=config.weights_file,
    )


def describe_start(config: RunConfig, num_networks: int) -> str:
    """Describe the weights that the networks of a run start from, and the normalisation of its images.

    Example:
        >>> describe_start(make_recipe("voc/fpl_cps_cutmix"), 2)  # doctest: +NORMALIZE_WHITESPACE
        "2 networks start from timm's resnet50s.gluon_in1k in the backbone, from random weights elsewhere; images are
        normalised by mean 0.485, 0.456, 0.406 and std 0.229, 0.224, 0.225"
    """
    networks = "1 network starts from" if num_networks == 1 else f"{num_networks} networks start from"
    source = _source(config.model)
    weights = f"{source} in the backbone, from random weights elsewhere" if source else "random weights"
    used, own = normalization(config), own_normalization(config.model)
    text = f"{networks} {weights}; images are normalised by {_show(used)}"
    return text if used == own or not source else f"{text}, as configured; the backbone's own is {_show(own)}"


def _source(config: ModelConfig) -> str | None:
    """Origin of the backbone's first weights; None if they are random."""
    if config.weights_file is not None or not config.pretrained:
        return config.weights_file
    name = pretrained_name(config.backbone, config.stem)
    packaged = packaged_weights(name)
    return f"timm's {name}" if packaged is None else f"{name} of the package {packaged.package}"


def _show(colours: Normalization) -> str:
    return " and ".join(f"{name} {', '.join(map(str, values))}" for name, values in colours._asdict().items())


def without_pretraining(config: RunConfig) -> RunConfig:
    """Remove the initial weights from a run, for networks whose weights come from a checkpoint or not at all.

    Neither network access nor the file of weights is needed then.
    """
    model = dataclasses.replace(config.model, pretrained=False, weights_file=None)
    return dataclasses.replace(config, model=model)


def build_method_networks(config: RunConfig, num_classes: int) -> Method:
    """Build the method of a run with its networks, laid out, synchronised and compiled as the configuration says.

    Raises:
        ValueError: See ``make_network``; or the networks cannot read crops of this size.
    """
    if config.model.pretrained and config.model.weights_file is None and timm.is_model(config.model.backbone):
        name = pretrained_name(config.model.backbone, config.model.stem)
        if packaged_weights(name) is None:
            _LOGGER.info("timm's weights %s are fetched unless they are at hand", name)
    method = build_method(
        config.method, partial(make_network, config.model, num_classes), ignore_index=config.data.ignore_index
    )
    _check_crop(config, method.size_multiple)
    if _synchronised(config.train):
        method = cast("Method", convert_sync_batchnorm(method))
    if config.train.channels_last:
        method = method.to(memory_format=torch.channels_last)
    if config.train.compile:
        compile_networks(method, graphs=uses_cuda(config.train) and math.prod(count_devices(config.train)) == 1)
    return method


def _check_crop(config: RunConfig, multiple: int) -> None:
    crop = config.augment.crop
    if any(side % multiple for side in crop):
        nearest = ",".join(str(max(1, round(side / multiple)) * multiple) for side in crop)
        raise ValueError(
            f"augment.crop must be multiples of {multiple}, the size of the patches of {config.model.backbone}, got "
            f"{crop}: the nearest is --augment.crop [{nearest}]"
        )


def check_batches(config: RunConfig, *, unlabelled: bool) -> None:
    """Check that the images of a step can be shared out to train on.

    Args:
        config: Batches, micro-batches and hardware; images that the supervised loss takes together.
        unlabelled: Whether unlabelled images are read.

    Raises:
        ValueError: A batch does not divide among processes and micro-batches, or is too small to normalise.
    """
    train, method = config.train, config.method
    processes, accumulate = math.prod(count_devices(train)), train.accumulate
    for name in ("batch_labelled", "batch_unlabelled") if unlabelled else ("batch_labelled",):
        images = getattr(train, name)
        if images % (processes * accumulate):
            raise ValueError(
                f"train.{name} must be a multiple of {processes} processes x {accumulate} micro-batches "
                f"(train.accumulate), got {images}"
            )
        fewest = 2 * accumulate * (1 if _synchronised(train) else processes)
        if images < fewest and config.model.head != "dpt":  # whose networks have none
            raise ValueError(
                f"train.{name} must give batch normalisation 2 images, got {images}; with {processes} processes and "
                f"{accumulate} micro-batches (train.accumulate) it takes {fewest}"
            )
    if isinstance(method, FlipPart) and unlabelled:
        each = train.batch_unlabelled // (processes * accumulate)
        if each % method.flip_group:
            raise ValueError(
                f"method.flip_group must be a divisor of the {each} unlabelled images of a process and micro-batch, "
                f"got {method.flip_group}"
            )
    each = train.batch_labelled // (processes * accumulate)
    if method.sup_loss == "ohem" and each % method.ohem_group:
        raise ValueError(
            f"method.ohem_group must be a divisor of the {each} labelled images of a process and micro-batch, "
            f"got {method.ohem_group}; 1, with method.ohem_min_kept for one image, always is"
        )


def _synchronised(config: TrainConfig) -> bool:
    """Whether batch normalisation sees the images of all processes."""
    return math.prod(count_devices(config)) > 1 and uses_cuda(config)
