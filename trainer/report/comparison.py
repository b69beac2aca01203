"""The compared runs: their scores, what one seed or several can show, and the settings in which they differ."""

import html
import math
import statistics
from collections.abc import Sequence

from fpl_fast.trainer.config.io import flatten
from fpl_fast.trainer.report.run import Run, comparison_rows
from fpl_fast.trainer.report.text import delta, duration, percent, series_color

__all__ = ["comparison", "differences"]

_CAUTION = (
    "One seed of each: two runs that differ in the seed alone can lie as far apart. <code>fpl-fast study</code> trains "
    "several seeds and compares them in pairs."
)
_ABSENT = "–"


def comparison(run: Run, others: Sequence[Run]) -> str:
    """Render the scores of this run and of the compared runs in one table, and their spread over seeds."""
    if not others:
        return ""
    rows = "".join(
        f"<tr><th scope=row><i class=swatch style='background:{series_color(color)}'></i>{html.escape(row.name)}</th>"
        f"<td class=number>{percent(row.miou)}</td><td class=number>{delta(row.delta)}</td>"
        f"<td class=number>{percent(row.pixel_accuracy)}</td>"
        f"<td class=number>{'–' if row.step is None else f'{row.step:,}'}</td>"
        f"<td class=number>{'–' if row.elapsed_s is None else duration(row.elapsed_s)}</td></tr>"
        for row, color in zip(comparison_rows([*others, run]), [*range(1, len(others) + 1), 0], strict=True)
    )
    return (
        "<section><h2>Comparison</h2><div class='card scroll'><table><thead><tr><th>Run</th><th class=number>mIoU</th>"
        "<th class=number>Δ</th><th class=number>Pixel accuracy</th><th class=number>Step</th>"
        f"<th class=number>Time</th></tr></thead><tbody>{rows}</tbody></table></div>{_seeds([*others, run])}</section>"
    )


def _seeds(runs: Sequence[Run]) -> str:
    """Render the spread over runs that differ in the seed alone, or a caution where there are none."""
    kinds: dict[str, list[Run]] = {}
    for run in runs:
        if run.evaluation is not None and not math.isnan(run.evaluation.miou):
            settings = {key: value for key, value in flatten(run.config).items() if key != "train.seed"}
            kinds.setdefault(repr(sorted(settings.items(), key=str)), []).append(run)
    if all(len(of_kind) < 2 for of_kind in kinds.values()):
        return f"<p class=note>{_CAUTION}</p>" if len(kinds) > 1 else ""
    lines = []
    for of_kind in kinds.values():
        scores = [100 * run.evaluation.miou for run in of_kind if run.evaluation is not None]
        spread = f" ± {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        names = ", ".join(html.escape(run.name) for run in of_kind)
        lines.append(f"<li>{statistics.mean(scores):.1f}{spread}&nbsp;% ({len(scores)}): {names}</li>")
    return (
        "<p class=note>mIoU of runs that differ in the seed alone: mean ± standard deviation (number of runs).</p>"
        f"<ul class=plain>{''.join(lines)}</ul>"
    )


def differences(run: Run, others: Sequence[Run]) -> str:
    """Render the settings in which the compared runs differ from this one; nothing where none does."""
    runs = [run, *others]
    settings = [flatten(one.config) for one in runs]
    keys = dict.fromkeys(key for of_run in settings for key in of_run)
    differing = [key for key in keys if len({repr(of_run.get(key, _ABSENT)) for of_run in settings}) > 1]
    if not differing:
        return ""
    head = "".join(f"<th>{html.escape(one.name)}</th>" for one in runs)
    rows = "".join(
        f"<tr><th scope=row>{html.escape(key)}</th>"
        + "".join(f"<td>{html.escape(str(of_run.get(key, _ABSENT)))}</td>" for of_run in settings)
        + "</tr>"
        for key in differing
    )
    return (
        "<section><h2>Differing settings</h2><div class='card scroll'><table class=settings>"
        f"<thead><tr><th>Setting</th>{head}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )
