"""Argument checks: one line that names the argument, the rule and the value.

They read shapes and dtypes, never what a tensor holds: that would synchronise.
"""

import math
import operator
from collections.abc import Sequence

import torch
from torch import Tensor


def as_integer(value: object) -> int | None:
    """An integer of Python or NumPy as Python's, anything else (a bool, a tensor, text) as None."""
    if isinstance(value, bool | Tensor) or not hasattr(value, "__index__"):
        return None
    return operator.index(value)


def check_logits(name: str, logits: Tensor) -> None:
    """(N, C, H, W), floating point, at least two classes."""
    if not isinstance(logits, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(logits).__name__}")
    if logits.ndim != 4:
        raise ValueError(f"{name} must have the four dimensions (N, C, H, W), got shape {tuple(logits.shape)}")
    if not logits.is_floating_point():
        raise ValueError(f"{name} must be floating point (raw logits, not labels), got {logits.dtype}")
    if logits.shape[1] < 2:
        raise ValueError(f"{name} must have at least 2 classes in dimension 1, got shape {tuple(logits.shape)}")


def check_same_shape(name: str, logits: Tensor, other_name: str, other: Tensor) -> None:
    """Same shape, kind and device as the other logits."""
    check_logits(name, logits)
    if logits.shape != other.shape:
        raise ValueError(f"{name} must have the shape of {other_name} {tuple(other.shape)}, got {tuple(logits.shape)}")
    if logits.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name} ({other.device}), got {logits.device}")


def check_options(threshold: float, max_positives: int | None, convex_scale: float) -> None:
    """The numbers of the assignment and of the convex weight."""
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}")
    if max_positives is not None and (
        not isinstance(max_positives, int) or isinstance(max_positives, bool) or max_positives < 1
    ):
        raise ValueError(f"max_positives must be an integer >= 1 or None, got {max_positives!r}")
    if not 0 <= convex_scale < math.inf:
        raise ValueError(f"convex_scale must be finite and >= 0, got {convex_scale!r}")


def check_confidence(threshold: float, power: float) -> None:
    """The gate and the exponent of the teacher's confidence."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"confidence_threshold must lie in [0, 1], got {threshold!r}")
    if not 0 <= power < math.inf:
        raise ValueError(f"confidence_power must be finite and >= 0, got {power!r}")


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """One of the named choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_size(size: tuple[int, int] | None, logits: Tensor) -> None:
    """(H, W), both positive, and something to upsample to it."""
    if size is None:
        return
    if not isinstance(size, Sequence) or len(size) != 2 or any(isinstance(x, float) or x < 1 for x in size):
        raise ValueError(f"size must be (H, W), two integers >= 1, got {size!r}")
    if 0 in logits.shape[2:]:
        raise ValueError(f"size needs logits of at least 1 x 1 to upsample, got shape {tuple(logits.shape)}")


def check_pixels(
    name: str, value: Tensor | None, shape: tuple[int, ...], device: torch.device, *, boolean: bool
) -> None:
    """(N, H, W) on the logits' device, boolean or floating point."""
    if value is None:
        return
    if not isinstance(value, Tensor):
        raise ValueError(f"{name} must be a tensor, got {type(value).__name__}")
    if tuple(value.shape) != shape:
        raise ValueError(f"{name} must have shape (N, H, W) = {shape}, got {tuple(value.shape)}")
    if value.device != device:
        raise ValueError(f"{name} must be on the logits' device ({device}), got {value.device}")
    if boolean and value.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {value.dtype}")
    if not boolean and not value.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {value.dtype}")


def check_target(target: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """(N, H, W) on the logits' device, an integer type."""
    if not isinstance(target, Tensor):
        raise ValueError(f"target must be a tensor, got {type(target).__name__}")
    if tuple(target.shape) != shape:
        raise ValueError(f"target must have shape (N, H, W) = {shape}, got {tuple(target.shape)}")
    if target.dtype not in (torch.uint8, torch.int32, torch.int64):
        raise ValueError(f"target must be uint8, int32 or int64, got {target.dtype}")
    if target.device != device:
        raise ValueError(f"target must be on the logits' device ({device}), got {target.device}")


def check_ignore_index(ignore_index: object) -> int:
    """A label: an integer of 64 bits, as a number and not as text or a list."""
    integer = as_integer(ignore_index)
    if integer is None or not -(2**63) <= integer < 2**63:
        raise ValueError(
            f"ignore_index must be one integer of at most 64 bits, got {ignore_index!r}; "
            "give -1 where no label is to be ignored"
        )
    return integer


def check_class_weight(weight: Tensor | None, num_classes: int, device: torch.device) -> None:
    """(C,) on the logits' device, floating point."""
    if weight is None:
        return
    if tuple(weight.shape) != (num_classes,) or not weight.is_floating_point():
        raise ValueError(
            f"weight must be floating point of shape (C,) = ({num_classes},), got {weight.dtype} {tuple(weight.shape)}"
        )
    if weight.device != device:
        raise ValueError(f"weight must be on the logits' device ({device}), got {weight.device}")


def check_partner(
    partner_logits: Tensor | None, mix_mask: Tensor | None, student_logits: Tensor, pixels: tuple[int, ...]
) -> None:
    """CutMix takes both the partner and the mask, or neither."""
    if (partner_logits is None) != (mix_mask is None):
        missing = "mix_mask" if mix_mask is None else "partner_logits"
        raise ValueError(f"partner_logits and mix_mask must be given together, got no {missing}")
    if partner_logits is not None:
        check_same_shape("partner_logits", partner_logits, "student_logits", student_logits)
        check_pixels("mix_mask", mix_mask, pixels, student_logits.device, boolean=True)
