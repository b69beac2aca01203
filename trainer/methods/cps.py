"""Cross pseudo supervision: two networks, each trained on the predictions of the other.

Source: "Semi-Supervised Semantic Segmentation with Cross Pseudo Supervision" (CVPR 2021), with Fuzzy Positive Learning
(CVPR 2023) as an option of the loss.
"""

from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from fpl_fast.trainer.config import PairedCutMixPart, PseudoLabelConfig
from fpl_fast.trainer.config.rules import config_class
from fpl_fast.trainer.methods.base import Losses, PseudoLabelMethod
from fpl_fast.trainer.methods.batch import Batch, mix_views
from fpl_fast.trainer.methods.consistency import Target, balance_factor, loss_telemetry, pseudo_label_loss
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["CpsConfig", "CrossPseudoSupervision"]


@config_class
class CpsConfig(PseudoLabelConfig, PairedCutMixPart):
    """Cross pseudo supervision."""

    name: Literal["cps"] = "cps"
    """Training method; fixed by the recipe."""
    cutmix: bool = True
    """Whether the unsupervised loss is computed on CutMixed unlabelled images, instead of on all images unmixed."""


class CrossPseudoSupervision(PseudoLabelMethod):
    """CPS, with or without CutMix, with the pseudo-label cross entropy or the fuzzy positive loss.

    loss = sup_1 + sup_2 + unsup_weight * (L(s_1, t_2) + L(s_2, t_1))

    Without CutMix the students s and the targets t come from the same passes over labelled and unlabelled images.
    With CutMix, t come from separate passes over two unlabelled views and s from passes over their mixture. All passes
    are in train mode: passes for targets, too, use the batch's statistics and move the running ones, in the order first
    view, second view, mixture, labelled images for each network. Labelled and unlabelled images never share a
    normalisation batch.
    """

    Config = CpsConfig
    config: CpsConfig
    num_networks = 2

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: two to mix, or one."""
        return 2 if self.config.cutmix else 1

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup`` and ``loss_unsup``; telemetry ``mean_positives`` and ``fpl_ce_ratio``."""
        x = batch.labelled
        if self.config.cutmix:
            students, targets, valid = self._mixed(batch)
            labelled = [self.supervised(network, x) for network in self.networks]
        else:
            (u,) = batch.unlabelled
            labelled = [self.supervised(network, x) for network in self.networks]
            unlabelled = [network(u.image) for network in self.networks]
            students = [torch.cat([of_x, of_u]) for (of_x, _), of_u in zip(labelled, unlabelled, strict=True)]
            targets = [Target(logits.detach()) for logits in students]
            valid = torch.cat([x.valid, u.valid])

        loss_sup = reduce(torch.add, [loss for _, loss in labelled])
        loss_unsup, telemetry = self._cross(students, targets, valid)
        return Losses({"loss_sup": loss_sup, "loss_unsup": self.unsup_weight(progress) * loss_unsup}, telemetry)

    def _mixed(self, batch: Batch) -> tuple[list[Tensor], list[Target], Tensor]:
        """Compute logits of the mixed images, targets from the unmixed images, and the validity of the mixture."""
        u, partner = batch.unlabelled
        mask = batch.mix_mask
        assert mask is not None
        with torch.no_grad():
            targets = [Target(network(u.image), network(partner.image), mask) for network in self.networks]
        mixed = mix_views(u, partner, mask)
        students = [network(mixed.image) for network in self.networks]
        return students, targets, mixed.valid

    def _cross(self, students: list[Tensor], targets: list[Target], valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of both directions and its telemetry."""
        config = self.config
        results = [
            pseudo_label_loss(
                config,
                student,
                target,
                size=pixel_size(valid),
                valid_mask=valid if config.ignore_padding else None,
            )
            for student, target in zip(students, reversed(targets), strict=True)
        ]
        losses, stats = zip(*results, strict=True)
        # One factor for both directions, so that they keep their relative size.
        return reduce(torch.add, losses) * balance_factor(config, *stats), loss_telemetry(*stats)
