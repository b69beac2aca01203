"""Peers of the training benchmark: the style of the public code, and this trainer."""

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.wrappers import _FabricModule
from torch import Tensor, nn
from torch.optim import Optimizer

from fpl_fast.bench.training.plain_cps import PlainCPS
from fpl_fast.trainer.build import build_method_networks, make_fabric
from fpl_fast.trainer.config import AugmentConfig, ModelConfig, OptimConfig, RunConfig, TrainConfig
from fpl_fast.trainer.data.cutmix import cutmix_masks
from fpl_fast.trainer.methods import Batch, Method, View, build_method
from fpl_fast.trainer.methods.cps import CpsConfig
from fpl_fast.trainer.optim import build_optimizer
from fpl_fast.trainer.step import train_step

__all__ = ["NAMES", "Peer", "Setup", "default_setup", "held_mb", "make_peer", "make_peers"]

NAMES = {
    "plain": "(a) style of the public code: float32, NCHW, unfused FPL, losses read every step",
    "ce": "(b) this trainer, cross entropy",
    "torch_ce": "(b') this trainer with PyTorch's own upsampling and cross entropy",
    "fpl": "(c) this trainer, FPL",
}
_IGNORED_SHARE = 0.05  # of the labels


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Setup:
    """Setup of the benchmark: CPS with CutMix on random images that are already on the device."""

    device: Literal["cpu", "cuda"]
    backbone: str
    crop: int
    """Height and width of a crop, pixels."""
    batch: int
    """Labelled images a step, and unlabelled ones in each of the two views."""
    head_channels: int
    low_channels: int
    num_classes: int = 21

    def __post_init__(self) -> None:
        """Check the numbers that a user sets.

        Raises:
            ValueError: A number breaks its rule.
        """
        if self.crop < 32:
            raise ValueError(f"--crop must be >= 32 pixels, got {self.crop}")
        if self.batch < 2:
            raise ValueError(f"--batch must be >= 2 images, which batch normalisation needs, got {self.batch}")

    @property
    def compiles(self) -> bool:
        """Whether the networks of this trainer are compiled: on a GPU."""
        return self.device == "cuda"

    @property
    def images_per_step(self) -> int:
        """Images read in a step: labelled images and both views of the unlabelled images."""
        return 3 * self.batch


def default_setup(device: Literal["cpu", "cuda"]) -> Setup:
    """Default setup: CPS with CutMix on ResNet-50 at 512 x 512 for a GPU, a tiny network for a CPU."""
    if device == "cuda":
        return Setup(device=device, backbone="resnet50", crop=512, batch=8, head_channels=256, low_channels=48)
    return Setup(device=device, backbone="test_resnet", crop=128, batch=2, head_channels=64, low_channels=24)


class Peer(NamedTuple):
    """A method with its optimiser, ready to step."""

    fabric: Fabric
    method: Method
    module: _FabricModule
    """The method as Fabric wraps it."""
    optimizer: Optimizer
    batch: Batch
    public_style: bool
    """Whether the host reads the losses of every step, as in the public code."""

    def step(self) -> None:
        """Do one optimiser step."""
        self.read(train_step(self.fabric, self.module, self.optimizer, self.batch, 0.5))

    def read(self, values: dict[str, Tensor]) -> None:
        """Wait for the device, value by value, in the style of the public code."""
        if self.public_style:
            for value in values.values():
                value.item()

    @property
    def static_mb(self) -> float:
        """Memory of weights, buffers and optimiser between two steps, 2**20 bytes."""
        return held_mb([self.method], [self.optimizer])


def held_mb(modules: Iterable[nn.Module], optimizers: Iterable[Optimizer]) -> float:
    """Memory that modules and optimisers hold between two steps, without gradients, 2**20 bytes."""
    of_modules = chain.from_iterable([*module.parameters(), *module.buffers()] for module in modules)
    states = chain.from_iterable(state.values() for optimizer in optimizers for state in optimizer.state.values())
    tensors = chain(of_modules, filter(torch.is_tensor, states))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 2**20


def make_peers(setup: Setup) -> Iterator[tuple[str, Peer]]:
    """Build the peers of ``NAMES``, one after the other; all peers of this trainer share their networks.

    Raises:
        ValueError: There is no such backbone, or no such device.
    """
    plain = _config(setup, "fpl", precision="32-true", channels_last=False, compile=False)
    yield "plain", _peer(setup, plain, PlainCPS, public_style=True)
    fast = _fast(setup, compile=setup.compiles)
    first = _peer(setup, _config(setup, "ce", **fast))
    yield "ce", first
    networks = first.method.networks
    yield "torch_ce", _peer(setup, _config(setup, "ce", **fast), PlainCPS, networks=networks)
    yield "fpl", _peer(setup, _config(setup, "fpl", **fast), networks=networks)


def make_peer(setup: Setup, *, compile: bool) -> Peer:
    """Build (c) alone, with networks that are compiled or not."""
    return _peer(setup, _config(setup, "fpl", **_fast(setup, compile=compile)))


def _fast(setup: Setup, *, compile: bool) -> dict[str, Any]:
    return {"precision": "bf16-mixed" if setup.device == "cuda" else "32-true", "compile": compile}


def _config(setup: Setup, loss: Literal["ce", "fpl"], **train: Any) -> RunConfig:
    """Configure a peer, with a small learning rate, so that random images do not make the weights diverge."""
    return RunConfig(
        augment=AugmentConfig(crop=(setup.crop, setup.crop)),
        model=ModelConfig(backbone=setup.backbone, head_channels=setup.head_channels, low_channels=setup.low_channels),
        method=CpsConfig(loss=loss, weighting="concave"),
        optim=OptimConfig(lr=1e-4),
        train=TrainConfig(batch_labelled=setup.batch, batch_unlabelled=setup.batch, accelerator=setup.device, **train),
    )


def _peer(
    setup: Setup,
    config: RunConfig,
    method_class: type[Method] | None = None,
    *,
    networks: nn.ModuleList | None = None,
    public_style: bool = False,
) -> Peer:
    fabric = make_fabric(config.train)
    fabric.seed_everything(0, verbose=False)
    given = iter(build_method_networks(config, setup.num_classes).networks if networks is None else networks)
    build = build_method if method_class is None else method_class
    method = build(config.method, given.__next__, ignore_index=config.data.ignore_index)
    fabric.to_device(method)
    optimizer = build_optimizer(method, config.optim, fabric.device)
    module, wrapped = fabric.setup(method, optimizer)
    module.train()
    batch = _random_batch(setup, fabric.device, channels_last=config.train.channels_last)
    return Peer(fabric, method, module, wrapped, batch, public_style)


def _random_batch(setup: Setup, device: torch.device, *, channels_last: bool) -> Batch:
    """Draw images of noise, labels in patches and masks as in CPS; the same for every peer."""
    generator, size = torch.Generator().manual_seed(0), (setup.crop, setup.crop)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def view(label: Tensor | None) -> View:
        image = torch.randn(setup.batch, 3, *size, generator=generator).to(device, memory_format=memory_format)
        valid = torch.ones(setup.batch, *size, dtype=torch.bool, device=device)
        return View(image, valid, label)

    patches = torch.randint(setup.num_classes, (setup.batch, 1, 8, 8), generator=generator).float()
    label = nn.functional.interpolate(patches, size).squeeze(1).long()
    label = label.masked_fill(torch.rand(label.shape, generator=generator) < _IGNORED_SHARE, 255)
    mask = cutmix_masks(setup.batch, size, np.random.default_rng(0)).to(device)
    return Batch(view(label.to(device)), (view(None), view(None)), mask)
