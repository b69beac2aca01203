import json
import re
from pathlib import Path

import pytest

from fpl_fast.bench.report import benchmark_report, write_benchmark_report

SECONDS = {"public": 2.4, "eager": 0.6, "compiled": 0.04, "cross_entropy": 0.12}


def write_results(
    path: Path, *, providers: dict[str, float] = SECONDS, ops: tuple[str, ...] = ("forward", "both")
) -> Path:
    """The part of pytest-benchmark's JSON that the report reads; the forward takes half of the step."""
    results = [
        {
            "extra_info": {
                "case": "2x19x512x512-float32-nchw-k3-uncertain",
                "op": op,
                "provider": provider,
                "first_call_s": 13.5,
                "mean_positives": 1.0 if provider == "cross_entropy" else 2.17,
                "minimum_bytes": 120_000_000,
                "copy_gbps": 12.0,
                "peak_memory_mb": 76.0,
            },
            "stats": {"median": seconds * (1 if op == "both" else 0.5), "iqr": seconds * 0.05},
        }
        for provider, seconds in providers.items()
        for op in ops
    ]
    machine = {"device": "CPU", "cpu": "Example (2 logical cores)", "torch": "2.15.0", "commit": "0123456789"}
    path.write_text(json.dumps({"machine_info": machine, "datetime": "2026-11-23T21:00:00", "benchmarks": results}))
    return path


def test_report_ratios_and_bandwidth(tmp_path: Path) -> None:
    report = benchmark_report(write_results(tmp_path / "cpu.json"))
    assert "# FPL loss on Example (2 logical cores)" in report
    assert "commit 0123456789" in report and "12.0 GB/s" in report and "Mean K 2.17." in report
    # 120 MB in 40 ms are 3 GB/s, a quarter of the copy; 40 ms are a third of torch's cross entropy.
    assert "| compiled | 20 | – | 40 | 5 % | 0.33 | 3.0 | 25 % | 76 | 13.5 |" in report
    assert "Against the step of **compiled**: public 60 ×, eager 15 ×, cross_entropy 3 ×." in report
    order = re.findall(r"^\| (\w+) \| [\d,.]+ ", report, flags=re.MULTILINE)
    assert order == ["public", "eager", "cross_entropy", "compiled"]


def test_report_of_a_run_without_yardstick(tmp_path: Path) -> None:
    report = benchmark_report(write_results(tmp_path / "cpu.json", providers={"eager": 0.6}, ops=("both",)))
    assert "| eager | – | – | 600 | 5 % | – | 0.2 |" in report and "Against" not in report


def test_report_is_written_beside_the_results(tmp_path: Path) -> None:
    path = write_benchmark_report(write_results(tmp_path / "cpu.json"))
    assert path == tmp_path / "cpu.md" and path.read_text().startswith("# FPL loss on")


@pytest.mark.parametrize("content", ["not json", "[]", "{}", '{"benchmarks": [{}]}'])
def test_foreign_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^results must be a JSON file of `make bench`, got .*foreign\.json"):
        benchmark_report(path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json"):
        benchmark_report(tmp_path / "absent.json")
