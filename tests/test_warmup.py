"""The kernels and graphs of ``fpl-fast warmup`` against those that a run launches."""

import dataclasses
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cli_cases import error_of
from trainer_runs import HANGS, tiny_run

from fpl_fast.engines import choice, packages
from fpl_fast.trainer.cli import main
from fpl_fast.trainer.config.io import save_config
from fpl_fast.trainer.warmup import RESULTS, compiling_ahead, warm_up

ROOT = Path(__file__).parents[1]
# A driver that names a GPU, of which nothing but the launch itself is missing; tensors stay on the CPU.
RUN = """
import sys
import torch, triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import CompiledKernel
from triton.runtime import driver

class Device:
    get_current_device = lambda self: 0
    get_current_stream = lambda self, device: 0
    get_current_target = lambda self: GPUTarget("cuda", 90, 32)

driver.set_active(Device())
CompiledKernel._init_handles = lambda self: vars(self).update(_run=lambda *_: None, function=0, module=None)
CompiledKernel.launch_metadata = lambda self, *_: None
from fpl_fast.engines import choice
from fpl_fast.kernels import scale
from fpl_fast.ops import gradient
choice._refusal = lambda *_: None
choice.resolve_labels = lambda *_: "triton"
gradient.scale_ = scale.scale_
from fpl_fast.trainer import warmup
from trainer_runs import tiny_run

config = tiny_run(engine="triton")
told = []
if sys.argv[1] == "warm up":
    compiled = warmup.warm_up(config, 2, lambda done, asked: told.append((done, asked))).compiled
    assert told[-1][0] == told[-1][1] > 4, told
else:
    from contextlib import nullcontext
    compiled = []
    warmup.compiling_ahead = lambda *_: nullcontext(compiled)
    def listen(*, src, cache_hit, times, **_):
        compiled.append(warmup.Compiled(src.name, cache_hit, times.total / 1e6))
    knobs.compilation.listener = listen
    warmup.warm_up(config, 2, print)
for name, was_there, *_ in sorted(compiled):
    print(name, was_there)
"""


def run(what, cache):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"TRITON_CACHE_DIR": str(cache), "PYTHONPATH": str(ROOT / "tests")}
    done = subprocess.run(
        [sys.executable, "-c", RUN, what], env=environment, capture_output=True, text=True, timeout=HANGS
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="the launches of a GPU are checked where there is none")
def test_a_run_finds_every_kernel_in_the_cache(tmp_path):
    """Each in a process of its own: the second one launches, by Triton's own path, and compiles nothing."""
    warm, launched = run("warm up", tmp_path), run("launch", tmp_path)
    names = {name for name, _ in warm}
    assert names == {"upsampled_kernel", "column_adjoint_kernel", "finish_kernel", "scale_kernel", "mean_scale_kernel",
                     "pseudo_labels_kernel"}  # fmt: skip
    assert {was_there for _, was_there in warm} == {"False"}
    assert {was_there for _, was_there in launched} == {"True"}
    assert [name for name, _ in launched] == [name for name, _ in warm]


def test_results_are_what_kernels_write():
    """As the kernels describe their parameters; the gradient that is scaled in place keeps its value."""
    described = {
        name
        for file in (ROOT / "kernels" / "device").glob("*.py")
        for name in re.findall(r"^ +(\w+),  # (?:out |[^\n]* written)", file.read_text(encoding="utf-8"), re.M)
    }
    assert described - {"grad_ptr"} == set(RESULTS)


class Graph:
    """A graph that is compiled in no time, or cannot be."""

    def __init__(self, purpose, error=None):
        self.purpose, self.error = purpose, error

    def evaluate(self, tensors):
        return [2 * x for x in tensors]


