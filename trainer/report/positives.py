"""Pictures of an analysis of positives."""

import io
import warnings
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from fpl_fast.trainer.data.sample import color_table
from fpl_fast.trainer.evaluation.analyze import ScoreMaps
from fpl_fast.trainer.evaluation.positives import PositivesAnalysis

__all__ = ["maps_png", "statistics_png"]

CASES = ("the truth is the pseudo-label", "another positive", "no positive")
_MOST_TALL = 2.0  # height over width of a picture, in its row
_CASE_COLORS = ("#d7dde5", "#0f8a6d", "#c2352b")
_VANILLA, _FUZZY, _MUTED = "#d9660a", "#2563eb", "#5d6675"


def statistics_png(analysis: PositivesAnalysis, threshold: str) -> bytes:
    """Draw inclusion and K by threshold, scores by case and over all pixels, and the calibration of the teacher.

    Args:
        analysis: Numbers to draw.
        threshold: Text of the run's own threshold.
    """
    figure = Figure(figsize=(11, 7.2), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    grid = figure.subplots(2, 2)
    _draw_thresholds(grid[0, 0], analysis)
    _draw_cases(grid[0, 1], analysis, threshold)
    _draw_histogram(grid[1, 0], analysis)
    _draw_calibration(grid[1, 1], analysis)
    return _png(figure)


def maps_png(maps: Sequence[ScoreMaps], palette: np.ndarray) -> bytes:
    """Draw images with truth, prediction, cases and both scores, one image a row."""
    titles = ("image", "truth", "pseudo-label", "case", "R of the cross entropy", "R of the fuzzy positive loss")
    height, width = maps[0].label.shape
    row_height = 15 / 6 * min(height / width, _MOST_TALL)
    figure = Figure(figsize=(15, row_height * len(maps) + 1.0), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(maps), len(titles), squeeze=False)
    colors, cases = color_table(palette), ListedColormap(["#ffffff", *_CASE_COLORS])
    scores = None
    for row, one in zip(grid, maps, strict=True):
        row[0].imshow(one.image)
        row[1].imshow(colors[one.label])
        row[2].imshow(colors[one.prediction])
        row[3].imshow(one.case, cmap=cases, vmin=0, vmax=3, interpolation="nearest")
        for axes, values in ((row[4], one.vanilla), (row[5], one.fuzzy)):
            scores = axes.imshow(values, cmap="RdBu", vmin=-1, vmax=1, interpolation="nearest")
        for axes in row:
            axes.set_xticks([])
            axes.set_yticks([])
        row[0].set_ylabel(one.name, fontsize=8, parse_math=False)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=9)
    assert scores is not None
    figure.colorbar(scores, ax=list(grid.flat), location="bottom", shrink=0.3, pad=0.02, aspect=40, anchor=(1.0, 0.5))
    patches = [Patch(color=color, label=text) for color, text in zip(_CASE_COLORS, CASES, strict=True)]
    figure.legend(handles=patches, loc="outside lower left", ncols=3, frameon=False, fontsize=8)
    return _png(figure)


def _draw_thresholds(axes: Axes, analysis: PositivesAnalysis) -> None:
    table = analysis.thresholds
    x = table.threshold.numpy()
    axes.plot(x, 100 * table.inclusion.numpy(), marker="o", color=_FUZZY, label="truth among the positives")
    axes.axhline(100 * analysis.accuracy, color=_VANILLA, label="truth is the pseudo-label")
    axes.set(xlabel="threshold T", ylabel="% of the pixels", title="Inclusion of the truth, and K")
    counts = axes.twinx()
    counts.plot(x, table.mean_positives.numpy(), marker="s", linestyle="--", color=_MUTED, label="mean K")
    counts.set_ylabel("mean K")
    lines = [*axes.get_lines(), *counts.get_lines()]
    axes.legend(handles=lines, loc="upper left", frameon=False, fontsize=8)


def _draw_cases(axes: Axes, analysis: PositivesAnalysis, threshold: str) -> None:
    place, table = np.arange(3), analysis.cases
    for shift, values, color, name in (
        (-0.2, table.vanilla, _VANILLA, "cross entropy"),
        (0.2, table.fuzzy, _FUZZY, "fuzzy positives"),
    ):
        axes.bar(place + shift, np.nan_to_num(values.numpy()), 0.4, color=color, label=name)
    axes.axhline(0, color="#16191f", linewidth=0.8)
    texts = [f"{text}\n{100 * share:.1f} %" for text, share in zip(CASES, table.share.tolist(), strict=True)]
    axes.set_xticks(place, texts, fontsize=8)
    axes.set(ylim=(-1, 1.05), ylabel="mean R", title=f"Scores by case at T = {threshold}")
    axes.legend(frameon=False, fontsize=8)


def _draw_histogram(axes: Axes, analysis: PositivesAnalysis) -> None:
    num = analysis.histogram.shape[1]
    edges = np.linspace(-1, 1, num + 1)
    for counts, color, name in zip(
        analysis.histogram, (_VANILLA, _FUZZY), ("cross entropy", "fuzzy positives"), strict=True
    ):
        axes.stairs(100 * counts.numpy() / analysis.pixels, edges, color=color, label=name, linewidth=1.6)
    axes.set(xlabel="R: above 0, the true class is raised", ylabel="% of the pixels", yscale="log", title="Scores")
    axes.legend(frameon=False, fontsize=8, loc="upper left")


def _draw_calibration(axes: Axes, analysis: PositivesAnalysis) -> None:
    table = analysis.calibration
    num = len(table.pixels)
    axes.bar((np.arange(num) + 0.5) / num, table.pixels.numpy() / analysis.pixels, 1 / num, color="#d7dde5")
    axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=0.8, linestyle="--")
    axes.plot(table.confidence.numpy(), table.accuracy.numpy(), marker="o", color=_FUZZY)
    axes.set(xlabel="probability of the pseudo-label", ylabel="share of right ones (bars: of the pixels)")
    axes.set_title(f"Calibration of the teacher, expected error {100 * table.error:.1f} points")


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # in the name of a file
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
