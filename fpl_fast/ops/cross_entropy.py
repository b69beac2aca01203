"""The operators of the cross entropy with labels."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fpl_fast.engines import choice
from fpl_fast.kernels.arguments import NUM_LABEL_SUMS, LabelInputs
from fpl_fast.ops.gradient import (
    of_first_input,
    refuse_double_backward,
    register_backward_of_sums,
    save_call,
    saved_inputs,
    scales_in_backward,
)
from fpl_fast.reference import accumulate_dtype


@torch.library.custom_op("fpl_fast::cross_entropy_sums", mutates_args=())
def cross_entropy_sums(
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
) -> tuple[Tensor, Tensor, Tensor]:
    """The scaled loss, the sums, and the gradient that the backward needs.

    The arguments other than ``scale``, ``engine`` and ``with_grad`` are the fields of :class:`LabelInputs`.

    Returns:
        loss: 0-d, scale times the first sum; differentiable in ``logits``.
        sums: (NUM_LABEL_SUMS,), see ``arguments.LABEL_SUMS``.
        grad: the derivative of loss, unscaled for float16; empty without gradient.
    """
    inputs = LabelInputs(logits, target, class_weight, pixel_weight, ignore_index, _pair(size), align_corners)
    sums, grad = choice.label_module(engine).cross_entropy_sums(
        inputs, scale=None if scales_in_backward(logits) else scale, with_grad=with_grad
    )
    loss = sums[0] * scale if scale is not None else sums[0].clone()
    return loss, sums, logits.new_empty(0) if grad is None else grad


@cross_entropy_sums.register_fake
def _(logits: Tensor, *_: Any, with_grad: bool, **__: Any) -> tuple[Tensor, Tensor, Tensor]:
    dtype = accumulate_dtype(logits)
    grad = torch.empty_like(logits) if with_grad else logits.new_empty(0)
    return logits.new_empty((), dtype=dtype), logits.new_empty(NUM_LABEL_SUMS, dtype=dtype), grad


register_backward_of_sums(cross_entropy_sums)


@torch.library.custom_op("fpl_fast::cross_entropy_map", mutates_args=())
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
    _, _, grad = cross_entropy_sums(*tensors, None, **ctx.settings, with_grad=True)
    return of_first_input(ctx, grad)


cross_entropy_map.register_autograd(_map_backward, setup_context=save_call)


def _pair(size: Sequence[int] | None) -> tuple[int, int] | None:
    return None if size is None else (size[0], size[1])
