"""Argument checks with errors of one line that names the argument, the rule, the value and the remedy.

They read shapes and dtypes, never the values of a tensor: that would synchronise.
"""

import functools
import itertools
import numbers
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ParamSpec, TypeVar, get_args

import torch
from torch import Tensor

from fpl_fast.caller import warn_caller
from fpl_fast.kernels.arguments import NAMES, NUMBERS, Distance, Range


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
    if isinstance(value, (bool, Tensor)):  # no union, here and below: Dynamo of PyTorch 2.9 does not trace it
        return None
    if isinstance(value, int):  # as it is: a compiler's symbol must stay one
        return value
    return operator.index(value) if isinstance(value, numbers.Integral) else None


def as_number(name: str, value: object, rule: str) -> float:
    """Convert a number of Python or NumPy to a Python number.

    Raises:
        ValueError: If it is something else, such as a bool, text or a tensor.
    """
    if isinstance(value, (float, int)) and not isinstance(value, bool):
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
    if not logits.is_floating_point():
        raise ValueError(
            f"{name} must be floating point (raw logits, not labels), got {logits.dtype}; "
            "for labels there is fpl_fast.cross_entropy(logits, target)"
        )
    if logits.ndim != 4:
        remedy = "; unsqueeze(0) adds the dimension of images" if logits.ndim == 3 else ""
        raise ValueError(f"{name} must have the four dimensions (N, C, H, W), got shape {tuple(logits.shape)}{remedy}")
    if logits.layout != torch.strided:
        raise ValueError(f"{name} must be dense, got the layout {logits.layout}; {name}.to_dense() is")
    if logits.dtype.itemsize == 1:
        raise ValueError(f"{name} must have at least 16 bits, got {logits.dtype}; {name}.bfloat16() has")
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


def check_number(name: str, value: object, allowed: Range) -> float:
    """Check a number against its range and return it as a Python number."""
    if type(value) is float and allowed.holds(value):  # before the rule is put into words
        return value
    number = as_number(name, value, allowed.rule)
    if not allowed.holds(number):
        rule = f"lie {allowed.rule}" if allowed.rule.startswith("in") else f"be finite and {allowed.rule}"
        raise ValueError(f"{name} must {rule}, got {shown(number)}; {allowed.remedy}")
    return number


def check_tensor(name: str, value: object) -> None:
    """Check that a value is a tensor."""
    if not _is_tensor(value):
        raise ValueError(f"{name} must be a tensor, got {shown(value)}; torch.as_tensor({name}) makes one")


def check_threshold(name: str, value: Any) -> float | Tensor:
    """Check T and return it: a number in its range, or each pixel's, (N, H, W), whose values are not read."""
    if _is_tensor(value) and value.ndim > 0:
        if value.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{name} of pixels must be float32, got {value.dtype}; {name}.float() is")
        if value.ndim != 3:
            remedy = _of_channels(name, value) or "a number serves all"
            raise ValueError(f"{name} of pixels must have shape (N, H, W), got {tuple(value.shape)}; {remedy}")
        return value
    if not isinstance(value, (float, int)) and getattr(value, "shape", None):
        raise ValueError(f"{name} of pixels must be a tensor, got {shown(value)}; torch.as_tensor({name}) makes one")
    return check_number(name, value, NUMBERS["threshold"])


def check_thresholds(name: str, value: Any) -> tuple[float, ...]:
    """Check ascending thresholds and return them as Python numbers."""
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) == 0:
        raise ValueError(f"{name} must be a sequence of numbers in (0, 1], got {shown(value)}; such as (0.84, 0.94)")
    found = tuple(check_number(f"{name}[{i}]", x, NUMBERS["threshold"]) for i, x in enumerate(value))
    if any(a >= b for a, b in itertools.pairwise(found)):
        raise ValueError(f"{name} must ascend, each larger than the one before, got {shown(value)}; sort them")
    return found


def check_window(name: str, value: object) -> int:
    """Check the side of a window around a pixel and return it as a Python number."""
    side = as_integer(value)
    if side is None or side % 2 == 0 or not 3 <= side <= 15:
        raise ValueError(f"{name} must be an odd integer from 3 to 15, got {shown(value)}; the public code has 5")
    return side


def check_cap(value: object) -> int | None:
    """Check the cap on the number of positives and return it as a Python number."""
    cap = as_integer(value)
    if value is not None and (cap is None or cap < 1):
        raise ValueError(f"max_positives must be an integer >= 1 or None, got {shown(value)}; None sets no cap")
    return cap


def check_count(name: str, value: object, meaning: str) -> int:
    """Check a number of things, at least 1, and return it as a Python number."""
    count = as_integer(value)
    if count is None or count < 1:
        raise ValueError(f"{name} must be an integer >= 1, got {shown(value)}; {meaning}")
    return count


def check_choice(name: str, value: Any, choices: Sequence[str]) -> Any:
    """Check that a value is one of the named choices and return it."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return value


def check_flag(name: str, value: Any) -> bool:
    """Check that a value is True or False; None, which PyTorch takes for align_corners, is neither."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {shown(value)}")
    return value


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
    check_tensor(name, value)
    if tuple(value.shape) != shape:
        remedy = _of_channels(name, value) or "where a function takes size, give it this tensor's"
        raise ValueError(f"{name} must have shape (N, H, W) = {shape}, got {tuple(value.shape)}; {remedy}")
    _check_device(name, value, device)
    if boolean and value.dtype != torch.bool:
        raise ValueError(f"{name} must be bool, got {value.dtype}; {name}.bool() is")
    if not boolean and not value.is_floating_point():
        raise ValueError(f"{name} must be floating point, got {value.dtype}; {name}.float() is")


