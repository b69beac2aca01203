"""Running statistics of batch normalisation, averaged anew before an evaluation."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

__all__ = ["renew_statistics"]


def renew_statistics(network: nn.Module, images: Iterable[Tensor]) -> None:
    """Replace the running statistics of a network by plain means over batches.

    The moving averages of training follow the last ten batches or so, with the weights of each; of few small crops,
    they are so noisy that scores change by several points from one evaluation to the next (Wu and Johnson, Rethinking
    "Batch" in BatchNorm, 2021). The random generators are left as they are, although dropout draws.

    Args:
        network: The network, left in its previous mode.
        images: Batches (N, 3, H, W) on its device.
    """
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        update_bn(images, network)
