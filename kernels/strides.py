"""Tensors seen as (N, C, P) or (N, P), P = H * W, the way the kernels address pixels."""

from typing import NamedTuple, overload

from torch import Tensor


class PixelStrides(NamedTuple):
    """Strides in elements."""

    n: int
    c: int
    p: int

    def in_rows(self, num_classes: int) -> bool:
        """Whether the pixels lie densely one behind the other, channels_last."""
        return self.c == 1 and self.p == num_classes


@overload
def writable(grad: Tensor) -> Tensor: ...
@overload
def writable(grad: None) -> None: ...
@overload
def writable(grad: Tensor | None) -> Tensor | None: ...
def writable(grad: Tensor | None) -> Tensor | None:
    """Return ``grad``, or a contiguous tensor to write and copy from where the (H, W) of ``grad`` do not collapse."""
    if grad is None or _collapses(grad):
        return grad
    return grad.new_empty(grad.shape)


@overload
def with_pixel_strides(x: Tensor) -> tuple[Tensor, PixelStrides]: ...
@overload
def with_pixel_strides(x: Tensor | None) -> tuple[Tensor | None, PixelStrides]: ...
def with_pixel_strides(x: Tensor | None) -> tuple[Tensor | None, PixelStrides]:
    """Return a tensor, copied if its (H, W) do not collapse into one dimension of one stride, and its strides."""
    if x is None:
        return None, PixelStrides(n=0, c=0, p=0)
    if not _collapses(x):
        x = x.contiguous()
    w, (stride_h, stride_w) = x.shape[-1], x.stride()[-2:]
    return x, PixelStrides(n=x.stride(0), c=x.stride(1) if x.ndim == 4 else 0, p=stride_h if w == 1 else stride_w)


def _collapses(x: Tensor) -> bool:
    """Whether (H, W) are one dimension of one stride."""
    h, w = x.shape[-2:]
    stride_h, stride_w = x.stride()[-2:]
    return h <= 1 or w <= 1 or stride_h == w * stride_w
