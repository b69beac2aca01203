"""What is measured: sizes, types, layouts, caps and teachers, and which of them belong to a short run."""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import interpolate

__all__ = ["OPS", "Case", "Inputs", "Op", "make_inputs", "selection"]

Op = Literal["forward", "backward", "both"]
OPS: tuple[Op, ...] = ("forward", "backward", "both")

# Standard deviation of the teacher's logits before upsampling; K = 1 in about half and in nearly all pixels of C = 19.
_TEACHER_SCALE = {"uncertain": 6.0, "confident": 20.0}
THRESHOLD = 0.9


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One problem for every provider to solve."""

    shape: tuple[int, int, int, int] = (2, 19, 512, 512)
    """N, C, H, W."""
    dtype: torch.dtype = torch.float32
    layout: Literal["nchw", "nhwc"] = "nchw"
    max_positives: int | None = 3
    """Cap on K: 3 as in the public code, None for the paper's rule, 1 for plain pseudo-labels."""
    teacher: Literal["uncertain", "confident"] = "uncertain"

    @property
    def num_classes(self) -> int:
        """C."""
        return self.shape[1]

    @property
    def num_pixels(self) -> int:
        """P = N * H * W."""
        return self.shape[0] * self.shape[2] * self.shape[3]

    def __str__(self) -> str:
        """Identifier of the case, also the one of its tests."""
        size = "x".join(str(length) for length in self.shape)
        rule = "uncapped" if self.max_positives is None else f"k{self.max_positives}"
        return "-".join([size, str(self.dtype).removeprefix("torch."), self.layout, rule, self.teacher])


@dataclass(frozen=True, slots=True)
class Inputs:
    """Logits of one case, (N, C, H, W); ``student`` requires its gradient."""

    student: Tensor
    teacher: Tensor


def make_inputs(case: Case, device: torch.device) -> Inputs:
    """Draw logits that are smooth in space, as a network's are after upsampling, and a student near its teacher.

    The cap on K does not change them. The last ones drawn are kept, because many cells share them.
    """
    return _draw(replace(case, max_positives=None), device)


@functools.lru_cache(maxsize=1)
def _draw(case: Case, device: torch.device) -> Inputs:
    generator = torch.Generator().manual_seed(0)
    n, c, h, w = case.shape
    low = torch.randn(n, c, -(-h // 4), -(-w // 4), generator=generator) * _TEACHER_SCALE[case.teacher]
    teacher = interpolate(low.to(device), size=(h, w), mode="bilinear", align_corners=True)
    student = teacher + 0.3 * torch.randn(1, c, h, w, generator=generator).to(device)
    memory_format = torch.channels_last if case.layout == "nhwc" else torch.contiguous_format
    student, teacher = (x.to(case.dtype, memory_format=memory_format) for x in (student, teacher))
    return Inputs(student.requires_grad_(), teacher)


def selection(*, full: bool) -> list[tuple[Case, tuple[Op, ...]]]:
    """List the cases of a run and the parts of the step to time in each.

    Args:
        full: vary one property at a time around 8 bf16 crops, which is for a GPU; otherwise two fp32 crops, a few
            minutes on two CPU cores.
    """
    if not full:
        base = Case()
        return [
            (base, OPS),
            (replace(base, teacher="confident"), ("both",)),
            (replace(base, max_positives=None), ("both",)),
            (replace(base, max_positives=1), ("both",)),
        ]
    base = Case(shape=(8, 19, 512, 512), dtype=torch.bfloat16)
    varied = [
        *(replace(base, dtype=dtype) for dtype in (torch.bfloat16, torch.float16, torch.float32)),
        *(replace(base, layout="nhwc", dtype=dtype) for dtype in (torch.bfloat16, torch.float32)),
        *(replace(base, max_positives=cap, teacher=teacher) for cap in (3, None) for teacher in _TEACHER_SCALE),
        replace(base, max_positives=1),
        # Pixel counts that no power of two divides, and the crop sizes of the papers.
        *(replace(base, shape=(8, 19, side, side)) for side in (513, 769, 800)),
        *(replace(base, shape=(8, classes, 512, 512)) for classes in (2, 21, 60, 150)),
        replace(base, shape=(8, 150, 512, 512), max_positives=None),
    ]
    return [(case, OPS) for case in dict.fromkeys(varied)]
