"""Entropy of predictions, and the pixels that it makes reliable or unreliable, over the images of all processes."""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed

from fpl_fast import pseudo_labels
from fpl_fast.trainer.processes import rank_and_world_size

__all__ = ["entropy_map", "percent_unreliable", "percentiles"]


def percent_unreliable(progress: float, percent: float) -> float:
    """Percentage of the pixels that are unreliable: it falls linearly from ``percent`` to 0 over the run."""
    return percent * (1 - progress)


def entropy_map(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute -sum_c p_c log p_c, (N, H, W) float32, of logits upsampled to (H, W).

    The public code has log(p_c + 1e-10), which changes less than rounding does.
    """
    return pseudo_labels(logits, size=size).entropy


def percentiles(values: Tensor, percents: Sequence[float], counted: Tensor) -> list[Tensor]:
    """Find percentiles, interpolated linearly between values, of the values of all processes that count, 0-d each.

    They are infinite where none counts.
    """
    values = values.masked_fill(~counted, torch.inf).flatten()
    _, world_size = rank_and_world_size()
    if world_size > 1:
        parts = [torch.empty_like(values) for _ in range(world_size)]
        distributed.all_gather(parts, values)
        values = torch.cat(parts)
    ordered = values.sort().values
    last = (ordered.isfinite().sum() - 1).clamp(min=0).double()
    return [_between(ordered, last * (percent / 100)) for percent in percents]


def _between(ordered: Tensor, place: Tensor) -> Tensor:
    """Interpolate between the numbers next to a place, 0-d, that need not be whole."""
    low = place.floor()
    lower, upper = (ordered.gather(0, at.long().view(1)).squeeze(0) for at in (low, place.ceil()))
    part = (place - low).to(ordered.dtype)
    return torch.where(part > 0, lower + (upper - lower) * part, lower)
