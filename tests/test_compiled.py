"""Compiled networks train as those that are not."""

import dataclasses

import pytest
import torch
from trainer_runs import EVERY_METHOD, Quiet, tiny_run

from fpl_fast.trainer.build import build_method_networks, make_fabric
from fpl_fast.trainer.loop import train
from fpl_fast.trainer.optim import build_optimizer
from fpl_fast.trainer.random_batches import prepared_method, random_batches
from fpl_fast.trainer.run.folder import RunFolder
from fpl_fast.trainer.step import set_up_phases, train_step

METHODS = [*EVERY_METHOD, {"loss": "ce"}]
STEPS = 6
SPREAD = 0.05  # of what the weights have moved: sums are made in another order, and a rare maximum is another


def needs_gpu(test):
    """Mark a test that runs on a GPU."""
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")(test))


def with_train(config, **train):
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **train))


def trained(config):
    """Weights before and after some steps on noise, and the losses of the steps."""
    fabric = make_fabric(config.train)
    fabric.seed_everything(0, verbose=False)
    method = prepared_method(config, STEPS).train()
    fabric.to_device(method)
    before = torch.cat([p.detach().flatten().clone() for p in method.parameters()])
    optimizer = build_optimizer(method, config.optim, fabric.device)
    module, optimizer = fabric.setup(method, optimizer)
    phases, losses = set_up_phases(fabric, method), []
    for step, batch in enumerate(random_batches(config, method, fabric, STEPS)):
        parts = config.train.accumulate
        values = train_step(fabric, module, optimizer, batch, 0.5, num_micro_batches=parts, phases=phases)
        method.after_step(step)
        losses.append(float(values["loss"]))
    return before, torch.cat([p.detach().flatten() for p in method.parameters()]), losses


@pytest.fixture
def cuda(monkeypatch):
    """A GPU that multiplies in float32, and no graphs of other tests."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@needs_gpu
@pytest.mark.parametrize(
    ("changes", "accumulate"),
    [*((changes, 1) for changes in METHODS), ({}, 2), ({"name": "u2pl", "warmup_share": 0.1}, 2)],
    ids=lambda value: "-".join(map(str, value.values())) or "cps" if isinstance(value, dict) else None,
)
def test_graphs_train_as_networks_that_are_not_compiled(cuda, changes, accumulate) -> None:
    from torch._dynamo.utils import counters

    config = with_train(
        tiny_run(**changes), accelerator="cuda", accumulate=accumulate, batch_labelled=4, batch_unlabelled=4
    )
    begin, expected, losses = trained(config)
    counters.clear()
    begin_compiled, weights, compiled_losses = trained(with_train(config, compile=True))
    assert torch.equal(begin, begin_compiled)
    moved, apart = (expected - begin).norm(), (weights - expected).norm()
    assert moved > 0 and apart <= SPREAD * moved, f"{float(apart / moved):.3g}"
    assert compiled_losses == pytest.approx(losses, rel=SPREAD)
    assert not counters["inductor"]["cudagraph_skips"]


@needs_gpu
def test_a_run_evaluates_between_its_graphs(cuda, tmp_path) -> None:
    config = with_train(tiny_run(), accelerator="cuda", precision="bf16-mixed")
    expected = train(config, RunFolder(tmp_path / "run"), Quiet()).miou
    found = train(with_train(config, compile=True), RunFolder(tmp_path / "compiled"), Quiet()).miou
    assert found == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize(("cuda", "devices", "mode"), [(False, 1, None), (True, 1, "reduce-overhead"), (True, 2, None)])
def test_one_process_on_a_gpu_makes_graphs(monkeypatch, cuda, devices, mode) -> None:
    modes = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, mode=None: modes.append(mode))
    config = with_train(tiny_run(), compile=True, accelerator="cuda" if cuda else "cpu", devices=devices)
    build_method_networks(config, 3)
    assert modes == [mode, mode]


@pytest.mark.parametrize("compile", [False, True])
def test_graphs_are_told_once_when_a_step_begins(monkeypatch, compile) -> None:
    said = []
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: said.append("step"))
    compile_module = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compile_module(self, backend="eager"))
    torch.compiler.reset()
    trained(with_train(tiny_run(), compile=compile, accumulate=2, batch_labelled=4, batch_unlabelled=4))
    assert said == ["step"] * STEPS * compile
    torch.compiler.reset()
