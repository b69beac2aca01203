"""Turns benchmark results into Markdown; every ratio is between two rows of one run."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from fpl_fast.bench.peers import PROVIDERS

__all__ = ["benchmark_report", "latest_results", "write_benchmark_report"]

RESULTS = Path(__file__).parent / "results"
_YARDSTICK = "cross_entropy"
# The engines to hold against everything else, the fastest first.
_OWN = ("triton", "compiled")
_EXPLANATION = (
    "Medians over the rounds; every provider saw the same logits and had to match a float64 solution before it was "
    "timed. *both* is the loss and its gradient in one step. GB/s counts what no implementation can avoid: both logits "
    "read, the gradient written. *first call* holds the compilation, which cases of one size share."
)
_HEADER = (
    "| provider | forward, ms | backward, ms | both, ms | IQR | ÷ cross entropy | GB/s | of copy | peak memory, MB "
    "| first call, s |"
)


def latest_results() -> Path:
    """Find the newest file under ``bench/results``.

    Raises:
        ValueError: if no benchmark has been run yet.
    """
    files = sorted(RESULTS.glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise ValueError("results must exist before they are reported: run `make bench` first, got no *.json in them")
    return files[-1]


def write_benchmark_report(results: Path | str | None = None) -> Path:
    """Write the Markdown of ``benchmark_report`` beside the results and return its path."""
    results = latest_results() if results is None else Path(results)
    path = results.with_suffix(".md")
    path.write_text(benchmark_report(results), encoding="utf-8")
    return path


def benchmark_report(results: Path | str | None = None) -> str:
    """Render the results of one benchmark run as Markdown.

    Args:
        results: JSON as ``make bench`` writes it; the newest under ``bench/results`` by default.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    results = latest_results() if results is None else Path(results)
    try:
        content = json.loads(results.read_text(encoding="utf-8"))
        rows = [_row(result) for result in content["benchmarks"]]
        machine = content["machine_info"]
        cases = dict.fromkeys(row["case"] for row in rows)
        tables = [_table(case, [row for row in rows if row["case"] == case]) for case in cases]
        date = content["datetime"][:10]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"results must be a JSON file of `make bench`, got {str(results)!r}: {message}") from error
    copy_gbps = max((row["copy_gbps"] for row in rows), default=0.0)
    used = [provider for provider in PROVIDERS if any(row["provider"] == provider.name for row in rows)]
    return "\n".join(
        [
            f"# FPL loss on {machine['device'] if machine['device'] != 'CPU' else machine['cpu']}",
            "",
            f"{date}, " + ", ".join(f"{name} {value}" for name, value in machine.items() if name != "device") + ". "
            f"A large copy moves {copy_gbps:.1f} GB/s (read + write) in the same run.",
            "",
            _EXPLANATION,
            "",
            *(f"- **{provider.name}**: {provider.about}" for provider in used),
            "",
            *tables,
        ]
    )


def _row(result: Mapping[str, Any]) -> dict[str, Any]:
    return {**result["extra_info"], "median_s": result["stats"]["median"], "iqr_s": result["stats"]["iqr"]}


def _table(case: str, rows: Iterable[Mapping[str, Any]]) -> str:
    timed: dict[str, dict[str, Mapping[str, Any]]] = {}
    for row in rows:
        timed.setdefault(row["provider"], {})[row["op"]] = row
    yardstick = timed.get(_YARDSTICK, {}).get("both")
    mean_positives = max(ops["both"]["mean_positives"] for ops in timed.values() if "both" in ops)
    lines = [
        f"## {case}",
        "",
        f"Mean K {mean_positives:.2f}.",
        "",
        _HEADER,
        "|---|" + "--:|" * (_HEADER.count("|") - 2),
    ]
    for provider, ops in sorted(timed.items(), key=lambda item: -item[1]["both"]["median_s"]):
        both = ops["both"]
        gbps = both["minimum_bytes"] / both["median_s"] / 1e9
        cells = [
            provider,
            *(_milliseconds(ops[op]["median_s"] if op in ops else None) for op in ("forward", "backward", "both")),
            f"{100 * both['iqr_s'] / both['median_s']:.0f} %",
            f"{both['median_s'] / yardstick['median_s']:.2f}" if yardstick else "–",
            f"{gbps:.1f}",
            f"{100 * gbps / both['copy_gbps']:.0f} %",
            f"{both['peak_memory_mb']:.0f}",
            f"{both['first_call_s']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *_summary(timed)])


def _summary(timed: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """How many times the step of every other provider takes that of our fastest engine."""
    own = next((name for name in _OWN if name in timed), None)
    if own is None:
        return []
    own_s = timed[own]["both"]["median_s"]
    others = [f"{name} {ops['both']['median_s'] / own_s:.3g} ×" for name, ops in timed.items() if name != own]
    return [f"Against the step of **{own}**: {', '.join(others)}.", ""] if others else []


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{1e3 * seconds:,.0f}" if seconds >= 0.1 else f"{1e3 * seconds:.3g}"
