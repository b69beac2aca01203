"""A teacher that is the moving average of its student."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fpl_fast.trainer.config import EmaPart, MethodConfig
from fpl_fast.trainer.methods.base import PseudoLabelMethod

__all__ = ["EmaMethod", "ema_decay", "ema_update"]


def ema_decay(decay: float, step: int) -> float:
    """Compute min(1 - 1 / (step + 1), decay), steps counted from 0: at first a copy, then a plain mean, then decay."""
    return min(1 - 1 / (step + 1), decay)


@torch.no_grad()
def ema_update(teacher: nn.Module, student: nn.Module, decay: float, *, buffers: bool) -> None:
    """Average the student into the teacher: decay * teacher + (1 - decay) * student, in a few kernels.

    Args:
        teacher: Module to update.
        student: Module of the same class.
        decay: In [0, 1]; 0 copies.
        buffers: Whether floating-point buffers (the running statistics of batch normalisation) are averaged with the
            parameters. Otherwise the teacher keeps its own, which its passes in train mode move.
    """
    ours: list[Tensor] = list(teacher.parameters())
    theirs: list[Tensor] = list(student.parameters())
    if buffers:
        ours += [b for b in teacher.buffers() if b.is_floating_point()]
        theirs += [b for b in student.buffers() if b.is_floating_point()]
    torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]


class EmaMethod(PseudoLabelMethod):
    """A method whose first network is trained and whose second is its exponential moving average.

    The teacher starts as a copy of the student and moves after each optimiser step. It stays in train mode: its passes
    use the batch's statistics and its dropout, as in the public code of Mean Teacher and AEL.
    """

    ema_warmup: bool = False
    """Whether the first steps use a smaller decay (``ema_decay``)."""
    ema_buffers: bool = False
    """Whether running statistics are averaged too."""
    evaluates_teacher: bool = True
    """Whether the teacher, and not the student, is evaluated and used."""

    def __init__(self, config: MethodConfig, make_network: Callable[[], nn.Module], *, ignore_index: int) -> None:
        super().__init__(config, make_network, ignore_index=ignore_index)
        self.networks.append(copy.deepcopy(self.networks[0]).requires_grad_(False))

    @property
    def student(self) -> nn.Module:
        """Network that is trained by gradient."""
        return self.networks[0]

    @property
    def teacher(self) -> nn.Module:
        """Moving average of the student."""
        return self.networks[1]

    @property
    def eval_network(self) -> nn.Module:
        """Teacher or student, whichever the method's authors evaluate."""
        return self.teacher if self.evaluates_teacher else self.student

    def after_step(self, step: int) -> None:
        """Move the teacher."""
        assert isinstance(self.config, EmaPart)
        decay = self.config.ema_decay
        ema_update(
            self.teacher,
            self.student,
            ema_decay(decay, step) if self.ema_warmup else decay,
            buffers=self.ema_buffers,
        )
