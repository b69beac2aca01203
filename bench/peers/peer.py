"""Interface of a peer: one way to compute the loss of a case, a function of the same logits as all others."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fpl_fast.bench.cases import Case, Inputs

__all__ = ["LossOfStudent", "Peer", "upsampled"]

LossOfStudent = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Peer:
    """One way to compute the loss of a case.

    It is first bound to the inputs that a training step has, then maps student logits to a scalar loss, the mean over
    all pixels that have a target.
    """

    name: str
    about: str
    """One line for the report."""
    bind: Callable[[Case, Inputs], LossOfStudent]
    """Maps the case and its inputs to the loss as a function of the student logits."""
    supports: Callable[[Case], bool] = lambda case: True
    """Whether the peer can compute the loss of a case; otherwise it has no row there."""
    refusal: Callable[[Case, torch.device], str | None] = lambda case, device: None
    """Reason why the peer cannot run a supported case on this machine; None if it can."""
    compiles_each_case: bool = False
    """Whether every case needs a compilation of tens of seconds."""
    plain_labels: bool = False
    """Whether it computes the K = 1 loss for every case: a yardstick, not a competitor."""
    ordered_ties: bool = True
    """Whether it ranks equal logits by the lower class; otherwise 16-bit logits give other positives in some pixels."""

    def solved(self, case: Case) -> Case:
        """Case whose loss this peer computes when it is given ``case``."""
        return replace(case, max_positives=1) if self.plain_labels else case


def upsampled(case: Case, logits: Tensor) -> Tensor:
    """Upsample logits to the size of the loss, as code without fused upsampling does.

    This runs in float32 also for 16-bit logits: interpolated in 16 bits, they tie in a few per cent of the pixels and
    give other labels. The trainer interpolates in the same way.
    """
    if case.size is None:
        return logits
    return interpolate(logits.float(), size=case.size, mode="bilinear", align_corners=True)
