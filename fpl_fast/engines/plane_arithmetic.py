"""Pointwise arithmetic on planes, one a class, from which the compiled graphs are written."""

import functools
import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

Planes = list[Tensor]


def sorting_network(n: int) -> list[tuple[int, int]]:
    """The comparators (i, j), i < j, of Batcher's odd-even merge sort for any n."""
    comparators = []
    run = 1
    while run < n:
        step = run
        while step >= 1:
            for start in range(step % run, n - step, 2 * step):
                for i in range(start, min(start + step, n - step)):
                    if i // (2 * run) == (i + step) // (2 * run):
                        comparators.append((i, i + step))
            step //= 2
        run *= 2
    return comparators


def sort_planes(planes: Sequence[Tensor]) -> Planes:
    """The values of each pixel in descending order; the compiler drops the comparisons of ranks that nobody reads."""
    ranked = list(planes)
    for i, j in sorting_network(len(planes)):
        ordered = ranked[i] >= ranked[j]
        ranked[i], ranked[j] = torch.where(ordered, ranked[i], ranked[j]), torch.where(ordered, ranked[j], ranked[i])
    return ranked


def positives_at(planes: Sequence[Tensor], largest: Sequence[Tensor], cutoff: Tensor, k: Tensor) -> Planes:
    """Whether each class is among the K largest, of which ``cutoff`` is the least; of equals, the lower classes.

    ``largest`` are the largest values, as many as K can be.
    """
    room = k - total([torch.where(x > cutoff, 1.0, 0.0) for x in largest])  # for classes at the cut
    positives = []
    for x in planes:
        tied = x == cutoff
        positives.append((x > cutoff) | (tied & (room > 0)))
        room = torch.where(tied, room - 1, room)
    return positives


def in_planes(logits: Tensor) -> Tensor:
    """Lay the pixels of a chunk side by side; only other layouts, such as channels_last, are copied."""
    return logits if logits.stride(1) == 1 else logits.contiguous()


def load_planes(logits: Iterable[Tensor], valid: Tensor | None) -> Planes:
    """The logits in float32; 0 where not valid, so that whatever lies there cannot spread."""
    planes = [plane.float() for plane in logits]
    return planes if valid is None else [torch.where(valid, plane, 0.0) for plane in planes]


# torch.maximum and torch.minimum carry NaN along at three instructions each; in the loss, one_if_finite does that.
def larger(a: Tensor, b: Tensor) -> Tensor:
    """The larger number of each pixel."""
    return torch.where(a > b, a, b)


def smaller(a: Tensor, b: Tensor) -> Tensor:
    """The smaller number of each pixel."""
    return torch.where(a < b, a, b)


def total(planes: Sequence[Tensor]) -> Tensor:
    """The sum over the planes, in their order."""
    return functools.reduce(torch.add, planes)


# 2^g = 1 + g * (POWER[0] + g * (POWER[1] + ...)) on |g| <= 1/2, fitted for the least relative error: below 1e-7.
_POWER = (0.6931470036506653, 0.24022242426872253, 0.05550733581185341, 0.009671512991189957, 0.001326472731307149)


def exp(x: Tensor, floor: int = -100) -> Tensor:
    """The exponential of x <= 0 in float32, relative error below 1e-6 + 1e-7 |x|; NaN for what is not finite.

    As the square of 2^round(y) * 2^g, y = x log2(e) / 2, which no finite x makes infinite. Results end at half of
    2^floor, which is even and at least -124: times the slope of a pixel, 2^-20 or so, they are normal numbers still.
    Processors multiply others much more slowly.

    Half the loss is spent in exponentials; the vector library's torch.exp, exact to one unit in the last place over
    the whole range, makes the loop a third slower.
    """
    y = x * (math.log2(math.e) / 2)
    whole = y.round()
    g = y - whole  # NaN of an infinity
    power = g * _POWER[-1] + _POWER[-2]
    for coefficient in (*reversed(_POWER[:-2]), 1.0):
        power = power * g + coefficient
    root = power * ((whole.to(torch.int32).clamp(min=floor // 2) + 127) << 23).view(torch.float32)
    return root * root
