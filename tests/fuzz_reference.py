"""The losses in float64, written from docs/loss.md and the docstrings alone: NumPy, and nothing of the library.

``z`` and ``t`` are (C, P): the student's and the teacher's logits of P pixels.
"""

from typing import NamedTuple

import numpy as np
from fuzz_approx import Approx, Precision


class Sampled(NamedTuple):
    """Logits at the pixels of a loss."""

    values: np.ndarray  # (C, P); NaN where a sample that counts is not finite
    error: np.ndarray  # (C, P) of the values, from rounded positions
    size: np.ndarray  # (C, P) largest absolute value of the samples
    unsure: np.ndarray  # (P,) a sample that is not finite has the weight 0, or a difference of two overflows

    def blur(self, p: Precision, matters: np.ndarray | bool = False) -> np.ndarray:
        """Error of the exponentials, relative to them or to 1, (P,): of the classes near the top, and those given."""
        return self._largest(self.error + p.per_logit * self.size, matters)

    def extreme(self, p: Precision, matters: np.ndarray | bool = False) -> np.ndarray:
        """Whether such a class lies beyond what an engine promises to hold, (P,)."""
        return self._largest(self.size, matters) > p.largest

    def _largest(self, x: np.ndarray, matters: np.ndarray | bool) -> np.ndarray:
        near = self.values + self.error >= self.values.max(0) - 200
        return np.where(near | matters, x, 0).max(0, initial=0)


class Assigned(NamedTuple):
    """Fuzzy positives of P pixels."""

    k: np.ndarray
    least: np.ndarray  # K, were the threshold lower by what may be lost in rounding
    most: np.ndarray
    positives: np.ndarray  # (C, P)
    label: np.ndarray
    confidence: Approx
    weight: Approx
    sure: np.ndarray  # whether the set does not hang on rounding


def axis_weights(samples: int, positions: int, align_corners: bool) -> np.ndarray:
    """Bilinear interpolation along one axis as a matrix, (positions, samples)."""
    matrix = np.zeros((positions, samples))
    for x in range(positions):
        if align_corners:
            source = x * (samples - 1) / (positions - 1) if positions > 1 else 0.0
        else:
            source = min(max((x + 0.5) * samples / positions - 0.5, 0.0), samples - 1.0)
        low = min(int(source), samples - 1)
        matrix[x, low] += 1 - (source - low)
        matrix[x, min(low + 1, samples - 1)] += source - low
    return matrix


def sample(logits: np.ndarray, size: tuple[int, int] | None, align_corners: bool, p: Precision) -> Sampled:
    """(N, C, h, w) logits at the pixels of a loss, images one after the other."""
    if size is None:
        values = columns(logits)
        largest = np.abs(np.where(np.isfinite(values), values, 0))
        return Sampled(values, np.zeros(values.shape), largest, np.zeros(values.shape[1], bool))
    h, w = logits.shape[2:]
    rows, cols = axis_weights(h, size[0], align_corners), axis_weights(w, size[1], align_corners)
    finite = np.isfinite(logits)
    values = rows @ np.where(finite, logits, 0) @ cols.T
    # The neighbours of a position: a sample of weight 0 at the other end of its cell may enter, too.
    near_rows, near_cols = _near(rows), _near(cols)
    bad = (~finite).any(1, keepdims=True)
    counts = (rows > 1e-6) @ bad.astype(float) @ (cols > 1e-6).T > 0
    reached = near_rows @ bad.astype(float) @ near_cols.T > 0
    highest, lowest = (_extreme(sign * np.where(finite, logits, 0), near_rows, near_cols) for sign in (1, -1))
    overflows = (highest + lowest > 16 * p.largest).any(1, keepdims=True)
    size_of = columns(np.maximum(highest, lowest))
    unsure = columns((reached | overflows) & ~counts)[0]
    return Sampled(
        columns(np.where(counts, np.nan, values)), p.position * (8 + 2 * max(h, w)) * size_of, size_of, unsure
    )


def _extreme(x: np.ndarray, near_rows: np.ndarray, near_cols: np.ndarray) -> np.ndarray:
    """The largest sample near each position, at least 0."""
    tall = np.stack([x[:, :, near > 0].max(2, initial=0) for near in near_rows], 2)
    return np.stack([tall[..., near > 0].max(3, initial=0) for near in near_cols], 3)


def _near(weights: np.ndarray) -> np.ndarray:
    """Samples that a position's weights, or those of a position a rounding away, touch."""
    touched = weights > 0
    wide = touched.copy()
    wide[:, 1:] |= touched[:, :-1]
    wide[:, :-1] |= touched[:, 1:]
    return wide.astype(float)


