"""The trained network of a run, to evaluate and to use."""

from dataclasses import dataclass

from lightning.fabric import Fabric
from torch import nn

from fpl_fast.trainer.build import build_method_networks, make_fabric
from fpl_fast.trainer.checkpoint import load_checkpoint
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.data.sample import SegmentationDataset
from fpl_fast.trainer.inputs import build_val_dataset
from fpl_fast.trainer.run_folder import RunFolder

__all__ = ["TrainedRun", "load_trained"]


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run as its checkpoint left it."""

    config: RunConfig
    network: nn.Module
    """On the device of ``fabric``, in evaluation mode."""
    val: SegmentationDataset
    step: int
    fabric: Fabric


def load_trained(folder: RunFolder, *, checkpoint: str = "best") -> TrainedRun:
    """Build the network that a run evaluates and load its weights.

    Args:
        folder: The run.
        checkpoint: "best" (highest mIoU) or "last".

    Raises:
        ValueError: The folder is no run, has no such checkpoint, or its data set is gone.
    """
    config = folder.load_config()
    path = {"best": folder.best, "last": folder.last}[checkpoint]
    state = load_checkpoint(path)
    fabric = make_fabric(config.train)
    val = build_val_dataset(config.data)
    method = build_method_networks(config, val.num_classes, fabric)
    try:
        # The networks alone: banks are as large as a data set that need not be here.
        prefix = "networks."
        weights = {name.removeprefix(prefix): w for name, w in state["method"].items() if name.startswith(prefix)}
        method.networks.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: must fit {folder.config}, got other networks: {error}") from None
    network = fabric.to_device(method.eval_network).eval()
    return TrainedRun(config, network, val, state["step"], fabric)
