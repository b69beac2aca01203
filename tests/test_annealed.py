import math

import pytest
import torch
from method_cases import CLOSE, C, upsample
from process_group import fork_group
from torch.nn import functional as F

from fpl_fast.trainer.methods.annealed import annealed_cross_entropy, annealed_threshold


def literal(logits, label, threshold):
    """spec/methods.md section 3.2: sort, cut, mean."""
    losses = F.cross_entropy(logits, label, ignore_index=255, reduction="none")[label != 255]
    p = logits.softmax(1).gather(1, label.clamp(max=C - 1).unsqueeze(1)).squeeze(1)[label != 255]
    least = p.sort().values[len(label)].item()
    return losses[p < max(threshold, least)].mean()


def case(num=3):
    label = torch.randint(C, (num, 14, 18))
    label[torch.rand(label.shape) < 0.2] = 255
    return (2 * torch.randn(num, C, 4, 5)).requires_grad_(), label


@pytest.mark.parametrize("threshold", [0.0, 0.2, 0.9, 1.0])
def test_equals_the_literal_version(threshold):
    """With a threshold of 0 the B least probable pixels are left."""
    logits, label = case()
    ours, expected = (
        annealed_cross_entropy(logits, label, threshold=threshold),
        literal(upsample(logits), label, threshold),
    )
    torch.testing.assert_close(ours, expected, **CLOSE)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (ours, expected)]
    torch.testing.assert_close(*gradients, **CLOSE)


def test_the_threshold_rises_for_two_fifths_of_the_run():
    first, middle, last = (annealed_threshold(progress, 20, 0.9) for progress in (0.0, 0.2, 0.4))
    assert first == pytest.approx(0.05)
    assert middle == pytest.approx(0.05 + 0.85 * (1 - math.exp(-2.5)))
    assert last == annealed_threshold(0.99, 20, 0.9) == pytest.approx(0.05 + 0.85 * (1 - math.exp(-5)))


@pytest.mark.parametrize("num_labelled", [0, 1, 2])
def test_few_labelled_pixels(num_labelled):
    """With no more than B of them all count."""
    logits, label = case(2)
    label.fill_(255)
    label.view(-1)[:num_labelled] = 1
    loss = annealed_cross_entropy(logits, label, threshold=0.0)
    loss.backward()
    assert logits.grad.isfinite().all()
    expected = F.cross_entropy(upsample(logits), label, ignore_index=255) if num_labelled else torch.zeros(())
    torch.testing.assert_close(loss, expected, **CLOSE)


def share(rank, folder, logits, label):
    parts = slice(2 * rank, 2 * rank + 2)
    torch.save(annealed_cross_entropy(logits[parts], label[parts], threshold=0.0), folder / str(rank))


def test_two_processes_equal_one(tmp_path):
    logits, label = case(4)
    logits = logits.detach()
    fork_group(share, 2, tmp_path, logits, label)
    parts = [torch.load(tmp_path / str(rank)) for rank in range(2)]
    torch.testing.assert_close(sum(parts) / 2, annealed_cross_entropy(logits, label, threshold=0.0), **CLOSE)
