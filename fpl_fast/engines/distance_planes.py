"""The compiled engine of the consistency loss: class planes as in :mod:`.planes`, without a sort. On a CPU."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fpl_fast.engines import chunked, packages, plane_rows
from fpl_fast.engines.plane_arithmetic import Planes, exp, larger, load_planes, total
from fpl_fast.engines.plane_inputs import (
    Dtypes,
    PlaneInputs,
    any_number_of_pixels,
    examples,
    gradient_examples,
    lay_out,
    take_apart,
    write_gradient,
)
from fpl_fast.engines.planes import CHUNK_PIXELS
from fpl_fast.kernels.arguments import Distance, LossInputs

# The exponential of numbers below is no normal one, and stands for 0: a class that the teacher has masked out.
_LOWEST_EXPONENT = -87.0
_FLOOR = -124  # of exponentials: in the divergence a probability is multiplied by a logarithm that may be 10^30


def consistency_sums(
    inputs: LossInputs, kind: Distance, *, scale: float | Tensor | None, with_grad: bool
) -> tuple[Tensor, Tensor | None]:
    """The sum of the weighted distances, (1,), and scale times its derivative, or None."""
    if isinstance(scale, float):  # a graph takes tensors: another number needs no new one
        scale = torch.full((), scale, dtype=torch.float32, device="cpu")
    evaluate = functools.partial(_evaluate, kind=kind, scale=scale)
    return chunked.loss_sums(inputs, evaluate, 1, _CHUNKS, with_grad=with_grad)


def consistency_map(inputs: LossInputs, kind: Distance) -> Tensor:
    """The weighted distance of every pixel, (N, H, W) float32, 0 where not valid."""
    return chunked.loss_map(inputs, functools.partial(_evaluate, kind=kind, scale=None), _CHUNKS)


_CHUNKS = chunked.Chunking(CHUNK_PIXELS, plane_rows.COMPILED)


def _evaluate(chunk: chunked.Chunk, *, kind: Distance, scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    given, dtypes = lay_out(chunk.student, chunk.teacher, chunk.pixel_weight, chunk.valid, scale)
    grad = chunk.place and chunk.place()
    graph = packages.load(Distances(len(chunk.student), dtypes, kind, with_grad=grad is not None))
    (terms,) = graph([*given, *(() if grad is None else grad)])
    return terms, grad


class Distances(NamedTuple):
    """The graph of a number of classes, dtypes and kind of distance."""

    num_classes: int
    dtypes: Dtypes
    kind: Distance
    with_grad: bool

    @property
    def purpose(self) -> str:
        """Name of the computation in messages."""
        return "the consistency loss"

    def evaluate(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Weighted distances, (1, P) float64, from tensors as in :meth:`examples`; the gradient goes into the last."""
        inputs = take_apart(tensors, self.num_classes, self.dtypes)
        distance, gradient, one_if_finite = _distance(inputs, self.kind)
        term = slope = one_if_finite if inputs.pixel_weight is None else one_if_finite * inputs.pixel_weight
        term = term * distance
        if inputs.scale is not None:
            slope = slope * inputs.scale
        if inputs.valid is not None:
            term, slope = (torch.where(inputs.valid, x, 0.0) for x in (term, slope))
        if self.with_grad:
            write_gradient(inputs.others, [(g * slope).to(inputs.student[0].dtype) for g in gradient])
        return [term.to(torch.float64).unsqueeze(0)]  # as they are summed: converted later, another loop would do it

    def examples(self) -> list[Tensor]:
        """The inputs of ``plane_inputs``, and planes for the gradient."""
        out = gradient_examples(self.num_classes, self.dtypes) if self.with_grad else []
        return [*examples(self.num_classes, self.dtypes), *out]

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """Any number of pixels."""
        return any_number_of_pixels(self.examples())


def _distance(inputs: PlaneInputs, kind: Distance) -> tuple[Tensor, Planes, Tensor]:
    """Distance and its derivative, and 1 where all logits are finite, NaN elsewhere."""
    z, t = load_planes(inputs.student, inputs.valid), load_planes(inputs.teacher, inputs.valid)
    z, t = ([x - top for x in planes] for planes, top in ((x, functools.reduce(larger, x)) for x in (z, t)))
    p, q = ([exp(x, _FLOOR) for x in planes] for planes in (z, t))
    sum_p, sum_q = total(p), total(q)
    one_if_finite = 1 + 0 * (sum_p + sum_q)
    p, q = ([x * (1 / normaliser) for x in planes] for planes, normaliser in ((p, sum_p), (q, sum_q)))
    difference = [a - b for a, b in zip(p, q, strict=True)]
    if kind == "mse":
        distance = total([x * x for x in difference])
        mean = total([a * x for a, x in zip(p, difference, strict=True)])
        return distance, [2 * a * (x - mean) for a, x in zip(p, difference, strict=True)], one_if_finite
    log_ratio = torch.log(sum_p) - torch.log(sum_q)
    terms = [b * ((y - x) + log_ratio) for b, x, y in zip(q, z, t, strict=True)]
    # A selection, not a product: 0 times the logarithm of a class that is masked out may be NaN.
    terms = [torch.where(y > _LOWEST_EXPONENT, term, 0.0) for term, y in zip(terms, t, strict=True)]
    return total(terms), difference, one_if_finite
