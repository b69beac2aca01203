"""Arguments of every engine of the losses. This needs torch alone: engines without Triton take the same arguments.

An option of the loss is defined here, once: its field in :class:`LossOptions` says its name, its kind and the values it
may have. What passes options on (checks, modules, operators, compiled graphs, launchers) passes all that are defined.

Shapes: N images, C classes, (h, w) logits, (H, W) pixels of the loss.
"""

import sys
from collections.abc import Iterable
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin

import torch
from torch import Tensor

# Sums over the valid pixels; the terms of one pixel are, with q the teacher's largest probability, the gate
# g = [q >= confidence_threshold] and b = pixel_weight * q ** confidence_power:
SUMS = (
    "loss",  # g * b * w * L
    "num_valid",  # 1
    "weighted",  # w * L
    "unweighted",  # L
    "cross_entropy",  # of the student with the teacher's most probable class
    "positives",  # K
    "one_positive",  # [K = 1]
    "two_positives",  # [K = 2]
    "three_positives",  # [K = 3]
    "confidence",  # q
    "num_selected",  # g
    "weight",  # b
)
NUM_SUMS = len(SUMS)


class LossInputs(NamedTuple):
    """The tensors of one call. Logits have any strides and are never written to.

    It has methods and no properties, which Dynamo traces in named tuples from PyTorch 2.11 on.
    """

    student: Tensor  # (N, C, h, w)
    teacher: Tensor  # (N, C, h, w), a dtype and strides of its own
    partner: Tensor | None = None  # the teacher where mix_mask is true, of the teacher's dtype
    mix_mask: Tensor | None = None  # (N, H, W) bool
    pixel_weight: Tensor | None = None  # (N, H, W) float32, or float64 with float64 logits; None for 1
    valid_mask: Tensor | None = None  # (N, H, W) bool; None for all
    threshold: Tensor | None = None  # T of each pixel, like pixel_weight; None for that of the options
    size: tuple[int, int] | None = None  # (H, W) that the logits are upsampled to; None for (h, w)
    align_corners: bool = True  # of the upsampling

    def pixels(self) -> tuple[int, int, int]:
        """Shape of the pixels of the loss, (N, H, W)."""
        n, _, *native = self.student.shape
        height, width = self.size or native
        return n, height, width

    def tensors(self) -> tuple[Tensor | None, ...]:
        """The fields that are tensors, in their order."""
        masks = self.mix_mask, self.pixel_weight, self.valid_mask, self.threshold
        return self.student, self.teacher, self.partner, *masks


class TeacherInputs(NamedTuple):
    """The tensors of a choice that depends on a teacher alone, as in :class:`LossInputs`."""

    teacher: Tensor  # (N, C, h, w)
    partner: Tensor | None = None
    mix_mask: Tensor | None = None
    valid_mask: Tensor | None = None
    size: tuple[int, int] | None = None
    align_corners: bool = True

    def pixels(self) -> tuple[int, int, int]:
        """Shape of the pixels, (N, H, W)."""
        n, _, *native = self.teacher.shape
        height, width = self.size or native
        return n, height, width


class ContextOptions(NamedTuple):
    """The options of a choice among thresholds by context."""

    thresholds: tuple[float, ...]  # T_1 < ... < T_M, in (0, 1]
    window: int  # side, odd
    max_positives: int  # cap on K, 1 to C - 1

    @property
    def num_neighbours(self) -> int:
        """Pixels of a window without its centre."""
        return self.window**2 - 1


class PseudoLabelOptions(NamedTuple):
    """The options of a prediction."""

    threshold: float | None  # T of the number of positives, in (0, 1]; None if that is not asked for
    max_positives: int  # cap on K, 1 to C - 1


