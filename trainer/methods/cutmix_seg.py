"""CutMix-Seg: Mean Teacher on CutMixed images.

Source: French et al., "Semi-supervised semantic segmentation needs strong, varied perturbations" (BMVC 2020).
"""

from typing import Literal

import torch

from fpl_fast.trainer.config import ConfidencePart, ConsistencyConfig, EmaPart, PairedCutMixPart
from fpl_fast.trainer.config.rules import config_class
from fpl_fast.trainer.methods.base import Losses
from fpl_fast.trainer.methods.batch import Batch, mix_views
from fpl_fast.trainer.methods.consistency import Target, consistency_loss
from fpl_fast.trainer.methods.ema import EmaMethod
from fpl_fast.trainer.methods.predictions import predict_target
from fpl_fast.trainer.processes import mean_over_processes
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["CutMixSeg", "CutMixSegConfig"]


@config_class
class CutMixSegConfig(ConsistencyConfig, EmaPart, ConfidencePart, PairedCutMixPart):
    """CutMix-Seg."""

    name: Literal["cutmix_seg"] = "cutmix_seg"
    """Training method; fixed by the recipe."""


class CutMixSeg(EmaMethod):
    """One student that sees a CutMix of two unlabelled images, and a teacher, its average, that sees them unmixed.

    loss = sup + unsup_weight * c * L(student on the mixture, mixed teacher)

    L is the squared difference of probabilities, summed over classes, a mean over pixels ("mse"), or the pseudo-label
    cross entropy or the fuzzy positive loss in its place. c is one number: the share of the batch's mixed pixels that
    the teacher is sure of (confidence_threshold, 0.97 in the public code); no pixel is gated. With ignore_padding both
    are means over the pixels inside images. If divide_by_all is also set, as in the public code, padding is left out
    of the sum of L alone. The student sees the labelled images before the mixture. The decay is constant and applies
    to parameters and running statistics. The teacher is evaluated.

    The public code further jitters the student's colours and freezes the encoder's batch normalisation, in a recipe of
    its own (Adam, crop 321). The rows of the tables were re-run in the recipe of CPS, which does neither.
    """

    Config = CutMixSegConfig
    config: CutMixSegConfig
    ema_buffers = True

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: two to mix."""
        return 2

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup`` and ``loss_unsup``; telemetry ``sure``, which is c, and of the pseudo-label losses."""
        config, (u, partner), mask = self.config, batch.unlabelled, batch.mix_mask
        assert mask is not None
        _, loss_sup = self.supervised(self.student, batch.labelled)  # first: passes move the running statistics
        with torch.no_grad():
            target = Target(self.teacher(u.image), self.teacher(partner.image), mask)
            mixed = mix_views(u, partner, mask)
            sure = predict_target(target, pixel_size(mask)).confidence >= config.confidence_threshold
            inside = config.ignore_padding and not config.divide_by_all
            counted = mixed.valid if inside else torch.ones_like(mixed.valid)
            counts = torch.stack([(sure & counted).sum(), counted.sum()]).float()
            num_sure, num_counted = mean_over_processes(counts)
            share = num_sure / num_counted.clamp(min=1e-9)  # 0 / 0: no pixel anywhere
        logits = self.student(mixed.image)
        loss, telemetry = consistency_loss(config, logits, target, mixed.valid)
        telemetry["sure"] = share
        return Losses({"loss_sup": loss_sup, "loss_unsup": self.unsup_weight(progress) * share * loss}, telemetry)
