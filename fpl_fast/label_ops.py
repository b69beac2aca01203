"""The torch.library operators of the cross entropy with labels; see :mod:`fpl_fast.ops` for how they work."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast import engines
from fpl_fast.kernels.arguments import NUM_LABEL_SUMS, LabelInputs
from fpl_fast.ops import refuse_double_backward, save_inputs, saved_inputs, scaled_gradient, scales_in_backward
from fpl_fast.reference import accumulate_dtype


@torch.library.custom_op("fpl_fast::cross_entropy_sums", mutates_args=())
def cross_entropy_sums(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    size: Sequence[int] | None,
    align_corners: bool,
    engine: str,
    scale: Tensor | None,
    with_grad: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled loss, the sums, and the gradient that the backward needs.

    The arguments up to ``align_corners`` are the fields of :class:`LabelInputs`.

    Returns:
        loss: 0-d, scale times the first sum; differentiable in ``logits``.
        sums: (NUM_LABEL_SUMS,), see ``arguments.LABEL_SUMS``.
        grad: the derivative of loss, unscaled for float16; empty without gradient.
    """
    inputs = LabelInputs(logits, target, class_weight, pixel_weight, ignore_index, _pair(size), align_corners)
    sums, grad = engines.label_module(engine).cross_entropy_sums(
        inputs, scale=None if scales_in_backward(logits) else scale, with_grad=with_grad
    )
    loss = sums[0] * scale if scale is not None else sums[0].clone()
    return loss, sums, logits.new_empty(0) if grad is None else grad


@cross_entropy_sums.register_fake
def _(logits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(logits)
    grad = torch.empty_like(logits) if arguments[-1] else logits.new_empty(0)
    return logits.new_empty((), dtype=dtype), logits.new_empty(NUM_LABEL_SUMS, dtype=dtype), grad


def _save_sums(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    logits, scale = inputs[0], inputs[-2]
    ctx.mark_non_differentiable(output[1], output[2])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[2], scale if scales_in_backward(logits) else None)


def _sums_backward(
    ctx: Any, grad_loss: Tensor | None, _grad_sums: Tensor | None, _grad_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    grad = None if grad_loss is None else scaled_gradient(ctx.saved_tensors, grad_loss)
    return (grad, *(None,) * 9)


cross_entropy_sums.register_autograd(_sums_backward, setup_context=_save_sums)


@torch.library.custom_op("fpl_fast::cross_entropy_map", mutates_args=())
def cross_entropy_map(
    logits: Tensor,
    target: Tensor,
    class_weight: Tensor | None,
    pixel_weight: Tensor | None,
    ignore_index: int,
    size: Sequence[int] | None,
    align_corners: bool,
    engine: str,
) -> Tensor:
    """The loss a * v * L of every pixel, (N, H, W), zero where ignored; differentiable in ``logits``."""
    inputs = LabelInputs(logits, target, class_weight, pixel_weight, ignore_index, _pair(size), align_corners)
    losses: Tensor = engines.label_module(engine).cross_entropy_map(inputs)
    return losses


@cross_entropy_map.register_fake
def _(logits: Tensor, target: Tensor, *arguments: Any) -> Tensor:
    return logits.new_empty(target.shape, dtype=accumulate_dtype(logits))


def _save_map(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.set_materialize_grads(False)
    save_inputs(ctx, inputs[:4])
    ctx.options = inputs[4:]


def _map_backward(ctx: Any, grad_losses: Tensor | None) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    if grad_losses is None:
        return (None,) * 8
    logits, target, class_weight, pixel_weight = saved_inputs(ctx)
    weight = grad_losses if pixel_weight is None else grad_losses * pixel_weight
    assert logits is not None
    _, _, grad = cross_entropy_sums(logits.detach(), target, class_weight, weight.detach(), *ctx.options, None, True)
    return (grad, *(None,) * 7)


cross_entropy_map.register_autograd(_map_backward, setup_context=_save_map)


def _pair(size: Sequence[int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[0], size[1])
