"""SGD and AdamW under the polynomial schedule."""

import math
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer

from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.methods import Method

__all__ = ["NUM_MOMENTS", "build_optimizer", "poly_lr", "set_lr"]

NUM_MOMENTS = {"sgd": 1, "adamw": 2}
"""Averages of the gradient that an optimiser keeps for each parameter."""


def build_optimizer(method: Method, config: OptimConfig, device: torch.device) -> Optimizer:
    """Build one optimiser over all networks of a method, which decides the weight decay of each parameter.

    Two networks with an optimiser each, as in the code of CPS, would move exactly alike.

    Args:
        method: Its networks, on the device.
        config: The numbers.
        device: Device of the parameters, which decides the available implementations.

    Raises:
        ValueError: apex is asked for and not there, or the device is no GPU.
    """
    groups = method.param_groups(config)
    fused = device.type in ("cpu", "cuda")  # torch's own kernel over all parameters at once
    if config.algorithm == "adamw":
        return AdamW(groups, lr=config.lr, betas=config.betas, fused=fused)
    apex_sgd = _apex_sgd() if config.implementation != "torch" and device.type == "cuda" else None
    if apex_sgd is not None:
        sgd: Optimizer = apex_sgd(groups, lr=config.lr, momentum=config.momentum)
        return sgd
    if config.implementation == "apex":
        reason = f"the device {device.type}" if device.type != "cuda" else "no apex.optimizers with CUDA extensions"
        raise ValueError(
            "optim.implementation must be 'auto' or 'torch' without a GPU and NVIDIA apex built from its source "
            f"repository (the package called apex on the Python package index is another one), got {reason}"
        )
    optimizer = SGD(groups, lr=config.lr, momentum=config.momentum, fused=fused)
    # The fused kernel takes the first step's momentum from memory that a skipped step (float16) would leave unwritten.
    for parameter in (p for group in optimizer.param_groups for p in group["params"] if config.momentum):
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _apex_sgd() -> Any | None:
    """The FusedSGD of NVIDIA apex, or None where it is not installed with its CUDA extensions."""
    try:
        import amp_C  # noqa: F401  (the extensions, without which FusedSGD cannot be made)
        from apex.optimizers import FusedSGD
    except ImportError:
        return None
    return FusedSGD


def poly_lr(config: OptimConfig, step: int, steps: int) -> float:
    """Compute lr(step) = lr * (1 - step / steps) ** power, for steps counted from 0."""
    return config.lr * math.pow(1 - step / steps, config.power)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group, times the group's ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
