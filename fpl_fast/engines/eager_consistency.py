"""The eager engine of the consistency loss: chunk by chunk, with the gradient in closed form. Runs on every device."""

import torch
from torch import Tensor

from fpl_fast.engines import chunked
from fpl_fast.kernels.arguments import Distance, LossInputs
from fpl_fast.reference import accumulate_dtype, softmax

# On a CPU; as in ``eager_labels``, a chunk of 19 float32 classes then stays in a core's cache.
CHUNK_PIXELS = 1 << 14


def consistency_sums(
    inputs: LossInputs, kind: Distance, *, scale: float | Tensor | None, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum of the weighted distances, (1,), and scale times its derivative, or None."""

    def evaluate(chunk: chunked.Chunk) -> tuple[Tensor, Tensor | None]:
        distances = _Distances(chunk, kind)
        return distances.weighted.unsqueeze(0), distances.gradient(scale) if with_grad else None

    return chunked.loss_sums(inputs, evaluate, 1, chunked.Chunking(CHUNK_PIXELS), with_grad=with_grad)


def consistency_map(inputs: LossInputs, kind: Distance) -> Tensor:
    """The weighted distance of every pixel, (N, H, W), 0 where not valid."""

    def evaluate(chunk: chunked.Chunk) -> tuple[Tensor, None]:
        return _Distances(chunk, kind).weighted.unsqueeze(0), None

    return chunked.loss_map(inputs, evaluate, chunked.Chunking(CHUNK_PIXELS))


class _Distances:
    """The distances of a chunk, as in ``reference.softmax_distance``; pixels that are not valid are all zero."""

    def __init__(self, chunk: chunked.Chunk, kind: Distance) -> None:
        student, teacher, pixel_weight, valid, *_ = chunk
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
