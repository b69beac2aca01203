"""The compiled engine of the choice among thresholds by context: planes of packed counts, fused by Inductor. On a CPU.

The byte m of a word belongs to the threshold m. One graph makes, of the logits of a band of rows, a plane of words for
each class, 1 where it is a positive, and one of K. Another adds a class's terms to the divergences, and is called for
one class after another: it serves any number of them, and classes that no pixel of a band has are skipped.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fpl_fast.engines import packages
from fpl_fast.engines.chunked import TeacherWindows, pixels_of, windows
from fpl_fast.engines.plane_arithmetic import exp, in_planes, load_planes, positives_at, sort_planes, total
from fpl_fast.engines.plane_inputs import any_number_of_pixels
from fpl_fast.engines.windows import UPSAMPLED_CHUNK_PIXELS, Window
from fpl_fast.kernels.arguments import ContextOptions, TeacherInputs
from fpl_fast.kernels.divergence import divergence_table, table_shape, write_least

MAX_THRESHOLDS = 4  # bytes of a word; a byte counts the 224 neighbours in a window of 15 x 15
BAND_PIXELS = 1 << 15
_HALVES = 0x00FF00FF  # every second byte, as numbers of 16 bits
_LEAST = torch.finfo(torch.float32).min  # a logit of -inf is a class of probability 0, among others


def adaptive_threshold(inputs: TeacherInputs, options: ContextOptions) -> Tensor:
    """The chosen threshold of every pixel, (N, H, W) float32."""
    table = divergence_table(options._replace(thresholds=()), inputs.teacher.device).flatten()
    chosen = torch.empty(inputs.pixels(), dtype=torch.float32, device=inputs.teacher.device)
    _, height, width = inputs.pixels()
    chunk_pixels = BAND_PIXELS if inputs.size is None else UPSAMPLED_CHUNK_PIXELS
    for image in range(len(chosen)):
        teacher = TeacherWindows(inputs, image, torch.float32)
        for window in windows(height, width, chunk_pixels):
            words, counts = _words(inputs, image, teacher, window, options)
            divergence, counted = _divergences(words, counts, table, options)
            write_least(chosen[image, window.rows, window.columns], divergence, options.thresholds, counted)
    return chosen


def _words(
    inputs: TeacherInputs, image: int, teacher: TeacherWindows, window: Window, options: ContextOptions
) -> tuple[Tensor, Tensor]:
    """Words of the positives, (C, H', W'), and of K, (H', W'), of a window and its neighbours; 0 where is no pixel."""
    _, height, width = inputs.pixels()
    rows, above, below = _around(window.rows, height, options.window // 2)
    columns, left, right = _around(window.columns, width, options.window // 2)
    around = Window(rows, columns)
    logits, valid = teacher.columns(around), pixels_of(inputs.valid_mask, image, around)
    assign = Assignment(len(logits), logits.dtype, valid is not None, len(options.thresholds), options.max_positives)
    numbers = [torch.tensor(threshold, dtype=torch.float32, device="cpu") for threshold in options.thresholds]
    given = [] if valid is None else [valid.contiguous()]
    (words,) = packages.load(assign)([*in_planes(logits).unbind(0), *given, *numbers])
    words = words.view(len(words), rows.stop - rows.start, columns.stop - columns.start)
    words = F.pad(words, (left, right, above, below))
    return words[:-1], words[-1]


def _around(span: slice, size: int, radius: int) -> tuple[slice, int, int]:
    """A span with its neighbours in the image, and how many are missing before and after it."""
    around = slice(max(span.start - radius, 0), min(span.stop + radius, size))
    return around, radius - (span.start - around.start), radius - (around.stop - span.stop)


def _divergences(words: Tensor, counts: Tensor, table: Tensor, options: ContextOptions) -> tuple[Tensor, Tensor]:
    """The divergences under each threshold, (M, H, W), and the pixels that count, (H, W)."""
    radius, num_thresholds = options.window // 2, len(options.thresholds)
    _, num_sums, num_counts = table_shape(options)
    centre = counts[radius:-radius, radius:-radius]
    k = _bytes(centre, num_thresholds)
    off = (_window_sums(counts, options.window, num_thresholds) - k) * num_counts
    on = off + k * (num_sums * num_counts)
    add = packages.load(Terms(num_thresholds, options.window))
    divergence = torch.zeros_like(off)
    for member, is_present in zip(words, words.flatten(1).any(1).tolist(), strict=True):
        if is_present:
            (divergence,) = add([member, off, on, divergence, table])
    return divergence, centre != 0


class Assignment(NamedTuple):
    """The graph from logits to words."""

    num_classes: int
    dtype: torch.dtype
    with_valid: bool
    num_thresholds: int
    max_positives: int

    @property
    def purpose(self) -> str:
        """Name of the computation in messages."""
        return "the choice of thresholds, first of two graphs"

    def evaluate(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Words of the positives of each class and, last, of K, (C + 1, P), from inputs as in :meth:`examples`."""
        rest = list(tensors[self.num_classes :])
        valid = rest.pop(0) if self.with_valid else None
        t = load_planes(tensors[: self.num_classes], valid)
        ranked = sort_planes(t)
        below_top = [(x - ranked[0]).clamp(min=_LEAST) for x in (*ranked[: self.max_positives], *t)]
        exponentials = [exp(x) for x in below_top]
        e, normaliser = exponentials[: -len(t)], total(exponentials[-len(t) :])
        words = [torch.zeros_like(t[0], dtype=torch.int32) for _ in range(len(t) + 1)]
        for m, threshold in enumerate(rest):
            k, cutoff, cumulative = torch.ones_like(t[0]), ranked[0], e[0]
            for rank in range(1, self.max_positives):
                cumulative = cumulative + e[rank]
                accept = cumulative < threshold * normaliser
                cutoff = torch.where(accept, ranked[rank], cutoff)
                k = torch.where(accept, k + 1, k)
            members = [*positives_at(t, ranked[: self.max_positives], cutoff, k), k]
            words = [word | (member.to(torch.int32) << (8 * m)) for word, member in zip(words, members, strict=True)]
        if valid is not None:
            words = [torch.where(valid, word, 0) for word in words]
        return [torch.stack(words)]

    def examples(self) -> list[Tensor]:
        """C planes of logits, validity if given, thresholds."""
        planes = [torch.zeros(64, dtype=self.dtype) for _ in range(self.num_classes)]
        valid = [torch.ones(64, dtype=torch.bool)] if self.with_valid else []
        return [*planes, *valid, *torch.ones(self.num_thresholds).unbind(0)]

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """Any number of pixels."""
        return any_number_of_pixels(self.examples())


