"""Argument checks with errors of one line that names the argument, the rule, the value and the remedy.

They read shapes and dtypes, never the values of a tensor: that would synchronise.
"""

import math
import numbers
import operator
from collections.abc import Sequence

import torch
from torch import Tensor

WEIGHTINGS = ("none", "linear", "convex", "concave")
FORMS = ("smooth", "hinge")
REDUCTIONS = ("none", "sum", "mean", "weighted_mean")
LABEL_REDUCTIONS = ("none", "sum", "mean")
ENGINES = ("auto", "triton", "compiled", "eager")
LABEL_ENGINES = ("auto", "triton", "eager")


def shown(value: object) -> str:
    """Format a value for a message, in one short line."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    shape = getattr(value, "shape", ())
    if shape and hasattr(value, "dtype"):
        return f"an array of shape {tuple(shape)}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def as_integer(value: object) -> int | None:
    """Convert an integer of Python or NumPy to a Python int; anything else (a bool, a tensor, text) gives None."""
    if isinstance(value, bool | Tensor):
        return None
    if isinstance(value, int):  # as it is: a compiler's symbol must stay one
        return value
    return operator.index(value) if isinstance(value, numbers.Integral) else None


def as_number(name: str, value: object, rule: str) -> float:
    """Convert a number of Python or NumPy to a Python number.

    Raises:
        ValueError: If it is something else, such as a bool, text or a tensor.
    """
    if isinstance(value, float | int) and not isinstance(value, bool):
        return value  # as it is: a compiler's symbol must stay one
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return float(value)
    remedy = "; give the number itself, not a tensor (reading one waits for its device)" if _is_tensor(value) else ""
    if isinstance(value, str):
        remedy = "; leave out the quotes"
    raise ValueError(f"{name} must be a number {rule}, got {shown(value)}{remedy}")


def check_logits(name: str, logits: Tensor) -> None:
    """Check logits: (N, C, H, W), floating point, at least two classes."""
    if not _is_tensor(logits):
        remedy = (
            f"torch.as_tensor({name}) makes one"
            if isinstance(logits, list) or hasattr(logits, "__array__")
            else "take the logits out of it"
        )
        raise ValueError(f"{name} must be a tensor, got {shown(logits)}; {remedy}")
    if logits.ndim != 4:
        remedy = "; unsqueeze(0) adds the dimension of images" if logits.ndim == 3 else ""
        raise ValueError(f"{name} must have the four dimensions (N, C, H, W), got shape {tuple(logits.shape)}{remedy}")
    if not logits.is_floating_point():
        raise ValueError(
            f"{name} must be floating point (raw logits, not labels), got {logits.dtype}; "
            "for labels there is fpl_fast.cross_entropy(logits, target)"
        )
    if logits.shape[1] < 2:
        raise ValueError(
            f"{name} must have at least 2 classes in dimension 1, got shape {tuple(logits.shape)}; "
            "torch.cat([torch.zeros_like(x), x], 1) makes two classes of a binary logit x"
        )


def check_same_shape(name: str, logits: Tensor, other_name: str, other: Tensor) -> None:
    """Check logits that must have the shape and the device of other logits."""
    check_logits(name, logits)
    if logits.shape != other.shape:
        remedy = "both must come from the same images and have the same classes"
        if logits.shape[:2] == other.shape[:2]:
            remedy = "torch.nn.functional.interpolate brings both to one"
        raise ValueError(
            f"{name} must have the shape of {other_name} {tuple(other.shape)}, got {tuple(logits.shape)}; {remedy}"
        )
    if logits.device != other.device:
        raise ValueError(
            f"{name} must be on the device of {other_name} ({other.device}), got {logits.device}; "
            f"move it with {name}.to({str(other.device)!r})"
        )


def check_options(threshold: object, max_positives: object, convex_scale: object) -> tuple[float, int | None, float]:
    """Check the numbers of the assignment and of the convex weight and return them as Python numbers."""
    threshold = as_number("threshold", threshold, "in (0, 1]")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}; the paper's is 0.9")
    cap = as_integer(max_positives)
    if max_positives is not None and (cap is None or cap < 1):
        raise ValueError(f"max_positives must be an integer >= 1 or None, got {shown(max_positives)}; None sets no cap")
    convex_scale = as_number("convex_scale", convex_scale, ">= 0")
    if not 0 <= convex_scale < math.inf:
        raise ValueError(f"convex_scale must be finite and >= 0, got {convex_scale!r}; the paper's are 1 and 4")
    return threshold, cap, convex_scale


def check_confidence(threshold: object, power: object) -> tuple[float, float]:
    """Check the gate and the exponent of the teacher's confidence and return them as Python numbers."""
    threshold = as_number("confidence_threshold", threshold, "in [0, 1]")
    if not 0 <= threshold <= 1:
        raise ValueError(f"confidence_threshold must lie in [0, 1], got {threshold!r}; 0 sets no gate")
    power = as_number("confidence_power", power, ">= 0")
    if not 0 <= power < math.inf:
        raise ValueError(f"confidence_power must be finite and >= 0, got {power!r}; 0 leaves it out")
    return threshold, power


