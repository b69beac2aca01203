"""Options and fixtures of the benchmarks; ``pytest bench`` runs the short selection on the device at hand."""

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from fpl_fast.bench.cases import selection
from fpl_fast.bench.measure import DeviceClock, copy_gbps
from fpl_fast.bench.peers import PROVIDERS
from fpl_fast.environment import describe_environment

RESULTS = Path(__file__).parent / "results"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of device and of the full grid."""
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.addoption("--device", default=default, help="cpu, or cuda (ROCm too); default: cuda where there is one")
    parser.addoption("--full", action="store_true", help="the full grid of cases, meant for a GPU")


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Write complete runs to ``results/``, one file a device; a run of selected tests writes only where it is told."""
    selected = config.option.keyword or any("::" in argument for argument in config.args)
    if config.option.benchmark_json is None and not selected and not config.option.collectonly:
        environment = describe_environment()
        device = environment["device"] if config.option.device == "cuda" else environment["cpu"]
        RESULTS.mkdir(exist_ok=True)
        name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
        config.option.benchmark_json = str(RESULTS / f"{name}.json")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Set every provider to every case that it supports; cases outermost, so that their inputs are drawn once."""
    if {"case", "op", "provider"} <= set(metafunc.fixturenames):
        cells = [
            pytest.param(case, op, provider, id=f"{case}-{op}-{provider.name}")
            for case, ops in selection(full=metafunc.config.option.full)
            for op in ops
            for provider in PROVIDERS
            if provider.supports(case)
        ]
        metafunc.parametrize(("case", "op", "provider"), cells)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let the clock follow the device."""
    clock = DeviceClock() if config.option.device == "cuda" else time.perf_counter
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=clock))


@pytest.fixture(scope="session")
def device(pytestconfig: pytest.Config) -> torch.device:
    """The device under test."""
    return torch.device(pytestconfig.option.device)


@pytest.fixture(scope="session", autouse=True)
def cold_compile_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start without compiled code from earlier runs: the first call shows what a user's first call costs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.mktemp("inductor")))
        yield


@pytest.fixture(scope="session")
def copy_bandwidth(device: torch.device) -> float:
    """Bandwidth of a large copy in the same run, GB/s."""
    return copy_gbps(device)


def pytest_benchmark_generate_machine_info() -> dict[str, str]:
    """Describe the machine without its name."""
    return describe_environment()


def pytest_benchmark_generate_commit_info() -> dict[str, str]:
    """Name the commit."""
    return {"id": describe_environment().get("commit", "unknown")}


def pytest_benchmark_update_json(output_json: dict[str, Any]) -> None:
    """Leave out the single rounds: the statistics say enough, and the files are committed."""
    for result in output_json["benchmarks"]:
        result["stats"].pop("data", None)
        result.pop("params", None)
