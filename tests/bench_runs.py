"""Results of a benchmark that never ran, shared by the tests of its reports."""

import json
from pathlib import Path

from fpl_fast.bench.cases import Case

SECONDS = {"public": 2.4, "eager": 0.6, "compiled": 0.04, "cross_entropy": 0.12}


def cell(case=None, peer="compiled", op="both", *, problem="fuzzy_positive", median_s=0.04, **changes):
    """One result, as far as the report reads it."""
    case = case or Case()
    info = {
        "problem": problem,
        "case": str(case),
        "op": op,
        "peer": peer,
        "num_pixels": case.num_pixels,
        "first_call_s": 13.5,
        "mean_positives": 1.0 if peer == "cross_entropy" else 2.17,
        "minimum_bytes": 120_000_000,
        "copy_gbps": 12.0,
        "peak_memory_mb": 76.0,
    }
    return {"extra_info": {**info, **changes}, "stats": {"median": median_s, "iqr": median_s * 0.05}}


def table_of(peers=SECONDS, ops=("forward", "both")):
    """Every peer on one case; the forward takes half of the step."""
    return [
        cell(peer=peer, op=op, median_s=seconds * (1 if op == "both" else 0.5))
        for peer, seconds in peers.items()
        for op in ops
    ]


def write_results(path: Path, cells, *, device="Example (2 logical cores)", hour=21) -> Path:
    """The part of pytest-benchmark's JSON that the report reads."""
    machine = {"device": device, "kind": "cpu", "cpu": "Example", "torch": "2.15.0", "commit": "0123456789"}
    time = f"2026-11-23T{hour:02}:00:00+00:00"
    path.write_text(json.dumps({"machine_info": machine, "datetime": time, "benchmarks": cells}))
    return path