def test_graphs_are_compiled_once_while_their_values_are_known(monkeypatch, tmp_path):
    built, told = [], []

    def prepare(graph):
        if graph.error:
            raise packages.UnavailableError(graph.error)
        built.append(graph)
        return packages.Package(tmp_path / "graph.pt2", graph.evaluate, graph.purpose == "old")

    monkeypatch.setattr(packages, "prepare", prepare)
    load, (new, old) = packages.load, (Graph("new"), Graph("old"))
    with compiling_ahead(2, lambda *counts: told.append(counts)) as compiled:
        for graph in (new, old, new):
            assert packages.load(graph)([torch.ones(())]) == [2]
    assert packages.load is load
    assert sorted(built, key=id) == sorted((new, old), key=id)
    assert {one.name: one.was_there for one in compiled} == {"new": False, "old": True}
    assert told[-1] == (2, 2)
    with pytest.raises(packages.UnavailableError, match="no compiler"), compiling_ahead(1, lambda *_: None):
        packages.load(Graph("bad", "no compiler"))
    with pytest.raises(KeyError), compiling_ahead(1, lambda *_: None):
        raise KeyError("the step's own error comes first")


@pytest.mark.parametrize("method", ["ael", "u2pl"])  # donors; a bank
def test_one_process_warms_up_for_two(method):
    """It has the images of one of them, and donors for these alone."""
    config = tiny_run(name=method, engine="eager")
    train = dataclasses.replace(config.train, devices=2, batch_labelled=4, batch_unlabelled=4)
    assert warm_up(dataclasses.replace(config, train=train), 1, lambda *_: None).compiled == []


def test_the_command(tmp_path, capsys, monkeypatch):
    """A run of small images has nothing to compile on a CPU; data need not exist."""
    save_config(tiny_run(), tmp_path / "tiny.yaml")
    arguments = ["warmup", str(tmp_path / "tiny.yaml"), "--train.accelerator", "cpu"]
    assert main(arguments) == 0
    assert capsys.readouterr().out == "nothing to compile: on this device (CPU) the run's losses are plain PyTorch\n"
    file = tmp_path / "cache" / "graph.pt2"
    monkeypatch.setattr(packages, "prepare", lambda one: packages.Package(file, one.evaluate, False))
    assert main([*arguments, "--method.engine", "compiled"]) == 0
    shown = capsys.readouterr().out
    assert "the loss" in shown and "the upsampling" in shown and "anew" in shown
    assert "CPU: 3 of 3 compiled anew" in shown
    assert shown.endswith(f"graphs are in {file.parent}\n")
    assert "no such recipe 'voc/nothing'" in error_of(capsys, "warmup", "voc/nothing")


@pytest.mark.parametrize("name", ["mean_teacher", "cutmix_seg"])
def test_the_graph_of_the_squared_difference(name, tmp_path, monkeypatch):
    """Alone, for a step's own tensors; "auto" asks for it where images are large enough."""
    monkeypatch.setattr(packages, "prepare", lambda one: packages.Package(tmp_path, one.evaluate, False))
    monkeypatch.setattr(packages, "unavailable_reason", lambda: None)
    by_name = warm_up(tiny_run(name=name, loss="mse", engine="compiled"), 1, lambda *_: None).compiled
    monkeypatch.setattr(choice, "COMPILED_MIN_LOGITS", 1)
    by_itself = warm_up(tiny_run(name=name, loss="mse"), 1, lambda *_: None).compiled
    assert len(by_name) == len(by_itself) == 3  # two of the upsampling
    assert "the consistency loss" in {one.name for one in by_name} == {one.name for one in by_itself}


def test_what_cannot_be_compiled_is_an_error(tmp_path, capsys, monkeypatch):
    """One line with the reason and what can be done, whatever the thread that met it."""

    def prepare(_):
        raise packages.UnavailableError("compiling failed: no headers")

    monkeypatch.setattr(packages, "prepare", prepare)
    save_config(tiny_run(engine="compiled"), tmp_path / "tiny.yaml")
    error = error_of(capsys, "warmup", str(tmp_path / "tiny.yaml"), "--train.accelerator", "cpu")
    assert "cannot be compiled here: compiling failed: no headers; " in error
    assert "CXX" in error and "--method.engine eager" in error


def test_a_warm_up_without_a_compiler_is_an_error(monkeypatch):
    """A run that would choose the compiled engine fails; one that is too small for it needs no compiler."""
    monkeypatch.setattr(packages, "unavailable_reason", lambda: "no compiler")
    assert warm_up(tiny_run(), 1, lambda *_: None).compiled == []
    monkeypatch.setattr(choice, "COMPILED_MIN_LOGITS", 1)
    with pytest.raises(ValueError, match=r"cannot be compiled here: no compiler; .*--method.engine eager"):
        warm_up(tiny_run(), 1, lambda *_: None)
