"""Files of benchmark results: their names and folders, and reading them into timings."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from fpl_fast.bench.cases import Case
from fpl_fast.environment import describe_environment

__all__ = ["RESULTS", "Results", "Timing", "describe_machine", "latest_results", "read_results", "results_path"]

RESULTS = Path(__file__).parent / "results"


class Timing(NamedTuple):
    """One cell: one part of the step of one peer on one case."""

    problem: str
    case: str
    op: str
    peer: str
    num_pixels: int
    median_s: float
    iqr_s: float
    minimum_bytes: int | None
    copy_gbps: float
    """Bandwidth of a large copy in the same run, 1e9 bytes read and written a second."""
    peak_memory_mb: float
    first_call_s: float
    mean_positives: float

    @property
    def gbps(self) -> float:
        """Unavoidable bytes over the time, in 1e9 bytes a second."""
        return (self.minimum_bytes or 0) / self.median_s / 1e9

    @property
    def share_of_copy(self) -> float:
        """``gbps`` over the bandwidth of a large copy."""
        return self.gbps / self.copy_gbps


@dataclass(frozen=True, slots=True)
class Results:
    """Results of a run."""

    machine: Mapping[str, str]
    """Labelled strings; ``device`` is the name of the measured device and ``kind`` is "cpu" or "cuda"."""
    time: datetime
    """Time of the measurement, with its zone."""
    timings: tuple[Timing, ...]

    def find(self, case: Case | str, peer: str, op: str = "both") -> Timing | None:
        """Find the cell of a case and a peer, if it was measured."""
        key = (str(case), peer, op)
        return next((x for x in self.timings if (x.case, x.peer, x.op) == key), None)


def describe_machine(kind: str) -> dict[str, str]:
    """Describe the machine, without its name, and the software.

    Args:
        kind: Kind of the measured device, "cpu" or "cuda"; ``device`` is then the name of the processor or of the card.
    """
    described = describe_environment()
    return {**described, "device": described["device" if kind == "cuda" else "cpu"], "kind": kind}


def results_path(folder: Path, machine: Mapping[str, str], what: str) -> Path:
    """Name the JSON file of a measurement on a machine, and create its folder."""
    folder.mkdir(parents=True, exist_ok=True)
    device = re.sub(r"[^a-z0-9]+", "-", machine["device"].lower()).strip("-")
    return folder / f"{device}-{what}.json"


def latest_results() -> Path:
    """Find the file of the last measurement under ``bench/results``.

    Raises:
        ValueError: if no benchmark has been run yet.
    """
    # The folder also holds results of `fpl-fast bench train` and `bench methods`.
    files = [path for path in RESULTS.glob("*.json") if not path.stem.endswith(("-train", "-methods"))]
    if not files:
        raise ValueError("results must exist before they are reported: run `make bench` first, got no *.json in them")
    return max(files, key=lambda path: read_results(path).time)


def read_results(path: Path) -> Results:
    """Read the results that ``make bench`` wrote.

    Raises:
        ValueError: if there is no such file, or it holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Results(
            machine=dict(content["machine_info"]),
            time=datetime.fromisoformat(content["datetime"]),
            timings=tuple(_timing(result) for result in content["benchmarks"]),
        )
    except (OSError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        message = " ".join(str(error).split())
        raise ValueError(f"results must be a JSON file of `make bench`, got {str(path)!r}: {message}") from error


def _timing(result: Mapping[str, Any]) -> Timing:
    measured = {**result["extra_info"], "median_s": result["stats"]["median"], "iqr_s": result["stats"]["iqr"]}
    if "provider" in measured:  # the name of a peer in earlier files
        measured["peer"] = measured["provider"]
    return Timing(**{name: measured[name] for name in Timing._fields})
