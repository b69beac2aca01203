"""Losses with labels, with fused upsampling. Shapes: N images, C classes, h x w logits, H x W pixels of the labels."""

from typing import Literal, Required, TypedDict

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import LabelInputs
from fpl_fast.ops.cross_entropy import loss_of_labels, pixel_losses_of_labels
from fpl_fast.ops.gradient import is_traced, refuse_transforms
from fpl_fast.reference import accumulate_dtype
from fpl_fast.valid_labels import comparable, is_labelled

LabelReduction = Literal["none", "sum", "mean"]
LabelEngine = Literal["auto", "triton", "eager"]


class LabelOptions(TypedDict, total=False):
    """The options that the losses with labels share, for typing code that passes them on."""

    ignore_index: int
    size: tuple[int, int] | None
    align_corners: bool
    engine: LabelEngine


class CrossEntropyOptions(LabelOptions, total=False):
    """The options of :func:`cross_entropy`."""

    weight: Tensor | None
    reduction: LabelReduction


class OhemOptions(LabelOptions, total=False):
    """The options of :func:`ohem_cross_entropy`."""

    min_kept: Required[int]
    threshold: float
    group_size: int


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    ignore_index: int = 255,
    weight: Tensor | None = None,
    pixel_weight: Tensor | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    reduction: LabelReduction = "mean",
    engine: LabelEngine = "auto",
) -> Tensor:
    r"""Cross entropy of low- or full-resolution logits with labels, loss and gradient in one pass.

    A pixel with the label y contributes a * weight[y] * L, L = -log softmax(z)_y, a = ``pixel_weight``. With ``size``,
    it equals :func:`torch.nn.functional.cross_entropy` on logits upsampled by
    :func:`torch.nn.functional.interpolate`, but nothing of the upsampled logits' size is held.

    Accumulates in float32 (float64 for float64 logits), deterministically, without host synchronisation. Double
    backward, forward mode and ``torch.func.grad`` raise an error.

    Args:
        logits: (N, C, h, w), C >= 2, any strides; float16, bfloat16, float32 or float64. Never written to.
        target: (N, H, W) uint8, int32 or int64 classes in [0, C), or ``ignore_index``. Any other label makes the loss
            NaN (it is not looked at beforehand: that would synchronise), and so does a logit that is not finite.
        ignore_index: Label of pixels that contribute nothing, whatever their logits hold.
        weight: (C,) floating point class weights; None for 1.
        pixel_weight: (N, H, W) floating point; None for 1. No gradient flows into it.
        size: (H, W); the logits are upsampled bilinearly to it. None: H, W = h, w.
        align_corners: As in :func:`torch.nn.functional.interpolate`, for ``size``. The default is True, as in the
            published methods; the default of PyTorch's function is False.
        reduction: "none" gives (N, H, W), zero where ignored; "sum"; "mean" divides the sum by the sum of
            a * weight[y] over the labelled pixels (with none the loss is 0, where PyTorch has NaN).
        engine: "auto", "triton" or "eager".

    Returns:
        The loss, float32 (float64 for float64 logits): 0-d, or (N, H, W) with ``reduction="none"``.

    Raises:
        ValueError: If an argument breaks a rule above; the message names the argument, the rule and the value.

    Example:
        >>> logits = torch.randn(2, 19, 32, 32, requires_grad=True)
        >>> target = torch.randint(0, 19, (2, 128, 128), dtype=torch.uint8)
        >>> cross_entropy(logits, target, size=(128, 128)).backward()
    """
    checks.check_logits("logits", logits)
    checks.check_options(checks.LABEL_RULES, reduction=reduction, align_corners=align_corners)
    size = checks.check_size(size, logits)
    n, num_classes, *native = logits.shape
    pixels = (n, *(size or native))
    checks.check_target(target, pixels, logits.device)
    checks.check_class_weight(weight, num_classes, logits.device)
    checks.check_pixels("pixel_weight", pixel_weight, pixels, logits.device, boolean=False)
    target, ignore_index = comparable(target, checks.check_ignore_index(ignore_index))
    refuse_transforms(logits)

    dtype = accumulate_dtype(logits)
    if weight is not None:
        weight = weight.detach().to(dtype).contiguous()
    if pixel_weight is not None:  # a fill: NaN in an ignored pixel must not survive
        pixel_weight = pixel_weight.detach().to(dtype).masked_fill(~is_labelled(target, ignore_index), 0)
    resolved = choice.resolve_labels(engine, logits)
    inputs = LabelInputs(logits, target, weight, pixel_weight, ignore_index, size, align_corners)
    if reduction == "none":
        return pixel_losses_of_labels(inputs, resolved)
    scale = None
    if reduction == "mean":
        scale = _mean_scale(inputs, resolved, dtype)
    return loss_of_labels(inputs, resolved, scale=scale)


