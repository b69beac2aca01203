"""The consistency loss as eager code calls it, and its operators for a compiler."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import Distance, LossInputs
from fpl_fast.kernels.statistics import Finish
from fpl_fast.ops import finish as ops_finish
from fpl_fast.ops.gradient import (
    Evaluated,
    differentiable,
    is_traced,
    of_first_input,
    refuse_double_backward,
    register_backward_of_loss,
    save_call,
    saved_inputs,
    scales_in_backward,
)
from fpl_fast.reference import accumulate_dtype


def distance_loss(inputs: LossInputs, kind: Distance, engine: str, *, mean: bool) -> Tensor:
    """The weighted distances, a sum or a mean over the valid pixels, by an engine; differentiable.

    Args:
        inputs: of the loss, without thresholds.
        kind: of the distance.
        engine: "auto" or the name of one.
        mean: whether to divide by the number of valid pixels.
    """
    with_grad = inputs.student.requires_grad and torch.is_grad_enabled()
    if is_traced(*inputs.tensors()):
        settings = {"kind": kind, "size": inputs.size, "align_corners": inputs.align_corners, "engine": engine}
        loss: Tensor
        loss, *_ = consistency_operator(*inputs.tensors()[:-1], **settings, mean=mean, with_grad=with_grad)
        return loss
    detached = inputs._replace(student=inputs.student.detach())
    return differentiable(inputs.student, evaluate(detached, kind, engine, mean=mean, with_grad=with_grad))


def pixel_distances(inputs: LossInputs, kind: Distance, engine: str) -> Tensor:
    """The weighted distance of every pixel, (N, H, W), zero where not valid; differentiable in the student."""
    settings = {"kind": kind, "size": inputs.size, "align_corners": inputs.align_corners, "engine": engine}
    losses: Tensor = consistency_map(*inputs.tensors()[:-1], **settings)
    return losses


def evaluate(inputs: LossInputs, kind: Distance, engine: str, *, mean: bool, with_grad: bool) -> Evaluated:
    """Evaluate a call; eager code and the operator of a compiler share this, and so give the same bits."""
    resolved = choice.resolve(engine, inputs.student, inputs.teacher, inputs.pixels())
    todo = Finish(ops_finish.mean_scale(inputs, resolved) if mean else None, scales_in_backward(inputs.student))
    keywords: dict[str, Any] = {"scale": todo.scale_of_gradient, "with_grad": with_grad}
    if resolved == "triton":
        from fpl_fast.kernels import consistency, finish

        sums, grad = consistency.consistency_sums(inputs, kind, **keywords)
        return Evaluated(*finish.finish(sums, todo, 0), grad)
    sums, grad = choice.evaluate("consistency_sums", choice.consistency_module, engine, inputs, kind, **keywords)
    return Evaluated(*ops_finish.finish(sums, todo, 0), grad)


@torch.library.custom_op("fpl_fast::consistency_loss", mutates_args=())
def consistency_operator(
    student: Tensor,
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    *,
    kind: str,
    size: Sequence[int] | None,
    align_corners: bool,
    engine: str,
    mean: bool,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss and what its backward needs, for a compiler.

    The tensors, ``size`` and ``align_corners`` are fields of :class:`LossInputs`, the others as in :func:`evaluate`.

    Returns:
        loss: 0-d; differentiable in ``student``.
        factor: 0-d, what the backward multiplies the gradient by; empty for 1.
        statistics: none, empty.
        grad: the derivative of loss, but for the factor; empty without ``with_grad``.
    """
    inputs = _inputs(student, teacher, partner, mix_mask, pixel_weight, valid_mask, size, align_corners)
    return evaluate(inputs, kind, engine, mean=mean, with_grad=with_grad).as_tensors(student)  # type: ignore[arg-type]


@consistency_operator.register_fake
def _(
    student: Tensor, teacher: Tensor, *_: Any, mean: bool, with_grad: bool, **__: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(student, teacher)
    grad = torch.empty_like(student) if with_grad else student.new_empty(0)
    factor = student.new_empty(() if mean and scales_in_backward(student) else 0, dtype=dtype)
    return student.new_empty((), dtype=dtype), factor, student.new_empty(0, dtype=dtype), grad


register_backward_of_loss(consistency_operator)


@torch.library.custom_op("fpl_fast::consistency_pixel_losses", mutates_args=())
def consistency_map(
    student: Tensor,
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    *,
    kind: str,
    size: Sequence[int] | None,
    align_corners: bool,
    engine: str,
) -> Tensor:
    """The weighted distance of every pixel, (N, H, W), zero where not valid; differentiable in ``student``."""
    inputs = _inputs(student, teacher, partner, mix_mask, pixel_weight, valid_mask, size, align_corners)
    of = choice.consistency_module
    losses: Tensor = choice.evaluate("consistency_map", of, engine, inputs, kind)  # type: ignore[arg-type]
    return losses


@consistency_map.register_fake
def _(student: Tensor, teacher: Tensor, *_: Any, size: Sequence[int] | None, **__: Any) -> Tensor:
    height, width = size or student.shape[2:]
    return student.new_empty((len(student), height, width), dtype=accumulate_dtype(student, teacher))


def _map_backward(ctx: Any, grad_losses: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    if grad_losses is None:
        return of_first_input(ctx, None)
    student, teacher, partner, mix_mask, pixel_weight, valid_mask = saved_inputs(ctx)
    assert student is not None
    # The gradient of each pixel scaled by grad_losses is the gradient of the sum with grad_losses as pixel weight.
    weight = grad_losses if pixel_weight is None else grad_losses * pixel_weight
    tensors = (student.detach(), teacher, partner, mix_mask, weight.detach(), valid_mask)
    *_, grad = consistency_operator(*tensors, **ctx.settings, mean=False, with_grad=True)
    return of_first_input(ctx, grad)


consistency_map.register_autograd(_map_backward, setup_context=save_call)


def _inputs(
    student: Tensor,
    teacher: Tensor,
    partner: Tensor | None,
    mix_mask: Tensor | None,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    size: Sequence[int] | None,
    align_corners: bool,
) -> LossInputs:
    """The inputs of an operator, the student detached."""
    pair = None if size is None else (size[0], size[1])
    inputs = LossInputs(student.detach(), teacher, partner, mix_mask, pixel_weight, valid_mask)
    return inputs._replace(size=pair, align_corners=align_corners)
