"""What a provider is: one way to compute the loss of a case, a function of the same logits as all others."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from fpl_fast.bench.cases import Case, Inputs

__all__ = ["LossOfStudent", "Provider", "upsampled"]

LossOfStudent = Callable[[Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    """One way to compute the loss of a case.

    It first sees what a training step has at hand, then maps student logits to a scalar loss, the mean over all pixels
    that have a target.
    """

    name: str
    about: str
    """One line for the report."""
    bind: Callable[[Case, Inputs], LossOfStudent]
    """From the case and its inputs to the loss as a function of the student logits."""
    supports: Callable[[Case], bool] = lambda case: True
    """Whether the case is one for this provider: where not, it has no row."""
    refusal: Callable[[Case, torch.device], str | None] = lambda case, device: None
    """Why the provider cannot run a case here that it could elsewhere; None if it can."""
    compiles_each_case: bool = False
    """Whether every case costs it a compilation of tens of seconds."""
    plain_labels: bool = False
    """Computes the K = 1 loss whatever the case asks for: a yardstick, not a competitor."""
    ordered_ties: bool = True
    """Gives equal logits to the lower class; without it, 16-bit logits lead to other positives in some pixels."""

    def solved(self, case: Case) -> Case:
        """The case whose loss this provider computes when it is given ``case``."""
        return replace(case, max_positives=1) if self.plain_labels else case


def upsampled(case: Case, logits: Tensor) -> Tensor:
    """The logits at the size of the loss, as code without fused upsampling gets them.

    In float32, also for 16-bit logits: interpolated in 16 bits they tie in a few per cent of the pixels, and the
    labels taken from them are others. The trainer interpolates like that, too.
    """
    if case.size is None:
        return logits
    return interpolate(logits.float(), size=case.size, mode="bilinear", align_corners=True)