def check_mining(min_kept: object, threshold: object, group_size: object) -> tuple[int, float, int]:
    """Check the numbers of hard example mining and return them as Python numbers."""
    number = as_integer(min_kept)
    if number is None or number < 1:
        raise ValueError(f"min_kept must be an integer >= 1, got {shown(min_kept)}; it counts pixels of an image")
    threshold = as_number("threshold", threshold, "in (0, 1]")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must lie in (0, 1], got {threshold!r}; at 1 every pixel is kept")
    group = as_integer(group_size)
    if group is None or group < 1:
        raise ValueError(f"group_size must be an integer >= 1, got {shown(group_size)}; 1 mines every image alone")
    return number, threshold, group


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    """Check that a value is one of the named choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")


def check_flag(name: str, value: object) -> None:
    """Check that a value is True or False; None, which PyTorch takes for align_corners, is neither."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")


def check_size(size: object, logits: Tensor | None = None) -> tuple[int, int] | None:
    """Check (H, W), both positive, and that ``logits`` have pixels to upsample; return it as Python integers."""
    if size is None:
        return None
    pair = [as_integer(x) for x in size] if isinstance(size, Sequence) else []
    if len(pair) != 2 or pair[0] is None or pair[1] is None or pair[0] < 1 or pair[1] < 1:
        remedy = "tuple(size.tolist()) makes them" if hasattr(size, "tolist") else "such as labels.shape[-2:]"
        raise ValueError(f"size must be (H, W), two integers >= 1, got {shown(size)}; {remedy}")
    if logits is not None and 0 in logits.shape[2:]:
        raise ValueError(f"size needs logits of at least 1 x 1 to upsample, got shape {tuple(logits.shape)}")
    return pair[0], pair[1]


def check_pixels(
    name: str, value: Tensor | None, shape: tuple[int, ...], device: torch.device, *, boolean: bool
) -> None:
    """Check a per-pixel tensor: (N, H, W) on the logits' device, boolean or floating point."""
    if value is None:
        return
    if not _is_tensor(value):
        raise ValueError(f"{name} must be a tensor, got {shown(value)}; torch.as_tensor({name}) makes one")
    if tuple(value.shape) != shape:
        remedy = f"; {name}.squeeze(1) drops the dimension of channels" if value.ndim == 4 else ""
        raise ValueError(f"{name} must have shape (N, H, W) = {shape}, got {tuple(value.shape)}{remedy}")
    _check_device(name, value, device)
    if boolean and value.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {value.dtype}; {name}.bool() is")
    if not boolean and not value.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {value.dtype}; {name}.float() is")


def check_target(target: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Check labels: (N, H, W) on the logits' device, of type uint8, int32 or int64."""
    if not _is_tensor(target):
        raise ValueError(f"target must be a tensor, got {shown(target)}; torch.as_tensor(target) makes one")
    if tuple(target.shape) != shape:
        remedy = "where a function takes size, give it the size of the labels"
        if target.ndim == 4:
            remedy = "target.squeeze(1) drops the dimension of channels"
        raise ValueError(f"target must have shape (N, H, W) = {shape}, got {tuple(target.shape)}; {remedy}")
    if target.dtype not in (torch.uint8, torch.int32, torch.int64):
        raise ValueError(f"target must be uint8, int32 or int64, got {target.dtype}; target.long() is")
    _check_device("target", target, device)


def check_ignore_index(ignore_index: object) -> int:
    """Check that a label is an integer of at most 64 bits, not text or a list, and return it as a Python int."""
    integer = as_integer(ignore_index)
    if integer is None or not -(2**63) <= integer < 2**63:
        raise ValueError(
            f"ignore_index must be one integer of at most 64 bits, got {shown(ignore_index)}; "
            "give -1 where no label is to be ignored"
        )
    return integer


def check_class_weight(weight: Tensor | None, num_classes: int | None, device: torch.device | None = None) -> None:
    """Check class weights: (C,) on the logits' device, floating point."""
    if weight is None:
        return
    if not _is_tensor(weight):
        raise ValueError(f"weight must be a tensor, got {shown(weight)}; torch.as_tensor(weight) makes one")
    if weight.ndim != 1 or len(weight) != (num_classes or len(weight)) or not weight.is_floating_point():
        classes = "(C,)" if num_classes is None else f"(C,) = ({num_classes},)"
        raise ValueError(
            f"weight must be floating point of shape {classes}, got {weight.dtype} {tuple(weight.shape)}; "
            "it has one number for each class"
        )
    if device is not None:
        _check_device("weight", weight, device)


def check_partner(
    partner_logits: Tensor | None, mix_mask: Tensor | None, student_logits: Tensor, pixels: tuple[int, ...]
) -> None:
    """Check that CutMix has both the partner and the mask, or neither."""
    if (partner_logits is None) != (mix_mask is None):
        missing = "mix_mask" if mix_mask is None else "partner_logits"
        raise ValueError(f"partner_logits and mix_mask must be given together, got no {missing}; give both or neither")
    if partner_logits is not None:
        check_same_shape("partner_logits", partner_logits, "student_logits", student_logits)
        check_pixels("mix_mask", mix_mask, pixels, student_logits.device, boolean=True)


def _check_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(
            f"{name} must be on the logits' device ({device}), got {value.device}; "
            f"move it with {name}.to({str(device)!r})"
        )


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)
