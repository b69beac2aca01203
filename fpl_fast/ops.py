"""The torch.library operators behind the loss, their fakes and their autograd formulas.

``fpl_fast::fuzzy_positive_sums`` computes the loss and, in the same pass, its gradient; the backward only scales that
gradient, and where the factor is 1 it does not touch it (the decision is taken on the device). The operators are
functional and opaque to the compiler; what the student must not lose (its strides) is kept by the fakes.
"""

from typing import Any

import torch
from torch import Tensor

from fpl_fast import engines
from fpl_fast.chunked import NUM_SUMS, LossOptions
from fpl_fast.reference import accumulate_dtype


@torch.library.custom_op("fpl_fast::fuzzy_positive_sums", mutates_args=())
def fuzzy_positive_sums(
    student: Tensor,
    teacher: Tensor,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    scale: Tensor | None,
    threshold: float,
    max_positives: int,
    weighting: str,
    convex_scale: float,
    form: str,
    with_grad: bool,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled loss, the six sums, and the gradient that the backward needs.

    Returns:
        loss: 0-d, scale * sum of a * w * L over the valid pixels; differentiable in ``student``.
        sums: (6,), the sums of a*w*L, w*L, L, plain cross entropy, K and 1 over the valid pixels.
        grad: the derivative of loss, unscaled for float16 (where 1 / pixels would underflow); empty without gradient.
    """
    sums, grad = engines.module(engine).fuzzy_positive_sums(
        student,
        teacher,
        pixel_weight=pixel_weight,
        valid_mask=valid_mask,
        scale=None if _scales_in_backward(student) else scale,
        **LossOptions(threshold, max_positives, weighting, convex_scale, form)._asdict(),
        with_grad=with_grad,
    )
    loss = sums[0] * scale if scale is not None else sums[0].clone()
    return loss, sums, student.new_empty(0) if grad is None else grad


@fuzzy_positive_sums.register_fake
def _(
    student: Tensor,
    teacher: Tensor,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    scale: Tensor | None,
    threshold: float,
    max_positives: int,
    weighting: str,
    convex_scale: float,
    form: str,
    with_grad: bool,
    engine: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(student, teacher)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0)
    return student.new_empty((), dtype=dtype), student.new_empty(NUM_SUMS, dtype=dtype), grad


def _save_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    student, _, _, _, scale, *_ = inputs
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)  # or each backward would fill zeros of the gradient's size
    ctx.save_for_backward(output[2], scale if _scales_in_backward(student) else None)


def _sums_backward(ctx: Any, grad_loss: Tensor, _grad_sums: Tensor, _grad_grad: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_double_backward()
    grad, scale = ctx.saved_tensors
    factor = grad_loss if scale is None else grad_loss * scale
    if _may_write(grad):
        scale_gradient_(grad, factor)
        grad = grad.detach()
    else:
        grad = (grad * factor).to(grad.dtype)
    return (grad, *(None,) * 11)


fuzzy_positive_sums.register_autograd(_sums_backward, setup_context=_save_sums)


@torch.library.custom_op("fpl_fast::fuzzy_positive_map", mutates_args=())
def fuzzy_positive_map(
    student: Tensor,
    teacher: Tensor,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    threshold: float,
    max_positives: int,
    weighting: str,
    convex_scale: float,
    form: str,
    engine: str,
) -> Tensor:
    """The loss a * w * L of every pixel, (N, H, W), zero where not valid; differentiable in ``student``."""
    losses: Tensor = engines.module(engine).fuzzy_positive_map(
        student,
        teacher,
        pixel_weight=pixel_weight,
        valid_mask=valid_mask,
        **LossOptions(threshold, max_positives, weighting, convex_scale, form)._asdict(),
    )
    return losses


@fuzzy_positive_map.register_fake
def _(
    student: Tensor,
    teacher: Tensor,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    threshold: float,
    max_positives: int,
    weighting: str,
    convex_scale: float,
    form: str,
    engine: str,
) -> Tensor:
    n, _, h, w = student.shape
    return student.new_empty((n, h, w), dtype=accumulate_dtype(student, teacher))


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    student, teacher, pixel_weight, valid_mask, *options = inputs
    ctx.save_for_backward(student, teacher, pixel_weight, valid_mask)
    ctx.options = options


def _map_backward(ctx: Any, grad_losses: Tensor) -> tuple[Tensor | None, ...]:
    _refuse_double_backward()
    student, teacher, pixel_weight, valid_mask = ctx.saved_tensors
    *options, engine = ctx.options
    # The gradient of each pixel scaled by grad_losses is the gradient of the sum with grad_losses as pixel weight.
    weight = grad_losses if pixel_weight is None else grad_losses * pixel_weight
    _, _, grad = fuzzy_positive_sums(
        student.detach(), teacher, weight.detach(), valid_mask, None, *options, with_grad=True, engine=engine
    )
    return (grad, *(None,) * 9)


fuzzy_positive_map.register_autograd(_map_backward, setup_context=_save_map)


def _refuse_double_backward() -> None:
    """A backward runs with gradients enabled only under ``create_graph=True``."""
    if torch.is_grad_enabled():
        raise RuntimeError("the fuzzy positive loss has no double backward: create_graph=True cannot go through it")


@torch.library.custom_op("fpl_fast::scale_gradient_", mutates_args=("grad",))
def scale_gradient_(grad: Tensor, factor: Tensor) -> None:
    """Do ``grad *= factor``, and touch nothing when the 0-d ``factor`` is 1; never a host synchronisation on a GPU."""
    if grad.is_cuda and engines.has_triton():
        from fpl_fast.kernels.scale import scale_

        scale_(grad, factor)
    elif grad.is_cuda or factor != 1:  # on a CPU the comparison costs nothing
        grad.mul_(factor)


@scale_gradient_.register_fake
def _(grad: Tensor, factor: Tensor) -> None:
    return None


def _scales_in_backward(student: Tensor) -> bool:
    """float16 holds no 1 / num_pixels: the scale must meet the GradScaler's factor before it meets the gradient."""
    return student.dtype == torch.float16


def _may_write(saved: Tensor) -> bool:
    """Whether this backward is the last reader of its saved tensor.

    Not under ``retain_graph=True``, and not while a compiler traces (it then sees a subclass of Tensor).
    """
    return type(saved) is Tensor and not torch._C._autograd._get_current_graph_task_keep_graph()
