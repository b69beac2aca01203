"""The cross entropy with labels as eager code calls it, and its operators for a compiler."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import LabelInputs
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


def loss_of_labels(inputs: LabelInputs, engine: str, *, scale: Tensor | None) -> Tensor:
    """Scale times the first of ``arguments.LABEL_SUMS``, by a resolved engine; differentiable in the logits."""
    with_grad = inputs.student.requires_grad and torch.is_grad_enabled()
    *tensors, ignore_index, size, align_corners = inputs
    if is_traced(*tensors, scale):
        settings = {"ignore_index": ignore_index, "size": size, "align_corners": align_corners}
        loss: Tensor
        loss, *_ = cross_entropy_operator(*tensors, scale, **settings, engine=engine, with_grad=with_grad)
        return loss
    detached = inputs._replace(student=inputs.student.detach())
    return differentiable(inputs.student, evaluate(detached, engine, scale=scale, with_grad=with_grad))


def pixel_losses_of_labels(inputs: LabelInputs, engine: str) -> Tensor:
    """The loss of every pixel by a resolved engine, (N, H, W), zero where ignored; differentiable in the logits."""
    *tensors, ignore_index, size, align_corners = inputs
    settings = {"ignore_index": ignore_index, "size": size, "align_corners": align_corners}
    losses: Tensor = cross_entropy_map(*tensors, **settings, engine=engine)
    return losses


def evaluate(inputs: LabelInputs, engine: str, *, scale: Tensor | None, with_grad: bool) -> Evaluated:
    """Evaluate a call; eager code and the operator of a compiler share this, and so give the same bits."""
    todo = Finish(scale, scales_in_backward(inputs.student))
    module = choice.label_module(engine)
    sums, grad = module.cross_entropy_sums(inputs, scale=todo.scale_of_gradient, with_grad=with_grad)
    if engine == "triton":
        from fpl_fast.kernels import finish

        return Evaluated(*finish.finish(sums, todo, 0), grad)
    return Evaluated(*ops_finish.finish(sums, todo, 0), grad)


@torch.library.custom_op("fpl_fast::cross_entropy_loss", mutates_args=())
def cross_entropy_operator(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    pixel_weight: Tensor | None,
    scale: Tensor | None,
    *,
    ignore_index: int,
    size: Sequence[int] | None,
    align_corners: bool,
    engine: str,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss and what its backward needs, for a compiler.

    The arguments other than ``scale``, ``engine`` and ``with_grad`` are the fields of :class:`LabelInputs`.

    Returns:
        loss: 0-d, scale times the first of ``arguments.LABEL_SUMS``; differentiable in ``logits``.
        factor: 0-d, what the backward multiplies the gradient by; empty for 1.
        statistics: none, empty.
        grad: the derivative of loss, but for the factor; empty without ``with_grad``.
    """
    inputs = LabelInputs(logits, target, class_weight, pixel_weight, ignore_index, _pair(size), align_corners)
    return evaluate(inputs, engine, scale=scale, with_grad=with_grad).as_tensors(logits)


@cross_entropy_operator.register_fake
def _(logits: Tensor, *tensors: Any, with_grad: bool, **_: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(logits)
    has_factor = scales_in_backward(logits) and tensors[-1] is not None
    grad = torch.empty_like(logits) if with_grad else logits.new_empty(0)
    factor = logits.new_empty(() if has_factor else 0, dtype=dtype)
    return logits.new_empty((), dtype=dtype), factor, logits.new_empty(0, dtype=dtype), grad


register_backward_of_loss(cross_entropy_operator)


@torch.library.custom_op("fpl_fast::cross_entropy_pixel_losses", mutates_args=())
def cross_entropy_map(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    pixel_weight: Tensor | None,
    *,
    ignore_index: int,
    size: Sequence[int] | None,
    align_corners: bool,
    engine: str,
) -> Tensor:
    """The loss a * v * L of every pixel, (N, H, W), zero where ignored; differentiable in ``logits``."""
    inputs = LabelInputs(logits, target, class_weight, pixel_weight, ignore_index, _pair(size), align_corners)
    losses: Tensor = choice.label_module(engine).cross_entropy_map(inputs)
    return losses


@cross_entropy_map.register_fake
def _(logits: Tensor, target: Tensor, *_: Any, **__: Any) -> Tensor:
    return logits.new_empty(target.shape, dtype=accumulate_dtype(logits))


def _map_backward(ctx: Any, grad_losses: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    if grad_losses is None:
        return of_first_input(ctx, None)
    logits, target, class_weight, pixel_weight = saved_inputs(ctx)
    assert logits is not None
    weight = grad_losses if pixel_weight is None else grad_losses * pixel_weight
    tensors = (logits.detach(), target, class_weight, weight.detach())
    *_, grad = cross_entropy_operator(*tensors, None, **ctx.settings, with_grad=True)
    return of_first_input(ctx, grad)


cross_entropy_map.register_autograd(_map_backward, setup_context=save_call)


def _pair(size: Sequence[int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[0], size[1])
