"""The eager engine of the consistency loss: chunk by chunk, with the gradient in closed form. Runs on every device."""

import torch
from torch import Tensor

from fpl_fast.engines.chunked import logit_chunks, pixels_of
from fpl_fast.engines.windows import GradientWindows
from fpl_fast.kernels.arguments import Distance, LossInputs
from fpl_fast.reference import accumulate_dtype, softmax

# On a CPU; as in ``eager_labels``, a chunk of 19 float32 classes then stays in a core's cache.
CHUNK_PIXELS = 1 << 14


def consistency_sums(
    inputs: LossInputs, kind: Distance, *, scale: float | Tensor | None, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum of the weighted distances, (1,), and scale times its derivative, or None."""
    grad = torch.empty_like(inputs.student) if with_grad else None
    total = torch.zeros(1, dtype=torch.float64, device=inputs.student.device)
    for image in range(len(inputs.student)):
        gradient = None if grad is None else GradientWindows(grad[image], inputs.size, inputs.align_corners)
        for window, student, teacher in logit_chunks(inputs, image, CHUNK_PIXELS):
            weight, valid = (pixels_of(x, image, window) for x in (inputs.pixel_weight, inputs.valid_mask))
            chunk = _Chunk(student, teacher, weight, valid, kind)
            total += chunk.weighted.sum(dtype=torch.float64)
            if gradient is not None:
                gradient.add(window, chunk.gradient(scale))
        if gradient is not None:
            gradient.finish()
    return total.to(accumulate_dtype(inputs.student, inputs.teacher)), grad


def consistency_map(inputs: LossInputs, kind: Distance) -> Tensor:
    """The weighted distance of every pixel, (N, H, W), 0 where not valid."""
    dtype = accumulate_dtype(inputs.student, inputs.teacher)
    losses = torch.empty(inputs.pixels(), dtype=dtype, device=inputs.student.device)
    for image in range(len(inputs.student)):
        for window, student, teacher in logit_chunks(inputs, image, CHUNK_PIXELS):
            weight, valid = (pixels_of(x, image, window) for x in (inputs.pixel_weight, inputs.valid_mask))
            target = losses[image, window.rows, window.columns]
            target.copy_(_Chunk(student, teacher, weight, valid, kind).weighted.view_as(target))
    return losses


class _Chunk:
    """The distances of (C, P) logits, as in ``reference.softmax_distance``; pixels that are not valid are all zero."""

    def __init__(
        self, student: Tensor, teacher: Tensor, pixel_weight: Tensor | None, valid: Tensor | None, kind: Distance
    ) -> None:
        dtype = accumulate_dtype(student, teacher)
        z, t = student.to(dtype), teacher.to(dtype)
        if valid is not None:  # a fill, not a product: NaN in an ignored pixel must not survive
            z, t = z.masked_fill(~valid, 0), t.masked_fill(~valid, 0)
        # The extremes tell whether a logit is not finite: NaN is both.
        poison = torch.stack([0 * extreme for x in (z, t) for extreme in x.aminmax(dim=0)]).sum(0)
        self.kind = kind
        self.factor = 1 + poison if pixel_weight is None else pixel_weight + poison
        if valid is not None:
            self.factor = self.factor.masked_fill(~valid, 0)
        if kind == "mse":
            self.p = softmax(z, dim=0)
            self.difference = self.p - softmax(t, dim=0)
            distance = self.difference.square().sum(0)
        else:
            log_p, log_q = z.log_softmax(0), t.log_softmax(0)
            q = log_q.exp()
            self.difference = log_p.exp().sub_(q)
            distance = log_q.sub_(log_p).mul_(q).masked_fill_(q == 0, 0).sum(0)
        self.weighted = self.factor * distance

    def gradient(self, scale: float | Tensor | None) -> Tensor:
        """Scale times the derivative of the weighted distance, (C, P)."""
        slope = self.factor if scale is None else self.factor * scale
        if self.kind == "kl":
            return self.difference * slope
        towards_mean = self.difference - (self.p * self.difference).sum(0)
        return towards_mean.mul_(self.p).mul_(2 * slope)
