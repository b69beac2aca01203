"""Sources of the kernels as the launchers specialise them, to be compiled for a device that is not present.

An argument that is known at run time is given by its type, such as "i32" or "*bf16:16", where ":16" says that it is a
multiple of 16; any other argument, None included, is known when the kernel is compiled.
"""

from typing import Any, Literal, NamedTuple, get_args

import torch
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fpl_fast.kernels.arguments import NUM_SUMS, NUMBERS, Distance, LossOptions
from fpl_fast.kernels.configs import (
    MAX_SINGLES,
    MAX_STREAMED,
    Config,
    UpsampledConfig,
    choose_config,
    choose_teacher_config,
    choose_upsampled_config,
)
from fpl_fast.kernels.context import CONTEXT_BLOCK, MAX_POSITIVES, MAX_THRESHOLDS
from fpl_fast.kernels.device.consistency import consistency_kernel
from fpl_fast.kernels.device.context import context_kernel
from fpl_fast.kernels.device.fuzzy_positive import fuzzy_positive_kernel
from fpl_fast.kernels.device.operands import Axis, Classes, ColumnPixels, Pixels, Samples
from fpl_fast.kernels.device.pseudo_labels import pseudo_labels_kernel
from fpl_fast.kernels.device.ranks import ranks_kernel
from fpl_fast.kernels.device.streamed import streamed_kernel
from fpl_fast.kernels.device.upsampled import upsampled_kernel
from fpl_fast.kernels.specialisation import key_type, option_arguments

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
_TORCH_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
FLOATS, INTS = "*fp32:16", "*i32:16"
# After those of the fuzzy positive loss and of the consistency loss, that of pseudo_labels and the two of
# adaptive_threshold; from the teacher alone.
Kernel = Literal[
    "full",
    "upsampled",
    "mse",
    "upsampled mse",
    "kl",
    "upsampled kl",
    "pseudo labels",
    "upsampled pseudo labels",
    "ranks",
    "upsampled ranks",
    "context",
]
MASK = Pixels("*i1:16", "i32:16", "i32")
WEIGHT = Pixels(FLOATS, "i32:16", "i32")
AXIS = Axis(INTS, FLOATS, INTS)


class Case(NamedTuple):
    """One compilation: gradient and sums; of the fuzzy positive loss concave and smooth."""

    num_classes: int
    dtype: str  # "bf16", "fp16" or "fp32", of student and teacher
    layout: str  # "nchw" or "channels_last"
    capped: bool  # max_positives = 3, otherwise the paper's uncapped rule
    target: str
    kernel: Kernel = "full"
    cutmix: bool = False
    stats: bool = True  # whether the statistics are computed
    odd: bool = False  # a plane at full resolution whose size 2 does not divide, such as 769 x 769

    @property
    def distance(self) -> str | None:
        """The distance of a consistency loss."""
        last = self.kernel.split()[-1]
        return last if last in get_args(Distance) else None

    @property
    def launch(self) -> str:
        """The kernel that is launched in the same way: of a consistency loss, that of the fuzzy positive loss."""
        if self.distance is None:
            return self.kernel
        return "upsampled" if self.kernel.startswith("upsampled") else "full"

    @property
    def streamed(self) -> bool:
        """Whether the kernel that is launched reads its classes in chunks."""
        many = MAX_SINGLES < self.num_classes <= MAX_STREAMED
        return self.kernel == "full" and many and self.capped and self.layout == "nchw"

    @property
    def config(self) -> Config | UpsampledConfig:
        """Launch configuration."""
        if self.kernel == "context":
            return UpsampledConfig(1, CONTEXT_BLOCK, 4)
        lanes = 64 if self.target.startswith("gfx") else 32
        if self.launch == "upsampled":
            return choose_upsampled_config(self.num_classes, lanes)
        if self.launch != "full":
            return choose_teacher_config(self.num_classes, lanes)
        limited = self.kernel == "full" and (self.stats or not self.capped)
        rows = self.layout == "channels_last"
        return choose_config(self.num_classes, self.element_size, limited=limited, rows=rows, streamed=self.streamed)

    @property
    def element_size(self) -> int:
        """Bytes of a logit."""
        return _TORCH_DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        """Short name for tables and messages."""
        words = [f"C={self.num_classes}", self.dtype, self.layout, "capped" if self.capped else "uncapped"]
        words += [self.kernel] * (self.kernel != "full") + ["cutmix"] * self.cutmix
        words += ["odd"] * self.odd
        return " ".join([*words, *["no stats"] * (not self.stats), self.target])


def kernel_source(case: Case, **changes: Any) -> ASTSource:
    """Specialise a kernel as its launcher does on a contiguous or channels_last batch.

    Args:
        case: case to compile.
        changes: arguments of the kernel that replace the case's own, such as ``valid_mask=MASK``.
    """
    if case.launch == "full":
        kernel = streamed_kernel if case.streamed else fuzzy_positive_kernel
        if case.distance is not None:
            kernel = consistency_kernel
        return specialise(kernel, _common(case) | _full(case) | changes)
    if case.launch == "upsampled":
        return specialise(upsampled_kernel, _common(case) | _upsampled(case) | changes)
    if case.kernel == "context":
        return specialise(context_kernel, _context(case) | changes)
    if case.kernel in ("ranks", "upsampled ranks"):
        return specialise(ranks_kernel, _rows(case) | _ranks(case) | changes)
    return specialise(pseudo_labels_kernel, _rows(case) | _pseudo_labels(case) | changes)


