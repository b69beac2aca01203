"""Compiled graphs on disk: where they lie, what is done about broken ones, and where none can be made."""

import logging
import os
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from tolerances import GRADIENT, LOSS
from torch._inductor.runtime import cache_dir_utils
from torch.testing import assert_close

from fpl_fast import checks, fuzzy_positive_loss, pseudo_label_cross_entropy
from fpl_fast.engines import build, choice, packages

needs_compiler = pytest.mark.skipif(packages.unavailable_reason() is not None, reason="needs a C++ compiler")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    """An empty cache of packages, nothing loaded, nothing warned of; not Inductor's own."""
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    packages._load.cache_clear()
    choice._warn_once.cache_clear()
    yield tmp_path / "fpl_fast"
    packages._load.cache_clear()


def logits():
    return torch.randn(1, 3, 300, 300), torch.randn(1, 3, 300, 300)


def run_in_a_new_process(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **environment}
    )


def test_import_starts_no_compiler():
    """Neither Dynamo nor Inductor nor Triton nor SymPy, beyond what PyTorch itself imports; and sets nothing."""
    code = (
        "import os, sys, torch\n"
        "before, environment = set(sys.modules), dict(os.environ)\n"
        "import fpl_fast, fpl_fast.kernels\n"
        "print(*sorted(set(sys.modules) - before))\n"
        "assert dict(os.environ) == environment\n"
    )
    new = run_in_a_new_process(code).stdout.split()
    heavy = ("torch._dynamo", "torch._inductor", "torch._export", "torch._functorch", "triton", "sympy")
    assert [name for name in new if name.startswith(heavy)] == []
    assert len([name for name in new if not name.startswith("fpl_fast")]) < 20


