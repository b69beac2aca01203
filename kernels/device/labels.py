"""Cross entropy with labels of a block of pixels whose logits are in registers."""

import triton
import triton.language as tl

from fpl_fast.kernels.device.arithmetic import LOG2_E, divide, log, nan_if_void
from fpl_fast.kernels.device.classes import class_index, fold_max, fold_sum, keep


@triton.jit
def load_labels(target_ptr, pixel_offset, in_bounds, ignore_index):
    """Load the labels of pixels, at least int32, and the mask of those that are not ignored."""
    label = tl.load(target_ptr + pixel_offset, mask=in_bounds, other=0)
    if label.dtype == tl.uint8:
        label = label.to(tl.int32)
    return label, in_bounds & (label != ignore_index)


@triton.jit
def labelled_pixels(
    z, label, poison, valid, pixel_weight, class_weight_ptr, scale, C: tl.constexpr, G: tl.constexpr, FAST: tl.constexpr
):
    """Cross entropy and its gradient of every pixel.

    Args:
        z: logits, float32 class groups, classes that do not exist at -inf.
        label: true class of each pixel; one that does not exist gives NaN.
        poison: 0, or NaN where one of a pixel's logits is NaN or infinite.
        valid: pixels that count.
        pixel_weight: a per pixel, or None for 1.
        class_weight_ptr: (C,) float32 weights v, or None for 1.
        scale: factor of the gradient, or None for 1.
        C: classes.
        G: classes in a group.
        FAST: see ``arithmetic``.

    Returns:
        (terms, gradient): a * v * L, 1 and a * v per pixel, and class groups; all zero where not valid.
    """
    exists = (label >= 0) & (label < C)
    label = tl.where(exists, label, 0).to(tl.int32)
    poison += tl.where(exists, 0.0, float("nan"))
    factor = tl.full(poison.shape, 1.0, tl.float32)
    if pixel_weight is not None:
        factor *= pixel_weight
    if class_weight_ptr is not None:
        factor *= tl.load(class_weight_ptr + label, mask=valid & exists, other=0.0)
    slope = factor + poison
    if scale is not None:
        slope *= scale

    highest = z[0]
    for g in tl.static_range(1, len(z)):
        highest = tl.maximum(highest, z[g])
    highest = fold_max(highest)
    shift = highest * LOG2_E
    masses = ()
    for g in tl.static_range(len(z)):
        masses = masses + (tl.exp2(z[g] * LOG2_E - shift),)
    total = masses[0]
    own = tl.where(class_index(0, G) == label, z[0], 0.0)
    for g in tl.static_range(1, len(z)):
        total += masses[g]
        own += tl.where(class_index(g, G) == label, z[g], 0.0)
    total, own = nan_if_void(fold_sum(total)), fold_sum(own)
    loss = log(total, FAST) + (highest - own) + poison

    share = divide(slope, total, FAST)
    gradient = ()
    for g in tl.static_range(len(z)):
        pulled = masses[g] * share - tl.where(class_index(g, G) == label, slope, 0.0)
        gradient = gradient + (pulled,)
    terms = (
        tl.where(valid, factor * loss, 0.0),
        tl.where(valid, 1.0, 0.0),
        tl.where(valid, factor, 0.0),
    )
    return terms, keep(valid, gradient)
