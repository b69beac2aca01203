"""UniMatch: FixMatch with two strong views and a third one that is perturbed as features.

Source: Yang et al., "Revisiting Weak-to-Strong Consistency in Semi-Supervised Semantic Segmentation" (CVPR 2023), the
version for ResNets.
"""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from fpl_fast.trainer.config import PairedWeakStrongConfig
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.base import Losses
from fpl_fast.trainer.methods.batch import Batch
from fpl_fast.trainer.methods.consistency import Target
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.methods.weak_strong import WeakStrongMethod, evaluating, gated_telemetry
from fpl_fast.trainer.models.perturbation import ChannelFactors

__all__ = ["UniMatch", "UniMatchConfig", "channel_dropout", "dropped_channels"]


@config_class
class UniMatchConfig(PairedWeakStrongConfig):
    """UniMatch."""

    num_strong_views: ClassVar[int] = 2

    name: Literal["unimatch"] = "unimatch"
    """Training method; fixed by the recipe."""
    strong_weight: float = 0.25
    """Factor of the loss of each of the two strong views."""
    feature_weight: float = 0.5
    """Factor of the loss of the view with perturbed features."""
    feature_dropout: float = 0.5
    """Probability that a channel of the encoder's features is dropped in that view."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("strong_weight", "feature_weight"):
            require(getattr(self, name) >= 0, f"method.{name}", ">= 0", getattr(self, name))
        require(0 <= self.feature_dropout < 1, "method.feature_dropout", "in [0, 1)", self.feature_dropout)


class UniMatch(WeakStrongMethod):
    """One network, its own teacher, and three streams that learn from its prediction of the weak view.

    loss = (sup + unsup_weight * (strong_weight * (L(s_1, t_1) + L(s_2, t_2)) + feature_weight * L(p, t))) / 2

    s_1 and s_2 are two strong views of one weak crop, each with colours and a box of its own; t_1 and t_2 are the
    predictions of the weak views, mixed by the same boxes. p is the weak view decoded from features of which random
    channels are dropped, in low and high features independently; t is the prediction from all of them, unmixed.

    Passes, in this order: the partner's weak view in evaluation mode and without gradient; labelled images and weak
    view in one batch, whose features and their perturbed copies share one batch of the decoder; both strong views in
    one batch. As in the public code, features of labelled images are perturbed, too, and their logits
    not used: they belong to the batch's statistics.
    """

    Config = UniMatchConfig
    config: UniMatchConfig

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup``, ``loss_unsup`` and ``loss_unsup_2`` of the strong views, and ``loss_features``.

        The telemetry is of the pseudo-label losses, and of the gate of the view with perturbed features.
        """
        config, (network,), x, (u, partner) = self.config, self.networks, batch.labelled, batch.unlabelled
        with evaluating(network):
            partner_logits = network(partner.image)
        factors = dropped_channels(network, batch, config.feature_dropout, StepRandom(batch.seed, u.image.device))
        logits, loss_sup = self.supervised(network, x, unlabelled=u.image, factors=factors)
        (_, clean), (_, perturbed) = (z.split([len(x.image), len(u.image)]) for z in logits.chunk(2))
        weak_logits = clean.detach()
        features, of_features = self.gated_loss(perturbed, Target(weak_logits), u.valid)
        strong = self.strong_losses(network, batch, weak_logits, partner_logits)
        weight = self.unsup_weight(progress) / 2
        terms = {"loss_sup": loss_sup / 2}
        for name, (loss, _) in zip(self.strong_terms, strong, strict=True):
            terms[name] = weight * config.strong_weight * loss
        terms["loss_features"] = weight * config.feature_weight * features
        return Losses(terms, gated_telemetry(of_features, *(stats for _, stats in strong)))

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count pixels of the supervised loss and, if padding is left out, of each unsupervised loss."""
        counts = super().denominators(batch)
        if self.config.ignore_padding:
            counts["loss_features"] = torch.count_nonzero(batch.unlabelled[0].valid)
        return counts


def dropped_channels(network: Any, batch: Batch, rate: float, random: StepRandom) -> ChannelFactors:
    """Draw the factors of labelled and unlabelled images, the same on any number of processes.

    Args:
        network: The network, for the channels of its features.
        batch: The images.
        rate: Chance that a channel is dropped.
        random: The only source of randomness.
    """
    images = [batch.labelled.image, batch.unlabelled[0].image]
    return tuple(
        torch.cat([channel_dropout(random, len(image), channels, rate) for image in images])
        for channels in network.feature_channels
    )


def channel_dropout(random: StepRandom, num_images: int, channels: int, rate: float) -> Tensor:
    """Draw factors (N, channels, 1, 1) of a dropout of whole channels: 0 with chance ``rate``, else 1 / (1 - rate).

    Example:
        >>> factors = channel_dropout(StepRandom(0, torch.device("cpu")), 2, 64, 0.5)
        >>> factors.shape, factors.unique()
        (torch.Size([2, 64, 1, 1]), tensor([0., 2.]))
    """
    kept = random.rows(num_images, channels, 1, 1) >= rate
    return kept / (1 - rate)
