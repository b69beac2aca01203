"""Supervised training on the labelled images alone: the baseline of every other method."""

from fpl_fast.trainer.methods.base import Batch, Losses, Method

__all__ = ["Supervised"]


class Supervised(Method):
    """One network and the supervised loss."""

    def losses(self, batch: Batch, progress: float) -> Losses:
        """``loss_sup`` of the labelled view."""
        _, loss = self.supervised(self.networks[0], batch.labelled)
        return Losses({"loss_sup": loss}, {})