def specialise(kernel: Any, arguments: dict[str, Any]) -> ASTSource:
    """Specialise a kernel to arguments, see above; those that are not given are int32."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    multiples: dict[tuple[int, ...], Any] = {}

    def visit(argument: Any, path: tuple[int, ...]) -> Any:
        if isinstance(argument, tuple):  # the same of types
            types = [visit(x, (*path, i)) for i, x in enumerate(argument)]
            return type(argument)(*types) if hasattr(argument, "_fields") else tuple(types)
        if not isinstance(argument, str):
            constants[path] = argument
            return "constexpr"
        kind, _, multiple = argument.partition(":")
        if multiple:
            multiples[path] = [["tt.divisibility", int(multiple)]]
        return kind

    for i, parameter in enumerate(kernel.params):
        signature[parameter.name] = visit(arguments.get(parameter.name, "i32"), (i,))
        if parameter.do_not_specialize:
            multiples = {path: multiple for path, multiple in multiples.items() if path[0] != i}
    return ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=multiples)


def _common(case: Case) -> dict[str, Any]:
    """Arguments of either kernel."""
    options = LossOptions(0.9, 3 if case.capped else case.num_classes - 1, "concave", 1.0, "smooth")
    derived = option_arguments(options)
    types: dict[str, Any] = dict.fromkeys(NUMBERS, "fp32") | {"max_positives": "i32"}
    key_dtype = torch.float32 if case.launch == "upsampled" else _TORCH_DTYPES[case.dtype]
    return derived | {
        "loss_options": derived["loss_options"]._replace(**types),
        "mix_mask": (MASK if case.launch == "full" else ColumnPixels(*MASK)) if case.cutmix else None,
        "pixel_weight": None,
        "valid_mask": None,
        "threshold": None,
        "scale_ptr": FLOATS,
        "scale": None,
        "sums_ptr": FLOATS,
        "map_ptr": None,
        "C": case.num_classes,
        "G": case.config.group,
        "BLOCK": case.config.block,
        "DISTANCE": None if case.distance is None else tl.constexpr(case.distance),
        "KEY": tl.constexpr(key_type(key_dtype, case.num_classes)),
        "FAST": case.target != "gfx942",
    }


def _full(case: Case) -> dict[str, Any]:
    """Arguments of the full-resolution kernel."""
    pointer, rows = f"*{case.dtype}:16", case.layout == "channels_last"
    plane = "i32" if case.odd else "i32:16"
    stride_c, stride_p = (1, "i32") if rows else (plane, 1)
    pairs = case.element_size == 2 and case.num_classes % 2 == 1 and not case.odd
    row_pixels = 0 if not rows or case.config.group > 1 else 1 + pairs
    logits = Classes(pointer, plane, stride_c, stride_p, tl.constexpr(row_pixels))
    return {
        **dict.fromkeys(("student", "teacher", "grad"), logits),
        "partner": logits if case.cutmix else None,
        "num_pixels": plane,
        "WITH_STATS": case.stats,
    }


def _upsampled(case: Case) -> dict[str, Any]:
    """Arguments of the kernel that upsamples."""
    pointer = f"*{case.dtype}:16"
    samples = Samples(pointer, "i32:16", "i32:16", "i32:16", 1)
    return {
        **dict.fromkeys(("student", "teacher"), samples),
        **dict.fromkeys(("target", "class_weight_ptr")),
        **dict.fromkeys(("rows", "columns"), AXIS),
        "partner_ptr": pointer if case.cutmix else None,
        "buffer_ptr": FLOATS,
        "NUM_TERMS": NUM_SUMS if case.stats else 1,
    }


def _rows(case: Case) -> dict[str, Any]:
    """Arguments of the kernels that read a teacher's rows."""
    upsampled = case.kernel.startswith("upsampled")
    return {
        **dict.fromkeys(("partner_ptr", "mix_mask")),
        **dict.fromkeys(("rows", "columns"), AXIS if upsampled else None),
        "teacher": Samples(f"*{case.dtype}:16", "i32:16", "i32:16", "i32:16", 1),
        "C": case.num_classes,
        "G": case.config.group,
        "BLOCK": case.config.block,
    }


def _pseudo_labels(case: Case) -> dict[str, Any]:
    """Arguments of the kernel that predicts; with statistics, it counts the positives, too."""
    key_dtype = torch.float32 if case.kernel.startswith("upsampled") else _TORCH_DTYPES[case.dtype]
    return {
        **dict.fromkeys(("confidence_ptr", "entropy_ptr"), FLOATS),
        "threshold": "fp32",
        "label_ptr": "*u8:16",
        "positives_ptr": INTS if case.stats else None,
        "KEY": tl.constexpr(key_type(key_dtype, case.num_classes)),
        "CAPPED": 3 if case.capped else 0,
    }


def _ranks(case: Case) -> dict[str, Any]:
    """Arguments of the kernel that ranks classes for the choice among four thresholds."""
    is_narrow = case.kernel == "ranks" and case.element_size == 2
    return {
        **dict.fromkeys(("classes_ptr", "counts_ptr"), INTS),
        "valid_mask": None,
        "thresholds": ("fp32",) * MAX_THRESHOLDS,
        "KEY": tl.constexpr("int32" if is_narrow else "int64"),
        "RANKS": MAX_POSITIVES,
    }


def _context(case: Case) -> dict[str, Any]:
    """Arguments of the kernel that chooses among four thresholds, in windows of 5 x 5."""
    return {
        **dict.fromkeys(("classes_ptr", "counts_ptr", "table_ptr"), INTS),
        "thresholds": ("fp32",) * MAX_THRESHOLDS,
        "chosen_ptr": FLOATS,
        "C": case.num_classes,
        "RANKS": MAX_POSITIVES,
        "WINDOW": 5,
        "BLOCK": case.config.block,
    }
