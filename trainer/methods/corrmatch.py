"""CorrMatch: correlations of pixels spread logits, and confident labels over whole regions.

Source: Sun et al., "CorrMatch: Label Propagation via Correlation Matching for Semi-Supervised Semantic Segmentation"
(CVPR 2024).
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from fpl_fast import LossStats, consistency_loss, cross_entropy
from fpl_fast.trainer.config import MethodConfig, PairedWeakStrongConfig
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.base import Losses, WithHigh, label_engine
from fpl_fast.trainer.methods.batch import Batch, View
from fpl_fast.trainer.methods.consistency import Target, balance_factor, loss_telemetry, pseudo_label_loss
from fpl_fast.trainer.methods.predictions import Prediction, predict
from fpl_fast.trainer.methods.regions import moved_threshold, relabelled
from fpl_fast.trainer.methods.step_random import StepRandom
from fpl_fast.trainer.methods.unimatch import dropped_channels
from fpl_fast.trainer.methods.weak_strong import WeakStrongMethod, evaluating, mixed_strong_views
from fpl_fast.trainer.models.correlation import CorrelationHead, region_masks
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["CorrMatch", "CorrMatchConfig"]


@config_class
class CorrMatchConfig(PairedWeakStrongConfig):
    """CorrMatch."""

    name: Literal["corrmatch"] = "corrmatch"
    """Training method; fixed by the recipe."""
    confidence_threshold: float = 0.85
    """First value of the threshold that gates pixels and decides on regions; 0.85 in the public code, 0 on
    Cityscapes."""
    threshold_momentum: float = 0.999
    """Share of the threshold that stays in a step; 1 fixes it, as on Cityscapes."""
    gated: bool = False
    """Whether the threshold also gates the losses that can be fuzzy, of the strong view and of the perturbed features:
    true in the public code; false with "fpl", unless the threshold is fixed, as it rises above method.threshold."""
    correlation_share: float = 0.5
    """Part of the supervised loss that the spread logits have."""
    strong_weight: float = 0.25
    """Factor of the loss of the strong view."""
    kl_weight: float = 0.25
    """Factor of the divergence between the predictions of weak and strong view."""
    feature_weight: float = 0.25
    """Factor of the loss of the view with perturbed features."""
    correlation_weight: float = 0.25
    """Factor of the mean of the losses of the spread logits, of weak and strong view."""
    feature_dropout: float = 0.5
    """Probability that a channel of the encoder's features is dropped in the view with perturbed features."""
    num_regions: int = 128
    """Pixels that are drawn in each step, whose similar pixels are a region."""
    published_kl: bool = False
    """Whether the divergence also counts pasted pixels, as in the public code, where the strong view shows another
    image than the prediction that it is compared with."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("threshold_momentum", "correlation_share"):
            require(0 <= getattr(self, name) <= 1, f"method.{name}", "in [0, 1]", getattr(self, name))
        for name in ("strong_weight", "kl_weight", "feature_weight", "correlation_weight"):
            require(getattr(self, name) >= 0, f"method.{name}", ">= 0", getattr(self, name))
        require(0 <= self.feature_dropout < 1, "method.feature_dropout", "in [0, 1)", self.feature_dropout)
        require(self.num_regions >= 0, "method.num_regions", ">= 0", self.num_regions)
        acts = self.loss != "fpl" or not self.gated or self.threshold_momentum == 1
        require(acts, "method.gated", "false with method.loss fpl and a threshold that moves (or fix it with "
                "method.threshold_momentum 1): it rises above method.threshold", self.gated)  # fmt: skip

    @property
    def gate(self) -> float:
        """Probability from which a pixel counts in the losses that can be fuzzy."""
        return self.confidence_threshold if self.gated else 0.0


class Passes(NamedTuple):
    """Logits of a step, each (N, C, h, w); spread ones are as small as the encoder's last features."""

    labelled: Tensor
    labelled_aux: Tensor | None
    labelled_spread: Tensor
    weak: Tensor  # without gradient
    weak_spread: Tensor
    perturbed: Tensor
    partner: Tensor  # of the partner's weak view, without gradient
    strong: Tensor
    strong_spread: Tensor
    regions: Tensor  # (N, R, H, W) bool, of the unlabelled images


class Labels(NamedTuple):
    """Hard labels of a step, each (N, H, W), and the pixels that count."""

    weak: Prediction
    weak_sure: Tensor  # confident pixels inside images
    mixed: Tensor  # labels after the box and the regions
    mixed_sure: Tensor  # confident pixels of the mixture inside images
    changed: Tensor  # pixels whose region was relabelled


