"""Options and fixtures of the benchmarks; ``pytest bench`` runs the suite for the available device."""

import os
import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch

from fpl_fast.bench import cell
from fpl_fast.bench.cases import Case, Op
from fpl_fast.bench.measure import DeviceClock, copy_gbps
from fpl_fast.bench.peers import PEERS
from fpl_fast.bench.peers.peer import Peer
from fpl_fast.bench.results import RESULTS, describe_machine, results_path
from fpl_fast.bench.suites import Suite, selection
from fpl_fast.environment import describe_environment

_STARTED_S = time.monotonic()
_MINUTES = {("cpu", "headline"): 3.5, ("cpu", "full"): 90, ("cuda", "headline"): 4, ("cuda", "full"): 8}


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of device, suite and time."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.addoption(
        "--device",
        default=default,
        choices=("cpu", "cuda"),
        help="cuda means ROCm too; default: cuda where there is one",
    )
    parser.addoption("--suite", choices=get_args(Suite), help="cases to measure; default: full on a GPU, else headline")
    parser.addoption(
        "--minutes", type=float, help="what is left after so many is skipped; default: 4, full suite 8 (on a CPU 90)"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Write complete runs to ``results/``, one file for each device and suite; other runs write only on request."""
    option = config.option
    option.suite = option.suite or ("full" if option.device == "cuda" else "headline")
    option.minutes = option.minutes or _MINUTES[option.device, option.suite]
    selected = option.keyword or any("test_" in argument for argument in config.args)
    if option.benchmark_json is None and not selected and not option.collectonly:
        option.benchmark_json = str(results_path(RESULTS, describe_machine(option.device), option.suite))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Combine every case with every peer that supports it; cases come outermost, so that inputs are drawn once."""
    if {"case", "op", "peer"} <= set(metafunc.fixturenames):
        cells = [
            pytest.param(row.case, op, peer, id=f"{row.case}-{op}-{peer.name}")
            for row in _rows(metafunc.module, metafunc.config)
            for op in row.ops
            for peer in getattr(metafunc.module, "PEERS", PEERS)
            if peer.supports(row.case) and (row.compiled_peers or not peer.compiles_each_case)
        ]
        metafunc.parametrize(("case", "op", "peer"), cells)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Choose the clock by the device, and run the most informative cells first, because time may run out.

    Whole steps come before their parts, and the first row of every problem before the second row of any.
    """
    for item in items:  # a clock each: a clock that an error left between two readings must not time the next cell
        clock = DeviceClock() if config.option.device == "cuda" else time.perf_counter
        item.add_marker(pytest.mark.benchmark(timer=clock))

    def rank(item: pytest.Item) -> tuple[bool, int]:
        assert isinstance(item, pytest.Function)
        cases = [row.case for row in _rows(item.module, config)]
        return item.callspec.params["op"] != "both", cases.index(item.callspec.params["case"])

    items.sort(key=rank)


def _rows(module: Any, config: pytest.Config) -> list[Any]:
    problem = module.__name__.rpartition("test_")[2]
    return selection(problem, config.option.suite, config.option.device)


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """Device under test."""
    return torch.device(pytestconfig.option.device)


@pytest.fixture(scope="session", autouse=True)
def cold_compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start without compiled code from earlier runs, so that the first call costs as much as a user's first call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        if "TRITON_CACHE_DIR" not in os.environ:  # whoever names it decides what lies in it
            patch.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


@pytest.fixture(scope="session")
def copy_bandwidth(device: torch.device) -> float:
    """Bandwidth of a large copy in the same run, GB/s."""
    return copy_gbps(device)


@pytest.fixture
def time_cell(
    benchmark: Any, device: torch.device, copy_bandwidth: float, pytestconfig: pytest.Config
) -> cell.TimeCell:
    """Function that times one part of the step of one peer on one case, as long as the run has time."""

    def time_in_time(case: Case, op: Op, peer: Peer) -> None:
        minutes = pytestconfig.option.minutes
        if time.monotonic() - _STARTED_S > 60 * minutes:
            pytest.skip(f"the {minutes:g} minutes of this run are over")
        cell.time_cell(benchmark, case, op, peer, device=device, copy_gbps=copy_bandwidth)

    return time_in_time


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, str]:
    """Describe the machine without its name, and whether a GPU was measured."""
    return describe_machine(config.option.device)


def pytest_benchmark_generate_commit_info() -> dict[str, str]:
    """Name the commit."""
    return {"id": describe_environment().get("commit", "unknown")}


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Drop the single rounds: the statistics suffice, and the files are committed."""
    for result in output_json["benchmarks"]:
        result["stats"].pop("data", None)
        result.pop("params", None)
