"""A teacher's tensors, checked."""

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.kernels.arguments import TeacherInputs


def teacher_inputs(
    teacher_logits: Tensor,
    partner_logits: Tensor | None,
    mix_mask: Tensor | None,
    valid_mask: Tensor | None,
    size: object,
    align_corners: bool,
) -> TeacherInputs:
    """The inputs of a function of a teacher alone; ``teacher_logits`` have been checked.

    Raises:
        ValueError: If an argument breaks its rule.
    """
    size = checks.check_size(size, teacher_logits)
    checks.check_options(checks.LOSS_RULES, align_corners=align_corners)
    n, _, *native = teacher_logits.shape
    pixels = (n, *(size or native))
    checks.check_pixels("valid_mask", valid_mask, pixels, teacher_logits.device, boolean=True)
    checks.check_partner(partner_logits, mix_mask, teacher_logits, pixels, "teacher_logits")
    return TeacherInputs(*of_one_dtype(teacher_logits, partner_logits), mix_mask, valid_mask, size, align_corners)


def of_one_dtype(teacher_logits: Tensor, partner_logits: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A teacher and its partner, detached, in one dtype that holds both: rounding would make ties."""
    if partner_logits is None:
        return teacher_logits.detach(), None
    both = torch.promote_types(teacher_logits.dtype, partner_logits.dtype)
    return teacher_logits.detach().to(both), partner_logits.detach().to(both)
