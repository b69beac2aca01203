"""The compiled engine: the loss as pointwise operations on one plane of pixels per class, fused by Inductor.

Written class by class, with a sorting network instead of a sort, the whole loss and its gradient become one loop over
the pixels that reads the logits once and writes the gradient once. On a CPU this is the fast engine. A graph is
compiled once for every (number of classes, dtypes, option set); the number of pixels stays dynamic.

Two things keep Inductor at a single vectorised loop: everything returned is per pixel (a reduction would become a loop
of its own), and its limits on the size of a fused group are lifted for this graph. Each class is an input of its own,
so that no graph depends on how far classes lie apart.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fpl_fast.engines import chunked, packages, plane_rows
from fpl_fast.engines.plane_arithmetic import (
    Planes,
    exp,
    larger,
    load_planes,
    positives_at,
    smaller,
    sort_planes,
    total,
)
from fpl_fast.engines.plane_inputs import (
    Dtypes,
    any_number_of_pixels,
    examples,
    gradient_examples,
    lay_out,
    take_apart,
    write_gradient,
)
from fpl_fast.kernels.arguments import NUMBERS, LossOptions

# Beyond this the unrolled network is too long to be useful, and compilation takes minutes.
MAX_CLASSES = 32
# Measured at 2 x 19 x 512 x 512, two threads, against PyTorch's cross entropy: 0.55 of its time with 2^15 pixels, 0.53
# with 2^16, 0.50 with 2^17. A chunk's gradient at C = 19 in float32 is 10 MB.
CHUNK_PIXELS = 1 << 17

_INF = float("inf")


def evaluate(
    student: Tensor,
    teacher: Tensor,
    pixel_weight: Tensor | None,
    valid: Tensor | None,
    scale: Tensor | None,
    *,
    options: LossOptions,
    place: Callable[[], Tensor] | None,
    with_stats: bool,
) -> tuple[Tensor, Tensor | None]:
    """Evaluate one chunk (see :class:`fpl_fast.engines.chunked.PixelFunction`)."""
    given, dtypes = lay_out(student, teacher, pixel_weight, valid, scale)
    specialisation = specialise(len(student), dtypes, options, with_grad=place is not None, with_stats=with_stats)
    grad = place and place()
    (terms,) = packages.load(specialisation)([*given, *numbers(options), *(() if grad is None else grad)])
    return terms, grad


def numbers(options: LossOptions) -> list[Tensor]:
    """Convert the numbers among the options to 0-d tensors, so that a new threshold needs no new graph.

    Thresholds of pixels, (P,), stay the plane that they are.
    """
    values = [getattr(options, name) for name in NUMBERS]
    return [torch.as_tensor(value, dtype=torch.float32, device="cpu").contiguous() for value in values]


_ENGINE = chunked.Engine(evaluate, chunked.Chunking(CHUNK_PIXELS, plane_rows.COMPILED))
fuzzy_positive_sums = functools.partial(chunked.fuzzy_positive_sums, _ENGINE)
fuzzy_positive_map = functools.partial(chunked.fuzzy_positive_map, _ENGINE)


class Specialisation(NamedTuple):
    """Classes, dtypes and options that one graph is compiled for; equal for options that differ in numbers only."""

    num_classes: int
    dtypes: Dtypes
    options: LossOptions  # its numbers 0: they are inputs of the graph, in the order of their fields
    uses_confidence: bool
    threshold_of_pixels: bool  # a plane instead of a number
    with_grad: bool
    with_stats: bool

    @property
    def purpose(self) -> str:
        """Name of the computation in messages."""
        return "the loss"

    def evaluate(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Evaluate the graph: the terms from tensors in the order of :meth:`examples`, the gradient into the last."""
        inputs = take_apart(tensors, self.num_classes, self.dtypes)
        terms, gradient = loss_planes(*inputs._replace(others=inputs.others[: len(NUMBERS)]), self)
        if self.with_grad:
            write_gradient(inputs.others[len(NUMBERS) :], gradient)
        return [terms.to(torch.float64)]  # as they are summed: converted later, they would take another loop

    def examples(self) -> list[Tensor]:
        """The inputs of ``plane_inputs``, the numbers of the options, and planes for the gradient."""
        options = self.options
        if self.threshold_of_pixels:
            plane: Any = torch.ones(64)
            options = options._replace(threshold=plane)
        out = gradient_examples(self.num_classes, self.dtypes) if self.with_grad else []
        return [*examples(self.num_classes, self.dtypes), *numbers(options), *out]

    def dynamic_shapes(self) -> list[dict[int, Any]]:
        """Any number of pixels."""
        return any_number_of_pixels(self.examples())


