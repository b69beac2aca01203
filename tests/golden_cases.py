"""Golden cases: inputs and outputs of the public codes, in the folder that GOLDEN names or in ../shared/golden.

A file ``golden_METHOD.py`` beside this one maps cases to adapters: ``ADAPTERS`` from the start of a case's name to a
function that gives our outputs for the case, by the names of the expected arrays; ``ELSEWHERE`` from the name of a case
that has no adapter to the reason. ``test_golden.py`` finds these files by itself.
"""

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
FOLDER = Path(os.environ.get("GOLDEN", HERE.parents[1] / "shared" / "golden"))


def load_module() -> Any | None:
    """The module that lists, loads and compares cases; None where the folder is missing."""
    path = FOLDER / "golden.py"
    if not path.is_file():
        return None
    spec = importlib.util.spec_from_file_location("golden", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Adapters(NamedTuple):
    """All adapters, by the start of a case's name, and the cases without one."""

    by_start: dict[str, Callable[[Any], dict[str, Any]]]
    elsewhere: dict[str, str]

    def find(self, name: str) -> Callable[[Any], dict[str, Any]] | None:
        """The adapter with the longest start that a name has, if there is one."""
        starts = [start for start in self.by_start if name.startswith(start)]
        return self.by_start[max(starts, key=len)] if starts else None


def load_adapters() -> Adapters:
    """Collect the adapters of every file ``golden_METHOD.py``."""
    names = sorted(path.stem for path in HERE.glob("golden_*.py") if path != Path(__file__))
    modules = [importlib.import_module(name) for name in names]
    found = Adapters({}, {})
    for module in modules:
        found.by_start.update(module.ADAPTERS)
        found.elsewhere.update(getattr(module, "ELSEWHERE", {}))
    return found
