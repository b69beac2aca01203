import re
import subprocess
import sys
from pathlib import Path

from bench_runs import cell, table_of, write_results

from fpl_fast.bench.cases import Case
from fpl_fast.bench.report import benchmark_report, write_benchmark_report
from fpl_fast.bench.results import read_results


def report_of(tmp_path, cells):
    return benchmark_report(read_results(write_results(tmp_path / "cpu.json", cells)))


def test_report_ratios_and_bandwidth(tmp_path: Path) -> None:
    report = report_of(tmp_path, table_of())
    assert "# FPL loss on Example (2 logical cores)" in report
    assert "commit 0123456789" in report and "12.0 GB/s" in report and "Mean K 2.17." in report
    # 120 MB in 40 ms are 3 GB/s, a quarter of the copy; 40 ms are a third of torch's cross entropy.
    assert "| compiled | 20 | – | 40 | 5 % | 0.33 | 3.0 | 25 % | 76 | 13.5 |" in report
    assert "Against the step of **compiled**: public 60 ×, eager 15 ×, cross_entropy 3 ×." in report
    order = re.findall(r"^\| (\w+) \| [\d,.]+ ", report, flags=re.MULTILINE)
    assert order == ["public", "eager", "cross_entropy", "compiled"]


def test_report_of_a_run_without_yardstick(tmp_path: Path) -> None:
    report = report_of(tmp_path, table_of({"eager": 0.6}, ops=("both",)))
    assert "| eager | – | – | 600 | 5 % | – | 0.2 |" in report and "Against" not in report


def test_report_of_a_run_cut_short(tmp_path: Path) -> None:
    """A peer whose step was not timed has no row, and no row is no error."""
    report = report_of(tmp_path, [*table_of(), cell(peer="reference", op="forward")])
    assert "| compiled |" in report and "| reference |" not in report
    assert "## Targets" in report_of(tmp_path, [])


def test_problems_have_sections_and_scale_its_own_table(tmp_path: Path) -> None:
    cells = [
        cell(Case(shape=(images, 4, 100, 100)), peer, problem="scale", median_s=images * factor * 1e-5)
        for images in (10, 100)
        for peer, factor in (("compiled", 1), ("cross_entropy", 3))
    ]
    report = report_of(tmp_path, [*cells, cell(problem="upsampling")])
    assert report.index("## Upsampling and loss") < report.index("## Scale")
    assert "| pixels | 1e+05 | 1e+06 |" in report
    assert "| compiled | 1 | 1 |" in report and "| cross_entropy | 3 | 3 |" in report


def test_report_and_pictures_lie_together(tmp_path: Path) -> None:
    results = write_results(tmp_path / "cpu.json", table_of())
    assert write_benchmark_report(results) == tmp_path / "cpu.md"
    report = write_benchmark_report(results, tmp_path / "new" / "folder")
    assert report == tmp_path / "new" / "folder" / "cpu.md"
    pictures = re.findall(r"!\[.*\]\((.*)\)", report.read_text())
    assert pictures == ["cpu-roofline.png", "cpu-memory.png"]  # nothing of scale was measured
    assert all((report.parent / picture).is_file() for picture in pictures)


def test_report_without_the_trainer(tmp_path: Path) -> None:
    """The report runs in an environment with only the packages that the benchmarks need."""
    results = write_results(tmp_path / "cpu.json", table_of())
    script = (
        "import runpy, sys; sys.modules.update(dict.fromkeys(['lightning', 'timm', 'jsonargparse', 'torchmetrics']));"
        f"sys.argv = ['report', {str(results)!r}];"
        "runpy.run_module('fpl_fast.bench.report', run_name='__main__')"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == str(tmp_path / "cpu.md") and (tmp_path / "cpu.md").is_file()
