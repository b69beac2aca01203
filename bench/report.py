"""Turns benchmark results into Markdown and pictures; every ratio is between two rows of one run.

``python -m fpl_fast.bench.report [JSON]`` does not need the trainer's packages.
"""

import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fpl_fast.bench.peers import OWN, PEERS
from fpl_fast.bench.plots import write_plots
from fpl_fast.bench.results import Results, Timing, latest_results, read_results
from fpl_fast.bench.suites import PROBLEMS
from fpl_fast.bench.targets import targets_table

__all__ = ["benchmark_report", "write_benchmark_report"]

_YARDSTICK = "cross_entropy"
_EXPLANATION = (
    "Medians over the rounds; every peer saw the same logits and had to match a float64 solution before it was "
    "timed. *both* is the loss and its gradient in one step. GB/s counts what no implementation can avoid: logits and "
    "targets read, the gradient written, all at the size of the logits. *first call* holds the compilation, which "
    "cases of one size share; *peak memory* comes on top of the inputs."
)
_HEADER = (
    "| peer | forward, ms | backward, ms | both, ms | IQR | ÷ cross entropy | GB/s | of copy | peak memory, MB "
    "| first call, s |"
)
_TITLES = {
    "fuzzy_positive": "Fuzzy positive loss at full resolution",
    "upsampling": "Upsampling and loss",
    "cross_entropy": "Cross entropy, K = 1",
    "scale": "Scale",
}


def write_benchmark_report(results: Path | str | None = None, out: Path | str | None = None) -> Path:
    """Write the Markdown of a run and its pictures side by side.

    Args:
        results: JSON as ``make bench`` writes it; the newest under ``bench/results`` by default.
        out: Folder for the report, created if it does not exist; by default the folder of the results.

    Returns:
        Path of the Markdown.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    path = latest_results() if results is None else Path(results)
    content = read_results(path)
    folder = path.parent if out is None else Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = write_plots(content, folder, path.stem)
    report = folder / f"{path.stem}.md"
    report.write_text(benchmark_report(content, pictures), encoding="utf-8")
    return report


def benchmark_report(results: Results, pictures: Sequence[Path] = ()) -> str:
    """Render a run as Markdown, with the pictures beside it."""
    timings = results.timings
    used = [peer for peer in PEERS if any(timing.peer == peer.name for timing in timings)]
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items() if name not in ("device", "kind"))
    copy_gbps = max((timing.copy_gbps for timing in timings), default=0.0)
    return "\n".join(
        [
            f"# FPL loss on {results.machine['device']}",
            "",
            f"{results.time.date()}, {facts}. A large copy moves {copy_gbps:.1f} GB/s (read + write) in the same run.",
            "",
            _EXPLANATION,
            "",
            "## Targets",
            "",
            targets_table(results),
            "",
            *(f"![{picture.stem}]({picture.name})\n" for picture in pictures),
            "## Peers",
            "",
            *(f"- **{peer.name}**: {peer.about}" for peer in used),
            "",
            *(section for problem in PROBLEMS if (section := _section(problem, timings))),
        ]
    )


def _section(problem: str, timings: Iterable[Timing]) -> str:
    found = [timing for timing in timings if timing.problem == problem]
    if not found:
        return ""
    if problem == "scale":
        body = [_scale_table(found)]
    else:
        cases = dict.fromkeys(timing.case for timing in found)
        body = [_table(case, [timing for timing in found if timing.case == case]) for case in cases]
    return "\n".join([f"## {_TITLES[problem]}", "", *body])


def _table(case: str, timings: Iterable[Timing]) -> str:
    timed: dict[str, dict[str, Timing]] = {}
    for timing in timings:
        timed.setdefault(timing.peer, {})[timing.op] = timing
    timed = {peer: ops for peer, ops in timed.items() if "both" in ops}
    yardstick = timed.get(_YARDSTICK, {}).get("both")
    mean_positives = max((ops["both"].mean_positives for ops in timed.values()), default=1.0)
    lines = [
        f"### {case}",
        "",
        f"Mean K {mean_positives:.2f}.",
        "",
        _HEADER,
        "|---|" + "--:|" * (_HEADER.count("|") - 2),
    ]
    for peer, ops in sorted(timed.items(), key=lambda item: -item[1]["both"].median_s):
        both = ops["both"]
        cells = [
            peer,
            *(_milliseconds(ops[op].median_s if op in ops else None) for op in ("forward", "backward", "both")),
            f"{100 * both.iqr_s / both.median_s:.0f} %",
            f"{both.median_s / yardstick.median_s:.2f}" if yardstick else "–",
            f"{both.gbps:.1f}",
            f"{100 * both.share_of_copy:.0f} %",
            f"{both.peak_memory_mb:.0f}",
            f"{both.first_call_s:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_summary(timed)])


def _summary(timed: Mapping[str, Mapping[str, Timing]]) -> list[str]:
    """Compare the time of every other peer's step with the step of our fastest engine, as a ratio."""
    own = next((name for name in OWN if name in timed), None)
    if own is None:
        return []
    own_s = timed[own]["both"].median_s
    others = [f"{name} {ops['both'].median_s / own_s:.3g} ×" for name, ops in timed.items() if name != own]
    return [f"Against the step of **{own}**: {', '.join(others)}.", ""] if others else []


def _scale_table(timings: Iterable[Timing]) -> str:
    """Tabulate nanoseconds a pixel: rows are peers, columns numbers of pixels."""
    timings = list(timings)
    sizes = sorted({timing.num_pixels for timing in timings})
    lines = [
        "Loss and gradient, nanoseconds a pixel.",
        "",
        f"| pixels | {' | '.join(f'{size:.0e}' for size in sizes)} |",
        "|---|" + "--:|" * len(sizes),
    ]
    for peer in dict.fromkeys(timing.peer for timing in timings):
        found = {timing.num_pixels: timing for timing in timings if timing.peer == peer}
        cells = [f"{1e9 * found[size].median_s / size:.3g}" if size in found else "–" for size in sizes]
        lines.append(f"| {peer} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"


if __name__ == "__main__":
    sys.stdout.write(f"{write_benchmark_report(*sys.argv[1:2])}\n")
