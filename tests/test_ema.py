import copy

import pytest
import torch
from method_cases import TinyNetwork, make_method
from torch import nn

from fpl_fast.trainer.config import OptimConfig
from fpl_fast.trainer.methods.ema import ema_decay, ema_update


@pytest.mark.parametrize("buffers", [False, True])
def test_update_equals_the_literal_version(buffers):
    teacher, student = (nn.Sequential(TinyNetwork(), nn.BatchNorm2d(6)) for _ in range(2))
    for network in (teacher, student):
        network(torch.randn(4, 3, 16, 16))  # running statistics that differ
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    ema_update(teacher, student, 0.8, buffers=buffers)
    names = dict(student.named_parameters()).keys()
    for name, theirs in student.state_dict().items():
        moves = name in names or (buffers and theirs.is_floating_point())
        expected = 0.8 * before[name] + 0.2 * theirs if moves else before[name]
        torch.testing.assert_close(teacher.state_dict()[name], expected)


def test_warm_up_copies_then_averages_then_decays():
    assert [ema_decay(0.99, step) for step in (0, 1, 3)] == [0, 0.5, 0.75]
    assert ema_decay(0.99, 98) == pytest.approx(1 - 1 / 99)  # spec/ael.md section 3: 0.99 is reached at i = 99
    assert ema_decay(0.99, 99) == ema_decay(0.99, 10_000) == 0.99


@pytest.mark.parametrize("name", ["mean_teacher", "cutmix_seg"])
def test_the_teacher_starts_as_a_copy_and_follows(name):
    method = make_method(name=name, ema_decay=0.9).train()
    for ours, theirs in zip(method.teacher.parameters(), method.student.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad
    start = copy.deepcopy(method.teacher)
    with torch.no_grad():
        for parameter in method.student.parameters():
            parameter.add_(torch.randn_like(parameter))
    method.after_step(0)
    for ours, theirs, old in zip(*(list(n.parameters()) for n in (method.teacher, method.student, start)), strict=True):
        torch.testing.assert_close(ours, 0.9 * old + 0.1 * theirs)
    assert method.training
    assert method.teacher.training


def test_who_is_evaluated():
    method = make_method(name="mean_teacher")
    assert method.eval_network is method.student
    method = make_method(name="cutmix_seg")
    assert method.eval_network is method.teacher


@pytest.mark.parametrize("name", ["mean_teacher", "cutmix_seg"])
def test_teachers_are_not_optimised(name):
    method = make_method(name=name)
    optimised = {id(p) for group in method.param_groups(OptimConfig()) for p in group["params"]}
    assert optimised == {id(p) for p in method.student.parameters()}