def specialise(
    num_classes: int,
    dtypes: Dtypes,
    options: LossOptions,
    *,
    with_grad: bool,
    with_stats: bool,
) -> Specialisation:
    """The specialisation that serves these options."""
    zeros: dict[str, Any] = dict.fromkeys(NUMBERS, 0.0)
    blank, of_pixels = options._replace(**zeros), isinstance(options.threshold, Tensor)
    return Specialisation(num_classes, dtypes, blank, options.uses_confidence, of_pixels, with_grad, with_stats)


def loss_planes(
    student: Tensor | Sequence[Tensor],
    teacher: Tensor | Sequence[Tensor],
    pixel_weight: Tensor | None,
    valid: Tensor | None,
    scale: Tensor | None,
    numbers: Sequence[Tensor],
    specialisation: Specialisation,
) -> tuple[Tensor, Planes]:
    """The terms of every pixel, (NUM_SUMS or 1, P), and the gradient of one chunk: C planes of P logits."""
    by_name: dict[str, Any] = dict(zip(NUMBERS, numbers, strict=True))
    options = specialisation.options._replace(**by_name)  # from here on, the numbers among them are tensors
    z, t = load_planes(student, valid), load_planes(teacher, valid)
    assigned = _assign(z, t, options)
    weight = _confidence_weight(assigned, options)
    tail = _smooth_loss if options.form == "smooth" else _hinge_loss
    loss, gradient = tail(z, assigned.positives)

    one_if_finite = 1 + 0 * assigned.normaliser  # NaN if a logit of the teacher is not finite
    loss = loss * one_if_finite
    one = torch.ones_like(loss)
    confidence = 1 / assigned.normaliser  # the top class has e = 1
    factor = one if pixel_weight is None else pixel_weight
    selected, total_weight = one, factor * weight
    if specialisation.uses_confidence:
        factor = factor * torch.exp2(options.confidence_power * torch.log2(confidence))
        selected = torch.where(confidence >= options.confidence_threshold, 1.0, 0.0)
        total_weight = selected * factor * weight
    terms = [total_weight * loss]
    if specialisation.with_stats:
        top = functools.reduce(larger, z)
        log_total = torch.log(total([exp(x - top) for x in z]))
        # The difference first: beside a large logit, the logarithm would be rounded off.
        cross_entropy = (top - assigned.pseudo_label_logit + log_total) * one_if_finite
        k = assigned.num_positives
        terms += [one, weight * loss, loss, cross_entropy, k]
        terms += [torch.where(k == number, 1.0, 0.0) for number in (1, 2, 3)]
        terms += [confidence, selected, factor]

    slope = total_weight * one_if_finite
    if scale is not None:
        slope = slope * scale
    if valid is not None:
        terms = [torch.where(valid, x, 0.0) for x in terms]
        slope = torch.where(valid, slope, 0.0)
    return torch.stack(terms), [(g * slope).to(student[0].dtype) for g in gradient]


class _Assigned(NamedTuple):
    """Fuzzy positives on probabilities relative to the largest, e = exp(t - max t)."""

    positives: Planes  # bool
    pseudo_label_logit: Tensor  # of the student
    num_positives: Tensor  # K
    accepted: Tensor  # sum of e over the positives
    first_negative: Tensor  # e of rank K + 1
    normaliser: Tensor  # sum of e over all classes