@pytest.mark.slow
@needs_compiler
def test_a_package_is_built_once_and_said_once(cache, caplog, monkeypatch):
    student, teacher = logits()
    student.requires_grad_()
    options = {"max_positives": 1, "engine": "compiled"}
    expected = fuzzy_positive_loss(student, teacher, max_positives=1, engine="eager")
    (expected_grad,) = torch.autograd.grad(expected, student)
    set_by_us = {"TORCHINDUCTOR_CACHE_DIR", "CXX", "CUDA_VISIBLE_DEVICES"}  # in the process that compiles
    cache_dir_utils.cache_dir()  # Inductor's own, which it sets when Dynamo is first imported
    before = {name: os.environ.get(name) for name in set_by_us}
    with caplog.at_level(logging.INFO, logger="fpl_fast"):
        loss = fuzzy_positive_loss(student, teacher, **options)
    assert_close(loss, expected, **LOSS)
    assert_close(torch.autograd.grad(loss, student)[0], expected_grad, **GRADIENT[torch.float32])
    text = "compiling the loss for this set of options, once: about a minute (engine='eager' compiles nothing)"
    assert [(record.levelname, record.message) for record in caplog.records] == [("WARNING", text)]
    assert {name: os.environ.get(name) for name in set_by_us} == before
    (package,) = cache.iterdir()

    def refuse(*_):
        raise AssertionError("compiled again")

    # A later process, which may only read, or whose threshold differs; and what it must not import.
    packages._load.cache_clear()
    caplog.clear()
    monkeypatch.setattr(packages, "_build", refuse)
    package.parent.chmod(0o500)
    try:
        for threshold in (0.9, 0.7):
            loss = fuzzy_positive_loss(student, teacher, threshold=threshold, **options)
            assert_close(loss, expected, **LOSS)
    finally:
        package.parent.chmod(0o700)
    assert caplog.messages == []
    step = torch.compile(lambda z, t: fuzzy_positive_loss(z, t, max_positives=1), fullgraph=True, backend="aot_eager")
    assert_close(step(student, teacher), expected, **LOSS)
    code = (
        "import sys, torch, fpl_fast\n"
        "z = torch.randn(1, 3, 300, 300, requires_grad=True)\n"
        "fpl_fast.fuzzy_positive_loss(z, z.detach(), max_positives=1, engine='compiled')\n"
        "print(*(name for name in sys.modules if name.endswith(('_inductor.compile_fx', '_inductor.codecache'))))"
    )
    result = run_in_a_new_process(code)
    assert result.stdout.split() == [] and "CUDA" not in result.stderr

    # A kill while it was written, and what a kill of the linker left: both are compiled again.
    whole = package.read_bytes()
    start = _start_of_machine_code(package)
    for broken in (whole[: len(whole) // 2], whole[:start] + bytes(64) + whole[start + 64 :], b""):
        package.write_bytes(broken)
        packages._load.cache_clear()
        monkeypatch.setattr(packages, "_build", lambda _, path: path.write_bytes(whole))
        assert_close(fuzzy_positive_loss(student, teacher, **options), expected, **LOSS)
        assert package.read_bytes() == whole


def _start_of_machine_code(package):
    """Offset of the shared library inside the package."""
    with zipfile.ZipFile(package) as file:
        (library,) = [info for info in file.infolist() if info.filename.endswith(".so")]
    data = package.read_bytes()
    start = data.index(b"\x7fELF", library.header_offset)
    assert library.header_offset < start < library.header_offset + library.compress_size
    return start


def compiler_that_fails(folder):
    compiler = folder / "g++"
    compiler.write_text(
        "#!/bin/sh\n"
        'case "$*" in *--version*|*-v) exec /usr/bin/env c++ "$@";; esac\n'
        'echo "x.cpp:1:10: fatal error: Python.h: No such file or directory" >&2; exit 1\n'
    )
    compiler.chmod(0o755)
    return str(compiler)


@needs_compiler
def test_a_compiler_that_does_not_work(monkeypatch, tmp_path):
    """One warning with the reason, then eager; forced, one line that names the engine that can."""
    monkeypatch.setenv("CXX", compiler_that_fails(tmp_path))
    (student, teacher), options = logits(), {"max_positives": 1}  # a graph that soon is C++
    expected = fuzzy_positive_loss(student, teacher, **options, engine="eager")
    with pytest.warns(UserWarning, match=r"engine='compiled' cannot run here: compiling failed: .*Python\.h") as caught:
        for _ in range(3):
            assert_close(fuzzy_positive_loss(student, teacher, **options), expected, **LOSS)
    (warning,) = caught
    assert str(warning.message).endswith("; the slower engine='eager' does")
    with pytest.raises(ValueError, match=r"'compiled' cannot run here: .*Python\.h.*; engine='eager' can") as raised:
        fuzzy_positive_loss(student, teacher, **options, engine="compiled")
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 400


@needs_compiler
def test_a_compilation_that_is_killed(monkeypatch):
    """That says nothing about this machine: an error, no other engine in its place, and the next call tries again."""
    student, teacher = logits()
    of_the_compiler = "g++: fatal error: Killed signal terminated program cc1plus"
    ends = [(-signal.SIGKILL, "", ""), (1, of_the_compiler, ""), (1, "no headers", "")]
    monkeypatch.setattr(packages.process, "run_python", lambda *_: packages.process.Ended(*ends.pop(0)))
    for reason in (r"signal 9 \(Killed\)", "Killed signal terminated program cc1plus"):
        with pytest.raises(
            ChildProcessError, match=f"compiling the loss was ended by a signal.*{reason}.*engine='eager'"
        ):
            fuzzy_positive_loss(student, teacher)
    with pytest.warns(UserWarning, match="compiling failed: no headers"):
        fuzzy_positive_loss(student, teacher)


def test_a_launcher_before_the_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "env -u FPL_FAST_NOTHING no-such-compiler")
    assert "(env -u FPL_FAST_NOTHING no-such-compiler) on the PATH" in packages.unavailable_reason()
    if working := packages.shutil.which("g++") or packages.shutil.which("clang++"):
        monkeypatch.setenv("CXX", f"env {working}")
        assert packages.unavailable_reason() is None
        assert packages._compiler() == ["env", working]


def test_where_packages_lie(monkeypatch, tmp_path):
    assert packages.cache_folder() == tmp_path / "fpl_fast"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/somewhere")
    assert packages.cache_folder() == Path("/somewhere/.cache/fpl_fast")
    monkeypatch.setattr(packages.os.path, "expanduser", lambda path: path)  # no home at all
    assert packages.cache_folder() == packages._private_folder()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", cache_dir_utils.default_cache_dir())  # as Inductor does itself
    assert packages.cache_folder() == packages._private_folder()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/elsewhere")
    assert packages.cache_folder() == Path("/elsewhere/fpl_fast")


@pytest.mark.parametrize("first", ["this package", "inductor", "neither on Linux"])
def test_an_empty_variable_is_none(first, cache, monkeypatch, tmp_path):
    """Inductor makes the current folder of it, before or after this package is imported."""
    monkeypatch.chdir(tmp_path)
    environment = tmp_path / "environ"
    monkeypatch.setattr(packages, "_ENVIRONMENT", environment)
    if first != "neither on Linux":
        environment.write_bytes(b"A=\0TORCHINDUCTOR_CACHE_DIR=\0B=\0")
    monkeypatch.setattr(packages, "_IMPORTED_EMPTY", first != "inductor")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "")
    assert packages.cache_folder() == cache
    cache_dir_utils.cache_dir()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(tmp_path)
    assert packages.cache_folder() == cache


