"""Cross pseudo supervision with PyTorch's own operations on upsampled logits, as in the public code."""

import functools
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from fpl_fast.bench.peers.public_algorithm import public_algorithm
from fpl_fast.trainer.methods import CrossPseudoSupervision
from fpl_fast.trainer.methods.consistency import Target
from fpl_fast.trainer.upsample import pixel_size

__all__ = ["PlainCPS"]


class PlainCPS(CrossPseudoSupervision):
    """The networks and passes of :class:`CrossPseudoSupervision` with unfused losses.

    Every tensor of logits is upsampled before it is read, the teachers are mixed at full resolution, and with
    ``loss="fpl"`` the balance is a quotient of two numbers that the host reads. Nothing here skips padding.
    """

    def supervised_loss(self, logits: Tensor, label: Tensor) -> Tensor:
        """Compute the cross entropy with labels (N, H, W), a mean over the pixels that are not ignored."""
        return cross_entropy(_upsample(logits, pixel_size(label)), label, ignore_index=self.ignore_index)

    def _cross(self, students: list[Tensor], targets: list[Target], valid: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of both directions."""
        config, size = self.config, pixel_size(valid)
        pairs = [
            (_upsample(student, size), _mixed(target, size))
            for student, target in zip(students, reversed(targets), strict=True)
        ]
        if config.loss == "ce":
            return _total(cross_entropy(student, teacher.argmax(1)) for student, teacher in pairs), {}
        with torch.no_grad():
            value = _total(cross_entropy(student, teacher.argmax(1)) for student, teacher in pairs).item()
        loss = _total(
            public_algorithm(student, teacher, threshold=config.threshold, weighting=config.weighting)
            for student, teacher in pairs
        )
        return loss * (value / loss.item()), {}


def _total(losses: Iterable[Tensor]) -> Tensor:
    return functools.reduce(torch.add, losses)


@torch.no_grad()
def _mixed(target: Target, size: tuple[int, int]) -> Tensor:
    teacher = _upsample(target.teacher_logits, size)
    if target.partner_logits is None or target.mix_mask is None:
        return teacher
    return torch.where(target.mix_mask.unsqueeze(1), _upsample(target.partner_logits, size), teacher)


def _upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    return interpolate(logits.float(), size, mode="bilinear", align_corners=True)
