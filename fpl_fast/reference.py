"""The equations of Fuzzy Positive Learning, written to be read: the reference that every engine is tested against.

Source: "Fuzzy Positive Learning for Semi-supervised Semantic Segmentation" (CVPR 2023): fuzzy positive assignment and
fuzzy positive regularisation; and the distances of softmaxes that other methods have in their place. ``dim=1`` is the
class axis everywhere, the axes behind it are pixels, and the arithmetic runs in float32 or, for float64 logits, in
float64.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fpl_fast.kernels.arguments import Distance, LossOptions
from fpl_fast.kernels.divergence import EPSILON

_INF = float("inf")


class Assignment(NamedTuple):
    """The fuzzy positives Y of each pixel and the quantities that the pixel weights depend on."""

    positives: Tensor  # (N, C, ...) bool: class c belongs to Y
    num_positives: Tensor  # (N, ...) int64: K = |Y|
    pseudo_label: Tensor  # (N, ...) int64: the most probable class, the lower index among equals
    confidence: Tensor  # (N, ...): q = p_1
    mean_probability: Tensor  # (N, ...): m = (p_1 + ... + p_{K+1}) / (K + 1)
    first_negative: Tensor  # (N, ...): r = p_{K+1}


class PixelTerms(NamedTuple):
    """Terms of each pixel before reduction."""

    loss: Tensor  # (N, ...): L
    weight: Tensor  # (N, ...): w in [0, 1], without gradient
    cross_entropy: Tensor  # (N, ...): -log softmax(student)[pseudo_label]
    confidence: Tensor  # (N, ...): q, the teacher's largest probability
    num_positives: Tensor  # (N, ...) int64: K
    positives: Tensor  # (N, C, ...) bool: Y


def accumulate_dtype(*logits: Tensor) -> torch.dtype:
    """Dtype of the arithmetic: float64 as soon as one of the logits is float64, float32 otherwise."""
    return torch.float64 if any(x.dtype == torch.float64 for x in logits) else torch.float32


def softmax(logits: Tensor, dim: int) -> Tensor:
    """Softmax whose bits do not depend on the number of threads.

    PyTorch's own splits pixels among threads and, where the part of a thread ends, rounds in another way.
    """
    masses = (logits - logits.amax(dim, keepdim=True)).exp_()
    return masses / masses.sum(dim, keepdim=True)


def assign_positives(teacher_logits: Tensor, threshold: float | Tensor, max_positives: int) -> Assignment:
    """Fuzzy positive assignment: n = min{n : p_1 + ... + p_n >= T}, K = min(max(n - 1, 1), C - 1, max_positives).

    T may be one number or a tensor (N, ...) of each pixel's.
    """
    num_classes = teacher_logits.shape[1]
    logits = teacher_logits.to(accumulate_dtype(teacher_logits))
    order = logits.sort(dim=1, descending=True, stable=True).indices  # stable: ties go to the lower class
    p = softmax(logits, dim=1).gather(1, order)
    cumulative = p.cumsum(dim=1)
    if isinstance(threshold, Tensor):
        threshold = threshold.to(p.dtype).unsqueeze(1)
    n = (cumulative < threshold).sum(dim=1) + 1
    k = (n - 1).clamp(min=1, max=min(num_classes - 1, max_positives))

    rank = order.scatter(1, order, _class_index(order).expand_as(order))  # the inverse permutation: all are replaced
    at_k = k.unsqueeze(1)  # index of rank K + 1, counted from 0
    return Assignment(
        positives=rank < at_k,
        num_positives=k,
        pseudo_label=order[:, 0],
        confidence=p[:, 0],
        mean_probability=cumulative.gather(1, at_k).squeeze(1) / (k + 1),
        first_negative=p.gather(1, at_k).squeeze(1),
    )


def confidence_weight(assignment: Assignment, options: LossOptions) -> Tensor:
    """Weight w(m, r) of a pixel: near 1 when the first rejected class is improbable, 0 when it ties."""
    m, r = assignment.mean_probability, assignment.first_negative
    if options.weighting == "none":
        return torch.ones_like(m)
    if options.weighting == "linear":
        w = (m - r) / m
    elif options.weighting == "convex":
        w = (m - r) / (m + options.convex_scale * r)
    else:  # concave
        w = torch.log1p(50 * (m - r)) / torch.log1p(50 * m)
    return w.clamp(max=1)


def pixel_terms(student_logits: Tensor, teacher_logits: Tensor, options: LossOptions) -> PixelTerms:
    """Loss, weight, plain cross entropy, K and q of every pixel; autograd differentiates it in ``student_logits``.

    smooth: L = log(1 + sum_{i in Y} exp(-z_i) * sum_{j not in Y} exp(z_j))
    hinge:  L = max(0, max_{j not in Y} z_j - min_{i in Y} z_i)

    A pixel with a NaN or an infinite logit, of the student or of the teacher, has the loss and the gradient NaN.
    """
    dtype = accumulate_dtype(student_logits, teacher_logits)
    z = student_logits.to(dtype)
    assignment = assign_positives(teacher_logits.detach().to(dtype), options.threshold, options.max_positives)
    y = assignment.positives
    if options.form == "smooth":
        _, _, s = _log_sums(z, y)
        loss = torch.logaddexp(s, torch.zeros_like(s))
    else:  # hinge
        loss = (z.masked_fill(y, -_INF).amax(1) - z.masked_fill(~y, _INF).amin(1)).relu()
    z = z - z.detach().amax(1, keepdim=True)  # beside a large logit, the logarithm of the sum would be rounded off
    cross_entropy = z.logsumexp(1) - z.gather(1, assignment.pseudo_label.unsqueeze(1)).squeeze(1)
    one_if_finite = _one_if_finite(student_logits, teacher_logits)
    return PixelTerms(
        loss=loss * one_if_finite,
        weight=confidence_weight(assignment, options),
        cross_entropy=cross_entropy * one_if_finite,
        confidence=assignment.confidence,
        num_positives=assignment.num_positives,
        positives=y,
    )


def context_divergences(
    teacher_logits: Tensor, thresholds: Sequence[float], max_positives: int, window: int, valid: Tensor | None = None
) -> Tensor:
    """Distance of the positives under each threshold from the positives of the neighbours, D_m, (N, M, H, W).

    With y the set of positives, K its size, and B(c) the number of pixels of the window, without its centre, that have
    class c among their positives: b = eps + B / sum B, d = eps + y / K, D = sum_c b(c) (log b(c) - log d(c)). Pixels
    outside the image and those that are not valid, (N, H, W), are no neighbours; D = 0 where there is none.

    Source: "Adaptive Fuzzy Positive Learning for Annotation-Scarce Semantic Segmentation" (IJCV 2024).
    """
    teacher = teacher_logits.to(accumulate_dtype(teacher_logits))
    if valid is not None:
        teacher = teacher.masked_fill(~valid.unsqueeze(1), 0)
    num_classes = teacher.shape[1]
    ring = teacher.new_ones(num_classes, 1, window, window)
    ring[:, :, window // 2, window // 2] = 0
    divergences = []
    for threshold in thresholds:
        y = assign_positives(teacher, threshold, max_positives).positives.to(teacher.dtype)
        if valid is not None:
            y = y * valid.unsqueeze(1)
        box = F.conv2d(y, ring, padding=window // 2, groups=num_classes)
        total = box.sum(1, keepdim=True)
        b = EPSILON + box / total.clamp(min=1)
        d = EPSILON + y / y.sum(1, keepdim=True).clamp(min=1)
        divergences.append((b * (b.log() - d.log())).sum(1) * (total[:, 0] > 0))
    return torch.stack(divergences, dim=1)


def adaptive_threshold(
    teacher_logits: Tensor, thresholds: Sequence[float], max_positives: int, window: int, valid: Tensor | None = None
) -> Tensor:
    """The threshold whose positives agree best with the neighbours, the first among equals, (N, H, W) float32.

    The first one where the pixel itself is not valid.
    """
    best = context_divergences(teacher_logits, thresholds, max_positives, window, valid).argmin(1)
    best = best if valid is None else best * valid
    return torch.tensor(thresholds, dtype=torch.float32, device=best.device)[best]


def loss_gradient(student_logits: Tensor, teacher_logits: Tensor, positives: Tensor, options: LossOptions) -> Tensor:
    """The derivative dL/dz in closed form, (N, C, ...); the eager engine uses it where autograd cannot run.

    smooth: with A = sum_Y exp(-z), B = sum_N exp(z), S = AB / (1 + AB):
    dL/dz_i = -S exp(-z_i) / A on Y, +S exp(z_j) / B off Y.
    hinge: -1 at the lowest positive and +1 at the highest negative (the lower class among equals) while L > 0.
    """
    z = student_logits.to(accumulate_dtype(student_logits, teacher_logits))
    if options.form == "smooth":
        log_pull, log_push, s = _log_sums(z, positives)
        gradient = torch.where(positives, -log_pull.exp(), log_push.exp()) * s.sigmoid().unsqueeze(1)
    else:  # hinge
        low, i = z.masked_fill(~positives, _INF).min(dim=1, keepdim=True)
        high, j = z.masked_fill(positives, -_INF).max(dim=1, keepdim=True)
        violated = (high > low).to(z.dtype)
        gradient = torch.zeros_like(z).scatter(1, i, -violated).scatter(1, j, violated)
    return gradient * _one_if_finite(student_logits, teacher_logits).unsqueeze(1)


def softmax_distance(student_logits: Tensor, teacher_logits: Tensor, kind: Distance) -> Tensor:
    """Distance D of every pixel, (N, ...), p = softmax(student), q = softmax(teacher); autograd differentiates it in p.

    mse: D = sum_c (p_c - q_c)^2
    kl:  D = sum_c q_c (log q_c - log p_c), where q_c = 0 adds 0

    A pixel with a NaN or an infinite logit, of the student or of the teacher, has the distance and the gradient NaN.
    """
    dtype = accumulate_dtype(student_logits, teacher_logits)
    log_p, log_q = (logits.to(dtype).log_softmax(1) for logits in (student_logits, teacher_logits.detach()))
    q = log_q.exp()
    of_classes = (log_p.exp() - q).square() if kind == "mse" else (q * (log_q - log_p)).masked_fill(q == 0, 0)
    return of_classes.sum(1) * _one_if_finite(student_logits, teacher_logits)


def softmax_distance_gradient(student_logits: Tensor, teacher_logits: Tensor, kind: Distance) -> Tensor:
    """The derivative dD/dz in closed form, (N, C, ...).

    mse: dD/dz_c = 2 p_c (p_c - q_c - sum_k p_k (p_k - q_k))
    kl:  dD/dz_c = p_c - q_c
    """
    dtype = accumulate_dtype(student_logits, teacher_logits)
    p, q = (softmax(logits.to(dtype), dim=1) for logits in (student_logits, teacher_logits))
    gradient = p - q
    if kind == "mse":
        gradient = 2 * p * (gradient - (p * gradient).sum(1, keepdim=True))
    return gradient * _one_if_finite(student_logits, teacher_logits).unsqueeze(1)


def _log_sums(z: Tensor, positives: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """log(exp(-z) / A) and log(exp(z) / B), (N, C, ...), which hold on Y and off it, and log(AB), (N, ...).

    Each side is taken relative to its largest term: a common offset would round off differences within the other side,
    and without one the logarithms of the sums are rounded off beside large logits.
    """
    low = z.detach().masked_fill(~positives, _INF).amin(1, keepdim=True)
    high = z.detach().masked_fill(positives, -_INF).amax(1, keepdim=True)
    pull, push = low - z, z - high
    log_a = pull.masked_fill(~positives, -_INF).logsumexp(1, keepdim=True)
    log_b = push.masked_fill(positives, -_INF).logsumexp(1, keepdim=True)
    return pull - log_a, push - log_b, (high - low + (log_a + log_b)).squeeze(1)


def _one_if_finite(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Factor of loss and gradient that is 1 for pixels with finite logits and NaN for the others."""
    dtype = accumulate_dtype(student_logits, teacher_logits)
    zeros = 0 * student_logits.detach().to(dtype) + 0 * teacher_logits.detach().to(dtype)  # first: a sum may overflow
    return 1 + zeros.sum(1)


def _class_index(like: Tensor) -> Tensor:
    """Class indices 0 ... C-1 along the class axis, broadcastable to ``like``."""
    return torch.arange(like.shape[1], device=like.device).view(1, -1, *[1] * (like.ndim - 2))
