"""Consistency of a student's softmax with a teacher's, as a function. Shapes as in :mod:`fpl_fast.functional`."""

from typing import TypedDict

from torch import Tensor

from fpl_fast import checks
from fpl_fast.functional import Engine
from fpl_fast.kernels.arguments import Distance
from fpl_fast.label_losses import LabelReduction
from fpl_fast.ops.consistency import distance_loss, pixel_distances
from fpl_fast.ops.gradient import refuse_transforms
from fpl_fast.teacher import loss_inputs


class ConsistencyOptions(TypedDict, total=False):
    """The options of :func:`consistency_loss`, for typing code that passes them on."""

    kind: Distance
    size: tuple[int, int] | None
    align_corners: bool
    reduction: LabelReduction
    engine: Engine


def consistency_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    kind: Distance = "mse",
    pixel_weight: Tensor | None = None,
    valid_mask: Tensor | None = None,
    size: tuple[int, int] | None = None,
    align_corners: bool = True,
    partner_logits: Tensor | None = None,
    mix_mask: Tensor | None = None,
    reduction: LabelReduction = "mean",
    engine: Engine = "auto",
) -> Tensor:
    r"""Squared difference or divergence of a student's softmax and a teacher's, loss and gradient in one pass.

    With p = softmax(z) of the student's and q = softmax(t) of the teacher's logits, both upsampled, a pixel contributes
    ``pixel_weight`` * D:

        mse: D = sum_c (p_c - q_c)^2
        kl:  D = KL(q || p) = sum_c q_c (log q_c - log p_c)

    Both are sums over classes; some methods divide by C. "mse" is the loss of Mean Teacher (NeurIPS 2017) and
    CutMix-Seg (BMVC 2020), "kl" one of CorrMatch (CVPR 2024). Neither asks how sure the teacher is.

    Accumulates in float32 (float64 for float64 logits), deterministically, without host synchronisation. No gradient
    flows into the teacher or the weights. Double backward, forward mode and ``torch.func.grad`` raise an error. With
    ``size``, nothing of the upsampled logits' size is held. A pixel with a logit that is not finite, of student or
    teacher, has the loss and the gradient NaN.

    Args:
        student_logits: (N, C, h, w), C >= 2, any strides; float16, bfloat16, float32 or float64. Never written to.
        teacher_logits: Like ``student_logits``; the dtype and the strides may differ. Raw logits: ``p.log()`` turns
            probabilities p, all above 0, into logits.
        kind: "mse" or "kl".
        pixel_weight: (N, H, W) floating point; None for 1.
        valid_mask: (N, H, W) bool; False excludes a pixel from loss, gradient and mean, whatever its logits hold.
        size: (H, W); all logits are upsampled bilinearly to it. None: H, W = h, w.
        align_corners: As in :func:`torch.nn.functional.interpolate`, for ``size``. The default is True, as in the
            published methods; the default of PyTorch's function is False.
        partner_logits: Like ``teacher_logits``; for CutMix, they replace the teacher where ``mix_mask`` is True.
        mix_mask: (N, H, W) bool, given with ``partner_logits``.
        reduction: "none" gives (N, H, W), zero where not valid; "sum"; "mean" divides the sum by the number of valid
            pixels, whatever they weigh (with none the loss is 0).
        engine: "auto", "triton", "compiled" or "eager" (see :mod:`fpl_fast.engines`).

    Returns:
        The loss, float32 (float64 for float64 logits): 0-d, or (N, H, W) with ``reduction="none"``.

    Raises:
        ValueError: If an argument breaks a rule above; the message names the argument, the rule and the value.

    Example:
        >>> student, teacher = torch.randn(2, 19, 32, 32, requires_grad=True), torch.randn(2, 19, 32, 32)
        >>> consistency_loss(student, teacher, size=(128, 128)).backward()
        >>> consistency_loss(teacher, teacher, kind="kl").item()
        0.0
    """
    checks.check_logits("student_logits", student_logits)
    checks.check_same_shape("teacher_logits", teacher_logits, "student_logits", student_logits)
    options = {"kind": kind, "reduction": reduction, "align_corners": align_corners, "engine": engine}
    checks.check_options(checks.CONSISTENCY_RULES, **options)
    inputs = loss_inputs(
        student_logits,
        teacher_logits,
        partner_logits=partner_logits,
        mix_mask=mix_mask,
        pixel_weight=pixel_weight,
        valid_mask=valid_mask,
        size=size,
        align_corners=align_corners,
    )
    refuse_transforms(student_logits)
    if reduction == "none":
        return pixel_distances(inputs, kind, engine)
    return distance_loss(inputs, kind, engine, mean=reduction == "mean")
