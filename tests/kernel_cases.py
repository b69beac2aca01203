"""Inputs for the kernel tests and the comparison with the float64 reference."""

import torch
from tolerances import GRADIENT, LOSS, SUMS, THRESHOLD_MARGIN
from torch import Tensor
from torch.testing import assert_close

from fpl_fast.kernels.fuzzy_positive import fuzzy_positive_map, fuzzy_positive_sums
from fpl_fast.reference import assign_positives, loss_gradient, pixel_terms


def draw_logits(
    *shape: int, dtype: torch.dtype, spread: float = 3.0, ties: bool = False, device: str = "cpu"
) -> Tensor:
    """Random logits; ``ties`` rounds them to integers, so that most pixels hold equal logits."""
    logits = torch.randn(shape, device=device) * spread
    return (logits.round() if ties else logits).to(dtype)


def decided(teacher: Tensor, threshold: float) -> Tensor:
    """(N, H, W) bool: pixels whose K does not hang on rounding, their cumulative probabilities being clear of T."""
    cumulative = teacher.double().sort(dim=1, descending=True).values.softmax(1).cumsum(1)
    return (cumulative - threshold).abs().amin(1) > THRESHOLD_MARGIN


def check_against_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    pixel_weight: Tensor | None = None,
    valid_mask: Tensor | None = None,
    scale: float | None = None,
    threshold: float = 0.9,
    max_positives: int = 3,
    weighting: str = "concave",
    convex_scale: float = 1.0,
    form: str = "smooth",
) -> None:
    """Compare sums, gradient and map with the reference in float64, on the pixels where K is decided."""
    options = {
        "threshold": threshold,
        "max_positives": min(max_positives, student.shape[1] - 1),
        "weighting": weighting,
        "convex_scale": convex_scale,
        "form": form,
    }
    clear = decided(teacher, threshold)
    if not clear.all():
        valid_mask = clear if valid_mask is None else clear & valid_mask
    per_pixel = {"pixel_weight": pixel_weight, "valid_mask": valid_mask}
    scale_tensor = None if scale is None else torch.tensor(scale, device=student.device)
    sums, grad = fuzzy_positive_sums(student, teacher, scale=scale_tensor, with_grad=True, **per_pixel, **options)
    pixel_map = fuzzy_positive_map(student, teacher, **per_pixel, **options)

    z, t = student.double(), teacher.double()
    terms = pixel_terms(z, t, **options)
    valid = torch.ones_like(terms.loss, dtype=torch.bool) if valid_mask is None else valid_mask
    a = 1.0 if pixel_weight is None else pixel_weight.double()
    per_sum = (a * terms.weight * terms.loss, terms.weight * terms.loss, terms.loss, terms.cross_entropy)
    per_sum += (terms.num_positives.double(), torch.ones_like(terms.loss))
    expected = torch.stack([x.masked_fill(~valid, 0).sum() for x in per_sum])
    expected_map = per_sum[0].masked_fill(~valid, 0)
    positives = assign_positives(t, options["threshold"], options["max_positives"]).positives
    slope = a * terms.weight * (1.0 if scale is None else scale)
    expected_grad = slope.unsqueeze(1) * loss_gradient(z, t, positives=positives, form=form)
    expected_grad = expected_grad.masked_fill(~valid.unsqueeze(1), 0)

    assert_close(sums.double(), expected, **SUMS)
    assert_close(pixel_map.double(), expected_map, **LOSS)
    assert grad.dtype == student.dtype
    assert grad.stride() == torch.empty_like(student).stride()
    assert_close(grad.double(), expected_grad, **GRADIENT[student.dtype])
