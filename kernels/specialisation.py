"""Properties other than shapes that the kernels are specialised on."""

import torch
import triton

from fpl_fast.kernels.arguments import LossOptions


def option_arguments(options: LossOptions) -> dict[str, float | int | str | bool]:
    """The kernel arguments that follow from the options of the loss."""
    return {
        "threshold": options.threshold,
        "max_positives": options.max_positives,
        "convex_scale": options.convex_scale,
        "confidence_threshold": options.confidence_threshold,
        "confidence_power": options.confidence_power,
        "CAPPED": options.max_positives if options.max_positives <= 3 else 0,
        "WEIGHTING": options.weighting,
        "FORM": options.form,
        "CONFIDENCE": options.uses_confidence,
    }


def key_type(dtype: torch.dtype, group: int) -> str:
    """The ``KEY`` of ``device.keys.make_key`` for teacher logits of this dtype in groups of this many classes."""
    if dtype != torch.float32:
        return "int32"
    return "float32" if group == 1 else "int64"


def has_libdevice(kernel: object) -> bool:
    """Whether NVIDIA's approximations can be called: compiled (not interpreted) code on an NVIDIA device."""
    return isinstance(kernel, triton.JITFunction) and torch.version.hip is None