class PseudoLabels(NamedTuple):
    """A teacher's prediction of each pixel, (N, H, W), without gradient."""

    label: Tensor
    """The most probable class, the lower one among equals; uint8, int32 with more than 256 classes."""
    confidence: Tensor
    """Its probability q; float32, float64 for float64 logits."""
    entropy: Tensor
    """-sum_c p_c log p_c in nats, 0 to log(C); of the dtype of ``confidence``."""
    num_positives: Tensor | None
    """K, the number of fuzzy positives, int32; None where no threshold is given."""

    @classmethod
    def empty(cls, inputs: TeacherInputs, options: PseudoLabelOptions, dtype: torch.dtype) -> "PseudoLabels":
        """Uninitialised tensors to be filled."""
        kinds = [torch.uint8 if inputs.teacher.shape[1] <= 256 else torch.int32, dtype, dtype, torch.int32]
        label, confidence, entropy, k = (inputs.teacher.new_empty(inputs.pixels(), dtype=kind) for kind in kinds)
        return cls(label, confidence, entropy, None if options.threshold is None else k)


class Range(NamedTuple):
    """Numbers that an option may be, and what an error advises for others."""

    low: float
    high: float  # allowed itself; infinity stands for every finite number
    remedy: str
    above_low: bool = False  # whether ``low`` itself is not allowed

    @property
    def rule(self) -> str:
        """The range in words, "in (0, 1]" or ">= 0"."""
        if self.high == _INF:
            return f">= {self.low:g}"
        return f"in {'(' if self.above_low else '['}{self.low:g}, {self.high:g}]"

    def holds(self, value: float) -> bool:
        """Whether the number lies in the range."""
        above = self.low < value if self.above_low else self.low <= value
        return above and value <= min(self.high, _LARGEST)


_INF = float("inf")
_LARGEST = sys.float_info.max
Weighting = Literal["none", "linear", "convex", "concave"]
Form = Literal["smooth", "hinge"]
Distance = Literal["mse", "kl"]  # between two softmaxes


class LossOptions(NamedTuple):
    """The options of one call; hashable, so that compiled code can be kept per option set."""

    threshold: Annotated[float, Range(0, 1, "the paper's is 0.9", above_low=True)]  # T
    max_positives: int  # cap on K, 1 to C - 1
    weighting: Weighting
    convex_scale: Annotated[float, Range(0, _INF, "the paper's are 1 and 4")]
    form: Form
    # Pixels with q below the threshold contribute no loss; q to the power is a factor of the loss.
    confidence_threshold: Annotated[float, Range(0, 1, "0 sets no gate")] = 0.0
    confidence_power: Annotated[float, Range(0, _INF, "0 leaves it out")] = 0.0

    @property
    def uses_confidence(self) -> bool:
        """Whether q matters beyond the statistics."""
        return self.confidence_threshold > 0 or self.confidence_power != 0


# The options by kind. Numbers may follow a schedule: no code is compiled for their values.
_KINDS: Iterable[tuple[str, Any]] = LossOptions.__annotations__.items()
NUMBERS: dict[str, Range] = {name: kind.__metadata__[0] for name, kind in _KINDS if get_origin(kind) is Annotated}
NAMES: dict[str, tuple[str, ...]] = {name: get_args(kind) for name, kind in _KINDS if get_origin(kind) is Literal}

# Sums over the labelled pixels, with a the pixel weight and v the weight of the pixel's class:
LABEL_SUMS = (
    "loss",  # a * v * L
    "num_valid",  # 1
    "weight",  # a * v
)
NUM_LABEL_SUMS = len(LABEL_SUMS)


class LabelInputs(NamedTuple):
    """The tensors of one call of a loss with labels. Logits have any strides and are never written to."""

    student: Tensor  # (N, C, h, w)
    target: Tensor  # (N, H, W) uint8, int32 or int64
    class_weight: Tensor | None = None  # (C,) float32, or float64 with float64 logits; None for 1
    pixel_weight: Tensor | None = None  # (N, H, W) float32, or float64 with float64 logits; None for 1
    ignore_index: int = 255
    size: tuple[int, int] | None = None  # (H, W) that the logits are upsampled to; None for (h, w)
    align_corners: bool = True  # of the upsampling

    def pixels(self) -> tuple[int, int, int]:
        """Shape of the pixels of the loss, (N, H, W)."""
        n, _, *native = self.student.shape
        height, width = self.size or native
        return n, height, width
