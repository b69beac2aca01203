import pytest
import torch
from torch.nn import functional as F

from fpl_fast.trainer.methods.ohem import ohem_cross_entropy

IGNORE = 255
CLOSE = {"rtol": 1e-5, "atol": 1e-6}


def literal_ohem(logits, label, min_kept, threshold):
    """spec/cps.md section 2, pixel by pixel."""
    losses = []
    for image, truth in zip(logits, label, strict=True):
        p = image.softmax(0)
        rows = []  # (p of the true class, its cross entropy, valid)
        for y, x in torch.cartesian_prod(torch.arange(truth.shape[0]), torch.arange(truth.shape[1])).tolist():
            c = truth[y, x].item()
            if c == IGNORE:
                rows.append((1.0, torch.zeros(()), False))
            else:
                rows.append((p[c, y, x].item(), -p[c, y, x].log(), True))
        valid = [row for row in rows if row[2]]
        if min_kept > len(valid):
            kept = valid
        else:
            tau = max(threshold, sorted(row[0] for row in rows)[min_kept - 1])
            kept = [row for row in valid if row[0] <= tau]
        losses.append(torch.stack([row[1] for row in kept]).mean() if kept else torch.zeros(()))
    return torch.stack(losses).mean()


def random_case(seed, confident):
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 5, 7, 9, generator=generator)  # odd sizes
    label = torch.randint(0, 5, (3, 7, 9), generator=generator)
    if confident:  # most pixels above the threshold: min_kept decides
        logits += 8 * F.one_hot(label, 5).permute(0, 3, 1, 2)
    label[torch.rand(label.shape, generator=generator) < 0.3] = IGNORE
    return logits.requires_grad_(), label


@pytest.mark.parametrize("confident", [False, True])
@pytest.mark.parametrize("min_kept", [1, 20, 44, 63, 1000])  # few, some, about all valid, all, more than there are
def test_equals_the_literal_version(min_kept, confident):
    logits, label = random_case(min_kept, confident)
    loss = ohem_cross_entropy(logits, label, min_kept=min_kept, threshold=0.7, ignore_index=IGNORE)
    expected = literal_ohem(logits, label, min_kept, 0.7)
    torch.testing.assert_close(loss, expected, **CLOSE)
    ours = torch.autograd.grad(loss, logits)[0]
    theirs = torch.autograd.grad(expected, logits)[0]
    torch.testing.assert_close(ours, theirs, **CLOSE)


def test_keeping_all_is_cross_entropy_of_each_image():
    logits, label = random_case(0, confident=False)
    loss = ohem_cross_entropy(logits, label, min_kept=10**6)
    expected = sum(F.cross_entropy(z[None], y[None], ignore_index=IGNORE) for z, y in zip(logits, label, strict=True))
    torch.testing.assert_close(loss, expected / len(logits), **CLOSE)


def test_hard_pixels_only():
    """Of two pixels one is learnt; with min_kept 1 the other alone counts."""
    logits = torch.tensor([[9.0, 0.0], [0.0, 0.0]]).view(1, 2, 1, 2)
    label = torch.zeros(1, 1, 2, dtype=torch.int64)
    loss = ohem_cross_entropy(logits, label, min_kept=1)
    torch.testing.assert_close(loss, torch.tensor(2.0).log(), **CLOSE)


def test_nothing_valid_is_zero():
    logits = torch.randn(2, 3, 4, 5, requires_grad=True)
    loss = ohem_cross_entropy(logits, torch.full((2, 4, 5), IGNORE), min_kept=3)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.count_nonzero() == 0
