"""SGD under the polynomial schedule."""

import torch
from torch.optim import SGD, Optimizer

from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.methods import Method

__all__ = ["build_optimizer", "poly_lr", "set_lr"]


def build_optimizer(method: Method, config: OptimConfig, device: torch.device) -> Optimizer:
    """One SGD over all networks of a method; what each parameter decays by is the method's matter.

    Two networks with an optimiser each, as CPS has it, move exactly alike.
    """
    return SGD(
        method.param_groups(config.weight_decay),
        lr=config.lr,
        momentum=config.momentum,
        fused=device.type in ("cpu", "cuda"),  # torch's own kernel over all parameters at once
    )


def poly_lr(config: OptimConfig, step: int, steps: int) -> float:
    """lr(step) = lr * (1 - step / steps) ** power, for steps counted from 0."""
    return config.lr * (1 - step / steps) ** config.power


def set_lr(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of every parameter group."""
    for group in optimizer.param_groups:
        group["lr"] = lr
