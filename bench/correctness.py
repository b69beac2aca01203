"""Correctness check before timing: no time is reported for a wrong result."""

import functools
import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from fpl_fast import reference
from fpl_fast.bench.cases import IGNORE_INDEX, THRESHOLD, Case, Inputs, distinct_images, make_inputs
from fpl_fast.kernels.arguments import LossOptions

__all__ = ["Truth", "allowed_share", "truth", "wrong_share"]

# Largest error of dL/dz in a correct pixel: rounding of the gradient to the type of the student.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}
# Pixels that may differ from float64: K flips where the cumulative probability meets the threshold to rounding; and
# torch.topk takes any of several equal logits, which 16-bit types have in a few per cent of the pixels.
_FLIPPED, _TIED = 1e-4, 0.05


class Truth(NamedTuple):
    """Float64 results of a case."""

    loss: float
    gradient: Tensor
    """count * dL/dz of the images that differ, (distinct_images, C, h, w), stored as float32."""
    count: float  # type: ignore[assignment]  # hides tuple.count
    """Divisor of the mean: the number of pixels of the batch that have a target."""
    mean_positives: float


@functools.lru_cache(maxsize=2)  # the case at hand, and its K = 1 yardstick
def truth(case: Case, device: torch.device) -> Truth:
    """Solve the images of a case in float64, one by one; the batch repeats these images in turn."""
    inputs = make_inputs(case, device)
    images = distinct_images(case)
    repeats = [len(range(image, case.shape[0], images)) for image in range(images)]
    losses, gradients, counts, positives = [], [], [], []
    for image in range(images):
        z = inputs.student.detach()[image : image + 1].double().requires_grad_()
        logits = _upsampled(z, case)
        if inputs.label is not None:
            label = inputs.label[image : image + 1]
            loss = cross_entropy(logits, label, ignore_index=IGNORE_INDEX, reduction="sum")
            counts.append(float((label != IGNORE_INDEX).sum()))
            positives.append(counts[-1])
        else:
            terms = reference.pixel_terms(
                logits,
                _upsampled(inputs.teacher[image : image + 1].double(), case),
                LossOptions(
                    threshold=THRESHOLD,
                    max_positives=case.num_classes - 1 if case.max_positives is None else case.max_positives,
                    weighting="none",
                    convex_scale=1.0,
                    form="smooth",
                ),
            )
            loss = terms.loss.sum()
            counts.append(float(math.prod(case.pixels)))
            positives.append(float(terms.num_positives.sum()))
        (gradient,) = torch.autograd.grad(loss, z)
        losses.append(float(loss.detach()))
        gradients.append(gradient.float())
    count = _weighted(counts, repeats)
    return Truth(
        loss=_weighted(losses, repeats) / count,
        gradient=torch.cat(gradients),
        count=count,
        mean_positives=_weighted(positives, repeats) / count,
    )


def allowed_share(case: Case, *, ordered_ties: bool) -> float:
    """Share of the positions of the logits that may differ from the truth."""
    if case.size is not None:
        # One flipped pixel reaches up to four logits of a class, and one logit is reached by this many pixels.
        (height, width), (h, w) = case.size, case.shape[2:]
        return _FLIPPED * (2 * height / h) * (2 * width / w)
    return _FLIPPED if ordered_ties or case.labels or case.dtype == torch.float32 else _TIED


def wrong_share(case: Case, inputs: Inputs, loss: Tensor, gradient: Tensor) -> float:
    """Share of positions whose gradient differs from the truth; 1 if loss or gradient's shape or type is wrong."""
    expected = truth(case, inputs.student.device)
    if gradient.shape != inputs.student.shape or gradient.dtype != inputs.student.dtype:
        return 1.0
    if not abs(float(loss.detach()) - expected.loss) <= 1e-2 * abs(expected.loss):
        return 1.0
    # Where there are more pixels than logits, a logit's gradient is a sum over several pixels, and so is its rounding.
    tolerance = _TOLERANCE[case.dtype] * max(1.0, case.num_pixels * case.num_classes / case.num_logits)
    right = 0.0
    for image, found in enumerate(gradient):  # one at a time: the batch may fill the memory
        error = (found.float() * expected.count - expected.gradient[image % len(expected.gradient)]).abs().amax(dim=0)
        right += float((error <= tolerance).float().mean())
    return 1 - right / len(gradient)


def _upsampled(logits: Tensor, case: Case) -> Tensor:
    return logits if case.size is None else interpolate(logits, case.size, mode="bilinear", align_corners=True)


def _weighted(values: list[float], repeats: list[int]) -> float:
    return sum(value * repeat for value, repeat in zip(values, repeats, strict=True))
