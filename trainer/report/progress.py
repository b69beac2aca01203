"""Scores by class over the evaluations of a run: a row of cells for each class, darker for a higher IoU."""

import html
import math

from fpl_fast.trainer.evaluation.loss_settings import spread
from fpl_fast.trainer.report.run import CLASS_PREFIX, Run
from fpl_fast.trainer.report.text import css_color, percent

__all__ = ["class_progress"]

_MOST_CELLS = 40
"""Evaluations that are drawn; of more, some that are spread evenly, and the last."""


def class_progress(run: Run) -> str:
    """Render the IoU of each class at each evaluation; empty for a run with fewer than two evaluations by class.

    A cell is as opaque as its IoU is high, as in the confusion matrix; it is missing where the class neither occurred
    nor was predicted. Names and numbers are text of the page, so that 150 classes stay readable on a telephone.
    """
    keys = [key for key in dict.fromkeys(key for row in run.metrics for key in row) if key.startswith(CLASS_PREFIX)]
    scores = {key: dict(zip(*run.series(key), strict=True)) for key in keys}
    steps = sorted({row["step"] for row in run.metrics if keys and keys[0] in row})
    if len(steps) < 2:
        return ""
    shown = sorted({*(steps[place] for place in spread(_MOST_CELLS - 1, len(steps))), steps[-1]})
    swatches = [css_color(color) for color in run.palette] if run.palette is not None else []
    rows = []
    for index, key in enumerate(keys):
        name, of_class = html.escape(key.removeprefix(CLASS_PREFIX)), scores[key]
        swatch = f"<i class=swatch style='background:{swatches[index]}'></i>" if index < len(swatches) else ""
        best = max(of_class.values(), default=math.nan)
        rows.append(
            f"<tr><th scope=row>{swatch}{name}</th><td class=cells>{_cells(name, shown, of_class)}</td>"
            f"<td class='number optional'>{percent(best)}</td>"
            f"<td class=number>{percent(of_class.get(steps[-1]))}</td></tr>"
        )
    some = f"{len(shown)} of {len(steps)} evaluations" if len(shown) < len(steps) else f"{len(steps)} evaluations"
    return (
        "<section><h2>Classes over training</h2><p class=note>Intersection over union at "
        f"{some}, from left to right: the fuller the colour, the higher. A gap marks a class that neither occurred nor "
        "was predicted.</p><div class='card scroll'><table class=progress><thead><tr><th>Class</th><th class=cells>"
        f"<span>step {steps[0]:,}</span><span>{steps[-1]:,}</span></th><th class='number optional'>Best</th>"
        f"<th class=number>Last</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _cells(name: str, steps: list[int], scores: dict[int, float]) -> str:
    """Draw the cells of a class; hovering over one shows its numbers."""
    cells = "".join(
        f'<rect x="{place}" width="1" height="1" fill="rgb(var(--accent) / {0.08 + 0.92 * scores[step]:.2f})">'
        f"<title>{name}, step {step:,}: {100 * scores[step]:.1f} %</title></rect>"
        for place, step in enumerate(steps)
        if step in scores
    )
    known = [step for step in steps if step in scores]
    told = f"{100 * scores[known[0]]:.1f} % to {100 * scores[known[-1]]:.1f} %" if known else "no pixels"
    return (
        f'<svg viewBox="0 0 {len(steps)} 1" preserveAspectRatio="none" role="img" aria-label="{name}: {told}">'
        f"{cells}</svg>"
    )
