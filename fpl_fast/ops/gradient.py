"""Saving for and running the backward of the operators, and what they refuse to differentiate."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fpl_fast.engines import choice


def register_backward_of_sums(operator: Any) -> None:
    """Register the backward of an operator that returns the loss, the sums and the loss's gradient in its first input.

    The last tensor that it takes is the scale of the loss.
    """
    operator.register_autograd(_sums_backward, setup_context=_save_sums)


def _save_sums(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, Tensor, Tensor]
) -> None:
    student, *_, scale = inputs
    _, sums, grad = output
    ctx.mark_non_differentiable(sums, grad)
    ctx.set_materialize_grads(False)  # or each backward would fill zeros of the gradient's size
    ctx.save_for_backward(grad, scale if scales_in_backward(student) else None)


def _sums_backward(
    ctx: Any, grad_loss: Tensor | None, _grad_sums: Tensor | None, _grad_grad: Tensor | None
) -> tuple[Tensor | None, ...]:
    refuse_double_backward()
    return of_first_input(ctx, None if grad_loss is None else _scaled_gradient(ctx.saved_tensors, grad_loss))


def save_call(ctx: Any, inputs: tuple[Tensor | None, ...], keyword_only_inputs: dict[str, Any], output: Tensor) -> None:
    """Keep all that an operator was called with; its backward finds :func:`saved_inputs` and ``ctx.settings``."""
    ctx.set_materialize_grads(False)
    _save_inputs(ctx, inputs)
    ctx.settings = keyword_only_inputs


def of_first_input(ctx: Any, grad: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients of all inputs of an operator that is differentiable in its first input only."""
    return (grad, *(None,) * (len(ctx.needs_input_grad) - 1))


def _save_inputs(ctx: Any, inputs: Sequence[Tensor | None]) -> None:
    """Keep the inputs of an operator for its backward.

    Autograd cannot track writes to a tensor made under ``torch.inference_mode()`` and refuses to save it. A teacher may
    be such a tensor; as the backward only reads it, a plain reference suffices.
    """
    unwatched = [x is not None and x.is_inference() for x in inputs]
    ctx.save_for_backward(*(None if skip else x for x, skip in zip(inputs, unwatched, strict=True)))
    ctx.inference_inputs = {i: x for i, (x, skip) in enumerate(zip(inputs, unwatched, strict=True)) if skip}


def saved_inputs(ctx: Any) -> list[Tensor | None]:
    """Inputs that :func:`save_call` kept, in its order."""
    return [ctx.inference_inputs.get(i, x) for i, x in enumerate(ctx.saved_tensors)]


def refuse_double_backward() -> None:
    """Refuse ``create_graph=True``, the only case in which a backward runs with gradients enabled."""
    if torch.is_grad_enabled():
        raise RuntimeError("the loss has no double backward: create_graph=True cannot go through it")


def refuse_forward_mode(logits: Tensor) -> None:
    """Refuse logits with a tangent, which the operators would drop silently: the derivative along it would be zero."""
    if forward_ad.unpack_dual(logits).tangent is not None:
        raise RuntimeError(
            "the loss has no forward-mode derivative: torch.func.jvp cannot go through it; take the gradient with "
            "backward and its product with the tangent"
        )


@torch.library.custom_op("fpl_fast::scale_gradient_", mutates_args=("grad",))
def scale_gradient_(grad: Tensor, factor: Tensor) -> None:
    """Do ``grad *= factor``, but touch nothing when the 0-d ``factor`` is 1; never synchronises with a GPU."""
    if grad.is_cuda and choice.has_triton():
        from fpl_fast.kernels.scale import scale_

        scale_(grad, factor)
    elif grad.is_cuda or factor != 1:  # on a CPU the comparison costs nothing
        grad.copy_(_product(grad, factor))


@scale_gradient_.register_fake
def _(grad: Tensor, factor: Tensor) -> None:
    return None


def _scaled_gradient(saved: tuple[Tensor, Tensor | None], grad_loss: Tensor) -> Tensor:
    """The gradient kept by the forward times ``grad_loss`` (and the scale, if the forward left it to the backward)."""
    grad, scale = saved
    factor = grad_loss if scale is None else grad_loss * scale
    if not _may_write(grad):
        return _product(grad, factor)
    scale_gradient_(grad, factor)
    return grad.detach()


def _product(grad: Tensor, factor: Tensor) -> Tensor:
    """Multiply in the factor's dtype, as float16 cannot hold a loss scale of 65536."""
    return (grad.to(factor.dtype) * factor).to(grad.dtype)


def scales_in_backward(student: Tensor) -> bool:
    """Whether the backward applies the scale: in float16, a gradient times 1 / num_pixels would underflow.

    The scale must meet the GradScaler's factor before it meets the gradient.
    """
    return student.dtype == torch.float16


def _may_write(saved: Tensor) -> bool:
    """Whether this backward is the last reader of its saved tensor.

    Not under ``retain_graph=True``, and not while a compiler traces (it then sees a subclass of Tensor).
    """
    return type(saved) is Tensor and not torch._C._autograd._get_current_graph_task_keep_graph()  # pyright: ignore
