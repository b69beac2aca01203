"""The complete state of training, to save and to continue from."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import config_from_dict
from fpl_fast.trainer.run.checkpoint import load_checkpoint, load_random_state, save_checkpoint
from fpl_fast.trainer.run.metrics import Meter
from fpl_fast.trainer.run.same_run import require_same_run

__all__ = ["TrainState"]


class TrainState:
    """Networks, optimisers, loss scaling, counters and random generators of a run.

    Args:
        method: The method with its networks.
        optimizer: Optimiser of the networks.
        precision: Holder of the loss scale (``state_dict`` and ``load_state_dict``).
        later_optimizers: Optimisers of the later phases of a step.
    """

    def __init__(
        self, method: nn.Module, optimizer: Optimizer, precision: Any, later_optimizers: Sequence[Optimizer] = ()
    ) -> None:
        self.method, self.optimizer, self.precision = method, optimizer, precision
        self.later_optimizers = later_optimizers
        self.meter = Meter()
        self.step = 0
        self.elapsed_s = 0.0
        self.miou = float("nan")
        self.best_miou = -1.0
        self.pending = False  # whether log and evaluation of this step are still to come

    def save(self, path: Path, config: dict[str, Any], random_states: list[dict[str, Any]]) -> None:
        """Write a checkpoint.

        Args:
            path: File to write.
            config: Configuration to store in the checkpoint.
            random_states: States of the generators, process by process.

        Raises:
            OSError: It could not be written; the previous one is untouched.
        """
        save_checkpoint(
            path,
            {
                "config": config,
                "step": self.step,
                "elapsed_s": self.elapsed_s,
                "miou": self.miou,
                "best_miou": self.best_miou,
                "pending": self.pending,
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "later_optimizers": [optimizer.state_dict() for optimizer in self.later_optimizers],
                "precision": self.precision.state_dict(),
                "meter": self.meter.state_dict(),
                "random": random_states,
            },
        )

    def load(self, path: Path, config: RunConfig, device: torch.device, *, rank: int = 0) -> None:
        """Continue from a checkpoint.

        Args:
            path: The file.
            config: Configuration to continue with; it must agree with the configuration in the checkpoint.
            device: Device of the means since the last log step.
            rank: Rank of this process; one that the run did not have keeps its own generators.

        Raises:
            ValueError: The file is not a checkpoint, or belongs to other settings or networks.
        """
        state = load_checkpoint(path)
        recorded = config_from_dict(state["config"], source=str(path))
        require_same_run(recorded, config, source=str(path.parent.parent / "config.yaml"))
        try:
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            # Checkpoints that are older than the later phases have no such entry.
            for optimizer, saved in zip(self.later_optimizers, state.get("later_optimizers", []), strict=True):
                optimizer.load_state_dict(saved)
        except (RuntimeError, ValueError) as error:
            raise ValueError(
                f"{path}: must fit the run's config.yaml, got other networks ({_first_line(error)})"
            ) from None
        self.precision.load_state_dict(state["precision"])
        self.meter.load_state_dict(state["meter"], device)
        self.step, self.elapsed_s = state["step"], state["elapsed_s"]
        self.miou, self.best_miou, self.pending = state["miou"], state["best_miou"], state["pending"]
        if rank < len(state["random"]):
            load_random_state(state["random"][rank])


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
