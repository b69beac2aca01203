"""The package for the Hugging Face Kernel Hub: its rules, and what its own library makes of it."""

import ast
import base64
import hashlib
import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch
from instruction_sets import probe_once
from tolerances import GRADIENT, LOSS
from torch.testing import assert_close

import fpl_fast
from fpl_fast import hub
from fpl_fast.engines import packages

# The library has the name of a folder of this repository, which a process started in there would import.
LIBRARY = next((x.locate_file("") for x in metadata.distributions() if x.name == "kernels"), None)
needs_library = pytest.mark.skipif(LIBRARY is None, reason="needs the package kernels")
ENGINES = ("eager", "triton", "compiled")
needs_compiler = pytest.mark.skipif(packages.unavailable_reason() is not None, reason="needs a C++ compiler")

# Every engine, twice where there are two builds; then the installed package beside them.
LOAD = """
import sys
from pathlib import Path
import torch, kernels

folder, inputs, outputs = sys.argv[1:]
results = {}
for engine, (student, teacher, options) in torch.load(inputs).items():
    results[engine] = []
    for backend in (None, "cpu"):
        loaded = kernels.get_local_kernel(Path(folder), backend=backend)
        student.grad = None
        loss = loaded.fuzzy_positive_loss(student, teacher, **options)
        loss.backward()
        compiled = torch.compile(loaded.fuzzy_positive_loss, fullgraph=True, backend="aot_eager")
        assert torch.equal(compiled(student, teacher, **options), loss)
        results[engine].append((loss.detach(), student.grad))
assert not [name for name in sys.modules if name.partition(".")[0] == "fpl_fast"]
import fpl_fast
fpl_fast.fuzzy_positive_loss(student, teacher, **options | {"engine": "eager"})
torch.save(results, outputs)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return hub.write_hub_package(tmp_path_factory.mktemp("hub") / "package")


def case(engine):
    """Logits and options of the loss."""
    device = "cuda" if engine != "compiled" and torch.cuda.is_available() else "cpu"
    student = torch.randn(1, 4, 3, 5, device=device, requires_grad=True)
    teacher = torch.randn(1, 4, 3, 5, device=device)
    options = {"size": (7, 11), "max_positives": 3, "weighting": "concave", "balance": True, "engine": engine}
    if engine == "compiled":
        options |= {"max_positives": 1, "weighting": "none", "balance": False, "size": None}  # one graph, built soon
    return student, teacher, options


@pytest.fixture(scope="module")
def loaded(folder, tmp_path_factory):
    """Arguments and results of the loss, by engine that works here, in a process without the installed package."""
    parent = tmp_path_factory.mktemp("loaded")
    engines = ENGINES if packages.unavailable_reason() is None else ENGINES[:-1]
    cases = {engine: case(engine) for engine in engines}
    torch.save(cases, parent / "inputs.pt")
    with pytest.MonkeyPatch.context() as patch:
        probe_once(patch)
        patch.setenv("PYTHONPATH", f"{LIBRARY}{os.pathsep}{Path(fpl_fast.__file__).parents[1]}")
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("XDG_CACHE_HOME", str(parent))
        command = [sys.executable, "-c", LOAD, *map(str, (folder, parent / "inputs.pt", parent / "outputs.pt"))]
        done = subprocess.run(command, cwd=parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return cases, torch.load(parent / "outputs.pt")


@pytest.mark.slow
@needs_library
@pytest.mark.parametrize("engine", [*ENGINES[:-1], pytest.param(ENGINES[-1], marks=needs_compiler)])
def test_the_library_loads_what_is_installed(loaded, engine, kernel_device):
    student, teacher, options = loaded[0][engine]
    expected = fpl_fast.fuzzy_positive_loss(student, teacher, **options | {"engine": "eager"})
    (expected_grad,) = torch.autograd.grad(expected, student)
    assert len(loaded[1][engine]) == 2
    for loss, grad in loaded[1][engine]:
        assert_close(loss, expected.detach(), **LOSS)
        assert_close(grad, expected_grad, **GRADIENT[torch.float32])


def test_imports_are_relative_and_operators_in_a_namespace_of_the_content(folder):
    """Rules of the Hub: it imports the standard library, PyTorch and Triton; its checker reads the operators so."""
    allowed = sys.stdlib_module_names | {"torch", "triton"}
    names = []
    for path in sorted((folder / "build").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= allowed, path
            elif isinstance(node, ast.ImportFrom) and not node.level:
                assert node.module.partition(".")[0] in allowed, path
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") in ("custom_op", "triton_op"):
                assert node.args[0].func.id == "add_op_namespace_prefix", path
                names.append(node.args[0].args[0].value)
    assert "fuzzy_positive_loss" in names and len(names) == len(hub.BACKENDS) * len(set(names))


def test_builds_say_what_they_hold(folder):
    build = tomllib.loads((folder / "build.toml").read_text())
    source = folder / "torch-ext" / "fpl_fast"
    ids = set()
    for backend in build["general"]["backends"]:
        variant = folder / "build" / f"torch-{backend}"
        about = json.loads((variant / "metadata.json").read_text())
        assert {name: about[name] for name in ("name", "version", "license")}.items() <= build["general"].items()
        assert about["backend"] == {"type": backend}
        files = {path.relative_to(variant).as_posix(): path.read_bytes() for path in variant.rglob("*.py")}
        digests = {name: base64.b64encode(hashlib.sha256(x).digest()).decode() for name, x in files.items()}
        assert about["digest"] == {"algorithm": "sha256", "files": digests}
        assert f'"{about["id"]}::' in files.pop("_ops.py").decode().replace('f"', '"')
        assert files == {path.relative_to(source).as_posix(): path.read_bytes() for path in source.rglob("*.py")}
        ids.add(about["id"])
    assert len(ids) == len(hub.BACKENDS)


def test_it_writes_over_nothing(tmp_path, capsys):
    assert hub.main([str(tmp_path / "new")]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'new'}: kernels.get_local_kernel(")
    kept = tmp_path / "kept"
    kept.write_text("mine")
    for taken in (tmp_path, kept):
        with pytest.raises(SystemExit):
            hub.main([str(taken)])
        assert f"the folder must be new or empty, got {taken}" in capsys.readouterr().err
    assert kept.read_text() == "mine"
