"""Walks the pixels of a batch in chunks that stay in cache, for the engines that run as PyTorch operations.

A chunk is (C, P): all classes of P pixels of one image. Memory beyond the inputs and the gradient is bounded by the
chunk, whatever the batch, and any strides are accepted, because only the chunk is ever made contiguous.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from fpl_fast.reference import accumulate_dtype

NUM_SUMS = 6  # a*w*L, w*L, L, cross entropy, K, valid pixels


class LossOptions(NamedTuple):
    """The keyword options every engine takes; hashable, so that compiled code can be kept per option set."""

    threshold: float
    max_positives: int
    weighting: str
    convex_scale: float
    form: str


class PixelFunction(Protocol):
    """Evaluates the loss on one chunk; what an engine implements."""

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        pixel_weight: Tensor | None,
        valid: Tensor | None,
        scale: Tensor | None,
        *,
        options: LossOptions,
        with_grad: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate (C, P) logits.

        Returns:
            The six terms of every pixel, (NUM_SUMS, P), zero where not valid.
            scale * a * w * dL/dz, (C, P), or None.
        """


def fuzzy_positive_sums(
    evaluate: PixelFunction,
    chunk_pixels: int,
    student: Tensor,
    teacher: Tensor,
    *,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    scale: Tensor | None,
    with_grad: bool,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The six sums over all pixels, and the gradient with the student's strides; ``options`` as in LossOptions."""
    grad = torch.empty_like(student) if with_grad else None
    sums = torch.zeros(NUM_SUMS, dtype=torch.float64, device=student.device)
    for window in _windows(student.shape, chunk_pixels):
        terms, grad_chunk = evaluate(
            _columns(student, window),
            _columns(teacher, window),
            _pixels(pixel_weight, window),
            _pixels(valid_mask, window),
            scale,
            options=LossOptions(**options),
            with_grad=with_grad,
        )
        sums += terms.sum(dim=1, dtype=torch.float64)
        if grad is not None and grad_chunk is not None:
            target = grad[window.image, :, window.rows, window.columns]
            target.copy_(grad_chunk.view_as(target))
    return sums.to(accumulate_dtype(student, teacher)), grad


def fuzzy_positive_map(
    evaluate: PixelFunction,
    chunk_pixels: int,
    student: Tensor,
    teacher: Tensor,
    *,
    pixel_weight: Tensor | None,
    valid_mask: Tensor | None,
    **options: Any,
) -> Tensor:
    """The weighted loss a * w * L of every pixel, (N, H, W)."""
    n, _, h, w = student.shape
    losses = torch.empty(n, h, w, dtype=accumulate_dtype(student, teacher), device=student.device)
    for window in _windows(student.shape, chunk_pixels):
        terms, _ = evaluate(
            _columns(student, window),
            _columns(teacher, window),
            _pixels(pixel_weight, window),
            _pixels(valid_mask, window),
            None,
            options=LossOptions(**options),
            with_grad=False,
        )
        target = losses[window.image, window.rows, window.columns]
        target.copy_(terms[0].view_as(target))
    return losses


class _Window(NamedTuple):
    image: int
    rows: slice
    columns: slice


def _windows(shape: torch.Size, chunk_pixels: int) -> Iterator[_Window]:
    """Whole rows where a row fits into a chunk, parts of one row where it does not."""
    n, _, height, width = shape
    num_columns = max(1, min(width, chunk_pixels))
    num_rows = max(1, chunk_pixels // num_columns)
    for image in range(n):
        for row in range(0, height, num_rows):
            for column in range(0, width, num_columns):
                yield _Window(image, slice(row, row + num_rows), slice(column, column + num_columns))


def _columns(logits: Tensor, window: _Window) -> Tensor:
    return logits[window.image, :, window.rows, window.columns].flatten(1)


def _pixels(mask: Tensor | None, window: _Window) -> Tensor | None:
    return None if mask is None else mask[window.image, window.rows, window.columns].flatten()
