"""The tensors of functions of a teacher, checked."""

import torch
from torch import Tensor

from fpl_fast import checks
from fpl_fast.kernels.arguments import LossInputs, TeacherInputs
from fpl_fast.reference import accumulate_dtype


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


def loss_inputs(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    partner_logits: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    size: object,
    align_corners: bool,
) -> LossInputs:
    """The inputs of a loss under a teacher, without thresholds of pixels; logits and ``align_corners`` were checked.

    Raises:
        ValueError: If an argument breaks its rule.
    """
    size = checks.check_size(size, student_logits)
    n, _, *native = student_logits.shape
    pixels, device = (n, *(size or native)), student_logits.device
    checks.check_pixels("valid_mask", valid_mask, pixels, device, boolean=True)
    checks.check_partner(partner_logits, mix_mask, student_logits, pixels)
    teacher, partner = of_one_dtype(teacher_logits, partner_logits)
    if pixel_weight is not None:
        checks.check_pixels("pixel_weight", pixel_weight, pixels, device, boolean=False)
        pixel_weight = pixel_weight.detach().to(accumulate_dtype(student_logits, teacher))
    return LossInputs(
        student_logits, teacher, partner, mix_mask, pixel_weight, valid_mask, size=size, align_corners=align_corners
    )


def of_one_dtype(teacher_logits: Tensor, partner_logits: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """A teacher and its partner, detached, in one dtype that holds both: rounding would make ties."""
    if partner_logits is None:
        return teacher_logits.detach(), None
    both = torch.promote_types(teacher_logits.dtype, partner_logits.dtype)
    return teacher_logits.detach().to(both), partner_logits.detach().to(both)
