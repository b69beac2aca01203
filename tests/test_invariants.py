"""Properties that hold for every input, searched by hypothesis on the reference and the eager engine."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import EXACT
from torch.testing import assert_close

from fpl_fast import fuzzy_positive_assignment, fuzzy_positive_loss

thresholds = st.floats(0.01, 1.0)
caps = st.none() | st.integers(1, 30)


@st.composite
def logit_pairs(draw):
    """Student and teacher, float64, from flat to one-hot, with and without ties."""
    shape = (draw(st.integers(1, 2)), draw(st.integers(2, 25)), draw(st.integers(1, 4)), draw(st.integers(1, 5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    student, teacher = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    teacher = teacher * draw(st.sampled_from([0.0, 0.3, 3.0, 50.0]))
    return student * draw(st.sampled_from([0.1, 3.0, 300.0])), teacher.round() if draw(st.booleans()) else teacher


@settings(deadline=None, max_examples=60)
@given(logit_pairs(), thresholds, caps)
def test_assignment(pair, threshold, cap):
    _, teacher = pair
    num_classes = teacher.shape[1]
    k, positives = fuzzy_positive_assignment(teacher, threshold=threshold, max_positives=cap)
    assert torch.equal(positives.sum(1), k)
    assert k.min() >= 1 and k.max() <= min(num_classes - 1, cap or num_classes)
    lowest_in = teacher.masked_fill(~positives, float("inf")).amin(1)
    highest_out = teacher.masked_fill(positives, -float("inf")).amax(1)
    assert (lowest_in >= highest_out).all()
    fewer, _ = fuzzy_positive_assignment(teacher, threshold=threshold / 2, max_positives=cap)
    assert (fewer <= k).all()  # a lower threshold never adds positives


@settings(deadline=None, max_examples=60)
@given(
    logit_pairs(),
    thresholds,
    caps,
    st.sampled_from(["none", "linear", "convex", "concave"]),
    st.sampled_from(["smooth", "hinge"]),
)
def test_loss(pair, threshold, cap, weighting, form):
    student, teacher = pair
    student.requires_grad_()
    options = {"threshold": threshold, "max_positives": cap, "weighting": weighting, "form": form}
    losses = fuzzy_positive_loss(student, teacher, reduction="none", **options)
    assert losses.isfinite().all() and losses.min() >= -1e-12
    (gradient,) = torch.autograd.grad(losses.sum(), student)
    _, positives = fuzzy_positive_assignment(teacher, threshold=threshold, max_positives=cap)
    assert (gradient[positives] <= 1e-12).all() and (gradient[~positives] >= -1e-12).all()
    assert gradient.clamp(min=0).sum(1).max() <= 1 + 1e-12  # the push of a pixel is S <= 1 on either side
    assert_close(gradient.sum(1), torch.zeros_like(losses), **EXACT)
    moved = fuzzy_positive_loss(student.detach() + 7.0, teacher - 3.0, reduction="none", **options)
    assert_close(moved, losses.detach(), rtol=1e-8, atol=1e-8)
