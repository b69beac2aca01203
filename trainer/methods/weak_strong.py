"""Learning on strong views of an image from predictions of the weak one: the part that FixMatch-like methods share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fpl_fast import LossStats
from fpl_fast.trainer.config import WeakStrongConfig
from fpl_fast.trainer.methods.base import Method, PseudoLabelMethod
from fpl_fast.trainer.methods.batch import Batch, View, mix_views
from fpl_fast.trainer.methods.consistency import Target, balance_factor, loss_telemetry, pseudo_label_loss
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["WeakStrongMethod", "evaluating", "gated_telemetry", "mixed_strong_views"]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Run a network without gradient and in evaluation mode: by its running statistics, without dropout."""
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        network.train()


def mixed_strong_views(u: View, partner: View, masks: Sequence[Tensor]) -> list[View]:
    """Mix each strong view of images with the same view of their partners, by its own boxes."""
    return [
        mix_views(u._replace(image=image), partner._replace(image=pasted), mask)
        for image, pasted, mask in zip(u.strong, partner.strong, masks, strict=True)
    ]


def gated_telemetry(*stats: LossStats) -> dict[str, Tensor]:
    """Telemetry of gated pseudo-label losses, taken together; confidence and gate are of the first one."""
    return loss_telemetry(*stats) | {"confidence": stats[0].mean_confidence, "selected": stats[0].selected_share}


class WeakStrongMethod(PseudoLabelMethod):
    """A method whose student sees strong views of unlabelled images, each with a box pasted from another image.

    The pseudo-label of a pixel comes from the weak view of its image; it travels as logits and is mixed by the same box
    as the images and the validity of their pixels. A loss is the sum over the pixels that are inside an image and whose
    weak prediction is as probable as ``confidence_threshold``, divided by the number of all pixels inside an image.
    """

    config: WeakStrongConfig

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: the image and its partner."""
        return 2

    def partners(self, batch: Batch) -> tuple[View, View]:
        """Unlabelled images, and the ones that their boxes come from: the two unlabelled views."""
        u, partner = batch.unlabelled
        return u, partner

    def gated_loss(self, logits: Tensor, target: Target, valid: Tensor) -> tuple[Tensor, LossStats]:
        """Compute the balanced loss of a student's logits (N, C, h, w), with (N, H, W) pixels, and its statistics."""
        config = self.config
        loss, stats = pseudo_label_loss(
            config,
            logits,
            target,
            size=pixel_size(valid),
            valid_mask=valid if config.ignore_padding else None,
            confidence_threshold=config.confidence_threshold,
        )
        return loss * balance_factor(config, stats), stats

    def strong_losses(
        self, network: nn.Module, batch: Batch, weak_logits: Tensor, partner_logits: Tensor, **options: Any
    ) -> list[tuple[Tensor, LossStats]]:
        """Compute the loss and its statistics of each strong view, from one pass over all of them.

        Args:
            network: The student.
            batch: Weak and strong views and their boxes.
            weak_logits: (N, C, h, w) of the images' weak view, without gradient.
            partner_logits: (N, C, h, w) of their partners'.
            options: Keywords of the network.
        """
        views = mixed_strong_views(*self.partners(batch), batch.strong_masks)
        logits = network(torch.cat([view.image for view in views]), **options).chunk(len(views))
        return [
            self.gated_loss(z, Target(weak_logits, partner_logits, mask), view.valid)
            for z, view, mask in zip(logits, views, batch.strong_masks, strict=True)
        ]

    def denominators(self, batch: Batch) -> dict[str, Tensor]:
        """Count pixels of the supervised loss and, if padding is left out, of ``strong_terms``."""
        counts = Method.denominators(self, batch)
        if self.config.ignore_padding:
            u, partner = self.partners(batch)
            for name, mask in zip(self.strong_terms, batch.strong_masks, strict=True):
                counts[name] = torch.count_nonzero(torch.where(mask, partner.valid, u.valid))
        return counts

    @property
    def strong_terms(self) -> tuple[str, ...]:
        """Names of the losses of the strong views, in their order."""
        return ("loss_unsup", "loss_unsup_2")[: self.config.num_strong_views]
