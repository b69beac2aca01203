"""Tables of a study on the terminal: live while it trains, predicted before, scores after."""

import math
import statistics
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fpl_fast.trainer.commands.console import out_console
from fpl_fast.trainer.commands.tables import duration_text
from fpl_fast.trainer.study.estimate import CellEstimate
from fpl_fast.trainer.study.grid import Cell, Study
from fpl_fast.trainer.study.queue import Snapshot
from fpl_fast.trainer.study.statistics import cell_results
from fpl_fast.trainer.study.text import cell_text, table_rows

__all__ = ["StudyMonitor", "estimate_table", "scores_table"]

_EVENTS = 3  # the newest ones, below the live table


class StudyMonitor:
    """Shows a study while it trains: one live table on a terminal, otherwise a line for each event.

    Args:
        study: The study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.console = out_console()
        self._events: list[str] = []
        self._live = Live(console=self.console, auto_refresh=False, redirect_stderr=sys.stderr.isatty())

    def __enter__(self) -> Self:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.console.is_terminal:
            self._live.update(Text(""), refresh=True)  # the scores follow
            self._live.stop()

    def show(self, snapshot: Snapshot) -> None:
        """Show a state."""
        done = sum(state.phase == "done" for state in snapshot.states.values())
        count = f"{done} of {len(self.study.trials)} runs done"
        if not self.console.is_terminal:
            for event in snapshot.events:
                self.console.print(f"{event}  [{count}]")
            return
        self._events = [*self._events, *snapshot.events][-_EVENTS:]
        events = [Text(event, style="dim", overflow="ellipsis", no_wrap=True) for event in self._events]
        self._live.update(Group(self._table(snapshot), Text(count), *events), refresh=True)

    def _table(self, snapshot: Snapshot) -> Table:
        columns = list(dict.fromkeys(cell.column for cell in self.study.cells))
        table = _table(self.study.name, *columns)
        cells = {(cell.row, cell.column): cell for cell in self.study.cells}
        for row in dict.fromkeys(cell.row for cell in self.study.cells):
            found = [cells.get((row, column)) for column in columns]
            table.add_row(row, *("" if cell is None else self._progress(cell, snapshot) for cell in found))
        return table

    def _progress(self, cell: Cell, snapshot: Snapshot) -> str:
        """Describe a cell: mean mIoU of the runs that are done, their number, per cent of those that are running."""
        trials = [trial for trial in self.study.trials if trial.cell == cell]
        states = [snapshot.states[trial.name] for trial in trials]
        scores = [s.miou for s in states if s.miou is not None and not math.isnan(s.miou)]
        parts = [f"{100 * statistics.fmean(scores):.1f}"] if scores else []
        parts.append(f"{sum(state.phase == 'done' for state in states)}/{len(states)}")
        parts += [
            f"{100 * state.step / trial.config.train.steps:.0f}%"
            for trial, state in zip(trials, states, strict=True)
            if state.phase == "running"
        ]
        failed = sum(trial.name in snapshot.failed for trial in trials)
        return " ".join([*parts, *([f"{failed} failed"] if failed else [])])


def scores_table(study: Study, snapshot: Snapshot) -> Table:
    """Tabulate the scores: mean ± standard deviation (seeds)."""
    columns, rows = table_rows(cell_results(study, snapshot.states))
    table = _table("mIoU, %", *columns)
    for row, found in rows:
        table.add_row(row, *map(cell_text, found))
    return table


def estimate_table(estimates: Sequence[CellEstimate], device: str, jobs: int) -> Table:
    """Tabulate the predicted time, memory and disk."""
    table = _table("", "", "runs left", "s a step", "hours", "GB a run", "disk, GB")
    for one in estimates:
        column = "" if one.cell.column == "mIoU" else one.cell.column
        table.add_row(
            one.cell.row, column, str(one.runs), f"{one.step_s:.3g}", f"{one.seconds / 3600:.2f}",
            f"{one.memory_mb / 1e3:.1f}", f"{one.disk_mb / 1e3:.2f}",
        )  # fmt: skip
    seconds = sum(one.seconds for one in estimates)
    table.add_section()
    table.add_row(
        "all", "", str(sum(one.runs for one in estimates)), "", f"{seconds / 3600:.2f}",
        f"{max(one.memory_mb for one in estimates) / 1e3:.1f}", f"{sum(one.disk_mb for one in estimates) / 1e3:.2f}",
    )  # fmt: skip
    table.caption = (
        f"{duration_text(seconds / jobs)} with {jobs} at a time, besides reading images and evaluations; "
        f"measured with one run on {device}"
    )
    return table


def _table(first: str, *rest: str) -> Table:
    table = Table(first, box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False, collapse_padding=True)
    for title in rest:
        table.add_column(title, justify="right")
    return table
