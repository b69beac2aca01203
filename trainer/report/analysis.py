"""Section of the report on a run's positives, where fpl-fast analyze has compared them with the truth."""

import base64
import html
from pathlib import Path

from fpl_fast.trainer.report.run import Run
from fpl_fast.trainer.report.text import percent

__all__ = ["positives"]

_PICTURES = {
    "statistics.png": "Inclusion of the truth and K by threshold; positive gradient score R by case and over all "
    "pixels; calibration",
    "maps.png": "Cases and scores of single images: blue, the loss raises the true class; red, it lowers it",
}


def positives(run: Run) -> str:
    """Render the shares of the cases, the scores of both losses, and the pictures; empty without an analysis."""
    analysis = run.analysis
    if analysis is None:
        return ""
    cases = analysis["cases"]
    rows = "".join(
        f"<tr><th scope=row>{name}</th><td class=number>{percent(share)}</td><td class=number>{_score(vanilla)}</td>"
        f"<td class=number>{_score(fuzzy)}</td></tr>"
        for name, share, vanilla, fuzzy in zip(
            cases["case"], cases["share"], cases["vanilla"], cases["fuzzy"], strict=True
        )
    )
    rows += (
        f"<tr><th scope=row>all pixels</th><td class=number>{percent(1.0)}</td>"
        f"<td class=number>{_score(analysis['vanilla'])}</td><td class=number>{_score(analysis['fuzzy'])}</td></tr>"
    )
    figures = "".join(
        f"<figure><img src='{_uri(run.path / 'analysis' / name)}' alt='{caption}'><figcaption>{caption}</figcaption>"
        "</figure>"
        for name, caption in _PICTURES.items()
        if name in analysis["pictures"] and (run.path / "analysis" / name).is_file()
    )
    threshold = analysis["threshold"]
    return (
        "<section><h2>Positives and the truth</h2>"
        f"<p class=note>{analysis['images']} images of {html.escape(str(analysis['split']))}, step "
        f"{analysis['step']:,}, protocol {html.escape(str(analysis['protocol']))}, threshold "
        f"{html.escape(str(threshold))}, mean K {analysis['mean_positives']:.2f}. R is the share of the push on the "
        "positives that the true class gets: above 0 the loss raises it. Expected calibration error "
        f"{percent(analysis['calibration_error'])}.</p>"
        "<div class='card scroll'><table><thead><tr><th>Case</th><th class=number>Pixels</th>"
        "<th class=number>R of the cross entropy</th><th class=number>R of the fuzzy positive loss</th></tr></thead>"
        f"<tbody>{rows}</tbody></table></div>{figures}</section>"
    )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _uri(path: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"
