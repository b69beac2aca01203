"""Sources of the kernels as the launchers specialise them, to be compiled for a device that is not present."""

from typing import Any, Literal, NamedTuple

import torch
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fpl_fast.kernels.arguments import LossOptions
from fpl_fast.kernels.configs import Config, UpsampledConfig, choose_config, choose_upsampled_config
from fpl_fast.kernels.device.fuzzy_positive import fuzzy_positive_kernel
from fpl_fast.kernels.device.upsampled import upsampled_kernel
from fpl_fast.kernels.specialisation import key_type, option_arguments

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
_FLOATS = (
    "scale_ptr", "pixel_weight_ptr", "row_fraction_ptr", "column_fraction_ptr", "buffer_ptr", "sums_ptr", "map_ptr"
)  # fmt: skip
_NUMBERS = ("threshold", "convex_scale", "confidence_threshold", "confidence_power")
_LOGITS = ("student", "teacher", "partner", "grad")


class Case(NamedTuple):
    """One compilation: concave weighting, smooth form, gradient and sums, sizes divisible by 16."""

    num_classes: int
    dtype: str  # "bf16", "fp16" or "fp32", of student and teacher
    layout: str  # "nchw" or "channels_last"
    capped: bool  # max_positives = 3, otherwise the paper's uncapped rule
    target: str
    kernel: Literal["full", "upsampled"] = "full"
    cutmix: bool = False
    stats: bool = True  # whether the statistics are computed

    @property
    def config(self) -> Config | UpsampledConfig:
        """Launch configuration."""
        if self.kernel == "upsampled":
            return choose_upsampled_config(self.num_classes)
        return choose_config(self.num_classes, self.element_size, self.layout == "channels_last")

    @property
    def element_size(self) -> int:
        """Bytes of a logit."""
        return _TORCH_DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        """Short name for tables and messages."""
        words = [f"C={self.num_classes}", self.dtype, self.layout, "capped" if self.capped else "uncapped"]
        words += ["upsampled"] * (self.kernel == "upsampled") + ["cutmix"] * self.cutmix
        return " ".join([*words, *["no stats"] * (not self.stats), self.target])


def kernel_source(
    case: Case, types: dict[str, str] | None = None, constants: dict[str, Any] | None = None
) -> ASTSource:
    """Specialise a kernel as its launcher does on a contiguous or channels_last batch.

    Args:
        case: case to compile.
        types: Triton types of arguments that the case leaves out, such as ``{"valid_mask_ptr": "*i1"}``.
        constants: compile-time values that replace the case's own, such as ``{"FORM": "hinge"}``.
    """
    types, constants = types or {}, constants or {}
    kernel = fuzzy_positive_kernel if case.kernel == "full" else upsampled_kernel
    values = {name: value for name, value in _constants(case).items() if name not in types} | constants
    known = {f"{name}_ptr": f"*{case.dtype}" for name in _LOGITS}
    known |= dict.fromkeys(_FLOATS, "*fp32") | dict.fromkeys(_NUMBERS, "fp32")
    known |= dict.fromkeys(("row_start_ptr", "column_cell_ptr"), "*i32")
    known |= dict.fromkeys(("valid_mask_ptr", "mix_mask_ptr"), "*i1") | types
    return specialise(kernel, values, known)


def specialise(kernel: Any, constants: dict[str, Any], types: dict[str, str]) -> ASTSource:
    """Fix some arguments of a kernel; the others have the given types or int32, with aligned sizes and pointers.

    Args:
        kernel: a ``triton.jit`` function.
        constants: values known when it is compiled; arguments that the kernel lacks are left out.
        types: Triton types of the other arguments; arguments that the kernel lacks are left out.
    """
    names = kernel.arg_names
    values = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in values else types.get(name, "i32") for name in names}
    # Pointers, plane sizes and image strides are multiples of 16; a pixel's stride in channels_last is C.
    sizes = ("num_pixels", "width")
    aligned = [n for n in names if signature[n].startswith("*") or n in sizes or n.endswith(("stride_n", "stride_c"))]
    return ASTSource(
        fn=kernel,
        signature=signature,
        constexprs=values,
        attrs={(names.index(n),): [["tt.divisibility", 16]] for n in aligned if n not in values},
    )


def _constants(case: Case) -> dict[str, Any]:
    """Arguments of either kernel that are known when the case is compiled."""
    config = case.config
    rows = case.layout == "channels_last" and config.group == 1
    options = LossOptions(0.9, 3 if case.capped else case.num_classes - 1, "concave", 1.0, "smooth")
    unit = ("stride_c",) if case.layout == "channels_last" else ("stride_p", "stride_w")
    absent = ["pixel_weight_ptr", "valid_mask_ptr", "map_ptr", "target_ptr", "class_weight_ptr"]
    absent += [] if case.cutmix else ["partner_ptr", "mix_mask_ptr"]
    key_dtype = torch.float32 if case.kernel == "upsampled" else _TORCH_DTYPES[case.dtype]
    return {
        **dict.fromkeys(absent),
        **{name: value for name, value in option_arguments(options).items() if name.isupper()},
        **{f"{name}_{stride}": 1 for name in _LOGITS for stride in unit},
        "C": case.num_classes,
        "G": config.group,
        "BLOCK": config.block,
        "STUDENT_ROWS": rows,
        "TEACHER_ROWS": rows,
        "PARTNER_ROWS": rows,
        "GRAD_ROWS": rows,
        "KEY": key_type(key_dtype, config.group),
        "WITH_STATS": case.stats,
        "FAST": case.target != "gfx942",
    }