def _assign(z: Planes, t: Planes, options: LossOptions) -> _Assigned:
    """Fuzzy positive assignment: c_n < T becomes sum e < T * sum e.

    Ranks beyond ``max_positives`` + 1 are never read, and the compiler drops the comparisons that sort them.
    """
    ranked = sort_planes(t)
    top = ranked[0]
    limit = min(options.max_positives, len(t) - 1)
    e = [torch.ones_like(top), *(exp(x - top) for x in ranked[1 : limit + 1])]
    normaliser = total([exp(x - top) for x in t])

    # Walk down the ranks while the classes so far stay below the threshold.
    cutoff, accepted, first_negative = top, e[0], e[1]
    k = torch.ones_like(top)
    cumulative = e[0]
    for rank in range(1, limit):
        cumulative = cumulative + e[rank]
        accept = cumulative < options.threshold * normaliser
        cutoff = torch.where(accept, ranked[rank], cutoff)
        accepted = torch.where(accept, cumulative, accepted)
        first_negative = torch.where(accept, e[rank + 1], first_negative)
        k = torch.where(accept, k + 1, k)

    pseudo_label_logit = z[-1]
    for x, teacher in zip(reversed(z), reversed(t), strict=True):  # backwards: the lower class has the last word
        pseudo_label_logit = torch.where(teacher == top, x, pseudo_label_logit)
    positives = positives_at(t, ranked[:limit], cutoff, k)
    return _Assigned(positives, pseudo_label_logit, k, accepted, first_negative, normaliser)


def _confidence_weight(assigned: _Assigned, options: LossOptions) -> Tensor:
    """Weight w(m, r), with m - r as (c - (K + 1) r) / (K + 1): 0 but for the rounding of c where all K + 1 tie."""
    k, r = assigned.num_positives, assigned.first_negative
    mass, margin = assigned.accepted + r, assigned.accepted - k * r
    if options.weighting == "none":
        return torch.ones_like(k)
    if options.weighting == "linear":
        w = margin / mass
    elif options.weighting == "convex":
        w = margin / (mass + options.convex_scale * (k + 1) * r)
    else:  # concave
        factor = 50 / (assigned.normaliser * (k + 1))
        w = torch.log1p(factor * margin) / torch.log1p(factor * mass)
    return w.clamp(max=1)


def _smooth_loss(z: Planes, positives: Planes) -> tuple[Tensor, Planes]:
    """Compute L = softplus(LSE_Y(-z) + LSE_N(z)) and dL/dz; a common shift of both sums would overflow."""
    low, high = _extremes(z, positives)
    e = [exp(torch.where(y, low - x, x - high)) for x, y in zip(z, positives, strict=True)]
    a = total([torch.where(y, x, 0.0) for x, y in zip(e, positives, strict=True)])
    b = total([torch.where(y, 0.0, x) for x, y in zip(e, positives, strict=True)])
    s = high - low + torch.log(a * b)
    decay = exp(-s.abs())
    loss = s.clamp(min=0) + torch.log1p(decay)
    sigmoid = torch.where(s >= 0, 1.0, decay) / (1 + decay)
    push, pull = -sigmoid / a, sigmoid / b
    return loss, [x * torch.where(y, push, pull) for x, y in zip(e, positives, strict=True)]


def _hinge_loss(z: Planes, positives: Planes) -> tuple[Tensor, Planes]:
    """Compute L = relu(max_N z - min_Y z) and its subgradient: one class a side, the lower index among equals."""
    low, high = _extremes(z, positives)
    violated = high > low
    one_if_finite = 1 + total([0 * x for x in z])  # 0 * first: a sum of large logits may overflow
    gradient = []
    open_low, open_high = violated, violated
    for x, y in zip(z, positives, strict=True):
        is_low, is_high = y & (x == low) & open_low, ~y & (x == high) & open_high
        open_low, open_high = open_low & ~is_low, open_high & ~is_high
        gradient.append(torch.where(is_high, 1.0, torch.where(is_low, -1.0, 0.0)) * one_if_finite)
    return (high - low).clamp(min=0) * one_if_finite, gradient


def _extremes(z: Planes, positives: Planes) -> tuple[Tensor, Tensor]:
    """The lowest positive and the highest negative student logit."""
    low = functools.reduce(smaller, [torch.where(y, x, _INF) for x, y in zip(z, positives, strict=True)])
    high = functools.reduce(larger, [torch.where(y, -_INF, x) for x, y in zip(z, positives, strict=True)])
    return low, high
