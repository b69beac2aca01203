"""The eager engine: the reference equations on chunks, with the gradient in closed form. Runs on every device."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from fpl_fast.engines import chunked
from fpl_fast.kernels.arguments import LossOptions
from fpl_fast.reference import loss_gradient, pixel_terms

# On a CPU. About ten float32 temporaries of (C, CHUNK_PIXELS) live at once: 25 MB at C = 19. PyTorch splits operations
# on more numbers than this among threads and, where a part ends, rounds logaddexp, sigmoid and powers in another way:
# with larger chunks, the bits would depend on the number of threads.
CHUNK_PIXELS = 1 << 15


def evaluate(
    student: Tensor,
    teacher: Tensor,
    pixel_weight: Tensor | None,
    valid: Tensor | None,
    scale: Tensor | None,
    *,
    options: LossOptions,
    place: Callable[[], Tensor] | None,
    with_stats: bool,
) -> tuple[Tensor, Tensor | None]:
    """Evaluate one chunk (see :class:`fpl_fast.engines.chunked.PixelFunction`)."""
    if valid is not None:  # a fill, not a product: NaN in an ignored pixel must not survive
        student, teacher = student.masked_fill(~valid, 0), teacher.masked_fill(~valid, 0)
    z, t = student.unsqueeze(0), teacher.unsqueeze(0)
    if isinstance(options.threshold, Tensor):
        options = options._replace(threshold=options.threshold.unsqueeze(0))
    terms = pixel_terms(z, t, options)
    loss, weight, confidence = terms.loss[0], terms.weight[0], terms.confidence[0]
    factor = torch.ones_like(loss) if pixel_weight is None else pixel_weight
    selected = torch.ones_like(loss)
    if options.uses_confidence:
        factor = factor * confidence**options.confidence_power
        selected = (confidence >= options.confidence_threshold).to(loss.dtype)
    total_weight = selected * factor * weight
    rows = [total_weight * loss]
    if with_stats:
        k = terms.num_positives[0]
        rows += [torch.ones_like(loss), weight * loss, loss, terms.cross_entropy[0], k.to(loss)]
        rows += [(k == number).to(loss) for number in (1, 2, 3)]
        rows += [confidence, selected, factor]
    stacked = torch.stack(rows)
    if valid is not None:
        stacked = stacked.masked_fill(~valid, 0)
    if place is None:
        return stacked, None

    slope = total_weight if scale is None else total_weight * scale
    if valid is not None:
        slope = slope.masked_fill(~valid, 0)
    gradient = loss_gradient(z, t, terms.positives, options)[0] * slope
    return stacked, gradient.to(student.dtype)


_ENGINE = chunked.Engine(evaluate, chunked.Chunking(CHUNK_PIXELS))
fuzzy_positive_sums = functools.partial(chunked.fuzzy_positive_sums, _ENGINE)
fuzzy_positive_map = functools.partial(chunked.fuzzy_positive_map, _ENGINE)
