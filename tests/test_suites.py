from pathlib import Path

import pytest
import torch

from fpl_fast import bench
from fpl_fast.bench.cases import OPS
from fpl_fast.bench.peers import PEERS
from fpl_fast.bench.suites import PROBLEMS, selection
from fpl_fast.bench.targets import TARGETS  # noqa: F401  (its cases are built when it is imported)

GRID = [(problem, device) for problem in PROBLEMS for device in ("cpu", "cuda")]


@pytest.mark.parametrize(("problem", "device"), GRID)
def test_full_suite_starts_with_the_headline_and_repeats_nothing(problem, device) -> None:
    headline, full = (selection(problem, suite, device) for suite in ("headline", "full"))
    assert headline and full[: len(headline)] == headline
    assert len({str(row.case) for row in full}) == len(full)
    assert all("both" in row.ops for row in full)  # the report sorts and compares by it


def test_every_problem_has_its_file() -> None:
    files = {path.stem for path in Path(bench.__file__).parent.glob("test_*.py")}
    assert files == {f"test_{problem}" for problem in PROBLEMS}


def test_the_full_grid_of_a_gpu() -> None:
    cases = [row.case for row in selection("fuzzy_positive", "full", "cuda")]
    assert {case.num_classes for case in cases} == {2, 19, 21, 60, 150}
    assert {case.shape[-1] for case in cases} == {512, 513, 769, 800}
    assert {case.dtype for case in cases} == {torch.bfloat16, torch.float16, torch.float32}
    assert {case.max_positives for case in cases} == {3, None}
    assert {case.layout for case in cases} == {"nchw", "nhwc"} and {case.teacher for case in cases} == {
        "uncertain",
        "confident",
    }
    assert all(row.ops == OPS for row in selection("fuzzy_positive", "full", "cuda"))


def test_scale_ends_beyond_32_bit_offsets() -> None:
    cases = [row.case for row in selection("scale", "full", "cuda")]
    assert [case.num_pixels for case in cases] == [10**5, 10**6, 10**7, 10**8, 10**9]
    assert cases[-1].num_logits > 2**31
    assert [row.case.num_pixels for row in selection("scale", "full", "cpu")] == [10**5, 10**6, 10**7, 10**8]


def test_a_gpu_compiles_for_few_cases() -> None:
    """Compilations of peers would otherwise eat the eight minutes of a run."""
    rows = [row for problem in PROBLEMS for row in selection(problem, "full", "cuda") if row.compiled_peers]
    compilations = sum(peer.supports(row.case) for row in rows for peer in PEERS if peer.compiles_each_case)
    assert compilations <= 7
