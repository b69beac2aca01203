"""Guided Collaborative Training: two networks that learn from each other where a third one finds fewer flaws.

Source: Ke et al., "Guided Collaborative Training for Pixel-wise Semi-Supervised Learning" (ECCV 2020), as the public
code of Cross Pseudo Supervision re-implements it for its tables.
"""

import math
from collections.abc import Callable
from functools import reduce
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fpl_fast.trainer.config import AugmentConfig, ConsistencyConfig, MethodConfig, TrainConfig
from fpl_fast.trainer.config.rules import config_class, require
from fpl_fast.trainer.methods.base import Losses, Phase, PseudoLabelMethod, WithDecoder
from fpl_fast.trainer.methods.batch import Batch
from fpl_fast.trainer.methods.consistency import Target, consistency_loss
from fpl_fast.trainer.methods.flaw_maps import compare_flaws, flaw_target, handle_flaws
from fpl_fast.trainer.models.flaw_detector import FlawDetector
from fpl_fast.trainer.upsample import pixel_size, upsample

__all__ = ["GctConfig", "GuidedCollaborativeTraining"]

_BETAS = (0.9, 0.99)  # of the detector's Adam
_DETECTOR_SCALE = 10.0  # of its loss


@config_class
class GctConfig(ConsistencyConfig):
    """Guided Collaborative Training."""

    name: Literal["gct"] = "gct"
    """Training method; fixed by the recipe."""
    ramp_share: float = 3 / 34
    """Share of the run over which the weight of the unsupervised loss rises from 0; 3 of 34 epochs in the code of
    CPS."""
    flaw_threshold: float = 0.6
    """Flaw, of at most 1, above which a pixel's prediction is bad."""
    flaw_weight: float = 1.0
    """Factor of the flaws detected where both networks are bad, which both learn to lower."""
    detector_channels: int = 64
    """Channels of the flaw detector's first layer; the last ones have eight times as many."""
    detector_scale: int = 1
    """Factor by which images are enlarged for the flaw detector, whose maps have a cell for 32 x 32 pixels; 1 in the
    public code, more for crops of few pixels."""
    detector_lr: float = 4e-4
    """Learning rate of the flaw detector's Adam, constant; the public code multiplies 1e-4 by its four processes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.flaw_threshold <= 1, "method.flaw_threshold", "in (0, 1]", self.flaw_threshold)
        require(self.flaw_weight >= 0, "method.flaw_weight", ">= 0", self.flaw_weight)
        for name in ("detector_channels", "detector_scale"):
            require(getattr(self, name) >= 1, f"method.{name}", ">= 1", getattr(self, name))
        require(self.detector_lr > 0, "method.detector_lr", "> 0", self.detector_lr)

    def check_run(self, train: TrainConfig, augment: AugmentConfig) -> None:
        """Check that a crop is large enough for the flaw detector."""
        least = math.ceil(FlawDetector.LEAST_SIZE / self.detector_scale)
        require(min(augment.crop) >= least, "augment.crop", f">= {least} pixels on either side with method.name gct, "
                "or method.detector_scale larger", augment.crop)  # fmt: skip


class GuidedCollaborativeTraining(PseudoLabelMethod):
    """GCT with the squared difference, the pseudo-label cross entropy or the fuzzy positive loss.

    First phase, with the detector D as it is, over labelled and unlabelled images:

        loss = sup_1 + sup_2 + unsup_weight * (L(p_1, t_1) + L(p_2, t_2))
               + flaw_weight * mean(both_bad * (D(p_1)^2 + D(p_2)^2))

    p are the networks' probabilities and D(p) maps of their flaws. The target of a pixel is the prediction of the
    network with fewer flaws there, at a tie the network's own (``compare_flaws``); both_bad are the pixels at which the
    flaws of both exceed flaw_threshold. L is the squared difference, a mean over pixels and classes ("mse", weight 100
    in the public code), or the pseudo-label cross entropy or the fuzzy positive loss in its place.

    Second phase, with the networks as the first one left them and without their gradients: D learns the true flaws of
    the labelled images (``flaw_target``),

        loss = 10 * mean over networks, images and pixels of (max(D(p), 0) - flaws)^2,

    by an Adam of its own. The gradient of max(D, 0) is that of D, as in the public code, which clamps in place.

    All passes are in train mode. Labelled and unlabelled images go through a network one after the other, and through D
    together. The public code computes targets in a pass of their own, which in train mode gives the values of the pass
    with gradient; here they are one. The first network is evaluated.
    """

    Config = GctConfig
    config: GctConfig
    num_networks = 2

    def __init__(self, config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int) -> None:
        super().__init__(config, make_network, ignore_index=ignore_index)
        classifier = cast("WithDecoder", self.networks[0]).classifier
        detector = FlawDetector(classifier.out_channels, self.config.detector_channels, self.config.detector_scale)
        self.detector = detector.to(classifier.weight.dtype).requires_grad_(False)

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: one, unmixed."""
        return 1

    def later_phases(self) -> list[Phase]:
        """Train the flaw detector after the networks."""
        optimizer = torch.optim.Adam(self.detector.parameters(), self.config.detector_lr, _BETAS, fused=True)
        return [Phase(self.detector, optimizer, self._detector_losses)]

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute the first phase: ``loss_sup``, ``loss_unsup`` and ``loss_flaw``; telemetry of both comparisons."""
        config, x, (u,) = self.config, batch.labelled, batch.unlabelled
        labelled = [self.supervised(network, x) for network in self.networks]
        unlabelled = [network(u.image) for network in self.networks]
        students = [torch.cat([of_x, of_u]) for (of_x, _), of_u in zip(labelled, unlabelled, strict=True)]
        images, valid = torch.cat([x.image, u.image]), torch.cat([x.valid, u.valid])

        flaws = [self._detect(images, _probability(logits, pixel_size(valid))) for logits in students]
        left, right = (handle_flaws(of_one) for of_one in flaws)
        compared = compare_flaws(left, right, config.flaw_threshold)
        loss, telemetry = self._consistency(students, torch.cat(compared[:2]), valid)
        weight = self.unsup_weight(progress)
        telemetry["taught"] = torch.cat(compared[:2]).float().mean()
        telemetry["both_bad"] = compared.both_bad.float().mean()
        terms = {
            "loss_sup": reduce(torch.add, [loss for _, loss in labelled]),
            "loss_unsup": weight * loss,
            "loss_flaw": config.flaw_weight * self._detected(flaws, compared.both_bad, valid),
        }
        return Losses(terms, telemetry)

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count the labelled pixels and, if padding is left out, the pixels of both unsupervised losses."""
        counts = super().denominators(batch)
        if "loss_unsup" in counts:
            counts["loss_flaw"] = counts["loss_unsup"]
        return counts

    def _consistency(self, students: list[Tensor], taught: Tensor, valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute L of both networks, with one factor for both if it is balanced, and its telemetry.

        Args:
            students: Logits of both networks, each (N, C, h, w).
            taught: (2N, H, W) bool, whether the target of each network is the other one.
            valid: (N, H, W) bool.
        """
        left, right = (logits.detach() for logits in students)
        target = Target(torch.cat([left, right]), torch.cat([right, left]), taught)
        loss, telemetry = consistency_loss(self.config, torch.cat(students), target, valid.repeat(2, 1, 1))
        if self.config.loss == "mse":
            loss = loss / left.shape[1]  # a mean over classes, too
        return 2 * loss, telemetry

    def _detect(self, images: Tensor, probability: Tensor) -> Tensor:
        """Detect flaws, (N, H, W)."""
        flaws: Tensor = self.detector(images, probability)
        return _accurate(flaws)

    def _detected(self, flaws: list[Tensor], both_bad: Tensor, valid: Tensor) -> Tensor:
        """Average the squared flaws, summed over the networks, where both are bad; other pixels count 0."""
        square = reduce(torch.add, [of_one.square() for of_one in flaws])
        counted = both_bad & valid if self.config.ignore_padding else both_bad
        total = square.masked_fill(~counted, 0).sum()
        if self.config.ignore_padding and not self.config.divide_by_all:
            return total / valid.sum().clamp(min=1)
        return total / valid.numel()

    def _detector_losses(self, batch: Batch, progress: float) -> Losses:
        """Compute the second phase: ``loss_detector``."""
        x, (u,) = batch.labelled, batch.unlabelled
        assert x.label is not None
        images, size, num = torch.cat([x.image, u.image]), pixel_size(x.label), len(x.label)
        losses = []
        for network in self.networks:
            with torch.no_grad():
                probability = _probability(torch.cat([network(x.image), network(u.image)]), size)
                target = flaw_target(probability[:num], x.label, ignore_index=self.ignore_index)
            flaws = self._detect(images, probability)[:num]
            losses.append(F.mse_loss(_clamp_value(flaws), target))
        return Losses({"loss_detector": _DETECTOR_SCALE * torch.stack(losses).mean()}, {})


def _probability(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Compute the probabilities of each pixel, (N, C, H, W), from logits (N, C, h, w)."""
    # At full size whatever the loss fuses: they are the flaw detector's input, beside the image, and pass a gradient.
    return upsample(_accurate(logits), size).softmax(1)


def _accurate(x: Tensor) -> Tensor:
    """Convert to float32, or keep float64."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _clamp_value(x: Tensor) -> Tensor:
    """Clamp to at least 0, with the gradient of x itself."""
    return x + (x.clamp(min=0) - x).detach()
