"""Results of the sums over the pixels: the loss, the factor of its gradient, and statistics.

Torch alone: every engine gives the same.
"""

from typing import NamedTuple

from torch import Tensor

MAX_BALANCE = 1000.0

# In one tensor. "Mean" is over the valid pixels, and 0 where there is none.
STATISTICS = (
    "num_valid",
    "weighted_loss",  # mean of w * L
    "unweighted_loss",  # mean of L
    "cross_entropy",  # mean
    "mean_positives",  # mean of K
    "one_positive",  # share of the valid pixels with K = 1
    "two_positives",
    "three_positives",
    "more_positives",
    "mean_confidence",
    "selected_share",  # of the valid pixels
    "weight_sum",  # sum of b
    "valid_share",  # of all pixels
)
NUM_STATISTICS = len(STATISTICS)


class Finish(NamedTuple):
    """Steps from the sums to the results: loss = scale * [1 / sum of b] * [balance] * (first sum).

    A pass applies the scale to the gradient, too, and the backward multiplies by the other factors. With
    ``scale_in_backward`` it is the backward that applies the scale.
    """

    scale: float | Tensor | None = None  # a number or () on the device; None for 1
    scale_in_backward: bool = False
    weighted_mean: bool = False  # divide by the sum of b, where it is positive
    balance: bool = False  # multiply by min(sum of the cross entropy / sum of w * L, MAX_BALANCE)
    with_stats: bool = False

    @property
    def scale_of_gradient(self) -> float | Tensor | None:
        """The scale that the pass applies to the gradient."""
        return None if self.scale_in_backward else self.scale

    @property
    def has_factor(self) -> bool:
        """Whether anything is left to the backward."""
        return self.weighted_mean or self.balance or (self.scale_in_backward and self.scale is not None)

    @property
    def needs_all_sums(self) -> bool:
        """Whether sums other than the first are needed."""
        return self.with_stats or self.weighted_mean or self.balance


class Finished(NamedTuple):
    """Results of the sums, in the accumulating dtype."""

    loss: Tensor  # ()
    factor: Tensor | None  # () of the gradient; None for 1
    statistics: Tensor | None  # (NUM_STATISTICS,)
