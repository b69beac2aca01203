"""The script for a first GPU, with stand-ins for the commands that need one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fpl_fast.bench import launches, spread
from fpl_fast.bench.cases import Case
from fpl_fast.bench.results import read_results
from fpl_fast.bench.suites import Row

SCRIPT = Path(__file__).parents[1] / "bench" / "first_gpu.sh"
RESULTS = sorted((SCRIPT.parent / "results").glob("*headline.json"))[0]
STAGES = ["machine", "environment", "test", "headline_1", "headline_1_report", "headline_2", "headline_2_report",
          "spread", "trace", "configurations", "profile", "profile_upsampled",
          "small", "memcheck", "racecheck", "initcheck", "synccheck", "full", "full_report", "train", "step", "methods",
          "compiled", "study"]  # fmt: skip
STAND_IN = """#!/bin/bash
echo "$(basename "$0") $*" >> "$CALLS"
while [ $# -gt 0 ]; do [ "$1" != --benchmark-json ] || echo '{}' > "$2"; shift; done
exit "${STATUS:-0}"
"""


@pytest.fixture
def run(tmp_path):
    """Function that runs the script with stand-ins for commands; returns process, results of the stages, and calls."""
    bin_folder, calls = tmp_path / "bin", tmp_path / "calls"
    bin_folder.mkdir()

    def add(*names):
        for name in names:
            (bin_folder / name).write_text(STAND_IN)
            (bin_folder / name).chmod(0o755)

    def start(tools=("nvidia-smi", "ncu", "compute-sanitizer"), **variables):
        add("python", *tools)
        calls.write_text("")
        environment = {"PATH": f"{bin_folder}:/usr/bin:/bin", "PYTHON": "python", "CALLS": str(calls)}
        done = subprocess.run(["bash", str(SCRIPT), str(tmp_path / "out")], env=environment | variables,
                              capture_output=True, text=True)  # fmt: skip
        rows = [
            line.strip("| ").split(" | ") for line in (tmp_path / "out" / "summary.md").read_text().splitlines()[2:]
        ]
        return done, {row[0]: row[1] for row in rows}, calls.read_text().splitlines()

    return start


def test_all_stages_in_their_order(run, tmp_path):
    done, summary, calls = run(CAMVID="/data", WEIGHTS="/w.safetensors")
    assert done.returncode == 0
    assert list(summary) == STAGES and set(summary.values()) == {"done"}
    assert calls[0] == "nvidia-smi -q" and calls[2].startswith("python -m pytest -v -m gpu -p no:randomly -n ")
    assert "--suite headline" in calls[3] and "--suite full" in " ".join(calls)
    assert f"--benchmark-json {tmp_path}/out/headline_1.json" in calls[3]
    launched = [call for call in calls if "launches" in call]
    assert [call.split()[0] for call in launched] == [*["ncu"] * 2, "python", *["compute-sanitizer"] * 4]
    assert [call.split()[-1] for call in launched] == ["headline", "upsampled", *["small"] * 5]
    assert "--data-root /data --model.weights_file /w.safetensors" in calls[-1]
    assert all((tmp_path / "out" / f"{name}.log").is_file() for name in STAGES)
    again = run(CAMVID="/data")
    assert again[0].returncode == 0 and again[2] == []  # what succeeded is not repeated


def test_what_cannot_be_done_is_noted(run):
    done, summary, calls = run(tools=("nvidia-smi",))
    assert done.returncode == 0
    assert summary["profile"] == "not done: no ncu here"
    assert summary["study"] == "not done: CAMVID is not set"
    assert not any("ncu" in call for call in calls)


def test_a_stage_that_fails_stops_no_other(run):
    done, summary, _ = run(STATUS="3")
    assert done.returncode == 1
    assert summary["test"] == "failed with status 3" and summary["train"] == "failed with status 3"
    done, summary, _ = run(STATUS="0")
    assert done.returncode == 0 and summary["test"] == "done"  # it is repeated


def test_stages_can_be_chosen_and_time_is_limited(run):
    _, summary, calls = run(STAGES="environment train")
    assert [call.partition(" -")[0] for call in calls] == ["python", "python"] and summary["train"] == "done"
    assert list(summary) == ["environment", "train"]
    _, summary, calls = run(MINUTES="0")
    assert calls == [] and summary["test"] == "not done: no time left"


@pytest.mark.parametrize("minutes", ["6.3", "-1", "a few", "08"])
def test_minutes_are_a_whole_number(tmp_path, minutes):
    done = subprocess.run(["bash", str(SCRIPT), str(tmp_path / "out")], capture_output=True, text=True,
                          env={"PATH": "/usr/bin:/bin", "STAGES": "none", "MINUTES": minutes})  # fmt: skip
    if minutes == "08":  # not an octal one
        assert done.returncode == 0
    else:
        assert done.returncode == 2 and not (tmp_path / "out").exists()
        assert (
            done.stderr
            == f"bench/first_gpu.sh: MINUTES must be a whole number, got {minutes}: for example MINUTES=25\n"
        )


def test_the_options_of_the_benchmarks_exist():
    text = SCRIPT.read_text()
    conftest = (SCRIPT.parent / "conftest.py").read_text()
    for option in ("--device", "--suite", "--minutes"):
        assert option in text and f'"{option}"' in conftest


def test_every_test_that_needs_a_gpu_is_run():
    """Named one by one, in an order; those that ask for ``kernel_device`` are marked by it."""
    calls = SCRIPT.read_text()
    named = re.search(r"^tests=\((.*?)\)$", calls, re.DOTALL | re.MULTILINE)[1].split()
    texts = {path.stem.removeprefix("test_"): path.read_text() for path in Path(__file__).parent.glob("test_*.py")}
    marked = {name for name, text in texts.items() if name != "first_gpu"
              and ("mark.gpu" in text or "(kernel_device" in text or " kernel_device" in text)}  # fmt: skip
    assert len(named) == len(set(named)) and set(named) == marked
    assert named.index("step") < named.index("functional") < named.index("kernels_upsampled")


def test_a_stage_that_is_cut_off_is_interrupted_first(run, tmp_path):
    """As by a keyboard: whoever is asked has time to say what was done."""
    script = SCRIPT.read_text()
    (limit,) = re.findall(r"^stage test (\d+) ", script, re.MULTILINE)
    hurried = tmp_path / "bench" / "first_gpu.sh"
    hurried.parent.mkdir()
    hurried.write_text(script.replace(f"stage test {limit} ", "stage test 3 "))
    python = tmp_path / "slow_python"
    python.write_text("#!/bin/bash\ntrap 'echo 7 passed; exit 2' INT\nwhile true; do sleep 0.1; done\n")
    python.chmod(0o755)
    subprocess.run(["bash", str(hurried), str(tmp_path / "out")], capture_output=True, check=False,
                   env={"PATH": "/usr/bin:/bin", "PYTHON": str(python), "STAGES": "test"})  # fmt: skip
    assert (tmp_path / "out" / "test.log").read_text() == "7 passed\n"
    assert "| test | cut off after" in (tmp_path / "out" / "summary.md").read_text()


@pytest.mark.parametrize(("what", "size"), [("headline", None), ("upsampled", (16, 16))])
def test_the_first_row_is_launched_often_enough_for_the_profiler(monkeypatch, capsys, what, size):
    case = Case(shape=(1, 5, 8, 8), size=size)
    rows = {"fuzzy_positive" if size is None else "upsampling": [Row(case)]}
    monkeypatch.setattr(launches, "selection", lambda problem, *rest: rows[problem])
    assert launches.main([what, "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("  ")[0] for line in lines] == [f"{what} {number}" for number in range(1, 7)]
    assert len({line.rpartition("  ")[2] for line in lines}) == 1


def test_launches_run_forward_and_backward(capsys):
    assert launches.main(["small", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * (8 + 1) + 2 * 8 and len({line.rpartition("  ")[0] for line in lines}) == len(lines)
    assert all(float(line.rpartition("  ")[2]) > 0 for line in lines)


def test_spread_between_two_runs(tmp_path, capsys):
    content = json.loads(RESULTS.read_text())
    for cell in content["benchmarks"]:
        cell["stats"]["median"] *= 1.5 if "eager" in cell["name"] else 1.25
    (tmp_path / "second.json").write_text(json.dumps(content))
    cells = spread.spreads(read_results(RESULTS), read_results(tmp_path / "second.json"))
    assert {round(cell.ratio, 6) for cell in cells} == {1.5, 1.25} and cells[0].peer == "eager"
    assert len(cells) == len(content["benchmarks"])
    assert spread.main([str(RESULTS), str(tmp_path / "second.json")]) == 0
    assert f"{len(cells)} cells in common, median ratio 1.250, largest 1.500" in capsys.readouterr().out
    content["benchmarks"] = []
    (tmp_path / "empty.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the two files must have cells in common, got none"):
        spread.spreads(read_results(RESULTS), read_results(tmp_path / "empty.json"))


def test_the_script_is_executable():
    assert os.access(SCRIPT, os.X_OK)


def test_files_that_a_command_names_keep_their_order():
    """The most telling come first there; a run of everything begins with the longest."""
    files = ["test_streams.py", "test_kernels_fuzzy_positive.py"]  # few tests, many tests
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:randomly"]
    listed = subprocess.run([*command, *files], cwd=Path(__file__).parent, capture_output=True, text=True).stdout
    assert list(dict.fromkeys(re.findall(r"^(?:tests/)?(test_\w+\.py)::", listed, re.M))) == files
