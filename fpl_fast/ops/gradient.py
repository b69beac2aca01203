"""The backward of the losses, on the path of eager code and on that of a compiler (ADR 11), and what it refuses."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from fpl_fast.engines import choice


class Evaluated(NamedTuple):
    """A loss without a graph, and what its backward needs."""

    loss: Tensor  # ()
    factor: Tensor | None  # () of the gradient; None for 1
    statistics: Tensor | None  # see ``kernels/statistics.py``
    grad: Tensor | None  # the derivative of the loss in the student, but for the factor

    def as_tensors(self, student: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The fields as an operator returns them: empty tensors for None."""
        loss, factor, statistics, grad = self
        nothing = loss.new_empty(0)
        return (
            loss,
            nothing if factor is None else factor,
            nothing.clone() if statistics is None else statistics,
            student.new_empty(0) if grad is None else grad,
        )


_PLAIN = {Tensor, Parameter, type(None)}


def is_traced(*tensors: Tensor | None) -> bool:
    """Whether a call must find an operator: a compiler, a mode or a transform watches, or a tensor is not its memory.

    Memory of a meta tensor is not there; one with the negative bit (the imaginary part of a conjugate) holds its
    negative, which PyTorch's dispatcher resolves for an operator.
    """
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.maybe_current_level() is not None  # pyright: ignore[reportAttributeAccessIssue]
        or torch._C._get_tracing_state() is not None
        or not _PLAIN.issuperset(map(type, tensors))
        or any(x.is_meta or x.is_neg() for x in tensors if x is not None)
    )


def differentiable(student: Tensor, evaluated: Evaluated) -> Tensor:
    """The loss, with its derivative in the student where that has been computed."""
    if evaluated.grad is None:
        return evaluated.loss
    loss: Tensor = _Loss.apply(student, evaluated)
    return loss


class _Loss(torch.autograd.Function):
    """The path of eager code: autograd's function of a loss and a gradient that have been computed."""

    @staticmethod
    def forward(ctx: Any, student: Tensor, evaluated: Evaluated) -> Tensor:
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(evaluated.grad, evaluated.factor)
        return evaluated.loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor | None) -> tuple[Tensor | None, None]:
        return _loss_backward(ctx, grad_loss), None


def register_backward_of_loss(operator: Any) -> None:
    """Register the same for an operator that returns :meth:`Evaluated.as_tensors`, the path of a compiler."""
    operator.register_autograd(_operator_backward, setup_context=_save_evaluated)


def _save_evaluated(
    ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, ...]
) -> None:
    _, factor, statistics, grad = output
    ctx.mark_non_differentiable(factor, statistics, grad)
    ctx.set_materialize_grads(False)  # or each backward would fill zeros of the gradient's size
    ctx.save_for_backward(grad, factor if factor.numel() else None)


def _operator_backward(ctx: Any, grad_loss: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    return of_first_input(ctx, _loss_backward(ctx, grad_loss))


def _loss_backward(ctx: Any, grad_loss: Tensor | None) -> Tensor | None:
    refuse_double_backward()
    return None if grad_loss is None else _scaled_gradient(ctx.saved_tensors, grad_loss)


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


def refuse_transforms(logits: Tensor) -> None:
    """Refuse logits whose derivative would be dropped silently, or end in an error about PyTorch's own classes.

    With a tangent the operators would give a derivative of zero. They have no rule for a gradient within torch.func;
    without one its transforms work, and so does functionalisation, of which compilers make use.
    """
    if forward_ad.unpack_dual(logits).tangent is not None:
        raise RuntimeError(
            "the loss has no forward-mode derivative: torch.func.jvp cannot go through it; take the gradient with "
            "backward and its product with the tangent"
        )
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return
    functorch = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
    transform = functorch.peek_interpreter_stack()
    if transform is None or transform.key() == functorch.TransformType.Functionalize:
        return
    while functorch.is_batchedtensor(logits):  # which says that it requires none
        logits = functorch.get_unwrapped(logits)
    if logits.requires_grad:
        raise RuntimeError(
            "the loss has no derivative within torch.func: grad, vjp, and vmap over logits that require a gradient, "
            "cannot go through it; take the gradient with backward or torch.autograd.grad"
        )


def scale_(grad: Tensor, upstream: Tensor, factor: Tensor | None) -> None:
    """Do ``grad *= upstream * factor``, but touch nothing when that is 1; never synchronises with a GPU."""
    if grad.is_cuda and choice.has_triton():
        from fpl_fast.kernels import scale

        scale.scale_(grad, upstream, factor)
        return
    product = upstream if factor is None else upstream * factor
    if grad.is_cuda or product != 1:  # on a CPU the comparison costs nothing
        grad.copy_(_product(grad, product))


@torch.library.custom_op("fpl_fast::multiply_gradient_", mutates_args=("grad",))
def multiply_gradient_(grad: Tensor, upstream: Tensor, factor: Tensor | None) -> None:
    """:func:`scale_` for a compiler."""
    scale_(grad, upstream, factor)


@multiply_gradient_.register_fake
def _(grad: Tensor, upstream: Tensor, factor: Tensor | None) -> None:
    return None


def _scaled_gradient(saved: tuple[Tensor, Tensor | None], upstream: Tensor) -> Tensor:
    """The gradient that the forward kept times ``upstream`` and the factor that the forward left to the backward."""
    grad, factor = saved
    if not _may_write(grad):
        return _product(grad, upstream if factor is None else upstream * factor)
    (multiply_gradient_ if is_traced(grad, upstream) else scale_)(grad, upstream, factor)
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
