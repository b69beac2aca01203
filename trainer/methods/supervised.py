"""Supervised training on the labelled images alone: the baseline of every other method."""

from typing import Literal

from fpl_fast.trainer.config import MethodConfig
from fpl_fast.trainer.config.rules import config_class
from fpl_fast.trainer.methods.base import Losses, Method
from fpl_fast.trainer.methods.batch import Batch

__all__ = ["Supervised", "SupervisedConfig"]


@config_class
class SupervisedConfig(MethodConfig):
    """Supervised training."""

    name: Literal["supervised"] = "supervised"
    """Training method; fixed by the recipe."""


class Supervised(Method):
    """One network and the supervised loss."""

    Config = SupervisedConfig

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup`` of the labelled view."""
        _, loss = self.supervised(self.networks[0], batch.labelled)
        return Losses({"loss_sup": loss}, {})
