"""Scalars of a run: summed on the device, read on log steps, written as JSON lines, as events, and by loggers."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from fpl_fast.trainer.run.events import Events
from fpl_fast.trainer.run.loggers import RunLogger
from fpl_fast.trainer.run.records import read_metrics
from fpl_fast.trainer.writing.json_text import json_text
from fpl_fast.trainer.writing.replacing import naming, replacing

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
    """Appends records to ``metrics.jsonl``, to TensorBoard and to further loggers.

    A scalar is ``SPLIT/NAME`` everywhere; a line of ``metrics.jsonl`` holds the split and the names. As a context, it
    tells loggers whether an error ended the run.

    Args:
        path: The JSON lines.
        tensorboard: Folder of the events.
        step: Step that the run continues from; later records, of steps that will be repeated, are dropped.
        loggers: Further loggers, which are given the records that stay.

    Raises:
        ValueError: A line of the JSON lines is no record.
        OSError: A file could not be written, which the error names; from the methods as well.
    """

    def __init__(self, path: Path, tensorboard: Path, *, step: int = 0, loggers: Sequence[RunLogger] = ()) -> None:
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        with replacing(path) as file:
            file.write("".join(f"{json_text(record)}\n" for record in kept).encode())
        self._path, self._file = path, path.open("a", encoding="utf-8", buffering=1)
        self._events, self._loggers = Events(tensorboard, step=step), loggers
        self._written = {(record["step"], record["split"]) for record in kept}
        for record in kept:
            step, split, scalars = record.pop("step"), record.pop("split"), record
            self._pass_on(step, split, {name: math.nan if x is None else x for name, x in scalars.items()}, {})

    def configuration(self, settings: Mapping[str, Any]) -> None:
        """Write all settings, by dotted key, to TensorBoard; the other loggers have them since they were opened."""
        self._events.configuration(settings)

    def write(
        self, step: int, split: str, scalars: dict[str, float], pictures: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Write one record, unless an earlier part of the run has written it before it ended within the step.

        Args:
            step: Steps done.
            split: "train" or "val".
            scalars: Values by name; numbers that are not finite become null in JSON, which has none.
            pictures: Pictures (H, W, 3) uint8 by name, for loggers that take them.
        """
        if (step, split) in self._written:
            return
        with naming(self._path):
            self._file.write(json_text({"step": step, "split": split, **scalars}) + "\n")
        self._events.scalars(step, _named(split, scalars))
        self._events.pictures(step, pictures or {})
        self._pass_on(step, split, scalars, pictures or {})

    def _pass_on(self, step: int, split: str, scalars: Mapping[str, float], pictures: Mapping[str, np.ndarray]) -> None:
        for logger in self._loggers:
            logger.log(step, split, _named(split, scalars), pictures)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with nullcontext() if error is None else suppress(OSError):  # the error that ends the run is the one to report
            self.close(failed=error is not None)

    def close(self, *, failed: bool = False) -> None:
        """Flush and close everything, even if a part fails."""
        with ExitStack() as parts:
            for logger in reversed(self._loggers):
                parts.callback(logger.close, failed=failed)
            parts.callback(self._events.close)
            parts.enter_context(naming(self._path))
            parts.enter_context(self._file)


def _named(split: str, scalars: Mapping[str, float]) -> dict[str, float]:
    return {f"{split}/{name}": value for name, value in scalars.items()}
