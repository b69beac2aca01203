import copy

import pytest
import torch
from method_cases import CLOSE, literal_fpl, make_batch, make_method, upsample
from torch.nn import functional as F


def shifted(**changes):
    """A method whose teacher is not its student."""
    method = make_method(name="cutmix_seg", weighting="concave", **changes).train()
    with torch.no_grad():
        for parameter in method.teacher.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return method


@pytest.mark.parametrize(("ignore_padding", "divide_by_all"), [(False, False), (True, False), (True, True)])
@pytest.mark.parametrize("loss", ["mse", "ce", "fpl"])
def test_equals_the_literal_version(loss, ignore_padding, divide_by_all):
    """spec/methods.md section 3.4, the passes in its order; with "fpl" the slot of the squared difference."""
    padding = {"ignore_padding": ignore_padding, "divide_by_all": divide_by_all}
    method = shifted(loss=loss, unsup_weight=2.0, confidence_threshold=0.6, **padding)
    literal, batch = copy.deepcopy(method), make_batch(2)
    losses = method(batch, 0.0)
    total = sum(losses.terms.values())
    total.backward()

    x, (u0, u1), m = batch.labelled, batch.unlabelled, batch.mix_mask.unsqueeze(1).float()
    sup = F.cross_entropy(upsample(literal.student(x.image)), x.label, ignore_index=255)
    with torch.no_grad():
        t = upsample(literal.teacher(u0.image)) * (1 - m) + upsample(literal.teacher(u1.image)) * m
    z = upsample(literal.student(u0.image * (1 - m) + u1.image * m))
    valid = torch.where(batch.mix_mask, u1.valid, u0.valid) | (not ignore_padding)
    sure = (t.softmax(1).amax(1) >= 0.6)[valid | divide_by_all].float().mean()
    z, t = (y.movedim(1, -1)[valid] for y in (z, t))
    if loss == "mse":
        unsup = (z.softmax(1) - t.softmax(1)).square().sum(1).mean()
    else:
        unsup = F.cross_entropy(z, t.argmax(1))
        if loss == "fpl":
            pixels, weights = literal_fpl(z, t, 0.9, "concave")
            raw = (pixels * weights).mean()
            unsup = raw * (unsup / raw).detach()
    if divide_by_all:
        unsup = unsup * valid.float().mean()
    expected = sup + 2 * sure * unsup
    expected.backward()

    assert 0 < losses.telemetry["sure"] == sure < 1
    assert losses.terms["loss_unsup"] > 0
    torch.testing.assert_close(total, expected, **CLOSE)
    for ours, theirs in zip(method.student.parameters(), literal.student.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, **CLOSE)
    for ours, theirs in zip(method.buffers(), literal.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, **CLOSE)


@pytest.mark.parametrize("loss", ["mse", "ce", "fpl"])
def test_gradient_reaches_the_student_and_no_teacher(loss):
    method = shifted(loss=loss)
    method(make_batch(2), 0.0).terms["loss_unsup"].backward()
    assert all(p.grad.count_nonzero() > 0 for p in method.student.parameters())
    assert all(p.grad is None for p in method.teacher.parameters())


def test_only_pasted_validity_counts_where_pasted():
    batch = make_batch(2)
    first, second = batch.unlabelled
    batch = batch._replace(
        unlabelled=(
            first._replace(valid=torch.zeros_like(first.valid)),
            second._replace(valid=torch.ones_like(second.valid)),
        )
    )
    none_pasted = batch._replace(mix_mask=torch.zeros_like(batch.mix_mask))
    for loss in ("mse", "fpl"):
        method = shifted(loss=loss, ignore_padding=True)
        assert method(none_pasted, 0.0).terms["loss_unsup"] == 0
        assert method(batch, 0.0).terms["loss_unsup"] > 0