def columns(x: np.ndarray) -> np.ndarray:
    """(N, C, H, W) to (C, N * H * W)."""
    return np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def adjoint(x: np.ndarray, native: tuple[int, ...], size: tuple[int, int] | None, align_corners: bool) -> np.ndarray:
    """Bring (C, P) back to the samples, (N, C, h, w)."""
    n, c, h, w = native
    height, width = size or (h, w)
    full = np.moveaxis(x.reshape(c, n, height, width), 0, 1)
    if size is None:
        return full
    return axis_weights(h, height, align_corners).T @ full @ axis_weights(w, width, align_corners)


def assign(
    teacher: Sampled,
    threshold: float | np.ndarray,
    cap: int | None,
    p: Precision,
    weighting: str = "none",
    convex_scale: float = 1.0,
) -> Assigned:
    """K = min(max(n - 1, 1), C - 1, cap), n = min{n : p_1 + ... + p_n >= T}, and w of the first K + 1 of them."""
    t, blur, moved = teacher.values, teacher.blur(p), teacher.blur(p._replace(per_logit=0.0))
    lost = p.margin + 2 * blur
    num_classes, num_pixels = t.shape
    limit = min(num_classes - 1, cap or num_classes)
    order = np.argsort(-t, axis=0, kind="stable")
    ranked = np.take_along_axis(t, order, 0)
    mass = np.exp(ranked - ranked[0])
    prob = mass / mass.sum(0)
    cumulative = np.cumsum(prob, 0)
    threshold = np.where(np.isnan(threshold), -1.0, threshold)

    def count(limits: np.ndarray) -> np.ndarray:
        return np.clip((cumulative < limits).sum(0), 1, limit)

    k = count(threshold)
    positives = np.zeros(t.shape, bool)
    np.put_along_axis(positives, order, np.arange(num_classes)[:, None] < k, 0)
    pixel = np.arange(num_pixels)
    m, r = cumulative[k, pixel] / (k + 1), prob[k, pixel]
    if weighting == "linear":
        w = (m - r) / m
    elif weighting == "convex":
        w = (m - r) / (m + convex_scale * r)
    elif weighting == "concave":
        w = np.log1p(50 * (m - r)) / np.log1p(50 * m)
    else:
        w = np.ones(num_pixels)
    w = Approx.of(w, 0 if weighting == "none" else p.weight + 15 * blur)
    # Interpolated logits this close may change places; at the samples themselves equal logits are equal everywhere.
    gap = np.minimum(ranked[k - 1, pixel] - ranked[k, pixel], ranked[0] - ranked[1])
    apart = (moved == 0) | (gap > 2 * moved)
    least, most = count(threshold - lost), count(threshold + lost)
    confidence = Approx.of(prob[0], p.margin + 2 * blur)
    return Assigned(k, least, most, positives, order[0], confidence, w, (least == most) & apart)


def fuzzy_loss(z: np.ndarray, positives: np.ndarray, form: str) -> tuple[np.ndarray, np.ndarray]:
    """L and dL/dz: log(1 + sum_Y exp(-z_i) * sum_N exp(z_j)), or max(0, max_N z - min_Y z)."""
    low, high = np.where(positives, z, np.inf), np.where(positives, -np.inf, z)
    lowest, highest = low.min(0), high.max(0)
    if form == "hinge":
        violated = highest > lowest
        gradient = np.zeros(z.shape)
        pixel = np.arange(z.shape[1])
        gradient[low.argmin(0), pixel] = -violated.astype(float)
        gradient[high.argmax(0), pixel] = violated
        return np.maximum(highest - lowest, 0), gradient
    pull, push = np.exp(lowest - low), np.exp(high - highest)
    s = highest - lowest + np.log(pull.sum(0)) + np.log(push.sum(0))
    loss = np.maximum(s, 0) + np.log1p(np.exp(-np.abs(s)))
    sigmoid = np.where(s >= 0, 1, np.exp(-np.abs(s))) / (1 + np.exp(-np.abs(s)))
    return loss, sigmoid * (push / push.sum(0) - pull / pull.sum(0))


def label_loss(z: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """-log softmax(z)[label] and its derivative."""
    pixel = np.arange(z.shape[1])
    shifted = z - z.max(0)
    mass = np.exp(shifted)
    gradient = mass / mass.sum(0)
    gradient[label, pixel] -= 1
    return np.log(mass.sum(0)) - shifted[label, pixel], gradient


def entropy(t: np.ndarray) -> np.ndarray:
    """-sum p log p of p = softmax(t)."""
    shifted = t - t.max(0)
    log_p = shifted - np.log(np.exp(shifted).sum(0))
    p = np.exp(log_p)
    return -np.where(p > 0, p * log_p, 0).sum(0)