@pytest.mark.parametrize("name", [".", "whole"])
def test_the_current_folder_may_be_asked_for(name, monkeypatch, tmp_path):
    """The place is one, whether or not Inductor has made the path absolute."""
    name = name.replace("whole", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", name)
    monkeypatch.setenv("XDG_CACHE_HOME", "/elsewhere")
    (tmp_path / "environ").write_bytes(f"A=\0TORCHINDUCTOR_CACHE_DIR={name}\0B=\0".encode())
    monkeypatch.setattr(packages, "_ENVIRONMENT", tmp_path / "environ")
    assert packages.cache_folder() == tmp_path / "fpl_fast"
    cache_dir_utils.cache_dir()
    assert packages.cache_folder() == tmp_path / "fpl_fast"


def test_a_private_folder_where_the_cache_cannot_be_written(monkeypatch, tmp_path):
    """A file in its place stands for a file system that is read only: to root, no folder is."""
    monkeypatch.setattr(packages.tempfile, "tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    private = packages._writable(tmp_path / "file" / "fpl_fast")
    assert private.parent == tmp_path and private.stat().st_mode & 0o777 == 0o700
    assert packages._writable(tmp_path / "file" / "fpl_fast") == private
    private.chmod(0o777)
    with pytest.raises(PermissionError, match="must be a folder of this user alone: chmod 700, or remove it"):
        packages._writable(tmp_path / "file" / "fpl_fast")
    # Then the loss still runs, unfused.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    student, teacher = logits()
    with pytest.warns(UserWarning, match="its compiled form cannot be written"):
        loss = fuzzy_positive_loss(student, teacher)
    assert_close(loss, fuzzy_positive_loss(student, teacher, engine="eager"), **LOSS)


class Nothing(NamedTuple):
    """A specialisation of no graph."""

    purpose: str = "nothing"


def test_what_lies_in_the_private_folder_is_found_there(monkeypatch, tmp_path, caplog):
    """Its place is said when it is compiled, and a later process finds it without a word."""
    monkeypatch.setattr(packages.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").touch()  # a folder that cannot be made, by root either
    monkeypatch.setattr(packages, "_build", lambda _, package: package.touch())
    monkeypatch.setattr(packages, "_open", lambda package: (lambda _: []) if package.exists() else None)
    for was_there, told in (False, 2), (True, 0):
        caplog.clear()
        package = packages.prepare(Nothing())
        assert (package.file.parent, package.was_there) == (packages._private_folder(), was_there)
        assert len(caplog.messages) == told
        assert not told or str(package.file.parent) in caplog.messages[0]
        packages._load.cache_clear()


def test_a_damaged_package_was_not_there(monkeypatch, cache):
    cache.mkdir()
    (cache / packages._file_name(Nothing())).write_bytes(b"")
    monkeypatch.setattr(packages, "_build", lambda _, package: package.write_bytes(b"whole"))
    monkeypatch.setattr(packages, "_open", lambda package: (lambda _: []) if package.read_bytes() else None)
    assert not packages.prepare(Nothing()).was_there
    packages._load.cache_clear()
    assert packages.prepare(Nothing()).was_there


def test_the_reason_is_one_line(monkeypatch, capsys):
    def fail(*_):
        raise RuntimeError("C++ compile error\n\nCommand:\ng++ x.cpp\n\nx.cpp:1:2: fatal error: Python.h: none\nmore")

    monkeypatch.setattr(build, "build", fail)
    monkeypatch.setattr(build.pickle, "load", lambda _: (None, ""))
    monkeypatch.setattr(build.sys, "stdin", type("Stdin", (), {"buffer": None}))
    with pytest.raises(SystemExit):
        build.main()
    assert capsys.readouterr().out == "x.cpp:1:2: fatal error: Python.h: none"


def test_two_classes_are_warned_of_once():
    """They leave K = 1: the loss is a cross entropy, which is right only if it was asked for."""
    student, teacher = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    checks.warn_of_two_classes.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fuzzy_positive_loss(student, teacher, max_positives=1)
        pseudo_label_cross_entropy(student, teacher)
        fuzzy_positive_loss(torch.randn(1, 3, 3, 4), torch.randn(1, 3, 3, 4))
        torch.compile(lambda: fuzzy_positive_loss(student, teacher), fullgraph=True, backend="aot_eager")()
    with pytest.warns(UserWarning, match="two classes leave a single positive to every pixel") as caught:
        for _ in range(2):
            loss = fuzzy_positive_loss(student, teacher)
    assert len(caught) == 1
    assert_close(loss, pseudo_label_cross_entropy(student, teacher), **LOSS)


def test_the_gate_is_warned_of_once():
    from fpl_fast.ops import fuzzy_positive as ops

    student, teacher = torch.randn(1, 5, 3, 4), torch.randn(1, 5, 3, 4)
    quiet = ({}, {"confidence_threshold": 0.89}, {"confidence_threshold": 0.95, "max_positives": 1})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        ops._warn_of_gate.cache_clear()
        for options in quiet:
            fuzzy_positive_loss(student, teacher, **options)
    step = torch.compile(lambda gate: fuzzy_positive_loss(student, teacher, confidence_threshold=gate), fullgraph=True)
    with pytest.warns(UserWarning, match=r"at or above threshold.* is a plain cross entropy; lower") as caught:
        for gate in (0.9, 0.95, 0.99):
            step(gate)
    assert len([warning for warning in caught if "at or above" in str(warning.message)]) == 1
