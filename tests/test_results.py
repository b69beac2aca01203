from pathlib import Path

import pytest
from bench_runs import cell, write_results

from fpl_fast.bench import results as module
from fpl_fast.bench.cases import Case
from fpl_fast.bench.results import describe_machine, latest_results, read_results, results_path


def test_results_are_found_by_case_and_peer(tmp_path: Path) -> None:
    results = read_results(write_results(tmp_path / "cpu.json", [cell(median_s=0.04), cell(peer="eager")]))
    assert results.time.isoformat() == "2026-11-23T21:00:00+00:00" and results.machine["torch"] == "2.15.0"
    found = results.find(Case(), "compiled")
    assert found.median_s == 0.04 and found.iqr_s == pytest.approx(0.002)
    assert found.gbps == pytest.approx(3) and found.share_of_copy == pytest.approx(0.25)
    assert results.find(Case(), "compiled", "forward") is None and results.find(Case(), "triton") is None


@pytest.mark.parametrize("content", ["not json", "[]", "{}", '{"benchmarks": [{}]}'])
def test_foreign_file_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "foreign.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"^results must be a JSON file of `make bench`, got .*foreign\.json"):
        read_results(path)


def test_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"absent\.json"):
        read_results(tmp_path / "absent.json")


def test_the_newest_run_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match="make bench"):
        latest_results()
    # A training benchmark is no such run; a checkout writes files in any order.
    for hour, name in [(10, "new.json"), (12, "card-train.json"), (9, "old.json")]:
        write_results(tmp_path / name, [], hour=hour)
    assert latest_results() == tmp_path / "new.json"


def test_machine_is_what_was_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    described = {"device": "NVIDIA H100 80GB HBM3", "cpu": "Example (2 logical cores)", "torch": "2.15.0"}
    monkeypatch.setattr(module, "describe_environment", lambda: described)
    assert describe_machine("cuda") == {**described, "kind": "cuda"}
    cpu = describe_machine("cpu")
    assert cpu == {**described, "device": "Example (2 logical cores)", "kind": "cpu"}
    path = results_path(tmp_path / "new", cpu, "headline")
    assert path == tmp_path / "new" / "example-2-logical-cores-headline.json" and path.parent.is_dir()
