"""One optimiser step: what the loop repeats, and what the benchmarks time."""

from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.optim import Optimizer

from fpl_fast.trainer.methods import Batch

__all__ = ["train_step"]


def train_step(
    fabric: Fabric, module: nn.Module, optimizer: Optimizer, batch: Batch, progress: float
) -> dict[str, Tensor]:
    """Move the weights once; nothing waits for the device.

    Args:
        fabric: Keeper of device and precision.
        module: The method, as ``fabric.setup`` returned it.
        optimizer: Likewise.
        batch: What to train on.
        progress: Share of the run done, in [0, 1).

    Returns:
        ``loss``, its terms and the telemetry of the method: 0-d, on the device.
    """
    optimizer.zero_grad()
    losses = module(batch, progress)
    loss = sum(losses.terms.values())
    fabric.backward(loss)
    optimizer.step()
    return {"loss": loss, **losses.terms, **losses.telemetry}
