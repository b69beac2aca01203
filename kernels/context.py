"""Launcher of the choice among thresholds by context: two kernels, eight bytes a pixel between them."""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

import torch
import triton
from torch import Tensor

from fpl_fast.kernels.arguments import ContextOptions, TeacherInputs
from fpl_fast.kernels.device.context import context_kernel
from fpl_fast.kernels.device.ranks import ranks_kernel
from fpl_fast.kernels.divergence import divergence_table
from fpl_fast.kernels.operands import column_pixels
from fpl_fast.kernels.teacher import launch_rows

# What the bytes hold; a window of 15 x 15 has 224 neighbours.
MAX_CLASSES = 256
MAX_POSITIVES = 4
MAX_THRESHOLDS = 4
CONTEXT_BLOCK = 128


def adaptive_threshold(inputs: TeacherInputs, options: ContextOptions) -> Tensor:
    """The chosen threshold of every pixel, (N, H, W) float32; deterministic, without host synchronisation.

    Args:
        inputs: logits in float16, bfloat16 or float32.
        options: at most MAX_THRESHOLDS thresholds and MAX_POSITIVES positives.
    """
    teacher = inputs.teacher
    n, height, width = inputs.pixels()
    chosen = torch.empty(inputs.pixels(), dtype=torch.float32, device=teacher.device)
    if chosen.numel() == 0:
        return chosen
    # Two tensors: a half of one may lie at any address, for which the kernels would be compiled again.
    classes, counts = (torch.empty(inputs.pixels(), dtype=torch.int32, device=teacher.device) for _ in range(2))
    launch = launch_rows(inputs)
    is_narrow = inputs.size is None and teacher.dtype != torch.float32
    with torch.cuda.device_of(teacher):
        ranks_kernel[launch.grid](
            **launch.arguments,
            valid_mask=column_pixels(inputs.valid_mask),
            thresholds=options.thresholds,
            classes_ptr=classes,
            counts_ptr=counts,
            KEY="int32" if is_narrow else "int64",  # a class in every key: it is what is asked for
            RANKS=options.max_positives,
            num_warps=launch.num_warps,
            enable_fp_fusion=True,
        )
        context_kernel[(triton.cdiv(width, CONTEXT_BLOCK), height, n)](
            classes_ptr=classes,
            counts_ptr=counts,
            table_ptr=divergence_table(options._replace(thresholds=()), teacher.device),
            thresholds=options.thresholds,
            chosen_ptr=chosen,
            height=height,
            width=width,
            num_pixels=height * width,
            C=teacher.shape[1],
            RANKS=options.max_positives,
            WINDOW=options.window,
            BLOCK=CONTEXT_BLOCK,
            num_warps=4,
        )
    return chosen
