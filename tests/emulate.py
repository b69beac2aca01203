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
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)  # before anything imports triton: kernels are compiled

import torch
import triton
from ptx import device
from ptx.cases import CASES, QUICK
from ptx.defects import DEFECTS, Finding, find
from ptx.kernels import launched_kernels
from ptx.runs import Outcome, run_case

ARCHITECTURES = {f"sm_{capability}": capability for capability in device.SHARED_BYTES}
CACHE = Path(__file__).resolve().parents[1] / "build" / "ptx"


class Line(NamedTuple):
    """Sums of the cases of a kernel on an architecture."""

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


class Report:
    """Findings of cases and defects, each told as it comes."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[str, Outcome]] = []
        self.failures: list[str] = []

    def run(self, arch: str, names: list[str], defects: list[str], seed: int, jobs: int) -> None:
        """Run cases and defects on a device of an architecture, each in one of a few processes."""
        examinations = [(run_case, name) for name in names] + [(find, defect) for defect in defects]
        install = functools.partial(prepare_worker, ARCHITECTURES[arch])
        fork = multiprocessing.get_context("fork")  # the libraries are imported
        with concurrent.futures.ProcessPoolExecutor(jobs, fork, install) as pool:
            findings = pool.map(functools.partial(examine, seed=seed), examinations)
            for (function, name), finding in zip(examinations, findings, strict=True):
                what = f"{arch} {name}" if function is run_case else f"{arch} defect, {name}"
                print(f"{'ok  ' if finding.holds else 'FAIL'} {what}: {finding.report}", flush=True)
                if isinstance(finding, Outcome):
                    self.outcomes.append((arch, finding))
                if not finding.holds:
                    self.failures.append(what)


def prepare_worker(capability: int) -> None:
    """Emulate a device in this process, and end it with the one that forked it, which may be killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    device.install(capability, str(CACHE))


def number_of_jobs(text: str) -> int:
    """Parse a number of processes."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of processes from 1, got {text}")
    return int(text)


def examine(examination: tuple[Callable[..., Any], str], seed: int) -> Outcome | Finding:
    """Run a case, or find a defect."""
    function, name = examination
    return function(name, seed)


def main() -> int:
    """Run the chosen cases and defects, print what they show; 1 if something is not as it has to be."""
    parser = argparse.ArgumentParser(description="The compiled kernels in an emulator of PTX, against float64.")
    parser.add_argument("--arch", nargs="+", choices=ARCHITECTURES, default=["sm_80"], help="(default: sm_80)")
    parser.add_argument("--only", metavar="TEXT", nargs="+", default=[""], help="cases whose names hold one of these")
    parser.add_argument("--quick", action="store_true", help="one small case of each kind")
    parser.add_argument(
        "--split", action="store_true", help="each case on one of the architectures in turn, not on all"
    )
    parser.add_argument("--mutations", action="store_true", help="also: defects put into the PTX of these cases")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs (default: 0)")
    parser.add_argument("--jobs", type=number_of_jobs, default=1, help="processes at a time (default: 1)")
    options = parser.parse_args()
    if reason := device.unavailable_reason():
        parser.error(f"Triton cannot compile for CUDA here: {reason}")
    names = [x for x in CASES if any(text in x for text in options.only) and (x in QUICK or not options.quick)]
    if not names:
        among = "a quick case's" if options.quick else "a case's"
        parser.error(f"--only must be a part of {among} name, such as C=5 or labels, got {' '.join(options.only)!r}")

    begin, report = time.monotonic(), Report()
    try:
        for i, arch in enumerate(options.arch):
            some = names[i :: len(options.arch)] if options.split else names
            defects = [name for name, defect in DEFECTS.items() if options.mutations and defect.case in some]
            report.run(arch, some, defects, options.seed, options.jobs)
    except KeyboardInterrupt:
        report.failures.append("interrupted")
    found = lines(report.outcomes)
    if options.only == [""] and "interrupted" not in report.failures:
        missing = launched_kernels() - {kernel for kernel, _ in found}
        report.failures += [f"no case launches {kernel}" for kernel in sorted(missing)]
    print(
        table(found),
        f"torch {torch.__version__}, triton {triton.__version__}, seed {options.seed}: {len(report.outcomes)} cases, "
        f"{sum(line.accesses for line in found.values()):,} accesses, {len(report.failures)} failures, "
        f"{time.monotonic() - begin:.0f} s",
        *(f"failed: {failure}" for failure in report.failures),
        sep="\n",
    )
    return int(bool(report.failures))


if __name__ == "__main__":
    sys.exit(main())
