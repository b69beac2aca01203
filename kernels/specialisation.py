"""Properties other than shapes that the kernels are specialised on."""

import functools
from typing import Any

import torch
import triton
import triton.language as tl

from fpl_fast.kernels.arguments import NAMES, LossOptions
from fpl_fast.kernels.configs import MAX_SINGLES


@functools.cache
def constant(value: str | bool | int) -> tl.constexpr:
    """A field of an argument that is known when the kernel is compiled; one object, as Triton compares every launch."""
    return tl.constexpr(value)


def option_arguments(options: LossOptions) -> dict[str, Any]:
    """The kernel arguments that follow from the options of the loss: the options, and what they leave out."""
    names: dict[str, Any] = {name: constant(getattr(options, name)) for name in NAMES}
    return {
        "loss_options": options._replace(**names),
        "CAPPED": options.max_positives if options.max_positives <= 3 else 0,
        "CONFIDENCE": options.uses_confidence,
    }


def key_type(dtype: torch.dtype, num_classes: int, *, with_infinity: bool = False) -> str:
    """The ``KEY`` of ``device.keys.make_key`` for teacher logits of this dtype and number of classes.

    ``with_infinity`` where -inf is a logit among others, of which a tagged key would make NaN.
    """
    if dtype == torch.float32:
        return "float32" if num_classes <= MAX_SINGLES else "int64"
    return "tagged" if num_classes <= MAX_SINGLES and not with_infinity else "int32"


def has_libdevice(kernel: object) -> bool:
    """Whether NVIDIA's approximations can be called: compiled (not interpreted) code on an NVIDIA device."""
    return isinstance(kernel, triton.JITFunction) and torch.version.hip is None


def wave_limit(kernel: object, min_waves: int | None) -> dict[str, int]:
    """The option of a launch that limits the registers of a thread on AMD, whose compiler alone knows it."""
    compiled_for_amd = isinstance(kernel, triton.JITFunction) and torch.version.hip is not None
    return {"waves_per_eu": min_waves} if min_waves is not None and compiled_for_amd else {}


def register_limit(kernel: object, max_registers: int | None) -> dict[str, int]:
    """The option of a launch that limits the registers of a thread, which only NVIDIA's compiler knows."""
    return {"maxnreg": max_registers} if max_registers is not None and has_libdevice(kernel) else {}
