"""UniMatch V2: an averaged teacher, and two strong views that see complementary channels of the features.

Source: Yang et al., "UniMatch V2: Pushing the Limit of Semi-Supervised Semantic Segmentation" (TPAMI 2025).
"""

from typing import Any, ClassVar, Literal

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

from fpl_fast.trainer.config import EmaPart, FlipPart, WeakStrongConfig
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.base import Losses
from fpl_fast.trainer.methods.batch import Batch, View
from fpl_fast.trainer.methods.ema import EmaMethod
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.methods.weak_strong import WeakStrongMethod, evaluating, gated_telemetry
from fpl_fast.trainer.models.perturbation import ChannelFactors

__all__ = ["UniMatchV2", "UniMatchV2Config", "complementary_dropout", "flipped"]


@config_class
class UniMatchV2Config(FlipPart, EmaPart, WeakStrongConfig):
    """UniMatch V2."""

    num_strong_views: ClassVar[int] = 2

    name: Literal["unimatch_v2"] = "unimatch_v2"
    """Training method; fixed by the recipe."""
    ema_decay: float = 0.996
    """Decay of the teacher's moving average, a step; smaller in the first 250 steps."""
    strong_weight: float = 0.5
    """Factor of the loss of each of the two strong views."""
    dropout_share: float = 0.5
    """Share of the images whose two strong views each lose the half of the features' channels that the other keeps."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.strong_weight >= 0, "method.strong_weight", ">= 0", self.strong_weight)
        require(0 <= self.dropout_share <= 1, "method.dropout_share", "in [0, 1]", self.dropout_share)


class UniMatchV2(WeakStrongMethod, EmaMethod):
    """A student that sees two strong views, and a teacher, its average, that predicts the weak one.

    loss = (sup + unsup_weight * strong_weight * (L(s_1, t_1) + L(s_2, t_2))) / 2

    s_1 and s_2 are two strong views of one crop, each with colours and a box of its own; t_1 and t_2 are the teacher's
    predictions of the weak view, mixed by the same boxes. The boxes come from another image of the batch, which is
    flipped along itself in groups of ``flip_group`` images. L is described at ``WeakStrongMethod``.

    In a share of the images, each channel of the student's features is doubled in one strong view and zero in the
    other. All blocks of a transformer share the channels; low and high features of a convolutional encoder each have
    their own.

    Passes, in this order: the teacher in evaluation mode on the weak view; the student on labelled images; the student
    on both strong views in one batch. The teacher averages parameters and running statistics with
    ``ema_decay(ema_decay, step)``, and is evaluated.
    """

    Config = UniMatchV2Config
    config: UniMatchV2Config
    ema_warmup = True
    ema_buffers = True

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: one, whose images are each other's partners."""
        return 1

    def partners(self, batch: Batch) -> tuple[View, View]:
        """Unlabelled images, and the flipped ones, which their boxes come from."""
        (u,) = batch.unlabelled
        return u, apply_to_collection(u, Tensor, lambda x: flipped(x, self.config.flip_group))

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup``, ``loss_unsup`` and ``loss_unsup_2``; telemetry of the pseudo-label losses, the gate."""
        config, student, (u,) = self.config, self.student, batch.unlabelled
        with evaluating(self.teacher):
            weak_logits = self.teacher(u.image)
        partner_logits = flipped(weak_logits, config.flip_group)
        _, loss_sup = self.supervised(student, batch.labelled)
        factors = self._factors(student, batch)
        strong = self.strong_losses(student, batch, weak_logits, partner_logits, factors=factors, beside_clean=False)
        terms = {"loss_sup": loss_sup / 2}
        for name, (loss, _) in zip(self.strong_terms, strong, strict=True):
            terms[name] = self.unsup_weight(progress) / 2 * config.strong_weight * loss
        return Losses(terms, gated_telemetry(*(stats for _, stats in strong)))

    def _factors(self, network: Any, batch: Batch) -> ChannelFactors:
        """Draw the factors of both strong views, the same on any number of processes."""
        image = batch.unlabelled[0].image
        random = StepRandom(batch.seed, image.device)
        chosen = random.chosen(len(image), self.config.dropout_share)
        return tuple(complementary_dropout(random, channels, chosen) for channels in network.feature_channels)


def flipped(x: Tensor, group: int) -> Tensor:
    """Flip each ``group`` of consecutive images of (N, ...) along the batch; the last group may be smaller.

    Example:
        >>> flipped(torch.arange(7), 3)
        tensor([2, 1, 0, 5, 4, 3, 6])
    """
    place = torch.arange(len(x), device=x.device)
    first = place - place % group
    return x.index_select(0, first + (first + group).clamp(max=len(x)) - 1 - place)


def complementary_dropout(random: StepRandom, channels: int, chosen: Tensor) -> Tensor:
    """Draw factors of two views' channels whose sum is 2: 0 in one view and 2 in the other, with equal chance.

    Args:
        random: The only source of randomness.
        channels: C.
        chosen: (N,) bool; the channels of other images keep the factor 1.

    Returns:
        (2N, C, 1, 1), first of all first views, then of all second views.

    Example:
        >>> factors = complementary_dropout(StepRandom(0, torch.device("cpu")), 64, torch.tensor([True, False]))
        >>> factors.shape, factors[0].unique(), factors[1].unique()
        (torch.Size([4, 64, 1, 1]), tensor([0., 2.]), tensor([1.]))
    """
    drawn = 2.0 * (random.rows(len(chosen), channels, 1, 1) < 0.5)
    first = torch.where(chosen.view(-1, 1, 1, 1), drawn, 1.0)
    return torch.cat([first, 2 - first])