class Terms(NamedTuple):
    """The graph that adds the terms of a class."""

    num_thresholds: int
    window: int

    @property
    def purpose(self) -> str:
        """Name of the computation in messages."""
        return "the choice of thresholds, second of two graphs"

    def evaluate(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The divergences, (M, H, W), after those of one class, from inputs as in :meth:`examples`."""
        member, off, on, divergence, table = tensors
        radius = self.window // 2
        own = _bytes(member[radius:-radius, radius:-radius], self.num_thresholds)
        neighbours = _window_sums(member, self.window, self.num_thresholds) - own
        places = torch.where(own != 0, on, off) + neighbours
        return [divergence + table[places]]

    def examples(self) -> list[Tensor]:
        """Words of one class, places in the table without the neighbours, off and on, divergences, the table."""
        height, width = 8, 16
        around = (height + self.window - 1, width + self.window - 1)
        places = [torch.zeros(self.num_thresholds, height, width, dtype=torch.int32) for _ in range(3)]
        return [torch.zeros(around, dtype=torch.int32), *places, torch.zeros(64, dtype=torch.int32)]

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """Any window of an image and any table."""
        height, width, entries = (
            torch.export.Dim(name, min=2, max=packages.MAX_SIZE) for name in ("height", "width", "entries")
        )
        wider: Any = self.window - 1
        return [{0: height + wider, 1: width + wider}, *([{1: height, 2: width}] * 3), {0: entries}]


def _bytes(words: Tensor, num: int) -> Tensor:
    """The first bytes of words, (num, H, W)."""
    return torch.stack([(words >> (8 * m)) & 255 for m in range(num)])


def _window_sums(words: Tensor, window: int, num: int) -> Tensor:
    """Sums of the first bytes over windows that lie inside (H', W'), (num, H, W).

    Two bytes are added at a time, in the halves of a word: all four could pass 2^31, which C++ does not define.
    """
    sums = []
    for x in (words & _HALVES, (words >> 8) & _HALVES):
        for dim in (0, 1):
            size = x.shape[dim] - window + 1
            x = functools.reduce(torch.add, [x.narrow(dim, shift, size) for shift in range(window)])
        sums.append(x)
    return torch.stack([(sums[m % 2] >> (16 * (m // 2))) & 0xFFFF for m in range(num)])
