"""The divisor of a mean, and the end of every engine but Triton's, whose kernel does the same: the sums, finished."""

import math

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.kernels.arguments import SUMS, LossInputs
from fpl_fast.kernels.statistics import MAX_BALANCE, Finish, Finished
from fpl_fast.reference import accumulate_dtype


def mean_scale(inputs: LossInputs, engine: str) -> float | Tensor:
    """Compute 1 / number of valid pixels; 1 where there is none, so that an empty mean is 0 and not NaN.

    Args:
        inputs: of the loss.
        engine: a resolved one.
    """
    if inputs.valid_mask is None:
        return 1 / max(math.prod(inputs.pixels()), 1)
    if engine == "triton":
        from fpl_fast.kernels import mean_scale  # imports triton: only where it is asked for

        return mean_scale.mean_scale(inputs.valid_mask)
    dtype = accumulate_dtype(inputs.student, inputs.teacher)
    return inputs.valid_mask.sum(dtype=torch.int64).clamp(min=1).to(dtype).reciprocal()


def finish(sums: Tensor, todo: Finish, num_pixels: int) -> Finished:
    """Finish sums, as :func:`fpl_fast.kernels.finish.finish` does with sums in parts.

    Args:
        sums: (terms,), ``arguments.SUMS``, or any of which the first one is that of the loss.
        todo: what is to be made of them. Of other sums than ``SUMS`` that is the scaled loss alone.
        num_pixels: of the loss, valid or not.
    """
    named = dict(zip(SUMS, sums.unbind(), strict=False))
    scale = 1.0 if todo.scale is None else todo.scale
    factor = torch.ones_like(sums[0])
    if todo.weighted_mean:
        factor = ratio(factor, named["weight"])
    if todo.balance:
        factor = factor * balance_factor(named["cross_entropy"], named["weighted"])
    loss = sums[0] * scale * factor
    if todo.scale_in_backward:
        factor = factor * scale
    return Finished(
        loss, factor if todo.has_factor else None, _statistics(named, num_pixels) if todo.with_stats else None
    )


def _statistics(named: dict[str, Tensor], num_pixels: int) -> Tensor:
    """The statistics in their order."""
    num_valid = named["num_valid"]
    mean = {name: value / num_valid.clamp(min=1) for name, value in named.items()}
    shares = torch.stack([mean["one_positive"], mean["two_positives"], mean["three_positives"]])
    return torch.stack(
        [
            num_valid,
            mean["weighted"],
            mean["unweighted"],
            mean["cross_entropy"],
            mean["positives"],
            *shares,
            (mean["num_valid"] - shares.sum()).clamp(min=0),
            mean["confidence"],
            mean["num_selected"],
            named["weight"],
            num_valid / max(num_pixels, 1),
        ]
    )


def balance_factor(cross_entropy: Tensor, weighted_loss: Tensor) -> Tensor:
    """The factor that ``balance=True`` multiplies the loss by: min(cross_entropy / weighted_loss, 1000).

    Where the loss is nearly zero and its gradient is not (the hinge of a single pixel), the quotient alone has no
    bound, and an infinite gradient follows. No published recipe meets the bound: with 21 classes, at most 3 positives
    and the concave weight of all of them, the quotient is 1 to 10 where a teacher's logits spread by 0.1 or more, and
    97 where they spread by 0.01.

    Args:
        cross_entropy: Sum (or mean) of the plain pseudo-label cross entropy over the valid pixels, 0-d.
        weighted_loss: Sum (or mean) of w * L over the same pixels, 0-d.

    Returns:
        0-d, 1 where ``weighted_loss`` is 0; decided on the device.

    Raises:
        ValueError: If one of them is no tensor.

    Example:
        >>> balance_factor(torch.tensor(1.5), torch.tensor(0.5))
        tensor(3.)
    """
    checks.check_tensor("cross_entropy", cross_entropy)
    checks.check_tensor("weighted_loss", weighted_loss)
    return ratio(cross_entropy, weighted_loss).clamp(max=MAX_BALANCE)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide, with the quotient 1 where the denominator is not positive; decided on the device."""
    return torch.where(denominator <= 0, 1.0, numerator / denominator)
