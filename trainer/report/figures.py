"""Curves as SVG and arrays as pictures, both ready to be embedded in an HTML page."""

import base64
import html
import io
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, MaxNLocator
from PIL import Image

from fpl_fast.trainer.data.sample import color_table
from fpl_fast.trainer.report.text import NUM_SERIES, series_color

__all__ = ["Curve", "count_colors", "curves_svg", "index_uri", "jpeg_uri"]

# Colours drawn by matplotlib that the page's style sheet replaces, so that the curves follow light and dark mode.
_THEMED = {"#010101": "var(--ink)", "#020202": "var(--muted)", "#030303": "var(--line)"}
_SERIES = [(f"#0400{index:02x}", series_color(index)) for index in range(NUM_SERIES)]

# Lightness falls as K grows: one positive is the common case and stays the quietest colour.
_COUNT_COLORS = ((226, 232, 240), (253, 200, 90), (240, 120, 60), (200, 50, 90), (125, 30, 120), (60, 20, 90))


class Curve(NamedTuple):
    """One line of a plot."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    series: int
    """Index of the colour; one run keeps one colour throughout the page."""


def curves_svg(title: str, curves: Sequence[Curve], *, unit: str = "") -> str:
    """Draw curves over the training steps as an SVG element whose colours are variables of the page.

    A curve with many points is drawn faintly, with its running mean (over a fortieth of the points) on top.

    Args:
        title: Text for screen readers; the heading itself belongs to the page.
        curves: At least one, each with at least one point.
        unit: Unit of the values.
    """
    settings = {"svg.fonttype": "none", "svg.hashsalt": title, "font.family": "sans-serif", "font.size": 9}
    with rc_context(cast("Any", settings)):  # matplotlib's type is a literal of all known names
        figure = Figure(figsize=(4.2, 2.3), layout="constrained")
        axes = figure.add_subplot()
        for curve in curves:
            _draw(axes, curve)
        axes.set_xlabel("step", color="#020202")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.ticklabel_format(axis="y", scilimits=(-3, 5), useMathText=False)
        axes.tick_params(colors="#020202", length=0)
        axes.yaxis.get_offset_text().set_color("#020202")
        axes.grid(axis="y", color="#030303", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color("#030303")
        buffer = io.StringIO()
        FigureCanvasSVG(figure)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    for drawn, variable in [*_THEMED.items(), *_SERIES]:
        svg = svg.replace(drawn, variable)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*"|(<svg [^>]*?)height="[^"]*"', r"\1\2", svg)
    last = ", ".join(f"{curve.label} {curve.values[-1]:.4g}{unit} at step {curve.steps[-1]}" for curve in curves)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(f"{title}: {last}")}"', 1)


def _draw(axes: Axes, curve: Curve) -> None:
    color = _SERIES[curve.series % NUM_SERIES][0]
    count = len(curve.values)
    if count < 40:
        axes.plot(
            curve.steps, curve.values, color=color, linewidth=1.8, marker="o", markersize=3.2 if count < 20 else 0
        )
        return
    axes.plot(curve.steps, curve.values, color=color, linewidth=0.8, alpha=0.3)
    width = count // 40 * 2 + 1
    padded = np.pad(np.asarray(curve.values, dtype=np.float64), width // 2, mode="edge")
    axes.plot(curve.steps, np.convolve(padded, np.full(width, 1 / width), mode="valid"), color=color, linewidth=1.8)


def count_colors(largest: int) -> np.ndarray:
    """Colours of 1, 2, ... ``largest`` positives, (largest, 3) uint8."""
    if largest <= len(_COUNT_COLORS):
        return np.array(_COUNT_COLORS[:largest], dtype=np.uint8)
    position = np.linspace(0, len(_COUNT_COLORS) - 1, largest)
    table = np.array(_COUNT_COLORS, dtype=np.float64)
    channels = [np.interp(position, np.arange(len(table)), table[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def index_uri(indices: np.ndarray, palette: np.ndarray) -> str:
    """Encode an index map (H, W) uint8 as a PNG data URI in the colours of a palette (C, 3).

    Indices beyond the palette, such as ignored pixels, get the ``outside_color``.
    """
    picture = Image.fromarray(indices)
    picture.putpalette(color_table(palette).tobytes())
    return _uri(picture, "PNG", optimize=True)


def jpeg_uri(pixels: np.ndarray) -> str:
    """Encode an (H, W, 3) uint8 photograph as a JPEG data URI."""
    return _uri(Image.fromarray(pixels), "JPEG", quality=88)


def _uri(picture: Image.Image, kind: str, **options: int | bool) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
