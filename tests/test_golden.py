"""The trainer's parts against inputs and outputs of the public codes, each at its own tolerance."""

import pytest
from golden_cases import load_adapters, load_module

golden, adapters = load_module(), load_adapters()
METHODS = {start.partition(".")[0] for start in adapters.by_start}
NAMES = [name for name in golden.cases() if name.partition(".")[0] in METHODS] if golden else []
pytestmark = pytest.mark.skipif(golden is None, reason="neither GOLDEN nor ../shared/golden holds golden cases")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in adapters.elsewhere])
def test_equals_the_public_code(name):
    adapter = adapters.find(name)
    assert adapter is not None, f"{name} has no adapter, and no reason in ELSEWHERE"
    outputs = adapter(golden.load(name))
    assert outputs
    assert golden.compare(name, outputs) == {}


def test_every_name_is_of_a_case():
    assert set(adapters.elsewhere) <= set(NAMES)
    for start in adapters.by_start:
        assert any(name.startswith(start) for name in NAMES), start
