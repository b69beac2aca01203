"""The eager engine: the reference equations on chunks, with the gradient in closed form. Runs on every device."""

import functools

import torch
from torch import Tensor

from fpl_fast import chunked
from fpl_fast.chunked import LossOptions
from fpl_fast.reference import loss_gradient, pixel_terms

# About ten float32 temporaries of (C, CHUNK_PIXELS) live at once: 50 MB at C = 19.
CHUNK_PIXELS = 1 << 16


def evaluate(
    student: Tensor,
    teacher: Tensor,
    pixel_weight: Tensor | None,
    valid: Tensor | None,
    scale: Tensor | None,
    *,
    options: LossOptions,
    with_grad: bool,
) -> tuple[Tensor, Tensor | None]:
    """Evaluate one chunk (see :class:`fpl_fast.chunked.PixelFunction`)."""
    if valid is not None:  # a fill, not a product: NaN in an ignored pixel must not survive
        student, teacher = student.masked_fill(~valid, 0), teacher.masked_fill(~valid, 0)
    z, t = student.unsqueeze(0), teacher.unsqueeze(0)
    terms = pixel_terms(z, t, **options._asdict())
    loss, weight = terms.loss[0], terms.weight[0]
    weighted = weight * loss
    total = weighted if pixel_weight is None else pixel_weight * weighted
    rows = torch.stack(
        [total, weighted, loss, terms.cross_entropy[0], terms.num_positives[0].to(loss), torch.ones_like(loss)]
    )
    if valid is not None:
        rows = rows.masked_fill(~valid, 0)
    if not with_grad:
        return rows, None

    factor = weight if pixel_weight is None else weight * pixel_weight
    if scale is not None:
        factor = factor * scale
    if valid is not None:
        factor = factor.masked_fill(~valid, 0)
    gradient = loss_gradient(z, t, positives=terms.positives, form=options.form)[0] * factor
    return rows, gradient.to(student.dtype)


fuzzy_positive_sums = functools.partial(chunked.fuzzy_positive_sums, evaluate, CHUNK_PIXELS)
fuzzy_positive_map = functools.partial(chunked.fuzzy_positive_map, evaluate, CHUNK_PIXELS)
