"""Benchmark cases: logits, sizes, types, layouts, caps, teachers and labels, always drawn in the same way."""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["IGNORE_INDEX", "OPS", "Case", "Inputs", "Op", "distinct_images", "make_inputs"]

Op = Literal["forward", "backward", "both"]
OPS: tuple[Op, ...] = ("forward", "backward", "both")

# Standard deviation of the teacher's logits before upsampling; K = 1 in about half and in nearly all pixels of C = 19.
TEACHER_SCALE = {"uncertain": 6.0, "confident": 20.0}
THRESHOLD = 0.9
IGNORE_INDEX = 255


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """A problem that every peer solves."""

    shape: tuple[int, int, int, int] = (2, 19, 512, 512)
    """N, C, h, w of the logits."""
    size: tuple[int, int] | None = None
    """H, W that the logits are upsampled to, bilinearly with aligned corners; None for h, w."""
    dtype: torch.dtype = torch.float32
    layout: Literal["nchw", "nhwc"] = "nchw"
    labels: bool = False
    """Whether the targets are labels, with some pixels ignored, instead of a teacher's logits."""
    max_positives: int | None = 3
    """Cap on K: 3 as in the public code, None for the paper's rule, 1 for plain pseudo-labels."""
    teacher: Literal["uncertain", "confident"] = "uncertain"

    @property
    def num_classes(self) -> int:
        """Number of classes, C."""
        return self.shape[1]

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of the loss, H, W."""
        return self.size or self.shape[2:]

    @property
    def num_pixels(self) -> int:
        """Number of pixels of the loss, N * H * W."""
        return self.shape[0] * self.pixels[0] * self.pixels[1]

    @property
    def num_logits(self) -> int:
        """Number of logits, N * C * h * w."""
        n, c, h, w = self.shape
        return n * c * h * w

    def __str__(self) -> str:
        """Identifier of the case, and of its tests."""
        size = "x".join(str(length) for length in self.shape)
        if self.size is not None:
            size += "-to-" + "x".join(str(length) for length in self.size)
        rule = "uncapped" if self.max_positives is None else f"k{self.max_positives}"
        target = ["labels"] if self.labels else [rule, self.teacher]
        return "-".join([size, str(self.dtype).removeprefix("torch."), self.layout, *target])


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs of one case, the same for every peer."""

    student: Tensor
    """(N, C, h, w), requires its gradient."""
    teacher: Tensor
    """(N, C, h, w)."""
    label: Tensor | None
    """(N, H, W) int64, for cases with labels: the teacher's classes, the lowest sixteenth of the rows ignored."""


def distinct_images(case: Case) -> int:
    """Number of different images in a batch.

    Two images reveal a wrong stride between images as well as a hundred do, and a float64 solution of two is enough to
    judge a batch of any size.
    """
    return min(case.shape[0], 2)


def make_inputs(case: Case, device: torch.device) -> Inputs:
    """Draw logits that are smooth in space, like a network's, and a student near its teacher.

    The cap on K does not change them. The last inputs are cached, because many cells share them.
    """
    return _draw(replace(case, max_positives=None), device)


@functools.lru_cache(maxsize=1)
def _draw(case: Case, device: torch.device) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    _, c, h, w = case.shape
    images = distinct_images(case)
    # A network's own logits are already smooth; a case at full resolution starts from a quarter of it.
    low = (h, w) if case.size is not None else (-(-h // 4), -(-w // 4))
    teacher = TEACHER_SCALE[case.teacher] * torch.randn(images, c, *low, generator=generator)
    teacher = interpolate(teacher.to(device), size=(h, w), mode="bilinear", align_corners=True)
    student = teacher + 0.3 * torch.randn(1, c, h, w, generator=generator).to(device)
    student, teacher = _batch(student, case), _batch(teacher, case)
    return Inputs(student.requires_grad_(), teacher, _label(teacher, case) if case.labels else None)


def _batch(images: Tensor, case: Case) -> Tensor:
    """Repeat the images of a case in turn to the size of the batch, in its type and layout."""
    memory_format = torch.channels_last if case.layout == "nhwc" else torch.contiguous_format
    order = torch.arange(case.shape[0], device=images.device) % len(images)
    return images.to(case.dtype)[order].contiguous(memory_format=memory_format)


def _label(teacher: Tensor, case: Case) -> Tensor:
    logits = teacher[: distinct_images(case)]
    if case.size is not None:
        logits = interpolate(logits.float(), size=case.size, mode="bilinear", align_corners=True)
    label = logits.argmax(dim=1)
    label[:, -(-15 * label.shape[1] // 16) :] = IGNORE_INDEX
    return label[torch.arange(case.shape[0], device=label.device) % len(label)]
