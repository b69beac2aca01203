"""Results in float64, from the project's reference, and how far others are from them."""

import math

import torch
from kernel_cases import decided
from tolerances import RANK_MARGIN, THRESHOLD_MARGIN
from torch import Tensor
from torch.nn.functional import interpolate

from fpl_fast.kernels.arguments import LabelInputs, LossInputs, LossOptions, TeacherInputs
from fpl_fast.reference import loss_gradient, pixel_terms


def upsampled(x: Tensor, inputs: LossInputs | LabelInputs | TeacherInputs) -> Tensor:
    """Logits of all pixels."""
    x = x.double()
    if inputs.size is None:
        return x
    return interpolate(x, inputs.size, mode="bilinear", align_corners=inputs.align_corners)


def teacher_of(inputs: LossInputs | TeacherInputs) -> Tensor:
    """The mixed teacher's logits of all pixels."""
    own = upsampled(inputs.teacher, inputs)
    if inputs.partner is None:
        return own
    return torch.where(inputs.mix_mask.unsqueeze(1), upsampled(inputs.partner, inputs), own)


def of_reference(inputs: LossInputs, options: LossOptions) -> LossOptions:
    """The options as the reference takes them: a threshold of each pixel is one of them."""
    return options if inputs.threshold is None else options._replace(threshold=inputs.threshold)


def is_clear(inputs: LossInputs, options: LossOptions, exact_ties: bool) -> bool:
    """Whether no pixel's K or positives hang on float32 rounding.

    Args:
        inputs: Of the loss.
        options: Of the loss.
        exact_ties: Whether interpolated logits that tie do so in float32, too.
    """
    t, threshold = teacher_of(inputs), of_reference(inputs, options).threshold
    clear = decided(t, threshold) | ~t.isfinite().all(1)
    ranked = t.sort(dim=1, descending=True).values
    cumulative = ranked.softmax(1).cumsum(1)
    if inputs.size is not None and not exact_ties:  # neither the first rank nor the cut may be a close call
        limit = threshold.unsqueeze(1) if isinstance(threshold, Tensor) else threshold
        k = (cumulative < limit).sum(1, keepdim=True).clamp(1, options.max_positives)
        gaps = -ranked.diff(dim=1)
        clear &= (gaps[:, 0] > RANK_MARGIN) & (gaps.gather(1, k - 1).squeeze(1) > RANK_MARGIN)
    if options.confidence_threshold:
        clear &= (cumulative[:, 0] - options.confidence_threshold).abs() > THRESHOLD_MARGIN
    return bool((clear if inputs.valid_mask is None else clear | ~inputs.valid_mask).all())


def fuzzy_positive(inputs: LossInputs, options: LossOptions, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of ``arguments.SUMS``, the gradient and the map of the fuzzy positive loss."""
    exact = inputs.student.double().requires_grad_()
    z, t = upsampled(exact, inputs), teacher_of(inputs)
    chosen = of_reference(inputs, options)
    terms = pixel_terms(z.detach(), t, chosen)
    one = torch.ones_like(terms.loss)
    valid = one.bool() if inputs.valid_mask is None else inputs.valid_mask
    weight = one if inputs.pixel_weight is None else inputs.pixel_weight.double()
    weight = weight * terms.confidence**options.confidence_power
    gate = (terms.confidence >= options.confidence_threshold).double()
    k = terms.num_positives.double()
    losses = gate * weight * terms.weight * terms.loss
    per_pixel = [losses, one, terms.weight * terms.loss, terms.loss, terms.cross_entropy, k]
    per_pixel += [*((k == n).double() for n in (1, 2, 3)), terms.confidence, gate, weight]
    per_pixel = [x.masked_fill(~valid, 0) for x in per_pixel]
    slope = gate * weight * terms.weight * (1.0 if scale is None else scale)
    # Not autograd's gradient of the loss: the hinge has a subgradient of its own where logits tie.
    upstream = slope.unsqueeze(1) * loss_gradient(z.detach(), t, terms.positives, chosen)
    (grad,) = torch.autograd.grad(z, exact, upstream.masked_fill(~valid.unsqueeze(1), 0))
    return torch.stack([x.sum() for x in per_pixel]), grad, per_pixel[0]


def cross_entropy(inputs: LabelInputs, scale: float | None) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of ``arguments.LABEL_SUMS``, the gradient and the map; NaN where a label is no class."""
    exact = inputs.student.double().requires_grad_()
    z, target = upsampled(exact, inputs), inputs.target.long()
    valid = target != inputs.ignore_index
    bad = valid & ((target < 0) | (target >= z.shape[1]))
    label = torch.where(valid & ~bad, target, 0)
    weight = valid.double()
    if inputs.class_weight is not None:
        weight = weight * inputs.class_weight.double()[label]
    if inputs.pixel_weight is not None:
        weight = weight * inputs.pixel_weight.double()
    losses = weight * (z.logsumexp(1) - z.gather(1, label.unsqueeze(1)).squeeze(1))
    (grad,) = torch.autograd.grad((losses.masked_fill(bad, 0) * (1.0 if scale is None else scale)).sum(), exact)
    if bad.any():  # only at full resolution
        grad = grad.masked_fill(bad.unsqueeze(1), math.nan)
    losses = losses.detach().masked_fill(bad, math.nan)
    return torch.stack([losses.sum(), valid.double().sum(), weight.sum()]), grad, losses


def excess(got: Tensor, want: Tensor, *, rtol: float, atol: float) -> float:
    """The largest error over what is allowed, which a result may not exceed by 1; NaN has to meet NaN."""
    if got.shape != want.shape or not torch.equal(got.isnan(), want.isnan()):
        return math.inf
    got, want = got.double(), want.to(got.dtype if got.dtype == torch.float64 else torch.float32).double()
    error = torch.where(got == want, 0.0, (got - want).abs() / (atol + rtol * want.abs()))
    error = error[~want.isnan()]
    if error.isnan().any():
        return math.inf
    return error.max().item() if error.numel() else 0.0


def unequal(got: Tensor, want: Tensor) -> float:
    """0 where all bits of numbers are equal, infinity otherwise."""
    return 0.0 if got.shape == want.shape and torch.equal(got.nan_to_num(7e4), want.nan_to_num(7e4)) else math.inf
