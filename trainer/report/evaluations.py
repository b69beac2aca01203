"""Evaluations of a run by other protocols, on other data or of other weights."""

import html

from fpl_fast.trainer.report.run import Run
from fpl_fast.trainer.report.text import percent

__all__ = ["other_evaluations"]

_LONG = {"root": "other folder", "list": "other list", "labels": "other labels"}  # instead of paths and digests


def other_evaluations(run: Run) -> str:
    """Tabulate scores beside the settings in which they differ from the run's own result; empty without any."""
    if not run.other_evaluations:
        return ""
    rows = []
    for one in run.other_evaluations:
        differs = ", ".join(_LONG.get(key, f"{key} {value}") for key, value in one.differs.items())
        rows.append(
            f"<tr><th scope=row>{html.escape(one.name)}</th><td class=number>{percent(one.miou)}</td>"
            f"<td class=number>{percent(one.pixel_accuracy)}</td><td class=number>{one.step:,}</td>"
            f"<td>{html.escape(differs)}</td></tr>"
        )
    return (
        "<section><h2>Other evaluations</h2><p class=note>Of other data, weights or protocols than the run's own "
        "result above, which they do not replace.</p><div class='card scroll'><table><thead><tr><th>Evaluation</th>"
        "<th class=number>mIoU</th><th class=number>Pixel accuracy</th><th class=number>Step</th>"
        f"<th>Differs in</th></tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )
