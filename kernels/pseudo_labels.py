"""Launcher of a teacher's predictions: one kernel, from low-resolution logits to a few bytes a pixel."""

# A launch takes options beside the parameters of the kernel.
# pyright: reportCallIssue=false

import torch

from fpl_fast.kernels.arguments import PseudoLabelOptions, PseudoLabels, TeacherInputs
from fpl_fast.kernels.device.pseudo_labels import pseudo_labels_kernel
from fpl_fast.kernels.specialisation import key_type
from fpl_fast.kernels.teacher import launch_rows


def pseudo_labels(inputs: TeacherInputs, options: PseudoLabelOptions) -> PseudoLabels:
    """The predictions of every pixel; logits in float16, bfloat16 or float32."""
    found = PseudoLabels.empty(inputs, options, torch.float32)
    if found.label.numel() == 0:
        return found
    launch = launch_rows(inputs)
    dtype = torch.float32 if inputs.size is not None else inputs.teacher.dtype
    cap = options.max_positives
    with torch.cuda.device_of(inputs.teacher):
        pseudo_labels_kernel[launch.grid](
            **launch.arguments,
            threshold=0.0 if options.threshold is None else options.threshold,
            max_positives=cap,
            label_ptr=found.label,
            confidence_ptr=found.confidence,
            entropy_ptr=found.entropy,
            positives_ptr=found.num_positives,
            KEY=key_type(dtype, inputs.teacher.shape[1], with_infinity=True),
            CAPPED=cap if cap <= 3 else 0,
            num_warps=launch.num_warps,
            enable_fp_fusion=True,
        )
    return found
