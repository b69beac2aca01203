"""Cross pseudo supervision: two networks, each learning from what the other believes.

Source: "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision" (CVPR 2021), with Fuzzy Positive Learning
(CVPR 2023) as an option of the loss. Targets travel as whole distributions: the loss mixes, upsamples and reads them.
"""

from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from fpl_fast import fuzzy_positive_loss, pseudo_label_cross_entropy
from fpl_fast.trainer.methods.base import Batch, Losses, Method

__all__ = ["CrossPseudoSupervision"]


class _Target(NamedTuple):
    """What one network believes of the images: logits, and where mix_mask is True the partner's."""

    teacher_logits: Tensor  # (N, C, h, w), without gradient
    partner_logits: Tensor | None = None
    mix_mask: Tensor | None = None  # (N, H, W) bool


class CrossPseudoSupervision(Method):
    """CPS, with or without CutMix, with the pseudo-label cross entropy or the fuzzy positive loss.

    loss = sup_1 + sup_2 + unsup_weight * (L(s_1, t_2) + L(s_2, t_1))

    Without CutMix the students s and the targets t are the same passes over labelled and unlabelled images; with it
    t are separate passes over two unlabelled views and s passes over their mixture. All passes are in train mode:
    those for targets use the batch's statistics and move the running ones, in the order first view, second view,
    mixture, labelled images for each network. Labelled and unlabelled images never share a normalisation batch.
    """

    num_networks = 2
    uses_aux_head = False

    @property
    def num_unlabelled_views(self) -> int:
        """Two to mix, or one."""
        return 2 if self.config.cutmix else 1

    def losses(self, batch: Batch, progress: float) -> Losses:
        """``loss_sup`` and ``loss_unsup``; telemetry ``mean_positives`` and ``fpl_ce_ratio``."""
        x = batch.labelled
        if self.config.cutmix:
            students, targets, valid = self._mixed(batch)
            labelled = [network(x.image) for network in self.networks]
        else:
            (u,) = batch.unlabelled
            labelled = [network(x.image) for network in self.networks]
            unlabelled = [network(u.image) for network in self.networks]
            students = [torch.cat(pair) for pair in zip(labelled, unlabelled, strict=True)]
            targets = [_Target(logits.detach()) for logits in students]
            valid = torch.cat([x.valid, u.valid])

        loss_sup = sum(self.supervised_loss(logits, x.label) for logits in labelled)
        loss_unsup, telemetry = self._cross(students, targets, valid)
        return Losses({"loss_sup": loss_sup, "loss_unsup": self.config.unsup_weight * loss_unsup}, telemetry)

    def _mixed(self, batch: Batch) -> tuple[list[Tensor], list[_Target], Tensor]:
        """Students on the mixed images, targets from the unmixed ones, validity of the mixture."""
        u, partner = batch.unlabelled
        mask = batch.mix_mask
        with torch.no_grad():
            targets = [_Target(network(u.image), network(partner.image), mask) for network in self.networks]
        mixed = torch.where(mask.unsqueeze(1), partner.image, u.image)
        students = [network(mixed) for network in self.networks]
        return students, targets, torch.where(mask, partner.valid, u.valid)

    def _cross(self, students: list[Tensor], targets: list[_Target], valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of both directions and what is logged of it."""
        config = self.config
        if config.loss == "fpl":
            pixel_loss = partial(
                fuzzy_positive_loss,
                threshold=config.threshold,
                max_positives=config.max_positives,
                weighting=config.weighting,
            )
        else:
            pixel_loss = pseudo_label_cross_entropy
        results = [
            pixel_loss(
                student,
                **target._asdict(),
                valid_mask=valid if config.ignore_padding else None,
                size=tuple(valid.shape[-2:]),
                return_stats=True,
            )
            for student, target in zip(students, reversed(targets), strict=True)
        ]
        loss = sum(loss for loss, _ in results)
        stats = [stats for _, stats in results]
        cross_entropy = sum(s.cross_entropy for s in stats)
        if config.loss == "fpl" and config.balance:
            # One factor for both directions, so that they keep their relative size; on the device, without gradient.
            value = loss.detach()
            loss = loss * torch.where(value > 0, cross_entropy / value, 1.0)
        return loss, {
            "mean_positives": sum(s.mean_positives for s in stats) / len(stats),
            "fpl_ce_ratio": cross_entropy / sum(s.unweighted_loss for s in stats),
        }
