"""The Triton engine of the consistency loss.

Shapes: logits (N, C, h, w), per-pixel tensors (N, H, W).
"""

import torch
from torch import Tensor

from fpl_fast.kernels import full_resolution, upsampled
from fpl_fast.kernels.arguments import Distance, LossInputs
from fpl_fast.kernels.device.consistency import consistency_kernel
from fpl_fast.kernels.operands import Outputs, classes, pixels


def consistency_sums(
    inputs: LossInputs, kind: Distance, *, scale: float | Tensor | None, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum of the weighted distances in parts, and scale times its derivative, or None.

    The sums are float32 (1, programs), which :mod:`.finish` adds.
    """
    grad = torch.empty_like(inputs.student) if with_grad else None
    return _launch(inputs, kind, Outputs(1, grad, scale)), grad


def consistency_map(inputs: LossInputs, kind: Distance) -> Tensor:
    """The weighted distance of every pixel, (N, H, W) float32, 0 where not valid."""
    pixel_map = torch.zeros(inputs.pixels(), dtype=torch.float32, device=inputs.student.device)
    _launch(inputs, kind, Outputs(1, pixel_map=pixel_map))
    return pixel_map


def _launch(inputs: LossInputs, kind: Distance, outputs: Outputs) -> Tensor:
    if inputs.size is not None:
        of_the_others = dict.fromkeys(("loss_options", "CAPPED", "CONFIDENCE"))
        arguments = {"ignore_index": 0, "DISTANCE": kind, **of_the_others}
        return upsampled.launch(inputs, upsampled.teacher_tensors(inputs), arguments, kind, outputs)
    return full_resolution.launch(
        consistency_kernel,
        inputs.tensors()[:-1],
        kind,
        kind,
        lambda: {
            "student": classes(inputs.student),
            "teacher": classes(inputs.teacher),
            "partner": classes(inputs.partner),
            "mix_mask": pixels(inputs.mix_mask),
            "pixel_weight": pixels(inputs.pixel_weight),
            "valid_mask": pixels(inputs.valid_mask),
            "DISTANCE": kind,
        },
        outputs,
    )
