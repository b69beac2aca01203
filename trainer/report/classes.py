"""Scores by class: the table of IoU and the confusion matrix."""

import html
import math
from collections.abc import Sequence

import numpy as np

from fpl_fast.trainer.report.run import Run
from fpl_fast.trainer.report.text import css_color, delta, missing, percent

__all__ = ["classes", "confusion"]

# Beyond this, cells are too small for numbers and names; hovering over a cell still shows both.
_MAX_LABELLED_CLASSES = 32


def classes(run: Run, others: Sequence[Run]) -> str:
    """Render the intersection over union of every class, beside the first compared run."""
    evaluation = run.evaluation
    if evaluation is None:
        text = missing("No evaluation yet: evaluate the run, then write the report again.")
        return f"<section><h2>Classes</h2>{text}</section>"
    comparable = [one for one in others if one.evaluation and one.evaluation.class_names == evaluation.class_names]
    other = comparable[0].evaluation if comparable else None
    frequency = evaluation.confusion.sum(axis=1) / max(evaluation.confusion.sum(), 1)
    palette = run.palette
    rows = []
    for index, name in enumerate(evaluation.class_names):
        iou = float(evaluation.iou[index])
        before = float(other.iou[index]) if other else math.nan
        swatch = (
            f"<i class=swatch style='background:{css_color(palette[index])}'></i>"
            if palette is not None and index < len(palette)
            else ""
        )
        mark = "" if math.isnan(before) else f"<u style='left:{100 * before:.2f}%'></u>"
        length = 0 if math.isnan(iou) else 100 * iou
        rows.append(
            f"<tr><th scope=row>{swatch}{html.escape(name)}</th>"
            f"<td class='number optional'>{percent(float(frequency[index]))}</td>"
            f"<td class=number>{percent(iou)}</td>"
            + (f"<td class=number>{delta(iou - before)}</td>" if other else "")
            + f"<td class=bars><div class=track><div class=bar style='width:{length:.2f}%'></div>{mark}</div></td></tr>"
        )
    total = f"<td class=number>{delta(evaluation.miou - other.miou)}</td>" if other else ""
    note = f"{evaluation.split}, step {evaluation.step}, protocol {evaluation.protocol}"
    if other:
        note += f". Δ and the coloured marks compare with {comparable[0].name}"
    return (
        f"<section><h2>Classes</h2><p class=note>Intersection over union: {html.escape(note)}. "
        "A dash marks a class that neither occurs nor is predicted: it does not count.</p>"
        "<div class='card scroll'><table><thead><tr><th>Class</th>"
        "<th class='number optional'>Share of pixels</th><th class=number>IoU</th>"
        f"{'<th class=number>Δ</th>' if other else ''}<th class=bars></th></tr></thead><tbody>{''.join(rows)}</tbody>"
        f"<tfoot><tr><td>Mean</td><td class=optional></td><td class=number>{percent(evaluation.miou)}</td>{total}"
        "<td></td></tr></tfoot></table></div></section>"
    )


def confusion(run: Run) -> str:
    """Render the confusion matrix as a heat map of row shares, and the largest confusions in words."""
    evaluation = run.evaluation
    if evaluation is None:
        return ""
    names, counts = evaluation.class_names, evaluation.confusion
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    off_diagonal = np.where(np.eye(len(names), dtype=bool), 0.0, shares)
    largest = [divmod(int(flat), len(names)) for flat in np.argsort(off_diagonal, axis=None)[::-1][:8]]
    items = "".join(
        f"<tr><th scope=row>{html.escape(names[truth])} → {html.escape(names[predicted])}</th>"
        f"<td class=number>{percent(float(shares[truth, predicted]))}</td></tr>"
        for truth, predicted in largest
        if shares[truth, predicted] > 0
    )
    aside = (
        f"<table><thead><tr><th>Truth → prediction</th><th class=number>Share of truth</th></tr></thead>{items}</table>"
    )
    return (
        "<section><h2>Confusions</h2><p class=note>Rows are the truth, columns the prediction; a cell is the "
        f"percentage of the row's pixels.</p><div class='card two'><div class=matrix>{_matrix_svg(names, shares)}</div>"
        f"<div>{aside if items else 'Nothing is confused.'}</div></div></section>"
    )


def _matrix_svg(names: Sequence[str], shares: np.ndarray) -> str:
    """Draw the heat map without cells under half a per cent, which keeps the file small for 150 classes."""
    count = len(names)
    labelled = count <= _MAX_LABELLED_CLASSES
    cell, margin = 34, (7 * max(len(name) for name in names) + 12 if labelled else 8)
    size = margin + count * cell
    parts = [f'<rect x="{margin}" y="{margin}" width="{count * cell}" height="{count * cell}" fill="var(--page)"/>']
    for row, column in zip(*np.nonzero(shares >= 0.005), strict=True):
        share = float(shares[row, column])
        x, y = margin + int(column) * cell, margin + int(row) * cell
        title = f"{html.escape(names[int(row)])} → {html.escape(names[int(column)])}: {100 * share:.1f} %"
        parts.append(
            f'<rect x="{x + 1}" y="{y + 1}" width="{cell - 2}" height="{cell - 2}" rx="3" '
            f'fill="rgb(var(--accent) / {0.08 + 0.92 * share:.3f})"><title>{title}</title></rect>'
        )
        if labelled:
            shade = ' class="on"' if share > 0.55 else ""
            parts.append(
                f'<text x="{x + cell / 2}" y="{y + cell / 2 + 4}" text-anchor="middle"{shade} '
                f'pointer-events="none">{100 * share:.0f}</text>'
            )
    if labelled:
        for index, name in enumerate(names):
            centre = margin + (index + 0.5) * cell
            label = html.escape(name)
            parts.append(f'<text x="{margin - 6}" y="{centre + 4}" text-anchor="end">{label}</text>')
            parts.append(
                f'<text transform="translate({centre + 4} {margin - 6}) rotate(-90)" text-anchor="start">{label}</text>'
            )
    return (
        f'<svg viewBox="0 0 {size} {size}" style="max-width:{max(size, 320)}px" role="img" '
        f'aria-label="Confusion matrix of {count} classes">{"".join(parts)}</svg>'
    )