class CorrMatch(WeakStrongMethod):
    """One network, its own teacher, and a head that correlates the pixels of an image.

    loss = ((1 - a) sup + a sup_c + unsup_weight * (strong_weight L(s) + kl_weight KL(w || s) + feature_weight L(p)
    + correlation_weight (C(s) + C(w)) / 2)) / 2, a = correlation_share

    sup_c and C are cross entropies of logits that the correlation spreads over similar pixels: of labelled images, of
    the strong view s and of the weak view w. s has a box of another image; p is the weak view decoded from features of
    which random channels are dropped. Labels come from the weak view, mixed by the same box. In s, whole regions of
    similar pixels take the label of their confident majority (``relabelled``); these labels are hard. Everywhere else
    L(s) and L(p) read the whole prediction, so that they may be the fuzzy positive loss. All losses are sums over
    confident pixels, divided by all pixels inside images. Confident is a pixel whose prediction is as probable as a
    threshold that follows the network (``moved_threshold``).

    Passes, in this order: the partner's weak view in evaluation mode and without gradient; labelled images and weak
    view in one batch, whose features and their perturbed copies share one batch of the decoder; the strong view.
    """

    Config = CorrMatchConfig
    config: CorrMatchConfig
    threshold: Tensor

    def __init__(self, config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int) -> None:
        super().__init__(config, make_network, ignore_index=ignore_index)
        classifier = self._network.classifier
        self.num_classes = classifier.out_channels
        head = CorrelationHead(self._network.feature_channels[-1], classifier.in_channels, self.num_classes)
        self.correlation = head.to(classifier.weight.dtype)
        self.register_buffer("threshold", torch.tensor(self.config.confidence_threshold))

    @property
    def _network(self) -> WithHigh:
        network: WithHigh = self.networks[0]  # type: ignore[assignment]
        return network

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute all terms: ``loss_sup``, ``loss_unsup`` of the strong view, ``loss_kl``, ``loss_features``.

        ``loss_sup_spread``, ``loss_spread`` and ``loss_spread_weak`` are of the spread logits: of labelled images, of
        the strong and of the weak view. The telemetry is of the pseudo-label losses, the threshold and its gate, and
        the share of relabelled pixels.
        """
        config, (u, partner), (mask,) = self.config, batch.unlabelled, batch.strong_masks
        (mixed,) = mixed_strong_views(u, partner, batch.strong_masks)
        valid, valid_mixed = u.valid, mixed.valid
        if not config.ignore_padding:
            valid, valid_mixed = torch.ones_like(valid), torch.ones_like(valid_mixed)
        z = self._passes(batch, mixed.image)
        labels = self._labels(z, mask, valid, valid_mixed)
        soft, soft_weak = (labels.mixed_sure, labels.weak_sure) if config.gated else (valid_mixed, valid)
        target = Target(z.weak, z.partner, mask)
        strong, of_strong = self._soft_loss(z.strong, target, valid_mixed, soft & ~labels.changed)
        strong = strong + self._hard_loss(z.strong, labels.mixed, labels.changed, valid_mixed)
        features, of_features = self._soft_loss(z.perturbed, Target(z.weak), valid, soft_weak)
        half, hard = config.correlation_weight / 2, labels.mixed_sure | labels.changed
        similar = labels.mixed_sure if config.published_kl else labels.mixed_sure & ~mask
        unsupervised = {
            "loss_unsup": config.strong_weight * strong,
            "loss_kl": config.kl_weight * self._divergence(z.strong, z.weak, similar, valid_mixed),
            "loss_features": config.feature_weight * features,
            "loss_spread": half * self._hard_loss(z.strong_spread, labels.mixed, hard, valid_mixed),
            "loss_spread_weak": half * self._hard_loss(z.weak_spread, labels.weak.label, labels.weak_sure, valid),
        }
        terms = self._supervised_terms(z, batch.labelled)
        weight = self.unsup_weight(progress) / 2
        terms |= {name: weight * loss for name, loss in unsupervised.items()}
        telemetry = loss_telemetry(of_features, of_strong) | {
            "confidence": of_features.mean_confidence,
            "selected": labels.weak_sure.sum() / valid.sum().clamp(min=1),
            "confidence_threshold": self.threshold.clone(),
            "relabelled": labels.changed.float().mean(),
        }
        return Losses(terms, telemetry)

    def _supervised_terms(self, z: Passes, x: View) -> dict[str, Tensor]:
        """Compute the losses with labels, of logits and of spread logits."""
        assert x.label is not None
        share, loss = self.config.correlation_share, self.supervised_loss(z.labelled, x.label)
        if z.labelled_aux is not None:
            loss = loss + self.config.aux_weight * self.supervised_loss(z.labelled_aux, x.label)
        spread = self.supervised_loss(z.labelled_spread, x.label)
        return {"loss_sup": (1 - share) / 2 * loss, "loss_sup_spread": share / 2 * spread}

    def _passes(self, batch: Batch, mixed: Tensor) -> Passes:
        """Run all images through the network, and draw the regions of the unlabelled ones."""
        network, x, (u, partner) = self._network, batch.labelled.image, batch.unlabelled
        num, size = len(x), pixel_size(x)
        random = StepRandom(batch.seed, x.device)
        with evaluating(self.networks[0]):
            partner_logits = self.networks[0](partner.image)
        factors = dropped_channels(network, batch, self.config.feature_dropout, random)
        both, aux, high = network.forward_with_high(torch.cat([x, u.image]), factors=factors)
        clean, perturbed = both.chunk(2)
        spread = self.correlation(high, clean, size)
        strong, _, high_strong = network.forward_with_high(mixed)
        return Passes(
            labelled=clean[:num],
            labelled_aux=None if aux is None else aux[:num],
            labelled_spread=spread.logits[:num],
            weak=clean[num:].detach(),
            weak_spread=spread.logits[num:],
            perturbed=perturbed[num:],
            partner=partner_logits,
            strong=strong,
            strong_spread=self.correlation(high_strong, strong, size).logits,
            regions=self._regions(spread.affinity[num:], pixel_size(high), size, random),
        )

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count pixels of the supervised losses and, if padding is left out, of each unsupervised loss."""
        counts = super().denominators(batch)
        if "loss_sup" in counts:
            counts["loss_sup_spread"] = counts["loss_sup"]
        if self.config.ignore_padding:
            counts |= dict.fromkeys(("loss_kl", "loss_spread"), counts["loss_unsup"])
            weak = torch.count_nonzero(batch.unlabelled[0].valid)
            counts |= dict.fromkeys(("loss_features", "loss_spread_weak"), weak)
        return counts

    def _regions(
        self, affinity: Tensor, features: tuple[int, int], size: tuple[int, int], random: StepRandom
    ) -> Tensor:
        """Draw pixels, the same for all images and in all processes, and mark the ones that are similar to each."""
        num_pixels = affinity.shape[1]
        rows = (random.common(self.config.num_regions) * (num_pixels - 1)).long()  # never the last, as published
        return region_masks(affinity, rows, features, size)

    @torch.no_grad()
    def _labels(self, z: Passes, mask: Tensor, valid: Tensor, mixed_valid: Tensor) -> Labels:
        """Move the threshold; find labels and confident pixels, and relabel regions outside box and padding."""
        size = pixel_size(mask)
        predicted, pasted = predict(z.weak, size), predict(z.partner, size)
        # As in the public code: predictions of unmixed images, where the mixture is inside an image.
        moved = moved_threshold(
            self.threshold, predicted, mixed_valid, self.num_classes, self.config.threshold_momentum
        )
        self.threshold.copy_(moved)
        confidence = torch.where(mask, pasted.confidence, predicted.confidence)
        sure = (confidence >= self.threshold) & mixed_valid
        label = torch.where(mask, pasted.label, predicted.label)
        outside = (mixed_valid & ~mask).unsqueeze(1)
        label, changed = relabelled(label, sure, z.regions & outside, self.threshold, self.num_classes)
        return Labels(predicted, (predicted.confidence >= self.threshold) & valid, label, sure, changed)

    def _soft_loss(self, logits: Tensor, target: Target, valid: Tensor, counted: Tensor) -> tuple[Tensor, LossStats]:
        """Compute the balanced pseudo-label loss over pixels that count, divided by all valid ones."""
        loss, stats = pseudo_label_loss(
            self.config, logits, target, size=pixel_size(valid), valid_mask=valid, pixel_weight=counted.float()
        )
        return loss * balance_factor(self.config, stats), stats

    def _divergence(self, logits: Tensor, weak_logits: Tensor, counted: Tensor, valid: Tensor) -> Tensor:
        """Compute the divergence from the weak prediction over pixels that count, divided by all valid ones."""
        # Masked, not weighed with 0: a logit that is not finite would give NaN where it does not count.
        total = consistency_loss(
            logits,
            weak_logits,
            kind="kl",
            size=pixel_size(valid),
            valid_mask=counted,
            reduction="sum",
            engine=self.config.engine,
        )
        return total / valid.sum().clamp(min=1)

    def _hard_loss(self, logits: Tensor, label: Tensor, counted: Tensor, valid: Tensor) -> Tensor:
        """Compute the cross entropy with labels over pixels that count, divided by all valid ones."""
        total = cross_entropy(
            logits,
            label.masked_fill(~counted, self.ignore_index),
            ignore_index=self.ignore_index,
            size=pixel_size(label),
            reduction="sum",
            engine=label_engine(self.config),
        )
        return total / valid.sum().clamp(min=1)
