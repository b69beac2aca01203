import pytest

from fpl_fast.bench.training.peers import NAMES
from fpl_fast.bench.training.report import training_report

STEP_S = {"plain": 0.9, "ce": 0.2, "torch_ce": 0.24, "fpl": 0.201}


def measured(kind="cuda", **changes):
    peers = {
        name: {
            "precision": "bf16-mixed",
            "images_per_second": 24 / seconds,
            "step_s": seconds,
            "step_iqr_s": 0.01 * seconds,
            "busy_s": 0.7 * seconds if kind == "cuda" else None,
            "launches": 4000 if kind == "cuda" else None,
            "loss_s": 0.016 * seconds,
            "loss_share": 0.016,
            "peak_memory_mb": 40_000 if name == "plain" else 20_000,
            "tflops": 60 / seconds,
            "card_tflops": 989.4 if kind == "cuda" else None,
            "first_step_s": 30.0,
        }
        for name, seconds in STEP_S.items()
    }
    peers["fpl"].update(changes)
    return {
        "machine_info": {"device": "NVIDIA H100 80GB HBM3", "kind": kind, "torch": "2.15.0"},
        "datetime": "2026-11-24T15:00:00+00:00",
        "setup": {
            "backbone": "resnet50", "crop": 512, "num_classes": 21, "batch": 8, "tflop_per_step": 60.0, "rounds": 9,
            "compiles": kind == "cuda", "compile_s": 143.2 if kind == "cuda" else None,
        },
        "peers": peers,
        "step_ratios": {name: STEP_S["fpl"] / seconds for name, seconds in STEP_S.items() if name != "fpl"},
    }  # fmt: skip


def test_a_row_for_every_peer() -> None:
    report = training_report(measured())
    assert "# Training steps on NVIDIA H100 80GB HBM3" in report and "torch 2.15.0" in report
    row = next(line for line in report.splitlines() if line.startswith(f"| {NAMES['fpl']}"))
    # 60 TFLOP in 0.201 s are 299 TFLOP/s, 30 % of 989.4.
    cells = "bf16-mixed | 119.4 | 201.0 | 1 % | 140.7 | 4,000 | 3.22 | 1.6 % | 20,000 | 299 | 30 % | 30.0"
    assert row.endswith(f"| {cells} |")
    assert all(f"| {name} |" in report for name in NAMES.values())


@pytest.mark.parametrize(
    ("row", "changes", "cells"),
    [
        ("(c) faster than (a)", {}, "≥ 3 × | 4.48 × | yes"),
        ("step of (c) over that of (b)", {}, "≤ 1.01 | 1.005 | yes"),
        ("step of (c) over that of (b')", {}, "≤ 1 | 0.838 | yes"),
        ("losses in the step of (c)", {}, "≤ 2 % | 1.6 % | yes"),
        ("losses in the step of (c)", {"loss_share": 0.03}, "≤ 2 % | 3.0 % | no"),
        ("peak memory of (c) over that of (a)", {}, "≤ 60 % | 50 % | yes"),
        ("peak memory of (c) over that of (a)", {"peak_memory_mb": 30_000}, "≤ 60 % | 75 % | no"),
    ],
)
def test_targets(row, changes, cells) -> None:
    assert f"| {row} | {cells} |" in training_report(measured(**changes))


def test_a_cpu_is_not_judged() -> None:
    report = training_report(measured(kind="cpu"))
    assert "| (c) faster than (a) | ≥ 3 × | 4.48 × |  |" in report and "not judged" in report
    assert "| 299 | – |" in report
    assert "ompil" not in report.split("## Targets")[0].replace("*first step* holds compilation, if any", "")


def test_compilation_is_told_apart() -> None:
    assert "Compilation of the networks of (b), (b') and (c) took 143 s, which no step holds." in training_report(
        measured()
    )


def test_uncompiled_networks_are_not_judged() -> None:
    content = measured()
    content["setup"]["compile_s"] = None
    report = training_report(content)
    assert "**No network is compiled here**" in report and "| (c) faster than (a) | ≥ 3 × | 4.48 × |  |" in report
