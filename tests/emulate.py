"""Runs the compiled kernels in an emulator of PTX: ``python tests/emulate.py --arch sm_80 sm_90``, for ``make ptx``.

What it checks is in ``tests/ptx``. A device of each architecture is emulated in processes of its own.
"""

import argparse
import collections
import concurrent.futures
import functools
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)  # before anything imports triton: kernels are compiled

import torch
import triton
from ptx import device
from ptx.cases import CASES, QUICK
from ptx.defects import DEFECTS, find
from ptx.kernels import launched_kernels
from ptx.runs import Outcome, run_case

ARCHITECTURES = {f"sm_{capability}": capability for capability in device.SHARED_BYTES}
CACHE = Path(__file__).resolve().parents[1] / "build" / "ptx"


class Line(NamedTuple):
    """What the cases have shown of a kernel on an architecture."""

    cases: int = 0
    launches: int = 0
    accesses: int = 0
    worst: float = 0.0

    def __add__(self, other: "Line") -> "Line":
        """With another one's."""
        sums = (a + b for a, b in zip(self[:3], other[:3], strict=True))
        return Line(*sums, max(self.worst, other.worst))


def lines(outcomes: Iterable[tuple[str, Outcome]]) -> dict[tuple[str, str], Line]:
    """By kernel and architecture; a case counts for every kernel that it launches."""
    found: dict[tuple[str, str], Line] = collections.defaultdict(Line)
    for arch, outcome in outcomes:
        for kernel, launches in outcome.launches.items():
            found[kernel, arch] += Line(1, launches, outcome.accesses[kernel], outcome.worst)
    return found


def table(found: dict[tuple[str, str], Line]) -> str:
    """In Markdown."""
    rows = [
        "| kernel | arch | cases | launches | accesses checked | worst error / allowed |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for (kernel, arch), line in sorted(found.items()):
        rows.append(
            f"| `{kernel}` | {arch} | {line.cases} | {line.launches:,} | {line.accesses:,} | {line.worst:.2f} |"
        )
    return "\n".join(rows)


def on_device(arch: str, jobs: int, function: Callable[[Any], Any], given: list[Any]) -> Iterable[Any]:
    """The results of a function on an architecture, in the order of what is given."""
    if not given:
        return
    spawn = multiprocessing.get_context("spawn")
    install = functools.partial(device.install, ARCHITECTURES[arch], str(CACHE))
    with concurrent.futures.ProcessPoolExecutor(jobs, spawn, install) as pool:
        yield from zip(given, pool.map(function, given), strict=True)


def divided(names: list[str], archs: list[str], split: bool) -> dict[str, list[str]]:
    """The cases of each architecture: all, or with ``split`` every case on one of them."""
    return {arch: names[i :: len(archs)] if split else names for i, arch in enumerate(archs)}


def main() -> int:
    """Run the chosen cases and defects, print what they show; 1 if something is not as it has to be."""
    parser = argparse.ArgumentParser(description="The compiled kernels in an emulator of PTX, against float64.")
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=["sm_80"], help="(default: sm_80)")
    parser.add_argument("--only", metavar="TEXT", nargs="+", default=[""], help="cases whose names hold one of these")
    parser.add_argument("--quick", action="store_true", help="one small case of each kind")
    parser.add_argument(
        "--split", action="store_true", help="each case on one of the architectures in turn, not on all"
    )
    parser.add_argument("--mutations", action="store_true", help="also: defects put into the PTX have to be found")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time (default: 1)")
    options = parser.parse_args()
    if reason := device.unavailable_reason():
        parser.error(f"Triton cannot compile for CUDA here: {reason}")
    names = [x for x in CASES if any(text in x for text in options.only) and (x in QUICK or not options.quick)]
    if not names:
        parser.error(f"--only must be a part of a case's name, got {' '.join(options.only)!r}")

    begin, outcomes, failures = time.monotonic(), [], []
    for arch, some in divided(names, options.arch, options.split).items():
        for name, outcome in on_device(arch, options.jobs, functools.partial(run_case, seed=options.seed), some):
            outcomes.append((arch, outcome))
            print(f"{'ok  ' if outcome.holds else 'FAIL'} {arch} {name}: {outcome.report}", flush=True)
            if not outcome.holds:
                failures.append(f"{arch} {name}")
    if options.mutations:
        for arch, some in divided([*DEFECTS], options.arch, options.split).items():
            for name, finding in on_device(arch, options.jobs, functools.partial(find, seed=options.seed), some):
                print(f"{'ok  ' if finding.holds else 'FAIL'} {arch} defect, {name}: {finding.report}", flush=True)
                if not finding.holds:
                    failures.append(f"{arch} defect, {name}")
    found = lines(outcomes)
    print(table(found))
    if options.only == [""]:
        failures += [f"no case launches {kernel}" for kernel in launched_kernels() - {kernel for kernel, _ in found}]
    print(
        f"torch {torch.__version__}, triton {triton.__version__}, seed {options.seed}: {len(outcomes)} cases, "
        f"{sum(line.accesses for line in found.values()):,} accesses, {len(failures)} failures, "
        f"{time.monotonic() - begin:.0f} s"
    )
    print(*(f"failed: {failure}" for failure in failures), sep="\n", end="\n" if failures else "")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
