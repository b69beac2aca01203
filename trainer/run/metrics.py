"""Scalars of a run: summed on the device, read on log steps, written as JSON lines and TensorBoard events."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fpl_fast.trainer.run.events import Events
from fpl_fast.trainer.writing.json_text import json_text, read_records
from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["Meter", "MetricsLog"]


class Meter:
    """Accumulates means of 0-d tensors over the steps since the last reading, on their device."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count = 0

    def update(self, values: dict[str, Tensor]) -> None:
        """Add the values of one step; nothing waits for the device."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._count += 1

    def sum(self, name: str) -> Tensor | None:
        """Sum of a value since the last reading, 0-d on its device; None if there is none yet."""
        return self._sums.get(name)

    def means(self) -> tuple[list[str], Tensor]:
        """Read the names and the means since the last call, as one tensor, and start anew."""
        names, values = list(self._sums), torch.stack(list(self._sums.values())) / self._count
        self._sums, self._count = {}, 0
        return names, values

    def share(self, mean: Callable[[Tensor], Tensor]) -> None:
        """Apply ``mean`` to the sums in place, so that one process can keep the means over all processes."""
        if self._sums:
            self._sums = dict(zip(self._sums, mean(torch.stack(list(self._sums.values()))).unbind(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """State of the sums so far, for a checkpoint between two log steps."""
        return {"sums": dict(self._sums), "count": self._count}

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Continue from ``state_dict()``."""
        self._sums = {name: value.to(device) for name, value in state["sums"].items()}
        self._count = state["count"]


class MetricsLog:
    """Appends records to ``metrics.jsonl`` and to TensorBoard; its ``events`` also take configuration and pictures.

    Args:
        path: The JSON lines.
        tensorboard: Folder of the events.
        step: Step that the run continues from; later records, of steps that will be repeated, are dropped.
    """

    def __init__(self, path: Path, tensorboard: Path, *, step: int = 0) -> None:
        kept = [record for record in read_records(path) if record["step"] <= step]
        with replacing(path) as file:
            file.write("".join(f"{json_text(record)}\n" for record in kept).encode())
        self._file = path.open("a", encoding="utf-8", buffering=1)
        self.events = Events(tensorboard, step=step)

    def write(self, step: int, split: str, scalars: dict[str, float]) -> None:
        """Write one record; numbers that are not finite become null, as JSON has none."""
        self._file.write(json_text({"step": step, "split": split, **scalars}) + "\n")
        self.events.scalars(step, split, scalars)

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
        self.events.close()