def check_pixel_threshold(threshold: float | Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor | None:
    """Check the thresholds of pixels, (N, H, W) on the logits' device, and return them; None for a number."""
    if not isinstance(threshold, Tensor):
        return None
    check_pixels("threshold", threshold, shape, device, boolean=False)
    return threshold


def check_target(target: Tensor, shape: tuple[int, ...], device: torch.device) -> None:
    """Check labels: (N, H, W) on the logits' device, of type uint8, int32 or int64."""
    check_tensor("target", target)
    if tuple(target.shape) != shape:
        remedy = _of_channels("target", target) or "where a function takes size, give it the size of the labels"
        if target.ndim == 4 and target.shape[1] > 1:
            remedy = "target.argmax(1) makes labels of one-hot vectors"
        raise ValueError(f"target must have shape (N, H, W) = {shape}, got {tuple(target.shape)}; {remedy}")
    if target.dtype not in (torch.uint8, torch.int32, torch.int64):
        raise ValueError(f"target must be uint8, int32 or int64, got {target.dtype}; target.long() is")
    _check_device("target", target, device)


def _of_channels(name: str, value: Tensor) -> str:
    """Remedy for a tensor of pixels that has a dimension of channels; empty where it has none."""
    if value.ndim != 4:
        return ""
    if value.shape[1] == 1:
        return f"{name}.squeeze(1) drops the dimension of channels"
    return "one value serves all classes of a pixel"


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
    check_tensor("weight", weight)
    if weight.ndim != 1 or len(weight) != (num_classes or len(weight)) or not weight.is_floating_point():
        classes = "(C,)" if num_classes is None else f"(C,) = ({num_classes},)"
        raise ValueError(
            f"weight must be floating point of shape {classes}, got {weight.dtype} {tuple(weight.shape)}; "
            "it has one number for each class"
        )
    if device is not None:
        _check_device("weight", weight, device)


def check_partner(
    partner_logits: Tensor | None,
    mix_mask: Tensor | None,
    logits: Tensor,
    pixels: tuple[int, ...],
    name: str = "student_logits",
) -> None:
    """Check that CutMix has both the partner and the mask, or neither."""
    if (partner_logits is None) != (mix_mask is None):
        missing = "mix_mask" if mix_mask is None else "partner_logits"
        raise ValueError(f"partner_logits and mix_mask must be given together, got no {missing}; give both or neither")
    if partner_logits is not None:
        check_same_shape("partner_logits", partner_logits, name, logits)
        check_pixels("mix_mask", mix_mask, pixels, logits.device, boolean=True)


def _check_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(
            f"{name} must be on the logits' device ({device}), got {value.device}; "
            f"move it with {name}.to({str(device)!r})"
        )


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


# A rule checks a value by its name and returns it. Those of an option that takes a tensor are in the functions: they
# need its logits.
Rule = Callable[[str, Any], Any]
_COMMON: dict[str, Rule] = {"size": lambda _, value: check_size(value), "align_corners": check_flag}
LOSS_RULES: dict[str, Rule] = {
    **_COMMON,
    **{name: partial(check_number, allowed=allowed) for name, allowed in NUMBERS.items()},
    **{name: partial(check_choice, choices=choices) for name, choices in NAMES.items()},
    "threshold": check_threshold,
    "max_positives": lambda _, value: check_cap(value),
    "balance": check_flag,
    "reduction": partial(check_choice, choices=("none", "sum", "mean", "weighted_mean")),
    "return_stats": check_flag,
    "engine": partial(check_choice, choices=("auto", "triton", "compiled", "eager")),
}
LABEL_RULES: dict[str, Rule] = {
    **_COMMON,
    "ignore_index": lambda _, value: check_ignore_index(value),
    "weight": lambda _, value: check_class_weight(value, None),
    "min_kept": partial(check_count, meaning="it counts pixels of an image"),
    "threshold": partial(check_number, allowed=Range(0, 1, "at 1 every pixel is kept", above_low=True)),
    "group_size": partial(check_count, meaning="1 mines every image alone"),
    "reduction": partial(check_choice, choices=("none", "sum", "mean")),
    "engine": partial(check_choice, choices=("auto", "triton", "eager")),
}
CONSISTENCY_RULES: dict[str, Rule] = {
    **_COMMON,
    "kind": partial(check_choice, choices=get_args(Distance)),
    "reduction": LABEL_RULES["reduction"],
    "engine": LOSS_RULES["engine"],
}


def check_options(rules: dict[str, Rule], **options: object) -> dict[str, Any]:
    """Check options by their rules, in the order given, and return them by name."""
    return {name: rules[name](name, value) for name, value in options.items()}


@functools.cache
def warn_of_two_classes() -> None:
    """Warn once per process of a loss that cannot be fuzzy."""
    warn_caller(
        "two classes leave a single positive to every pixel: the fuzzy positive loss is a plain cross entropy with the "
        "teacher's label; fuzzy positives take three classes or more"
    )


_P = ParamSpec("_P")
_R = TypeVar("_R")
_PLAIN = {float, int, bool, str, type(None)}


def kept(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Keep the results of checks for plain values that come again, as the options of a loss do at every step.

    A compiler that traces sees the function itself: its numbers are symbols.
    """
    keep: Any = functools.lru_cache(maxsize=256, typed=True)(function)  # typed: True is no number, though it equals 1

    @functools.wraps(function)
    def call(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        if torch.compiler.is_compiling() or not _PLAIN.issuperset(map(type, (*args, *kwargs.values()))):
            return function(*args, **kwargs)
        result: _R = keep(*args, **kwargs)
        return result

    return call