def ohem_cross_entropy(
    logits: Tensor,
    target: Tensor,
    *,
    min_kept: int,
    threshold: float = 0.7,
    group_size: int = 1,
    ignore_index: int = 255,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    engine: LabelEngine = "auto",
) -> Tensor:
    """Cross entropy on the hard pixels of each image, or of a few together (online hard example mining).

    With p the probability of the true class (1 where ignored), a group of ``group_size`` consecutive images keeps its
    labelled pixels with p <= max(threshold, the min_kept-th smallest p), or all of them when fewer than ``min_kept``
    are labelled. Source: Cross Pseudo Supervision (CVPR 2021) on Cityscapes, where each GPU mined its one image, and
    Adaptive Equalization Learning (NeurIPS 2021), where each mined its two together.

    There are two passes over the low-resolution logits, one for p and one for the loss with its gradient; one number a
    pixel is held between them.

    Args:
        logits: As in :func:`cross_entropy`.
        target: As in :func:`cross_entropy`.
        min_kept: Pixels kept per group at least.
        threshold: Probability in (0, 1] up to which a pixel is hard in any case.
        group_size: Consecutive images that are mined together, a divisor of N; 1 mines every image alone.
        ignore_index: As in :func:`cross_entropy`.
        size: As in :func:`cross_entropy`.
        align_corners: As in :func:`cross_entropy`; the default is True, in PyTorch's own interpolation False.
        engine: As in :func:`cross_entropy`.

    Returns:
        0-d, the mean over groups of the mean over kept pixels; a group without a labelled pixel counts as 0.

    Raises:
        ValueError: As in :func:`cross_entropy`, or if ``min_kept``, ``threshold`` or ``group_size`` breaks its rule.

    Example:
        >>> logits, target = torch.randn(2, 19, 32, 32), torch.randint(0, 19, (2, 128, 128))
        >>> loss = ohem_cross_entropy(logits, target, min_kept=1000, size=(128, 128))
    """
    mining = {"min_kept": min_kept, "threshold": threshold, "group_size": group_size}
    min_kept, threshold, group_size = checks.check_options(checks.LABEL_RULES, **mining).values()
    checks.check_logits("logits", logits)
    size = checks.check_size(size)
    checks.check_target(target, (len(logits), *(size or logits.shape[2:])), logits.device)
    checks.check_size(size, logits if target.numel() else None)
    if len(logits) % group_size:
        raise ValueError(f"group_size must be a divisor of the {len(logits)} images, got {group_size}; 1 always is")
    target, ignore_index = comparable(target, checks.check_ignore_index(ignore_index))
    if target.numel() == 0:
        return cross_entropy(logits, target, ignore_index=ignore_index, size=size, engine=engine)
    keywords: LabelOptions = {
        "ignore_index": ignore_index,
        "size": size,
        "align_corners": align_corners,
        "engine": engine,
    }
    with torch.no_grad():
        losses = cross_entropy(logits.detach(), target, reduction="none", **keywords)
        losses = losses.reshape(len(target) // group_size, -1)
        labelled = is_labelled(target, ignore_index).reshape(losses.shape)  # of a view with any strides
        p = (-losses).exp()  # 1 where ignored, as their loss is 0
        kth_smallest = p.kthvalue(min(min_kept, p.shape[1]), dim=1, keepdim=True).values
        # A sum with a tensor, not clamp(min=threshold): inside a compiler a schedule's number stays an input that way.
        hard = torch.maximum(kth_smallest, threshold + p.new_zeros(()))
        too_few = labelled.sum(dim=1, keepdim=True) < min_kept
        kept = labelled & (too_few | (p <= hard) | p.isnan())
        num_kept = kept.sum(dim=1, keepdim=True).clamp(min=1).to(losses.dtype)
        # Weights about 1, and the small factor on the loss: a float16 gradient must meet it after the loss scale.
        average = num_kept.mean()
        weights = (kept * (average / num_kept)).reshape(target.shape)
    total = cross_entropy(logits, target, pixel_weight=weights, reduction="sum", **keywords)
    return total / (average * len(kept))


def _mean_scale(inputs: LabelInputs, engine: str, dtype: torch.dtype) -> Tensor:
    """Compute 1 / sum of a * weight[y] over the labelled pixels; 1 where there is none, so that an empty mean is 0."""
    _, target, weight, pixel_weight, ignore_index, *_ = inputs
    alike = weight is None and pixel_weight is None
    if alike and engine == "triton" and not is_traced(target):
        from fpl_fast.kernels import mean_scale  # imports triton: only where it is asked for

        return mean_scale.mean_scale(target, ignore_index)
    labelled = is_labelled(target, ignore_index)
    if alike:
        return 1 / labelled.sum(dtype=torch.int64).clamp(min=1).to(dtype)
    factor = labelled.to(dtype)
    if weight is not None:
        factor = factor * weight[target.long().clamp(0, len(weight) - 1)]
    if pixel_weight is not None:
        factor = factor * pixel_weight
    total = factor.sum(2).sum(1).sum()  # PyTorch splits one long sum among threads, where it rounds otherwise
    return torch.where(total <= 0, 1.0, 1 / total)
