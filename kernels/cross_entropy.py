"""The Triton engine of the cross entropy with labels.

Shapes: logits (N, C, h, w), labels and other per-pixel tensors (N, H, W).
"""

import torch
from torch import Tensor

from fpl_fast.kernels import full_resolution, upsampled
from fpl_fast.kernels.arguments import NUM_LABEL_SUMS, LabelInputs
from fpl_fast.kernels.device.cross_entropy import cross_entropy_kernel
from fpl_fast.kernels.operands import Outputs, classes, pixels


def cross_entropy_sums(inputs: LabelInputs, *, scale: Tensor | None, with_grad: bool) -> tuple[Tensor, Tensor | None]:
    """The sums of ``arguments.LABEL_SUMS`` in parts, and scale times the derivative of the first one, or None.

    The sums are float32 (terms, programs), which :mod:`.finish` adds.
    """
    grad = torch.empty_like(inputs.student) if with_grad else None
    return _launch(inputs, Outputs(NUM_LABEL_SUMS, grad, scale)), grad


def cross_entropy_map(inputs: LabelInputs) -> Tensor:
    """The first term of every pixel, (N, H, W) float32, 0 where ignored."""
    pixel_map = torch.zeros(inputs.pixels(), dtype=torch.float32, device=inputs.student.device)
    _launch(inputs, Outputs(NUM_LABEL_SUMS, pixel_map=pixel_map))
    return pixel_map


def _launch(inputs: LabelInputs, outputs: Outputs) -> Tensor:
    if inputs.size is not None:
        of_a_teacher = ("teacher", "partner_ptr", "mix_mask", "valid_mask", "threshold")
        tensors = {
            "target": inputs.target,
            "class_weight_ptr": inputs.class_weight,
            "pixel_weight": inputs.pixel_weight,
        }
        return upsampled.launch(
            inputs,
            {"student": inputs.student, **tensors, **dict.fromkeys(of_a_teacher)},
            {
                "ignore_index": inputs.ignore_index,
                **dict.fromkeys(("loss_options", "CAPPED", "CONFIDENCE", "DISTANCE")),
            },
            inputs.ignore_index,  # an int32 or, where it is larger, an int64
            outputs,
        )
    return full_resolution.launch(
        cross_entropy_kernel,
        (inputs.student, inputs.target, inputs.class_weight, inputs.pixel_weight),
        inputs.ignore_index,
        inputs.ignore_index,
        lambda: {
            "logits": classes(inputs.student),
            "target": pixels(inputs.target),
            "class_weight_ptr": inputs.class_weight,
            "pixel_weight": pixels(inputs.pixel_weight),
            "ignore_index": inputs.ignore_index,
        },
        outputs,
    )
