"""Numbers and short texts as escaped HTML."""

import html
import math
from collections.abc import Sequence

import numpy as np

__all__ = ["NUM_SERIES", "css_color", "delta", "duration", "legend", "missing", "percent", "series_color"]


NUM_SERIES = 6
"""Colours of runs that the style sheet defines."""


def series_color(index: int) -> str:
    """Choose the colour (CSS) of a run by its place; with more runs than colours they repeat."""
    return f"var(--series-{index % NUM_SERIES})"


def percent(fraction: float | None) -> str:
    """Format a fraction as percent; a dash where there is none."""
    return "–" if fraction is None or math.isnan(fraction) else f"{100 * fraction:.1f}&nbsp;%"


def delta(fraction: float | None) -> str:
    """Format a difference of fractions in points, green for better and red for worse."""
    if fraction is None or math.isnan(fraction):
        return "–"
    points = f"{100 * fraction:+.1f}".replace("-", "−")
    if points in ("+0.0", "−0.0"):
        return "0.0"
    return f"<span class={'good' if fraction > 0 else 'bad'}>{points}</span>"


def duration(seconds: float) -> str:
    """Format seconds with the two largest units; a line may break only between them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}&nbsp;h {minutes:02d}&nbsp;min"
    return f"{minutes}&nbsp;min {rest:02d}&nbsp;s" if minutes else f"{rest}&nbsp;s"


def missing(text: str) -> str:
    """Render a note on a part that a run has not produced yet."""
    return f"<p class=missing>{html.escape(text)}</p>"


def css_color(color: Sequence[int] | np.ndarray) -> str:
    """Format an RGB colour of 0..255 for CSS."""
    return "#" + "".join(f"{int(channel):02x}" for channel in color)


def legend(items: Sequence[tuple[str, str]]) -> str:
    """List colours (CSS) with their texts."""
    shown = "".join(f"<li><i style='background:{color}'></i>{html.escape(text)}</li>" for color, text in items)
    return f"<ul class=legend>{shown}</ul>"
