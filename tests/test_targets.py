from dataclasses import replace

import pytest
import torch
from bench_runs import cell, write_results

from fpl_fast.bench.cases import Case
from fpl_fast.bench.results import read_results
from fpl_fast.bench.targets import TARGETS, targets_table

BASE = Case(shape=(8, 19, 512, 512), dtype=torch.bfloat16)
UPSAMPLING = Case(shape=(16, 19, 200, 200), size=(800, 800), dtype=torch.bfloat16)


def rows_of(tmp_path, cells, device="NVIDIA H100 80GB HBM3"):
    """Rows of the table by their text: (target, measured, met)."""
    lines = targets_table(read_results(write_results(tmp_path / "x.json", cells, device=device))).splitlines()
    rows = [tuple(part.strip() for part in line.strip("|").split("|")) for line in lines[2:]]
    return {text: rest for text, *rest in rows}


def test_rows_without_a_measurement_stay_empty(tmp_path) -> None:
    rows = rows_of(tmp_path, [])
    assert len(rows) == len(TARGETS)
    assert all(measured == met == "" for _, measured, met in rows.values())


@pytest.mark.parametrize(("milliseconds", "met"), [(1.0, "yes"), (1.2, "no")])
def test_share_of_the_copy(tmp_path, milliseconds, met) -> None:
    size = 3 * 8 * 19 * 512 * 512 * 2
    cells = [
        cell(BASE, "triton", median_s=milliseconds * 1e-3, minimum_bytes=size, copy_gbps=size / 0.9e-3 / 1e9),
        cell(replace(BASE, layout="nhwc"), "eager", median_s=1.0),  # not ours to claim
    ]
    rows = rows_of(tmp_path, cells)
    assert rows["capped, C = 19, NCHW, bf16"] == ["≥ 85 % of the copy", f"{90 / milliseconds:.3g} % of the copy", met]
    assert rows["channels_last, bf16"][1:] == ["", ""]


def test_ratios_take_the_fastest_of_our_engines(tmp_path) -> None:
    cells = [
        cell(BASE, "triton", median_s=1e-3),
        cell(BASE, "compiled", median_s=1e-2),
        cell(BASE, "public", median_s=60e-3),
        cell(BASE, "reference", median_s=19e-3),
    ]
    rows = rows_of(tmp_path, cells)
    assert rows["capped, bf16: faster than the public algorithm"] == ["≥ 50 ×", "60 ×", "yes"]
    assert rows["faster than the equations in eager PyTorch"] == ["≥ 20 ×", "19 ×", "no"]
    assert rows["faster than torch.compile of them"] == ["≥ 3 ×", "", ""]


def test_upsampling_time_and_memory(tmp_path) -> None:
    cells = [
        cell(UPSAMPLING, "triton", median_s=0.9e-3, peak_memory_mb=40),
        cell(UPSAMPLING, "reference", median_s=1.0, peak_memory_mb=1000),
        cell(UPSAMPLING, "argmax_cross_entropy", median_s=3.6e-3),
    ]
    name = "upsampling 200² to 800², bf16, on an H100"
    rows = rows_of(tmp_path, cells)
    assert rows[name] == ["≤ 1 ms", "0.9 ms", "yes"]
    assert rows["the same: peak memory against eager PyTorch"] == ["≤ 5 % of it", "4 % of it", "yes"]
    assert rows["the same: faster than PyTorch's upsampling, argmax and cross entropy"] == ["≥ 3 ×", "4 ×", "yes"]
    # The milliseconds are a target for one card; ratios hold on any.
    assert rows_of(tmp_path, cells, device="NVIDIA A100-SXM4-80GB")[name][1:] == ["", ""]
