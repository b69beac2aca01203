"""Cross-Consistency Training and U2PL against outputs of the public code; the folder GOLDEN holds them."""

import importlib.util
import os
from pathlib import Path

import golden_cct
import golden_u2pl
import pytest

ADAPTERS, ELSEWHERE = golden_cct.ADAPTERS | golden_u2pl.ADAPTERS, golden_cct.ELSEWHERE

FOLDER = Path(os.environ.get("GOLDEN", Path(__file__).parents[2] / "shared" / "golden"))
HERE = (FOLDER / "golden.py").is_file()
if HERE:
    spec = importlib.util.spec_from_file_location("golden", FOLDER / "golden.py")
    golden = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(golden)
NAMES = [*golden.cases("cct"), *golden.cases("u2pl")] if HERE else []
pytestmark = pytest.mark.skipif(not HERE, reason="GOLDEN names no folder of golden cases")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ELSEWHERE])
def test_equals_the_public_code(name):
    case = golden.load(name)
    (adapter,) = (adapter for start, adapter in ADAPTERS.items() if name.startswith(start))
    outputs = adapter(case)
    assert outputs.keys() == case.expected.keys()
    assert golden.compare(name, outputs) == {}


def test_every_case_has_a_place():
    assert len(NAMES) > 20
    assert set(NAMES) >= set(ELSEWHERE)
