import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
from trainer_runs import tiny_run

from fpl_fast.bench.trace import Launches
from fpl_fast.bench.training import methods, timing
from fpl_fast.bench.training.methods import Sizes, methods_report, write_methods_benchmark
from fpl_fast.bench.training.peers import NAMES, Setup, make_peer
from fpl_fast.bench.training.report import training_report
from fpl_fast.bench.training.step_profile import profile_step
from fpl_fast.bench.training.timing import write_training_benchmark

TINY = Setup(device="cpu", backbone="test_resnet", crop=32, batch=2, head_channels=8, low_channels=4, num_classes=5)


def test_results_hold_every_peer(tmp_path) -> None:
    said = []
    report = write_training_benchmark(TINY, seconds=0.1, out=tmp_path / "new", say=said.append)
    assert report.name.endswith("-train.md") and "| (c) faster than (a) |" in report.read_text()
    assert len(said) == len(NAMES) + 2 and said[-1] == f"written: {report}"
    content = json.loads(report.with_suffix(".json").read_text())
    assert content["setup"]["rounds"] == 3 and content["setup"]["tflop_per_step"] > 0
    assert content["machine_info"]["kind"] == "cpu" and content["machine_info"]["torch"]
    assert list(content["peers"]) == list(NAMES) and content["step_ratios"].keys() == set(NAMES) - {"fpl"}
    for facts in content["peers"].values():
        assert facts["images_per_second"] == pytest.approx(6 / facts["step_s"])
        assert 0 < facts["loss_share"] == pytest.approx(facts["loss_s"] / facts["step_s"])
        assert facts["tflops"] == pytest.approx(content["setup"]["tflop_per_step"] / facts["step_s"])
        assert facts["peak_memory_mb"] > 0 and facts["card_tflops"] is None and facts["first_step_s"] > 0
        assert facts["launches"] is facts["busy_s"] is None  # which a CPU does not have


def test_a_gpu_is_busy_for_the_time_of_its_kernels(tmp_path, monkeypatch) -> None:
    content = json.loads(write_training_benchmark(TINY, seconds=0.1, out=tmp_path).with_suffix(".json").read_text())
    header, *rows = (line for line in training_report(content).splitlines() if line.startswith("| "))
    columns = [name.strip() for name in header.split("|")]
    busy, launches = columns.index("busy, ms"), columns.index("launches")
    assert all(row.split("|")[busy].strip() == "–" for row in rows[:4])

    found = (Launches("convolution", 1200, 40_000.0), Launches("add", 300, 1500.0))
    monkeypatch.setattr(timing, "trace_launches", lambda step, device: found)
    content["peers"]["fpl"] |= timing.launches_and_busy(lambda: None, torch.device("cuda"))
    (row,) = (line for line in training_report(content).splitlines() if line.startswith(f"| {NAMES['fpl']}"))
    assert [row.split("|")[column].strip() for column in (busy, launches)] == ["41.5", "1,500"]


@pytest.fixture
def compiling(monkeypatch) -> list[str]:
    """Networks are compiled, by a compiler that changes nothing; notes whether a call of one ran compiled or not."""
    ran: list[str] = []

    def compiler(graph, inputs):
        ran.append("compiled")
        return graph.forward

    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(Setup, "compiles", True)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend=compiler))
    yield ran
    torch.compiler.reset()


def test_steps_are_measured_before_networks_are_compiled(tmp_path, compiling) -> None:
    written, said = [], []

    def say(line: str) -> None:
        said.append(line)
        if line.startswith("written"):
            path = Path(line.removeprefix("written: ")).with_suffix(".json")
            written.append((json.loads(path.read_text()), len(compiling)))

    write_training_benchmark(TINY, seconds=0.1, out=tmp_path, say=say)
    (before, graphs_before), (after, graphs_after) = written
    assert graphs_before == 0 < graphs_after
    assert before["setup"]["compile_s"] is None and after["setup"]["compile_s"] > 0
    assert before["peers"].keys() == after["peers"].keys() == set(NAMES)
    assert sum("compiling networks" in line for line in said) == len(NAMES)
    assert len(list(tmp_path.glob("*-train.json"))) == 2  # a run that is cut off replaces no earlier result


def test_a_run_that_is_cut_off_while_compiling_keeps_its_numbers(tmp_path, compiling) -> None:
    def say(line: str) -> None:
        if "compiling networks" in line:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_training_benchmark(TINY, seconds=0.1, out=tmp_path, say=say)
    (report,) = tmp_path.glob("*-uncompiled-train.md")
    assert "**No network is compiled here**" in report.read_text() and f"| {NAMES['fpl']} |" in report.read_text()


