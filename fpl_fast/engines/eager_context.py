"""The eager engine of the choice among thresholds by context: integer planes, class by class. Runs on every device.

Rows are taken in bands with their neighbours. A class that no pixel of a band has among its positives is skipped, on
the CPU, where looking costs nothing.
"""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from fpl_fast.engines.chunked import TeacherWindows, pixels_of, pixels_on, windows_on
from fpl_fast.engines.windows import UPSAMPLED_CHUNK_PIXELS
from fpl_fast.kernels.arguments import ContextOptions, TeacherInputs
from fpl_fast.kernels.divergence import MAX_ENTRIES, divergence_table, table_shape, terms, write_least
from fpl_fast.reference import accumulate_dtype, softmax

BAND_PIXELS = 1 << 15


def adaptive_threshold(inputs: TeacherInputs, options: ContextOptions) -> Tensor:
    """The chosen threshold of every pixel, (N, H, W) float32."""
    device = inputs.teacher.device
    chosen = torch.empty(inputs.pixels(), dtype=torch.float32, device=device)
    if chosen.numel() == 0:
        return chosen
    table = None
    if math.prod(table_shape(options)) <= MAX_ENTRIES:
        table = divergence_table(options._replace(thresholds=()), device).flatten()
    for image in range(len(chosen)):
        ranks, counts = _assignments(inputs, image, options)
        for rows, divergence, counted in _divergences(ranks, counts, table, inputs.teacher.shape[1], options):
            write_least(chosen[image, rows], divergence, options.thresholds, counted)
    return chosen


def _assignments(inputs: TeacherInputs, image: int, options: ContextOptions) -> tuple[Tensor, Tensor]:
    """The classes of the first ranks, (max_positives, H, W), and K under each threshold, (M, H, W); int16.

    K is 0 where a pixel is not valid.
    """
    dtype, device = accumulate_dtype(inputs.teacher), inputs.teacher.device
    _, height, width = inputs.pixels()
    ranks = torch.empty((options.max_positives, height, width), dtype=torch.int16, device=device)
    counts = torch.empty((len(options.thresholds), height, width), dtype=torch.int16, device=device)
    teacher = TeacherWindows(inputs, image, dtype)
    for window in windows_on(device, inputs.teacher.shape[1], height, width, UPSAMPLED_CHUNK_PIXELS):
        logits, valid = teacher.columns(window).to(dtype), pixels_of(inputs.valid_mask, image, window)
        if valid is not None:
            logits = logits.masked_fill(~valid, 0)
        p = softmax(logits, dim=0)
        order = logits.sort(dim=0, descending=True, stable=True).indices[: options.max_positives]
        cumulative = p.gather(0, order).cumsum(0)
        k = torch.stack([(cumulative < threshold).sum(0).clamp(min=1) for threshold in options.thresholds])
        if valid is not None:
            k = k * valid
        for target, source in ((ranks, order), (counts, k)):
            there = target[:, window.rows, window.columns]
            there.copy_(source.view(there.shape))
    return ranks, counts


def _divergences(
    ranks: Tensor, counts: Tensor, table: Tensor | None, num_classes: int, options: ContextOptions
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Bands of rows with the divergences under each threshold, (M, H, W), and the pixels that count, (H, W)."""
    radius, (height, width) = options.window // 2, counts.shape[1:]
    _, num_sums, num_counts = table_shape(options)
    ranks, counts = (F.pad(x, (radius,) * 4) for x in (ranks, counts))  # K = 0 around the image: no neighbours
    num_rows = max(1, pixels_on(counts.device, len(counts), BAND_PIXELS) // width)
    for top in range(0, height, num_rows):
        rows = slice(top, min(top + num_rows, height))
        around = slice(rows.start, rows.stop + 2 * radius)
        all_counts, all_ranks = counts[:, around], ranks[:, around]
        centre = (..., slice(radius, -radius), slice(radius, -radius))
        k, wide = all_counts[centre].int(), all_counts.int()
        sums = _window_sums(wide, options.window) - k
        off = sums * num_counts
        on = off + k * (num_sums * num_counts)
        reached = [all_counts > rank for rank in range(len(all_ranks))]
        divergence = torch.zeros_like(k)
        for c in range(num_classes):
            member = torch.zeros_like(reached[0])
            for classes, within in zip(all_ranks, reached, strict=True):
                member |= (classes == c) & within
            if _is_known_empty(member):
                continue
            neighbours = _window_sums(member.to(torch.uint8), options.window) - member[centre].to(torch.uint8)
            if table is None:
                divergence += terms(k * member[centre], sums, neighbours)
            else:
                place = torch.where(member[centre], on, off) + neighbours
                divergence += table.index_select(0, place.flatten()).view_as(divergence)
        yield rows, divergence, k[0] > 0


def _is_known_empty(member: Tensor) -> bool:
    """Whether no pixel is a member, as far as looking costs nothing: on a GPU the host would wait."""
    return member.device.type == "cpu" and not member.any()


def _window_sums(x: Tensor, window: int) -> Tensor:
    """Sums over windows that lie inside (..., H, W): smaller by window - 1 along both axes."""
    for dim in (-2, -1):
        size = x.shape[dim] - window + 1
        total = x.narrow(dim, 0, size).clone()
        for shift in range(1, window):
            total += x.narrow(dim, shift, size)
        x = total
    return x
