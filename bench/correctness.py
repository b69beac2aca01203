"""The gate before the clock: no time is reported for a wrong answer."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast import reference
from fpl_fast.bench.cases import THRESHOLD, Case, Inputs, make_inputs

__all__ = ["Truth", "truth", "wrong_share"]

# Largest error of dL/dz in a pixel that counts as right: rounding of the gradient to the type of the student.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1e-2}


class Truth(NamedTuple):
    """Float64 results of a case."""

    loss: float
    gradient: Tensor
    """P * dL/dz, (N, C, H, W), stored as float32: the gradient of the sum over the pixels."""
    mean_positives: float


@functools.lru_cache(maxsize=2)  # the case at hand, and its K = 1 yardstick
def truth(case: Case, device: torch.device) -> Truth:
    """Solve a case in float64, image by image."""
    inputs = make_inputs(case, device)
    cap = case.num_classes - 1 if case.max_positives is None else case.max_positives
    losses, gradients, counts = [], [], []
    for student, teacher in zip(inputs.student.detach(), inputs.teacher, strict=True):
        z = student[None].double().requires_grad_()
        terms = reference.pixel_terms(
            z,
            teacher[None].double(),
            threshold=THRESHOLD,
            max_positives=cap,
            weighting="none",
            convex_scale=1.0,
            form="smooth",
        )
        (gradient,) = torch.autograd.grad(terms.loss.sum(), z)
        losses.append(terms.loss.detach().sum())
        gradients.append(gradient.float())
        counts.append(terms.num_positives.sum())
    return Truth(
        loss=float(sum(losses)) / case.num_pixels,
        gradient=torch.cat(gradients),
        mean_positives=float(sum(counts)) / case.num_pixels,
    )


def wrong_share(case: Case, inputs: Inputs, loss: Tensor, gradient: Tensor) -> float:
    """Share of the pixels whose gradient differs from the truth; 1 if the loss or the gradient's form is wrong."""
    expected = truth(case, inputs.student.device)
    if gradient.shape != inputs.student.shape or gradient.dtype != inputs.student.dtype:
        return 1.0
    if not abs(float(loss.detach()) - expected.loss) <= 1e-2 * abs(expected.loss):
        return 1.0
    error = (gradient.float() * case.num_pixels - expected.gradient).abs().amax(dim=1)
    return float((~(error <= _TOLERANCE[case.dtype])).float().mean())
