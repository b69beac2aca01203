import sys
import types

import pytest
import torch
from torch.nn.functional import cross_entropy

from fpl_fast.bench.cases import IGNORE_INDEX, Case, make_inputs
from fpl_fast.bench.correctness import wrong_share
from fpl_fast.bench.peers.labels import LABEL_PEERS

CPU = torch.device("cpu")
LIBRARIES = {"liger": "liger_kernel", "apex": "apex"}


class OverwritingLoss(torch.autograd.Function):
    """Behaves like Liger's: the gradient takes the place of the rows it was given."""

    @staticmethod
    def forward(ctx, rows, label):
        with torch.enable_grad():
            leaf = rows.detach().clone().requires_grad_()
            loss = cross_entropy(leaf, label, ignore_index=IGNORE_INDEX)
            (gradient,) = torch.autograd.grad(loss, leaf)
        rows.data.copy_(gradient)
        ctx.save_for_backward(rows.detach())
        return loss.detach()

    @staticmethod
    def backward(ctx, grad_output):
        return ctx.saved_tensors[0] * grad_output, None


class LigerCrossEntropyLoss(torch.nn.Module):
    def __init__(self, ignore_index):
        super().__init__()
        assert ignore_index == IGNORE_INDEX

    def forward(self, rows, label):
        assert rows.ndim == 2 and rows.is_contiguous() and label.ndim == 1
        return OverwritingLoss.apply(rows, label)


class SoftmaxCrossEntropyLoss:
    @staticmethod
    def apply(rows, label, smoothing, padding_idx, half_to_float):
        assert smoothing == 0 and not half_to_float
        assert label.min() >= 0 and label.max() < rows.shape[1]  # it reads there, ignored or not
        return cross_entropy(rows, label, reduction="none").masked_fill(label == padding_idx, 0)


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins with the calling conventions of the two libraries."""
    modules = {
        "liger_kernel.transformers.cross_entropy": {"LigerCrossEntropyLoss": LigerCrossEntropyLoss},
        "apex.contrib.xentropy": {"SoftmaxCrossEntropyLoss": SoftmaxCrossEntropyLoss},
    }
    for name, content in modules.items():
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            module = types.ModuleType(".".join(parts[:length]))
            vars(module).update(content if length == len(parts) else {})
            monkeypatch.setitem(sys.modules, module.__name__, module)


def peer(name):
    return next(peer for peer in LABEL_PEERS if peer.name == name)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", list(LIBRARIES))
def test_libraries_are_called_right(libraries, name, layout) -> None:
    case = Case(shape=(2, 5, 16, 7), labels=True, layout=layout)
    inputs = make_inputs(case, CPU)
    before = inputs.student.detach().clone()
    loss = peer(name).bind(case, inputs)(inputs.student)
    gradient = torch.autograd.grad(loss, inputs.student)[0]
    assert torch.equal(inputs.student, before)
    assert wrong_share(case, inputs, loss, gradient) == 0


@pytest.mark.parametrize(("name", "package"), LIBRARIES.items())
def test_libraries_that_are_missing_say_so(name, package) -> None:
    assert peer(name).refusal(Case(labels=True), torch.device("cpu")) == "it runs on GPUs only"
    if package not in sys.modules:
        assert peer(name).refusal(Case(labels=True), torch.device("cuda")) in (f"{package} is not installed", None)


def test_cross_entropies_leave_more_than_2_to_the_31_logits_to_others() -> None:
    huge = Case(shape=(1000, 4, 1000, 1000))
    assert not peer("cross_entropy").supports(huge) and not peer("argmax_cross_entropy").supports(huge)
