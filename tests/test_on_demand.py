"""Public names: imported when they are first used, all of them listed."""

import importlib
import subprocess
import sys

import pytest


@pytest.mark.parametrize("package", ["fpl_fast", "fpl_fast.trainer"])
def test_every_public_name_is_found(package):
    module = importlib.import_module(package)
    assert [name for name in dir(module) if not name.startswith("__")] == sorted(module.__all__)
    assert len(module.__all__) > 10 and "__doc__" in dir(module)
    for name in module.__all__:
        assert getattr(module, name) is module.__dict__[name]
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        _ = module.nothing


def test_nothing_is_imported_before():
    code = (
        "import sys, fpl_fast.trainer; print('torch' in sys.modules); fpl_fast.LossStats; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]
