"""Inputs for the kernel tests and the comparison with the float64 reference."""

import torch
from tolerances import GRADIENT, LOSS, RANK_MARGIN, SUMS, THRESHOLD_MARGIN, widened
from torch import Tensor
from torch.nn.functional import interpolate
from torch.testing import assert_close

from fpl_fast.kernels import fuzzy_positive
from fpl_fast.kernels.arguments import SUMS as SUMS_OF_PIXELS
from fpl_fast.kernels.arguments import LossInputs, LossOptions
from fpl_fast.kernels.fuzzy_positive import fuzzy_positive_map
from fpl_fast.reference import loss_gradient, pixel_terms

COUNTS = ("num_valid", "positives", "one_positive", "two_positives", "three_positives", "num_selected")


def draw_logits(
    *shape: int, dtype: torch.dtype, spread: float = 3.0, ties: bool = False, device: str = "cpu"
) -> Tensor:
    """Random logits; ``ties`` rounds them to integers, so that most pixels hold equal logits."""
    logits = torch.randn(shape, device=device) * spread
    return (logits.round() if ties else logits).to(dtype)


def draw_huge_logits(*shape: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """Finite logits of all sizes; times log2(e) those past 2.36e38 are infinite in float32."""
    sizes = torch.tensor([1.0, 1e6, 9e8, 2e9, 1e20, 1e38, 2.2e38, 2.5e38, 3.3e38])
    sign, factor = torch.randint(-1, 2, shape), 1 + torch.randint(3, shape) / 100
    return (sizes[torch.randint(len(sizes), shape)] * sign * factor).to(device, dtype)


def fuzzy_positive_sums(inputs: LossInputs, options: LossOptions, **keywords: object) -> tuple[Tensor, Tensor | None]:
    """The sums of the kernel's programs, added, and the gradient."""
    partial_sums, grad = fuzzy_positive.fuzzy_positive_sums(inputs, options, **keywords)
    return partial_sums.sum(dim=1, dtype=torch.float64).float(), grad


def decided(teacher: Tensor, threshold: float | Tensor) -> Tensor:
    """(N, H, W) bool: pixels whose K does not hang on rounding, their cumulative probabilities being clear of T."""
    cumulative = teacher.double().sort(dim=1, descending=True).values.softmax(1).cumsum(1)
    threshold = threshold.unsqueeze(1) if isinstance(threshold, Tensor) else threshold
    return (cumulative[:, :-1] - threshold).abs().amin(1) > THRESHOLD_MARGIN  # c_C = 1 decides nothing


def check_against_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    partner: Tensor | None = None,
    mix_mask: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    valid_mask: Tensor | None = None,
    threshold: float | Tensor = 0.9,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    scale: float | None = None,
    exact_ties: bool = False,
    huge: bool = False,
    **options: float | str,
) -> None:
    """Compare sums, gradient and map with the reference in float64, on the pixels where K is decided.

    ``exact_ties`` says of upsampled logits that those which tie do so in float32, too; ``huge`` that exponentials lose
    more than the table allows for.
    """
    of_pixels = threshold if isinstance(threshold, Tensor) else None
    chosen = LossOptions(threshold, 3, "concave", 1.0, "smooth")._replace(**options)
    chosen = chosen._replace(max_positives=min(chosen.max_positives, student.shape[1] - 1))

    def upsample(x: Tensor) -> Tensor:
        x = x.double()
        return x if size is None else interpolate(x, size, mode="bilinear", align_corners=align_corners)

    exact = student.double().requires_grad_()
    z, t = upsample(exact), upsample(teacher)
    if partner is not None:
        t = torch.where(mix_mask.unsqueeze(1), upsample(partner), t)
    clear = decided(t, chosen.threshold)
    assert clear.double().mean() > 0.5
    if size is not None and not exact_ties:
        clear &= t.sort(dim=1).values.diff(dim=1).amin(1) > RANK_MARGIN
    if chosen.confidence_threshold:
        clear &= (t.softmax(1).amax(1) - chosen.confidence_threshold).abs() > THRESHOLD_MARGIN
    if not clear.all():
        valid_mask = clear if valid_mask is None else clear & valid_mask
    inputs = LossInputs(student, teacher, partner, mix_mask, pixel_weight, valid_mask, of_pixels, size, align_corners)
    scale_tensor = None if scale is None else torch.tensor(scale, device=student.device)
    given = chosen if of_pixels is None else chosen._replace(threshold=1.0)
    sums, grad = fuzzy_positive_sums(inputs, given, scale=scale_tensor, with_grad=True, with_stats=True)
    first, same_grad = fuzzy_positive_sums(inputs, given, scale=scale_tensor, with_grad=True, with_stats=False)
    pixel_map = fuzzy_positive_map(inputs, given)

    terms = pixel_terms(z, t, chosen)
    one = torch.ones_like(terms.loss)
    valid = one.bool() if valid_mask is None else valid_mask
    a = one if pixel_weight is None else pixel_weight.double()
    b = a * terms.confidence**chosen.confidence_power
    gate = (terms.confidence >= chosen.confidence_threshold).double()
    k = terms.num_positives.double()
    per_sum = [gate * b * terms.weight * terms.loss, one, terms.weight * terms.loss, terms.loss, terms.cross_entropy, k]
    per_sum += [(k == number).double() for number in (1, 2, 3)]
    per_sum += [terms.confidence, gate, b]
    expected = torch.stack([x.masked_fill(~valid, 0).sum() for x in per_sum])
    slope = (gate * b * terms.weight * (1.0 if scale is None else scale)).masked_fill(~valid, 0).unsqueeze(1)
    # Not autograd's gradient of the loss: the hinge has a subgradient of its own where logits tie.
    upstream = slope * loss_gradient(z.detach(), t, terms.positives, chosen).masked_fill(~valid.unsqueeze(1), 0)
    (expected_grad,) = torch.autograd.grad(z, exact, upstream)

    wide = torch.stack([z.detach(), t]) if huge else z.new_empty(0)
    counts = torch.tensor([SUMS_OF_PIXELS.index(name) for name in COUNTS], device=sums.device)
    assert torch.equal(sums.double()[counts], expected[counts])
    close_sums = widened(SUMS, wide, count=valid.numel())
    assert_close(sums.double(), expected, **close_sums)
    assert_close(first.double(), expected[:1], **close_sums)
    assert_close(pixel_map.double(), per_sum[0].masked_fill(~valid, 0), **widened(LOSS, wide))
    assert grad.dtype == student.dtype
    assert grad.stride() == torch.empty_like(student).stride()
    assert_close(grad.double(), expected_grad, **widened(GRADIENT[student.dtype], z))
    assert torch.equal(grad, same_grad)
