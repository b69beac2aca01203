"""FixMatch for segmentation: a confident weak view supervises a strong view with a pasted box.

Source: Sohn et al., "FixMatch" (NeurIPS 2020), as the public code of UniMatch (Yang et al., CVPR 2023) carries it over
to segmentation.
"""

from typing import Literal

from fpl_fast.trainer.config import PairedWeakStrongConfig
from fpl_fast.trainer.config.rules import config_class
from fpl_fast.trainer.methods.base import Losses
from fpl_fast.trainer.methods.batch import Batch
from fpl_fast.trainer.methods.weak_strong import WeakStrongMethod, evaluating, gated_telemetry

__all__ = ["FixMatch", "FixMatchConfig"]


@config_class
class FixMatchConfig(PairedWeakStrongConfig):
    """FixMatch."""

    name: Literal["fixmatch"] = "fixmatch"
    """Training method; fixed by the recipe."""


class FixMatch(WeakStrongMethod):
    """One network, its own teacher.

    loss = (sup + unsup_weight * L(strong view with a pasted box, weak views)) / 2

    Passes, in this order: the partner's weak view in evaluation mode and without gradient; labelled images and weak
    view in one batch, so that they share its statistics; the strong view. The prediction of the weak view carries no
    gradient into its target. L is described at ``WeakStrongMethod``.
    """

    Config = FixMatchConfig
    config: FixMatchConfig

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup`` and ``loss_unsup``; telemetry of the pseudo-label loss and of its gate."""
        (network,), x, (u, partner) = self.networks, batch.labelled, batch.unlabelled
        with evaluating(network):
            partner_logits = network(partner.image)
        logits, loss_sup = self.supervised(network, x, unlabelled=u.image)
        weak_logits = logits[len(x.image) :].detach()
        ((loss, stats),) = self.strong_losses(network, batch, weak_logits, partner_logits)
        terms = {"loss_sup": loss_sup / 2, "loss_unsup": self.unsup_weight(progress) / 2 * loss}
        return Losses(terms, gated_telemetry(stats))
