"""Loading the trained network of a run, for evaluation and prediction."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lightning.fabric import Fabric
from torch import nn

from fpl_fast.trainer.build import build_method_networks, make_fabric, uses_cuda, without_pretraining
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import config_from_dict, override_config
from fpl_fast.trainer.data.datasets import class_table
from fpl_fast.trainer.data.sample import ClassTable
from fpl_fast.trainer.finite import all_finite
from fpl_fast.trainer.run.checkpoint import load_checkpoint
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.run.same_run import require_same_run

__all__ = ["TrainedRun", "load_trained"]


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A run loaded from its checkpoint."""

    config: RunConfig
    network: nn.Module
    """The trained network, on the device of ``fabric``, in evaluation mode."""
    networks: nn.ModuleList
    """All networks of the method, of which ``network`` is one: the student, and the one that makes its targets, if that
    is another; in evaluation mode."""
    classes: ClassTable
    step: int
    fabric: Fabric


def load_trained(
    folder: RunFolder | Path | str, *, checkpoint: str = "best", changes: Sequence[str] = ()
) -> TrainedRun:
    """Build the network that a run evaluates and load its weights; no image is needed for it.

    Whatever the run was trained on, this is one process on one device, unless torchrun or srun has started more. On a
    CPU, a run trained in float16 is computed in float32. Nothing is compiled, as images differ in size.

    Args:
        folder: The run.
        checkpoint: "best" (highest mIoU) or "last".
        changes: Settings that differ from the run's, as on the command line: ``["--eval.protocol", "whole"]``.

    Raises:
        ValueError: The folder is not a run or has no such checkpoint, its weights are not finite, or a change breaks a
            rule.
    """
    folder = RunFolder(folder)
    stored = folder.load_config()
    config = _on_this_machine(stored, changes)
    path = {"best": folder.best, "last": folder.last}[checkpoint]
    if not path.is_file():
        raise ValueError(f"{path}: must be a checkpoint, but is missing: {_remedy(folder, checkpoint)}")
    state = load_checkpoint(path)
    recorded = config_from_dict(state["config"], source=str(path))
    require_same_run(recorded, stored, source=str(folder.config), only_network=True)
    fabric = make_fabric(config.train)
    classes = class_table(config.data)
    method = build_method_networks(without_pretraining(config), len(classes.names))
    try:
        # Load the networks alone: the size of banks depends on a data set that need not be here.
        prefix = "networks."
        weights = {name.removeprefix(prefix): w for name, w in state["method"].items() if name.startswith(prefix)}
        method.networks.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: must fit {folder.config}, got other networks: {error}") from None
    if not all_finite(weights.values()):
        raise ValueError(f"{path}: must hold finite weights, got infinity or NaN: the run has diverged")
    method.networks.eval()
    network = fabric.to_device(method.eval_network)
    return TrainedRun(config, network, method.networks, classes, state["step"], fabric)


def _remedy(folder: RunFolder, checkpoint: str) -> str:
    """Advice on a missing checkpoint."""
    resume = "go on with " + shlex.join(["fpl-fast", "train", "--resume", str(folder.path)])
    if checkpoint == "best" and folder.last.is_file():
        return f"the run was stopped before its first evaluation: take --checkpoint last, or {resume}"
    return resume


def _on_this_machine(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """Apply the changes to a run, and adapt its hardware to this machine where they leave it open."""
    config = override_config(replace(config, train=replace(config.train, devices=1)), changes)
    config = replace(config, train=replace(config.train, compile=False))
    if config.train.precision == "16-mixed" and not uses_cuda(config.train):
        return replace(config, train=replace(config.train, precision="32-true"))
    return config
