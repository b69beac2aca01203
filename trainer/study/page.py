"""The page of a study: table, differences, curves and what is missing, in one file that loads nothing else."""

import html
import statistics
from collections.abc import Sequence

from fpl_fast.trainer.report.document import document
from fpl_fast.trainer.report.figures import Curve, curves_svg
from fpl_fast.trainer.report.text import legend
from fpl_fast.trainer.study.grid import Study
from fpl_fast.trainer.study.queue import Snapshot
from fpl_fast.trainer.study.statistics import CellResult, Difference
from fpl_fast.trainer.study.text import cell_text, difference_text, missing_runs, table_rows

__all__ = ["page"]

_COLORS = 6  # of the style sheet's series


def page(study: Study, snapshot: Snapshot, results: Sequence[CellResult], compared: Sequence[Difference]) -> str:
    """Render the page."""
    done = sum(state.phase == "done" for state in snapshot.states.values())
    body = [
        f"<header><h1>{html.escape(study.name)}</h1>"
        f"<p class=sub>{html.escape(study.description)}</p>"
        f"<p class=sub>{done} of {len(study.trials)} runs done</p></header>",
        _scores(results),
        _differences(compared),
        _curves(study, snapshot, results),
        _missing(missing_runs(study, snapshot)),
    ]
    return document(study.name, "\n".join(body))


def _scores(results: Sequence[CellResult]) -> str:
    columns, rows = table_rows(results)
    return (
        "<section><h2>mIoU</h2><p class=note>Per cent after the last step: mean ± standard deviation (seeds).</p>"
        + _table(["", *columns], [[row, *map(cell_text, found)] for row, found in rows])
        + "</section>"
    )


def _differences(compared: Sequence[Difference]) -> str:
    if not compared:
        return ""
    rows = [[c.cell.row, c.baseline.row, c.cell.column, *difference_text(c)] for c in compared]
    return (
        "<section><h2>Differences, paired by seed</h2><p class=note>Points of mIoU over the seeds that both have, with "
        "the 95 % confidence interval of the mean by Student's t.</p>"
        + _table(["", "minus", "", "points", "95 %", "seeds"], rows)
        + "</section>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    lines = (
        f"<tr><th>{html.escape(first)}</th>{''.join(f'<td>{html.escape(text)}</td>' for text in rest)}</tr>"
        for first, *rest in rows
    )
    body = f"<thead><tr>{titles}</tr></thead><tbody>{''.join(lines)}</tbody>"
    return f"<div class='card scroll'><table>{body}</table></div>"


def _curves(study: Study, snapshot: Snapshot, results: Sequence[CellResult]) -> str:
    """Draw the mean mIoU over the seeds: a plot for each column of the table and as many rows as there are colours."""
    columns, rows = table_rows(results)
    names = [row for row, _ in rows]
    cards = []
    for place, column in enumerate(columns):
        for first in range(0, len(names), _COLORS):
            group = names[first : first + _COLORS]
            curves = []
            for series, (name, found) in enumerate(rows[first : first + _COLORS]):
                result = found[place]
                points = {} if result is None else _mean_curve(study, snapshot, result)
                if points:
                    curves.append(Curve(name, list(points), [100 * value for value in points.values()], series))
            if curves:
                shown = [(f"var(--series-{group.index(curve.label)})", curve.label) for curve in curves]
                drawn = curves_svg(f"mIoU, {column}", curves, unit="%")
                cards.append(f"<div class=card><h3>{html.escape(column)}</h3>{drawn}{legend(shown)}</div>")
    if not cards:
        return ""
    plots = f"<div class=plots>{''.join(cards)}</div>"
    return f"<section><h2>Curves</h2><p class=note>mIoU, mean over the seeds.</p>{plots}</section>"


def _mean_curve(study: Study, snapshot: Snapshot, result: CellResult) -> dict[int, float]:
    """Mean mIoU at the steps at which all runs of a cell that have begun were evaluated."""
    curves = [dict(snapshot.states[trial.name].curve) for trial in study.trials if trial.cell == result.cell]
    begun = [curve for curve in curves if curve]
    if not begun:
        return {}
    steps = sorted(set.intersection(*(set(curve) for curve in begun)))
    return {step: statistics.fmean(curve[step] for curve in begun) for step in steps}


def _missing(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
    return f"<section><h2>Missing</h2><ul>{items}</ul></section>"
