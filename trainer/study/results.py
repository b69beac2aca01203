"""Results of a study as files: runs.csv, cells.csv, study.md and study.html."""

import csv
import io
from collections.abc import Sequence

from fpl_fast.trainer.study.grid import Cell, Study
from fpl_fast.trainer.study.page import page
from fpl_fast.trainer.study.queue import Snapshot
from fpl_fast.trainer.study.state import StudyFolder
from fpl_fast.trainer.study.statistics import CellResult, Difference, cell_results, differences
from fpl_fast.trainer.study.text import cell_text, difference_text, missing_runs, table_rows
from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["markdown", "write_results"]


def write_results(study: Study, folder: StudyFolder, snapshot: Snapshot) -> None:
    """Write all files; each is replaced whole."""
    results = cell_results(study, snapshot.states)
    compared = differences(results)
    for name, text in {
        "runs.csv": _runs_csv(study, folder, snapshot),
        "cells.csv": _cells_csv(results),
        "study.md": markdown(study, snapshot, results, compared),
        "study.html": page(study, snapshot, results, compared),
    }.items():
        with replacing(folder.path / name) as file:
            file.write(text.encode())


def markdown(study: Study, snapshot: Snapshot, results: Sequence[CellResult], compared: Sequence[Difference]) -> str:
    """Render the table, the differences and what is missing."""
    columns, rows = table_rows(results)
    lines = [f"# {study.name}", ""]
    if study.description:
        lines += [study.description, ""]
    lines += ["mIoU in per cent after the last step: mean ± standard deviation (seeds).", ""]
    lines += _table(["", *columns], [[row, *(cell_text(one) for one in found)] for row, found in rows])
    if compared:
        lines += ["", "## Differences, paired by seed", ""]
        lines += ["Points of mIoU, with the 95 % confidence interval of the mean by Student's t.", ""]
        lines += _table(
            ["", "minus", "", "points", "95 %", "seeds"],
            [[c.cell.row, c.baseline.row, c.cell.column, *difference_text(c)] for c in compared],
        )
    missing = missing_runs(study, snapshot)
    if missing:
        lines += ["", "## Missing", "", *(f"- {line}" for line in missing)]
    return "\n".join(lines) + "\n"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    escaped = [[text.replace("|", "\\|") for text in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] + ["--:"] * (len(head) - 1), *escaped)]


def _runs_csv(study: Study, folder: StudyFolder, snapshot: Snapshot) -> str:
    head = (
        "recipe",
        "variant",
        "partition",
        "backbone",
        "seed",
        "state",
        "step",
        "miou",
        "best_miou",
        "seconds",
        "run",
    )
    rows = []
    for trial in study.trials:
        state = snapshot.states[trial.name]
        phase = "failed" if trial.name in snapshot.failed else state.phase
        best = max((miou for _, miou in state.curve), default=None)
        scores = (_number(state.miou), _number(best), f"{state.seconds:.1f}")
        rows.append((*trial.cell, trial.seed, phase, state.step, *scores, str(folder.run(trial).path)))
    return _csv(head, rows)


def _cells_csv(results: Sequence[CellResult]) -> str:
    head = (*Cell._fields, "seeds", "of", "mean", "deviation", "paper", "difference")
    rows = [
        (
            *result.cell,
            len(result.scores),
            result.num_seeds,
            _number(result.mean),
            _number(result.deviation),
            "" if result.published is None else result.published.miou,
            _number(result.gap),
        )
        for result in results
    ]
    return _csv(head, rows)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _csv(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    writer.writerows(rows)
    return text.getvalue()
