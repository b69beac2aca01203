import math

import pytest
import torch
from torch.nn import functional as F

from fpl_fast.trainer.methods.distances import sum_of_divergences

SIZE, C = (13, 22), 5


@pytest.mark.parametrize("masked", [False, True])
def test_value_and_gradient_equal_the_literal_version(masked):
    logits = (3 * torch.randn(2, C, 4, 6)).requires_grad_()
    q = (3 * torch.randn(2, C, *SIZE)).softmax(1)
    counted = torch.rand(2, *SIZE) < 0.6 if masked else None
    ours = sum_of_divergences(logits, q, counted)
    p = F.interpolate(logits, SIZE, mode="bilinear", align_corners=True).softmax(1)
    m = (p + q) / 2
    pixels = ((m * (m / p).log() + m * (m / (q + 1e-5)).log()) / 2).sum(1)
    expected = pixels.sum() if counted is None else pixels[counted].sum()
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(-2 * loss, logits)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_equal_predictions_are_at_no_distance():
    logits = torch.randn(1, C, 4, 4, requires_grad=True)
    loss = sum_of_divergences(logits, logits.detach().softmax(1))
    assert abs(loss.item()) < 16e-4  # 1e-5 is added in a logarithm, class by class
    assert sum_of_divergences(logits, logits.detach().softmax(1), torch.zeros(1, 4, 4, dtype=torch.bool)) == 0


def test_nothing_of_the_upsampled_size_is_kept():
    """As far as the memory of the dry run can see."""
    kept = []
    logits, q = torch.randn(1, C, 4, 4, requires_grad=True), torch.full((1, C, 64, 64), 1 / C)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        sum_of_divergences(logits, q)
    assert kept == [logits.numel()]


def test_the_gradient_has_the_precision_of_the_logits():
    logits = torch.randn(1, C, 4, 4, dtype=torch.bfloat16, requires_grad=True)
    loss = sum_of_divergences(logits, torch.full((1, C, 8, 8), 1 / C))
    (gradient,) = torch.autograd.grad(loss * math.pi, logits)
    assert (loss.dtype, gradient.dtype) == (torch.float32, torch.bfloat16)
    assert gradient.count_nonzero() > 0
