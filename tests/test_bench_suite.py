"""The benchmarks as a whole, in a process of their own, as ``make bench`` starts them."""

import json
import os
from pathlib import Path

import pytest
from fork_server import python

from fpl_fast.bench.suites import PROBLEMS

ROOT = Path(__file__).parents[1]


def run_bench(*arguments):
    # Not the variables of this process's own pytest: under xdist, pytest-benchmark would time nothing.
    inherited = ("TRITON_INTERPRET", "PYTEST_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(inherited)}
    options = ("-q", "-p", "no:cacheprovider", "--device", "cpu")
    return python("-m", "pytest", *options, *arguments, cwd=ROOT, env=environment)


def test_a_cell_is_timed_and_described(tmp_path: Path) -> None:
    path = tmp_path / "cells.json"
    run = run_bench("bench/test_scale.py", "-k", "1x4x250x400 and cross_entropy", f"--benchmark-json={path}")
    assert run.returncode == 0, run.stdout
    content = json.loads(path.read_text())
    assert content["machine_info"]["kind"] == "cpu" and "node" not in content["machine_info"]
    (cell,) = content["benchmarks"]
    info = cell["extra_info"]
    assert (info["problem"], info["op"], info["peer"]) == ("scale", "both", "cross_entropy")
    assert info["num_pixels"] == 100_000 and info["minimum_bytes"] == 3 * 4 * 100_000 * 4
    assert info["wrong_share"] <= info["allowed_share"] and info["mean_positives"] == 1
    assert 0 < cell["stats"]["median"] < 1 and "data" not in cell["stats"]
    assert info["copy_gbps"] > 0.1 and info["peak_memory_mb"] > 1


@pytest.mark.parametrize("named", [False, True])
def test_kernels_are_compiled_anew_unless_a_cache_is_named(tmp_path: Path, monkeypatch, named) -> None:
    """Otherwise a first call would take no time because of an earlier run's."""
    for name in ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    if named:
        monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    probe = (
        "import os, pytest\n"
        "@pytest.fixture(scope='session', autouse=True)\n"
        "def probe(cold_compile_cache):\n"
        "    names = ('TORCHINDUCTOR_CACHE_DIR', 'TRITON_CACHE_DIR')\n"
        "    print(*(f'{name}={os.environ[name]};{len(os.listdir(os.environ[name]))}' for name in names), sep='\\n')\n"
    )
    (tmp_path / "probe.py").write_text(probe)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    run = run_bench("bench/test_scale.py", "-s", "-k", "1x4x250x400 and cross_entropy", "-p", "probe",
                    "--benchmark-json=/dev/null")  # fmt: skip
    found = dict(line.split("=") for line in run.stdout.splitlines() if "_CACHE_DIR=" in line)
    assert len(found) == 2 and found["TORCHINDUCTOR_CACHE_DIR"].endswith(";0"), run.stdout
    folder, _, number = found["TRITON_CACHE_DIR"].partition(";")
    assert (folder == str(tmp_path)) is named and (named or number == "0")


def test_a_run_that_is_over_skips_the_rest() -> None:
    run = run_bench("bench/test_cross_entropy.py", "-rs", "--benchmark-json=/dev/null", "--minutes", "0.0001")
    assert run.returncode == 0 and "minutes of this run are over" in run.stdout
    assert " passed" not in run.stdout


def test_whole_steps_come_first_and_telling_rows_before_others() -> None:
    run = run_bench("bench", "--collect-only", "--suite", "full")
    cells = [line for line in run.stdout.splitlines() if "::" in line]
    parts = ["-both-" not in cell for cell in cells]
    assert any(parts) and parts == sorted(parts)
    telling = [cells.index(next(cell for cell in cells if f"test_{problem}.py" in cell)) for problem in PROBLEMS]
    second = next(index for index, cell in enumerate(cells) if "-uncapped-" in cell)
    assert max(telling) < second
    assert len(set(cells)) == len(cells)