def test_a_run_that_is_cut_off_between_rounds_keeps_the_first_three(tmp_path, monkeypatch) -> None:
    def say(line: str) -> None:
        if line.startswith("written"):
            raise KeyboardInterrupt

    monkeypatch.setattr(timing, "_MAX_ROUNDS", 4)
    with pytest.raises(KeyboardInterrupt):
        write_training_benchmark(TINY, seconds=60, out=tmp_path, say=say)
    (results,) = tmp_path.glob("*-train.json")
    assert json.loads(results.read_text())["setup"]["rounds"] == 3
    assert write_training_benchmark(TINY, seconds=60, out=tmp_path).with_suffix(".json") == results
    assert json.loads(results.read_text())["setup"]["rounds"] == 4


def test_seconds_are_checked(tmp_path) -> None:
    with pytest.raises(ValueError, match="--seconds must be > 0, got -1"):
        write_training_benchmark(TINY, seconds=-1, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_profile_has_the_times_of_a_step() -> None:
    calls = []
    step = make_peer(TINY, compile=False).step
    text = profile_step("as it is", lambda: calls.append(step()), torch.device("cpu"))
    assert re.match(r"## as it is: \d+\.\d ms a step, of which the host enqueues for \d+\.\d ms\n  0 launches", text)
    assert len(calls) == 4 + 3 * 6 + 1


@pytest.fixture
def small_recipes(monkeypatch) -> None:
    """Recipes of tiny networks."""

    def make(name: str):
        data, _, method = name.partition("/")
        assert data == "synthetic"
        config = tiny_run(name=method)
        return dataclasses.replace(config, augment=dataclasses.replace(config.augment, crop=(32, 64)))

    monkeypatch.setattr(methods, "make_recipe", make)


@pytest.mark.usefixtures("nothing_is_compiled", "small_recipes")
def test_methods_stand_beside_cps(tmp_path) -> None:
    said = []
    sizes = Sizes(batch=3)
    report = write_methods_benchmark(
        ["ael", "supervised"], device="cpu", sizes=sizes, rounds=2, out=tmp_path, say=said.append
    )
    assert said[:4] == ["1 of 4: cps", "2 of 4: ael", "3 of 4: supervised", "4 of 4: cps"]
    content = json.loads(report.with_suffix(".json").read_text())
    cps, ael, supervised, again = content["methods"]
    assert [facts["method"] for facts in content["methods"]] == ["cps", "ael", "supervised", "cps"]
    assert (cps["images"], ael["images"], supervised["images"]) == (9, 9, 3) and cps["crop"] == [32, 64]
    assert all(facts["step_s"] > 0 and facts["first_step_s"] > 0 and facts["launches"] is None for facts in (cps, ael))
    assert supervised["peak_memory_mb"] < cps["peak_memory_mb"] == pytest.approx(again["peak_memory_mb"], rel=0.1)
    assert report.read_text() == methods_report(content)

    content["methods"] = [
        {**cps, "step_s": 0.1, "range_s": 0.01, "peak_memory_mb": 100.0},
        {**ael, "step_s": 0.3, "range_s": 0.0, "peak_memory_mb": 50.0, "busy_s": 0.0125, "launches": 4321},
        {"method": "cct", "error": "no"},
        {**cps, "step_s": 0.2, "peak_memory_mb": 100.0},
    ]
    rows = [
        [cell.strip() for cell in line.split("|")[1:]] for line in methods_report(content).splitlines() if "|" in line
    ]
    assert rows[2][:9] == ["cps", "test_resnet", "32×64", "9", "10", "10 %", "0.67", "100", "1.00"]
    assert rows[3][4:11] == ["3.33", "0 %", "2.00", "50", "0.50", "12.5", "4,321"]
    assert rows[4][:2] == ["cct", "not measured: no"] and {len(row) for row in rows} == {12}


@pytest.mark.usefixtures("nothing_is_compiled", "small_recipes")
def test_a_method_that_cannot_be_measured_is_named(tmp_path) -> None:
    report = write_methods_benchmark(["ael"], device="cpu", sizes=Sizes(batch=1), rounds=2, out=tmp_path)
    rows = [line for line in report.read_text().splitlines() if "not measured: train.batch_labelled must give" in line]
    assert len(rows) == 3


@pytest.mark.parametrize(
    ("given", "rounds", "message"),
    [(["aell"], 2, "METHOD must be one of supervised, .*, got 'aell'"), (["ael"], 1, "--rounds must be >= 2, got 1")],
)
def test_methods_are_checked(tmp_path, given, rounds, message) -> None:
    with pytest.raises(ValueError, match=message):
        write_methods_benchmark(given, device="cpu", sizes=Sizes(), rounds=rounds, out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_compiles_and_computes_in_16_bits(tmp_path) -> None:
    report = write_training_benchmark(dataclasses.replace(TINY, device="cuda", crop=64), seconds=0.1, out=tmp_path)
    content = json.loads(report.with_suffix(".json").read_text())
    precisions = {name: facts["precision"] for name, facts in content["peers"].items()}
    assert precisions == {name: "32-true" if name == "plain" else "bf16-mixed" for name in NAMES}
    assert content["machine_info"]["kind"] == "cuda"
