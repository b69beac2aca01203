"""Mean Teacher: a student that matches the moving average of its own weights on the same pixels.

Source: Tarvainen and Valpola (NeurIPS 2017), as the public code of Cross Pseudo Supervision re-implements it for its
tables.
"""

from typing import Literal

import torch

from fpl_fast.trainer.config import ConsistencyConfig, EmaPart
from fpl_fast.trainer.config.rules import config_class
from fpl_fast.trainer.methods.base import Losses
from fpl_fast.trainer.methods.batch import Batch
from fpl_fast.trainer.methods.consistency import Target, consistency_loss
from fpl_fast.trainer.methods.ema import EmaMethod

__all__ = ["MeanTeacher", "MeanTeacherConfig"]


@config_class
class MeanTeacherConfig(ConsistencyConfig, EmaPart):
    """Mean Teacher."""

    name: Literal["mean_teacher"] = "mean_teacher"
    """Training method; fixed by the recipe."""


class MeanTeacher(EmaMethod):
    """One student and its average, with the loss computed on labelled and unlabelled images, unmixed.

    loss = sup + unsup_weight * L(student, teacher)

    L is the squared difference of probabilities, a mean over pixels and classes ("mse", weight 100 in the public code),
    or the pseudo-label cross entropy or the fuzzy positive loss in its place. The decay is constant and applies to
    parameters only. The student is evaluated. The public code moves the teacher before the step instead of after it,
    which gives the same sequence.
    """

    Config = MeanTeacherConfig
    config: MeanTeacherConfig
    evaluates_teacher = False

    @property
    def num_unlabelled_views(self) -> int:
        """Number of unlabelled views: one, unmixed."""
        return 1

    def losses(self, batch: Batch, progress: float) -> Losses:
        """Compute ``loss_sup`` and ``loss_unsup``; telemetry of the pseudo-label losses."""
        config, x, (u,) = self.config, batch.labelled, batch.unlabelled
        with torch.no_grad():
            target = Target(torch.cat([self.teacher(view.image) for view in (x, u)]))
        logits, loss_sup = self.supervised(self.student, x)
        logits = torch.cat([logits, self.student(u.image)])
        loss, telemetry = consistency_loss(config, logits, target, torch.cat([x.valid, u.valid]))
        if config.loss == "mse":
            loss = loss / logits.shape[1]  # a mean over classes, too
        return Losses({"loss_sup": loss_sup, "loss_unsup": self.unsup_weight(progress) * loss}, telemetry)
