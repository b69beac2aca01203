import copy

import pytest
import torch
from method_cases import CLOSE, C, literal_fpl, make_batch, make_method, upsample
from torch.nn import functional as F


def shifted(**changes):
    """A method whose teacher is not its student."""
    method = make_method(name="mean_teacher", weighting="concave", **changes).train()
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return method


@pytest.mark.parametrize("loss", ["mse", "ce", "fpl"])
def test_equals_the_literal_version(loss):
    """spec/methods.md section 3.1; with "fpl" the slot of the squared difference."""
    method = shifted(loss=loss, unsup_weight=2.0)
    literal, batch = copy.deepcopy(method), make_batch(1)
    losses = method(batch, 0.0)
    total = sum(losses.terms.values())
    total.backward()

    x, (u,) = batch.labelled, batch.unlabelled
    with torch.no_grad():
        t = torch.cat([upsample(literal.teacher(x.image)), upsample(literal.teacher(u.image))])
    z = torch.cat([upsample(literal.student(x.image)), upsample(literal.student(u.image))])
    if loss == "mse":
        unsup = F.mse_loss(z.softmax(1), t.softmax(1))
    else:
        unsup = F.cross_entropy(z, t.argmax(1))
        if loss == "fpl":
            pixels, weights = literal_fpl(*(y.movedim(1, -1).reshape(-1, C) for y in (z, t)), 0.9, "concave")
            raw = (pixels * weights).mean()
            unsup = raw * (unsup / raw).detach()
    expected = F.cross_entropy(z[: len(x.image)], x.label, ignore_index=255) + 2 * unsup
    expected.backward()

    assert losses.terms["loss_unsup"] > 0
    torch.testing.assert_close(total, expected, **CLOSE)
    for ours, theirs in zip(method.student.parameters(), literal.student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **CLOSE)
    for ours, theirs in zip(method.buffers(), literal.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("loss", ["mse", "ce", "fpl"])
def test_gradient_reaches_the_student_and_no_teacher(loss):
    method = shifted(loss=loss)
    method(make_batch(1), 0.0).terms["loss_unsup"].backward()
    assert all(p.grad.count_nonzero() > 0 for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


@pytest.mark.parametrize("loss", ["mse", "fpl"])
def test_padding_counts_unless_ignored(loss):
    batch = make_batch(1)
    x, (u,) = batch.labelled, batch.unlabelled
    nothing = [view._replace(valid=torch.zeros_like(view.valid)) for view in (x, u)]
    nothing = batch._replace(labelled=nothing[0], unlabelled=(nothing[1],))
    terms = {
        (name, ignore): shifted(loss=loss, ignore_padding=ignore)(b, 0.0).terms["loss_unsup"].item()
        for name, b in (("padded", batch), ("nothing", nothing))
        for ignore in (False, True)
    }
    assert terms["padded", False] == terms["nothing", False]
    assert terms["nothing", True] == 0
    assert 0 < terms["padded", True] != terms["padded", False]
