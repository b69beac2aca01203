"""Strides that pass 2^31 elements or bytes, in memory that is mapped and mostly untouched."""

import mmap
from collections.abc import Callable

import torch
from torch import Tensor

from fpl_fast.kernels.arguments import LabelInputs, LossInputs
from ptx.cases.fuzzy_positive import FuzzyPositive
from ptx.cases.labels import CrossEntropy
from ptx.cases.table import add, logits

BIG = 2**31 + 16
MAP_NORESERVE = 0x4000  # of Linux, which Python 3.11 does not name
Strides = tuple[int, ...]


class HugeFuzzyPositive(FuzzyPositive):
    """Inputs that are too large to be compared with what they were."""

    def tensors(self) -> list[Tensor]:
        return []


class HugeCrossEntropy(CrossEntropy):
    """Like that."""

    def tensors(self) -> list[Tensor]:
        return []


def spread_out(x: Tensor, strides: Strides) -> Tensor:
    """The same values at other strides."""
    size = 64 + x.element_size() * (1 + sum(s * (n - 1) for s, n in zip(strides, x.shape, strict=True)))
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    base = torch.frombuffer(memory, dtype=x.dtype)
    return base.as_strided(x.shape, strides).copy_(x)


def huge(
    classes: int,
    strides: Callable[[int], Strides],
    pixels: tuple[int, int, int] = (1, 3, 7),
    size: tuple[int, int] | None = None,
) -> HugeFuzzyPositive:
    """Both networks at the strides of a width."""
    n, h, w = pixels
    student, teacher = (spread_out(logits((n, classes, h, w), "bf16"), strides(w)) for _ in range(2))
    return HugeFuzzyPositive(LossInputs(student, teacher, size=size))


def huge_labels() -> HugeCrossEntropy:
    """Logits and labels."""
    student = spread_out(logits((2, 3, 5, 29), "bf16"), (2 * BIG, 2**30 + 7, 29, 1))
    target = spread_out(torch.randint(0, 3, (2, 5, 29)).to(torch.uint8), (2 * BIG, 29 * 2**24, 2**24))
    return HugeCrossEntropy(LabelInputs(student, target))


add("huge stride of images C=5", huge, 5, lambda w: (BIG, 32, w, 1), (2, 3, 7))
add("huge stride of classes C=5", huge, 5, lambda w: (64, 2**30 + 48, w, 1))
add("huge stride of classes beyond int32 C=3", huge, 3, lambda w: (64, BIG, w, 1))
add("huge stride of pixels C=3", huge, 3, lambda w: (16, 4, w * 2**23, 2**23), (1, 16, 19))
add("huge stride of classes C=34", huge, 34, lambda w: (64, 2**27 + 48, w, 1))
add("huge strides upsampled C=3", huge, 3, lambda w: (2 * BIG, 2**30 + 3, 2**27 + 1, 2**24 + 1), (2, 3, 5), (6, 9))
add("huge strides of labels C=3", huge_labels)
