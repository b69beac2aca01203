"""InfoNCE against a literal version in float64."""

import pytest
import torch
from torch.nn import functional as F

from fpl_fast.trainer.methods import info_nce as module
from fpl_fast.trainer.methods.info_nce import info_nce

T = 0.1


def draw(num, num_keys, channels=5, classes=3):
    anchor, positive, keys = (F.normalize(torch.randn(n, channels), dim=1) for n in (num, num, num_keys))
    label, key_labels = torch.randint(classes, (num,)), torch.randint(-1, classes, (num_keys,))
    return anchor, positive, label, keys, key_labels


def literal(anchor, positive, label, keys, key_labels):
    losses = []
    for a, b, c in zip(anchor, positive, label, strict=True):
        own = (a @ b / T).exp()
        others = [(a @ k / T).exp() for k, d in zip(keys, key_labels, strict=True) if d >= 0 and d != c]
        losses.append(-(own / (own + sum(others)) + 1e-8).log())
    return torch.stack(losses)


@pytest.mark.parametrize(("num", "num_keys"), [(1, 1), (7, 1), (1, 40), (33, 65)])
@pytest.mark.parametrize("part", [2**25, 200, 1])
def test_equals_the_literal_version_however_it_is_parted(monkeypatch, num, num_keys, part):
    monkeypatch.setattr(module, "_PART", part)
    given = draw(num, num_keys)
    upstream, anchor = torch.randn(num), given[0].requires_grad_()
    losses = info_nce(*given, temperature=T)
    losses.backward(upstream)
    double = [x.detach().double() if x.is_floating_point() else x for x in given]
    double[0].requires_grad_()
    expected = literal(*double)
    expected.backward(upstream.double())
    torch.testing.assert_close(losses.double(), expected, rtol=2e-5, atol=2e-6)
    scale = double[0].grad.abs().max().item()
    torch.testing.assert_close(anchor.grad.double(), double[0].grad, rtol=2e-5, atol=2e-6 * max(scale, 1))
    assert losses.dtype == torch.float32


def test_without_negatives_it_is_zero():
    anchor, positive, label, keys, _ = draw(6, 9)
    anchor.requires_grad_()
    for key_labels in (torch.full((9,), -1), torch.zeros(9, dtype=torch.int64)):
        losses = info_nce(anchor, positive, torch.zeros_like(label), keys, key_labels, temperature=T)
        torch.testing.assert_close(losses, torch.zeros(6), rtol=0, atol=2e-7)
        (gradient,) = torch.autograd.grad(losses.sum(), anchor)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-5)


def test_it_is_bounded_where_the_positive_has_no_share():
    """-log 1e-8, and no gradient, though e^(-400) is 0 in float32."""
    anchor = torch.tensor([[1.0, 0.0]], requires_grad=True)
    losses = info_nce(
        anchor, -anchor.detach(), torch.tensor([0]), anchor.detach(), torch.tensor([1]), temperature=0.005
    )
    torch.testing.assert_close(losses, torch.tensor([18.420681]))
    (gradient,) = torch.autograd.grad(losses.sum(), anchor)
    assert (gradient == 0).all()


def test_low_precision_inputs_are_computed_in_float32():
    given = draw(20, 30)
    rounded = [x.bfloat16() if x.is_floating_point() else x for x in given]
    anchor = rounded[0].requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        losses = info_nce(*rounded, temperature=T)
    exact = info_nce(*[x.detach().float() if x.is_floating_point() else x for x in rounded], temperature=T)
    assert torch.equal(losses, exact)
    (gradient,) = torch.autograd.grad(losses.sum(), anchor)
    assert gradient.dtype == torch.bfloat16 and gradient.isfinite().all()


def test_nothing_but_the_anchor_gets_a_gradient():
    anchor, positive, label, keys, key_labels = draw(5, 6)
    floats = [x.requires_grad_() for x in (anchor, positive, keys)]
    losses = info_nce(anchor, positive, label, keys, key_labels, temperature=T)
    gradients = torch.autograd.grad(losses.sum(), floats, allow_unused=True)
    assert gradients[0].abs().max() > 0 and gradients[1:] == (None, None)
