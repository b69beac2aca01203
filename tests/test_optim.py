import copy
import dataclasses
import sys
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.optim import NUM_MOMENTS, build_optimizer, poly_lr, set_lr


class Method(nn.Module):
    """Two weights, of which one decays, and the other moves faster."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(3, 2)), nn.Parameter(torch.randn(3))

    def param_groups(self, config):
        return [
            {"params": [self.weight], "lr_scale": 1.0, "weight_decay": config.weight_decay},
            {"params": [self.bias], "lr_scale": 10.0, "weight_decay": 0.0},
        ]


@pytest.fixture
def apex(monkeypatch):
    """A stand-in for an apex that was built with its CUDA extensions."""
    package, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    optimizers.FusedSGD = type("FusedSGD", (SGD,), {})
    for name, module in (("apex", package), ("apex.optimizers", optimizers), ("amp_C", ModuleType("amp_C"))):
        monkeypatch.setitem(sys.modules, name, module)
    return optimizers.FusedSGD


@pytest.fixture
def foreign_apex(monkeypatch):
    """The package that is called apex, too, has no optimisers."""
    monkeypatch.setitem(sys.modules, "apex", ModuleType("apex"))


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_adamw_equals_the_literal_rule(device, apex):
    """Kingma and Ba's averages without their bias, and a decay of the weight that no average sees."""
    config = OptimConfig(algorithm="adamw", lr=0.3, betas=(0.8, 0.95), weight_decay=0.01)
    method = Method()
    optimizer = build_optimizer(method, config, torch.device(device))
    assert type(optimizer) is AdamW
    assert optimizer.defaults["fused"] is True
    expected = [method.weight.detach().clone(), method.bias.detach().clone()]
    first, second = ([torch.zeros_like(p) for p in expected] for _ in range(2))
    for step, lr in enumerate((0.3, 0.1), start=1):
        set_lr(optimizer, lr)
        for p, m, v, group in zip(expected, first, second, optimizer.param_groups, strict=True):
            (ours,) = group["params"]
            ours.grad = torch.randn_like(ours)
            rate = lr * (1 if ours is method.weight else 10)
            p.mul_(1 - rate * group["weight_decay"])
            m.mul_(0.8).add_(0.2 * ours.grad)
            v.mul_(0.95).add_(0.05 * ours.grad.square())
            p.sub_(rate * (m / (1 - 0.8**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8))
        optimizer.step()
    torch.testing.assert_close([method.weight.data, method.bias.data], expected)
    assert len(optimizer.state[method.weight]) - 1 == NUM_MOMENTS["adamw"]  # and a counter
    with pytest.raises(
        ValueError, match=r"optim\.implementation must be 'auto' or 'torch' with optim\.algorithm adamw"
    ):
        dataclasses.replace(config, implementation="apex")


@pytest.mark.parametrize("implementation", ["auto", "torch"])
def test_sgd_equals_the_literal_rule(implementation):
    config = OptimConfig(lr=0.3, momentum=0.8, weight_decay=0.01, implementation=implementation)
    method = Method()
    optimizer = build_optimizer(method, config, CPU)
    assert optimizer.defaults["fused"] is True
    expected = [method.weight.detach().clone(), method.bias.detach().clone()]
    velocity = [torch.zeros_like(p) for p in expected]
    for lr in (0.3, 0.1):
        set_lr(optimizer, lr)
        for p, v, group in zip(expected, velocity, optimizer.param_groups, strict=True):
            (ours,) = group["params"]
            ours.grad = torch.randn_like(ours)
            v.mul_(0.8).add_(ours.grad + group["weight_decay"] * p)
            p.sub_(lr * (1 if ours is method.weight else 10) * v)
        optimizer.step()
    torch.testing.assert_close([method.weight.data, method.bias.data], expected)


def test_a_skipped_first_step_leaves_no_trace():
    """float16: the scaler skips steps until its factor is small enough. Memory that nothing wrote is NaN in tests."""
    method = Method()
    optimizer = build_optimizer(method, OptimConfig(lr=0.1), CPU)
    before = copy.deepcopy(method.state_dict())
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    for gradient in (float("inf"), 2.0):
        optimizer.zero_grad()
        scaler.scale(sum(gradient * parameter.sum() for parameter in method.parameters())).backward()
        scaler.step(optimizer)
        scaler.update()
        moved = [not torch.equal(value, before[name]) for name, value in method.state_dict().items()]
        assert moved == [gradient == 2.0] * 2
    assert all(parameter.isfinite().all() for parameter in method.parameters())


def test_apex_is_taken_on_a_gpu_where_it_is_installed(apex):
    config = OptimConfig(lr=0.3, momentum=0.8)
    for implementation in ("auto", "apex"):
        optimizer = build_optimizer(Method(), dataclasses.replace(config, implementation=implementation), CUDA)
        assert type(optimizer) is apex
        assert [group["weight_decay"] for group in optimizer.param_groups] == [config.weight_decay, 0.0]
        assert (optimizer.defaults["lr"], optimizer.defaults["momentum"]) == (0.3, 0.8)
    assert type(build_optimizer(Method(), config, CPU)) is SGD
    with pytest.raises(ValueError, match=r"optim.implementation must be 'auto' or 'torch' .*, got the device cpu"):
        build_optimizer(Method(), dataclasses.replace(config, implementation="apex"), CPU)


def test_another_package_called_apex_is_not_taken(foreign_apex):
    message = r"NVIDIA apex built from its source .*index is another one\), got no apex.optimizers with CUDA extensions"
    with pytest.raises(ValueError, match=message):
        build_optimizer(Method(), OptimConfig(implementation="apex"), CUDA)


def test_poly():
    config = OptimConfig(lr=0.2, power=0.9)
    assert poly_lr(config, 0, 100) == 0.2
    assert poly_lr(config, 25, 100) == pytest.approx(0.2 * 0.75**0.9)
