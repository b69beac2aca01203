"""The kernels that the project launches, from its sources."""

import ast
from pathlib import Path

import fpl_fast.kernels

_FOLDER = Path(fpl_fast.kernels.__file__).parent


def launched_kernels() -> set[str]:
    """Names of the compiled functions of ``kernels/device`` that launchers import: they launch them."""
    compiled = set()
    for file in (_FOLDER / "device").glob("*.py"):
        functions = [x for x in ast.parse(file.read_text()).body if isinstance(x, ast.FunctionDef)]
        compiled |= {x.name for x in functions if any("triton.jit" in ast.unparse(d) for d in x.decorator_list)}
    imported = set()
    for file in _FOLDER.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fpl_fast.kernels.device."):
                imported |= {alias.name for alias in node.names}
    return compiled & imported
