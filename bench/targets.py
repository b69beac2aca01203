"""Target speeds of this project, compared with a run. Each figure is a ratio within one run."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from fpl_fast.bench.cases import Case
from fpl_fast.bench.peers import OWN
from fpl_fast.bench.results import Results, Timing
from fpl_fast.bench.suites import base_case, selection

__all__ = ["TARGETS", "Target", "targets_table"]

_BASE = base_case(cpu=False)
_UPSAMPLING = selection("upsampling", "headline", "cuda")[0].case
_CPU_UPSAMPLING = selection("upsampling", "headline", "cpu")[0].case


class Target(NamedTuple):
    """One row of the table."""

    text: str
    limit: float
    unit: str
    measure: Callable[[Results], float | None]
    """The figure in ``unit``, None where the run did not measure it."""
    at_most: bool = False
    """Whether the figure has to stay below the limit rather than reach it."""


def _own(results: Results, case: Case) -> Timing | None:
    """Find the timing of our fastest engine in the run."""
    return next((found for name in OWN if (found := results.find(case, name))), None)


def _share_of_copy(case: Case) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        own = _own(results, case)
        return own and 100 * own.share_of_copy

    return measure


def _times(case: Case, peer: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        own, other = _own(results, case), results.find(case, peer)
        return other.median_s / own.median_s if own and other else None

    return measure


def _milliseconds_on(device: str, case: Case) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        own = _own(results, case)
        return 1e3 * own.median_s if own and device in results.machine["device"] else None

    return measure


def _memory_share(case: Case, peer: str) -> Callable[[Results], float | None]:
    def measure(results: Results) -> float | None:
        own, other = _own(results, case), results.find(case, peer)
        return 100 * own.peak_memory_mb / other.peak_memory_mb if own and other else None

    return measure


_COPY, _TIMES = "% of the copy", "×"
TARGETS = (
    Target("capped, C = 19, NCHW, bf16", 85, _COPY, _share_of_copy(_BASE)),
    Target("the same in fp32", 92, _COPY, _share_of_copy(replace(_BASE, dtype=torch.float32))),
    Target("uncapped, bf16", 70, _COPY, _share_of_copy(replace(_BASE, max_positives=None))),
    Target("channels_last, bf16", 70, _COPY, _share_of_copy(replace(_BASE, layout="nhwc"))),
    Target("C = 150, bf16", 60, _COPY, _share_of_copy(replace(_BASE, shape=(8, 150, 512, 512)))),
    Target("capped, bf16: faster than the public algorithm", 50, _TIMES, _times(_BASE, "public")),
    Target("faster than the equations in eager PyTorch", 20, _TIMES, _times(_BASE, "reference")),
    Target("faster than torch.compile of them", 3, _TIMES, _times(_BASE, "torch_compile")),
    Target("faster than compiled class planes", 1.15, _TIMES, _times(_BASE, "planes")),
    Target("upsampling 200² to 800², bf16, on an H100", 1.0, "ms", _milliseconds_on("H100", _UPSAMPLING), at_most=True),
    Target(
        "the same: faster than PyTorch's upsampling, argmax and cross entropy",
        3,
        _TIMES,
        _times(_UPSAMPLING, "argmax_cross_entropy"),
    ),
    Target(
        "the same: peak memory against eager PyTorch",
        5,
        "% of it",
        _memory_share(_UPSAMPLING, "reference"),
        at_most=True,
    ),
    Target(
        "on a CPU, upsampling 128² to 512²: faster than the public algorithm",
        40,
        _TIMES,
        _times(_CPU_UPSAMPLING, "public"),
    ),
)


def targets_table(results: Results) -> str:
    """Compare the targets for loss and gradient in one step with a run, as Markdown; missing figures stay empty."""
    lines = ["| loss + gradient | target | measured | met |", "|---|--:|--:|---|"]
    for text, limit, unit, measure, at_most in TARGETS:
        sign, found = "≤" if at_most else "≥", measure(results)
        cells = ["", ""]
        if found is not None:
            cells = [f"{found:.3g} {unit}", "yes" if (found <= limit if at_most else found >= limit) else "no"]
        lines.append(f"| {' | '.join([text, f'{sign} {limit:g} {unit}', *cells])} |")
    return "\n".join(lines)
