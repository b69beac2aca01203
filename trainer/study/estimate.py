"""Prediction of what a study will take, from a dry run of each kind of run in it."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.dry_run import DryRun, dry_run
from fpl_fast.trainer.study.grid import Cell, Study
from fpl_fast.trainer.study.state import TrialState

__all__ = ["CellEstimate", "estimate"]

_CHECKPOINTS = 2  # last and best


class CellEstimate(NamedTuple):
    """Prediction for the runs of a cell that are not done."""

    cell: Cell
    runs: int
    steps: int
    """Steps that are left, of all runs."""
    step_s: float
    """Seconds a step, on this machine."""
    memory_mb: float
    """Peak memory of one run."""
    disk_mb: float
    """Size of the checkpoints of all runs of the cell, done or not."""

    @property
    def seconds(self) -> float:
        """Seconds of all runs one after the other, without reading images and evaluations."""
        return self.steps * self.step_s


def estimate(
    study: Study, states: Mapping[str, TrialState], progress: Callable[[int, int], None]
) -> tuple[list[CellEstimate], str]:
    """Predict time, memory and disk of each cell.

    Two steps are taken on random images for each kind of run: cells that differ in data or length alone share them.

    Args:
        study: The study.
        states: State of its runs.
        progress: Called with the kinds of runs that are measured, and their number.

    Returns:
        The predictions, and the name of the device.
    """
    cells = {cell: [trial for trial in study.trials if trial.cell == cell] for cell in study.cells}
    kinds = {cell: _kind(trials[0].config) for cell, trials in cells.items()}
    measured: dict[str, DryRun] = {}
    number = len(set(kinds.values()))
    progress(0, number)
    for cell, trials in cells.items():
        if kinds[cell] not in measured:
            measured[kinds[cell]] = dry_run(trials[0].config)
            progress(len(measured), number)
    estimates = []
    for cell, trials in cells.items():
        found = measured[kinds[cell]]
        left = [trial for trial in trials if states[trial.name].phase != "done"]
        steps = sum(trial.config.train.steps - states[trial.name].step for trial in left)
        checkpoints = _CHECKPOINTS * len(trials) * found.checkpoint_bytes / 2**20
        estimates.append(CellEstimate(cell, len(left), steps, found.step_s, found.peak_memory_mb, checkpoints))
    return estimates, next(iter(measured.values())).device


def _kind(config: RunConfig) -> str:
    """Everything that the time and the memory of a step depend on."""
    train = dataclasses.replace(config.train, steps=1, seed=0)
    return repr((type(config.data), config.augment, config.model, config.method, config.optim, train))
