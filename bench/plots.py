"""Three plots of a benchmark run: time against pixels, time against unavoidable bytes, and memory."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from fpl_fast.bench.peers import OWN
from fpl_fast.bench.results import Results, Timing
from fpl_fast.bench.suites import PROBLEMS

__all__ = ["write_plots"]

# Our engines in strong colours, PyTorch's cross entropies in warm colours, others in grey and pale colours.
_STYLES = {
    "triton": ("#2563eb", "o"),
    "compiled": ("#0f8a6d", "o"),
    "eager": ("#7fb8a8", "o"),
    "cross_entropy": ("#d9660a", "s"),
    "argmax_cross_entropy": ("#f0a060", "s"),
    "compiled_cross_entropy": ("#b45309", "s"),
    "liger": ("#a33ea1", "D"),
    "apex": ("#76b900", "D"),
    "public": ("#5d6675", "v"),
    "reference": ("#8e97a6", "^"),
    "torch_compile": ("#b8891f", "P"),
    "torch_compile_autotuned": ("#8a6d00", "P"),
    "planes": ("#c2352b", "X"),
}
_INK, _MUTED, _LINE = "#16191f", "#5d6675", "#e1e5eb"


def write_plots(results: Results, folder: Path, stem: str) -> list[Path]:
    """Draw the plots that a run has data for.

    Args:
        results: The run.
        folder: Folder of ``<stem>-time.png``, ``<stem>-roofline.png`` and ``<stem>-memory.png``.
        stem: Stem of the file names.

    Returns:
        The files written.
    """
    steps = [timing for timing in results.timings if timing.op == "both"]
    scale = [timing for timing in steps if timing.problem == "scale"]
    others = [timing for timing in steps if timing.problem != "scale"]
    pictures = {"time": (scale, _draw_time), "roofline": (steps, _draw_roofline), "memory": (others, _draw_memory)}
    return [
        _write(folder / f"{stem}-{name}.png", timings, draw) for name, (timings, draw) in pictures.items() if timings
    ]


def _write(path: Path, timings: list[Timing], draw: Callable[[Figure, list[Timing]], None]) -> Path:
    settings = {
        "font.family": "sans-serif",
        "font.size": 9,
        "text.color": _INK,
        "axes.labelcolor": _MUTED,
        "axes.edgecolor": _LINE,
        "axes.axisbelow": True,
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": _LINE,
        "grid.linewidth": 0.7,
        "legend.frameon": False,
        "xtick.color": _MUTED,
        "ytick.color": _MUTED,
    }
    with rc_context(cast("Any", settings)):  # matplotlib's type is a literal of all known names
        figure = Figure(figsize=(7.2, 4.2), layout="constrained", dpi=160)
        draw(figure, timings)
        for axes in figure.axes:
            axes.tick_params(which="both", length=0)
        FigureCanvasAgg(figure)
        figure.savefig(path, metadata={"Software": None})
    return path


def _draw_time(figure: Figure, timings: list[Timing]) -> None:
    axes = figure.add_subplot(title="Time a pixel against the number of pixels, 4 classes")
    for peer, found in _by_peer(timings):
        color, marker = _STYLES[peer]
        found.sort(key=lambda timing: timing.num_pixels)
        axes.plot(
            [timing.num_pixels for timing in found],
            [timing.median_s / timing.num_pixels for timing in found],
            color=color,
            marker=marker,
            markersize=5,
            linewidth=2 if peer in OWN else 1.2,
            label=peer,
        )
    one = timings[0]
    copy_s = (one.minimum_bytes or 0) / one.num_pixels / one.copy_gbps / 1e9
    axes.axhline(copy_s, color=_MUTED, linewidth=1, linestyle="--", label="a copy of the same bytes")
    axes.set(xlabel="pixels", ylabel="loss and gradient of a pixel")
    _logarithmic(axes, "")
    axes.legend()


def _draw_roofline(figure: Figure, timings: list[Timing]) -> None:
    axes = figure.add_subplot(title="Every case against the memory roof of the same run")
    for peer, found in _by_peer(timings):
        color, marker = _STYLES[peer]
        axes.scatter(
            [timing.minimum_bytes or 0 for timing in found],
            [timing.median_s for timing in found],
            color=color,
            marker=marker,
            s=34 if peer in OWN else 24,
            zorder=3 if peer in OWN else 2,
            linewidths=0,
            alpha=0.9,
            label=peer,
        )
    counts = [timing.minimum_bytes or 0 for timing in timings]
    ends = [min(counts) / 1.3, max(counts) * 1.3]
    gbps = timings[0].copy_gbps
    axes.plot(
        ends,
        [end / gbps / 1e9 for end in ends],
        color=_MUTED,
        linewidth=1.2,
        linestyle="--",
        label=f"a copy, {gbps:,.0f} GB/s",
    )
    axes.set(xlabel="logits and targets read, gradient written", ylabel="loss and gradient")
    _logarithmic(axes, "B")
    figure.legend(loc="outside right upper")


def _draw_memory(figure: Figure, timings: list[Timing]) -> None:
    """Draw the memory of the first case of every problem."""
    panels = []
    for problem in sorted({timing.problem for timing in timings}, key=PROBLEMS.index):
        case = next(timing.case for timing in timings if timing.problem == problem)
        found = [timing for timing in timings if (timing.problem, timing.case) == (problem, case)]
        panels.append((f"{problem.replace('_', ' ')}, {case}", sorted(found, key=lambda timing: timing.peak_memory_mb)))
    rows = [len(found) for _, found in panels]
    figure.set_figheight(0.6 + 0.65 * len(rows) + 0.22 * sum(rows))
    grid = figure.subplots(len(panels), squeeze=False, height_ratios=rows)
    for axes, (title, found) in zip(grid[:, 0], panels, strict=True):
        bars = axes.barh(
            [timing.peer for timing in found],
            [timing.peak_memory_mb for timing in found],
            color=[_STYLES[timing.peer][0] for timing in found],
            height=0.7,
        )
        axes.bar_label(bars, fmt="{:,.0f}", padding=4, color=_MUTED)
        axes.set_title(title, fontsize=9.5)
        axes.set_ylim(len(found) - 0.4, -0.6)
        axes.set_xticks([])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.margins(x=0.1)
    figure.suptitle("Peak memory of loss and gradient beyond the logits, MB", x=0.01, ha="left", fontsize=11)


def _by_peer(timings: Iterable[Timing]) -> list[tuple[str, list[Timing]]]:
    """Group timings by peer, in the order of the legend."""
    timings = list(timings)
    return [(peer, found) for peer in _STYLES if (found := [timing for timing in timings if timing.peer == peer])]


def _logarithmic(axes: Axes, unit: str) -> None:
    """Make both axes logarithmic, with seconds on the vertical one."""
    axes.set(xscale="log", yscale="log")
    axes.xaxis.set_major_formatter(EngFormatter(unit))
    axes.yaxis.set_major_formatter(EngFormatter("s"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid()
