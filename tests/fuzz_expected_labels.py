"""Expected results of the losses with labels and of the functions of a teacher alone."""

import itertools
import math
from collections.abc import Callable

import fuzz_reference as reference
import numpy as np
from fuzz_approx import Approx, Precision
from fuzz_expected import Expected, gradient, numbers, of_pixels, sampled, scaled
from fuzz_inputs import Call
from tolerances import EXACT, SUMS

EPSILON = 1e-6  # docs/loss.md
NEARLY_EQUAL = 1e-6  # divergences; docs/loss.md promises 1e-7 for terms, of which there are several


def _label_terms(call: Call, p: Precision) -> tuple[np.ndarray, np.ndarray, Approx, Approx]:
    """Validity of the pixels, their classes (0 elsewhere), -log softmax(z)[y] and its derivative."""
    z, target = sampled(call, "logits", p), of_pixels(call, "target", 0).astype(np.int64)
    counts, exists = target != call.options["ignore_index"], (target >= 0) & (target < len(z.values))
    label = np.where(counts & exists, target, 0)
    chosen = np.arange(len(z.values))[:, None] == label
    blur = z.blur(p, chosen)
    loss, slope = reference.label_loss(z.values, label)
    bad = counts & ~(exists & np.isfinite(z.values).all(0))
    unknown = counts & (z.unsure | z.extreme(p, chosen)) & ~(bad & ~z.unsure)

    def known(value: np.ndarray, error: np.ndarray) -> Approx:
        value, error = np.where(bad, np.nan, value), np.where(bad, 0, error)
        return Approx(np.where(unknown, 0.0, value), np.where(unknown, np.inf, error)).where(counts, 0)

    losses = known(loss, p.atol + p.rtol * np.abs(loss) + 2 * blur)
    return counts, label, losses, known(slope, p.gradient + 2 * p.rtol * np.abs(slope) + 4 * blur)


def cross_entropy(call: Call, p: Precision) -> Expected:
    """a * weight[y] * L, reduced."""
    counts, label, losses, slopes = _label_terms(call, p)
    factor = Approx.of(of_pixels(call, "pixel_weight", 1.0))
    if "weight" in call.tensors:
        factor = factor.times(Approx.of(numbers(call.tensors["weight"])[label]))
    return _reduced(call, p, counts, factor.where(counts, 0), losses, slopes)


def _reduced(call: Call, p: Precision, counts: np.ndarray, factor: Approx, losses: Approx, slopes: Approx) -> Expected:
    rtol = SUMS["rtol"] if p.rtol > EXACT["rtol"] else EXACT["rtol"]
    weighted, scale = factor.times(losses), Approx.of(1.0)
    if call.options["reduction"] == "mean" and (total := factor.total(rtol)).value > 0:
        scale = scale.over(total)
        if np.isnan(losses.value).any():  # the weight of a label that is no class is not promised, nor what it divides
            slopes = slopes.times(Approx.of(1.0, np.inf))
    if call.options["reduction"] != "none":
        weighted = weighted.total(rtol)
        if abs(weighted.value) > p.largest:
            weighted = Approx.of(0.0, np.inf)
    return scaled(call, weighted, slopes.times(factor), scale)


def ohem_cross_entropy(call: Call, p: Precision) -> Expected:
    """The mean over groups of the mean over kept pixels; nothing where the choice of a pixel hangs on rounding."""
    counts, _, losses, slopes = _label_terms(call, p)
    n, o = len(call.logits), call.options
    groups = n // o["group_size"]
    if counts.size == 0:
        return {"loss": Approx.of(0.0), "gradient": gradient(call, slopes, Approx.of(1.0))}
    if np.isnan(losses.value).any():  # all that is promised is that it shows
        return {"loss": Approx.of(math.nan)}
    if np.isposinf(losses.error).any():
        return {}
    weight = np.zeros(counts.shape)
    of_groups = (x.reshape(groups, -1) for x in (losses.value, losses.error, counts, weight))
    for loss, error, labelled, kept_share in zip(*of_groups, strict=True):
        kept = _hard(loss, error, labelled, o["min_kept"], o["threshold"], p)
        if kept is None:
            return {}
        kept_share[:] = kept / max(kept.sum(), 1) / groups
    if (losses.value * (weight > 0)).sum() > p.largest:  # the engines add before they divide
        return {}
    call = call.with_options(reduction="sum")
    return _reduced(call, p, counts, Approx.of(weight, 4 * p.rtol * weight), losses, slopes)


def _hard(
    loss: np.ndarray, error: np.ndarray, labelled: np.ndarray, min_kept: int, threshold: float, p: Precision
) -> np.ndarray | None:
    """Mask of the pixels of a group that are kept, None where that hangs on rounding."""
    if labelled.sum() < min_kept:
        return labelled
    q = np.exp(-loss)  # 1 where ignored
    lost = p.margin + np.maximum(np.exp(error - loss) - q, q - np.exp(-error - loss))
    kth = np.sort(q)[min(min_kept, q.size) - 1]
    hard = max(kth, threshold)
    near = labelled & (np.abs(q - hard) <= 2 * lost)
    # The k-th smallest itself is kept in any case, if no other pixel could take its place.
    if near.sum() > (hard == kth) or abs(kth - threshold) <= 2 * lost.max():
        return None
    return labelled & (q <= hard)


def pseudo_labels(call: Call, p: Precision) -> Expected:
    """Label, confidence, entropy and K of every pixel."""
    t, threshold = sampled(call, "teacher_logits", p), call.options.get("threshold")
    a = reference.assign(t, threshold or 1.0, call.options["max_positives"], p)
    values = t.values
    undefined = np.isnan(values).any(0) | np.isposinf(values).any(0) | np.isneginf(values).all(0)
    unknown = t.unsure | t.extreme(p)
    if call.options.get("size") is not None:  # where -inf was interpolated, probability 0 or NaN
        unknown |= undefined
    ranked = -np.sort(-values, 0)
    moved = t.blur(p._replace(per_logit=0.0))
    apart = (moved == 0) | (ranked[0] - ranked[1] > 2 * moved)
    blur = t.blur(p)

    def known(value: np.ndarray, error: np.ndarray | float, nan: bool = True) -> Approx:
        hidden = unknown | (undefined if not nan else False)
        x = Approx.of(np.where(undefined & nan, np.nan, value), np.where(undefined, 0, error))
        x = Approx(np.where(hidden, 0.0, x.value), np.where(hidden, np.inf, x.error))
        return Approx(*(y.reshape(len(call.logits), *call.size) for y in x))

    h = reference.entropy(values)
    found = {
        "label": known(a.label, np.where(apart, 0, np.inf), nan=False),
        "confidence": known(a.confidence.value, a.confidence.error),
        "entropy": known(h, p.atol + p.rtol * h + 40 * blur),
    }
    if threshold is not None:
        found["num_positives"] = known((a.least + a.most) / 2, (a.most - a.least) / 2, nan=False)
    return found


def fuzzy_positive_assignment(call: Call, p: Precision) -> Expected:
    """K and Y; nothing is promised of pixels that are not finite."""
    t = sampled(call, "teacher_logits", p)
    threshold = of_pixels(call, "threshold", call.options.get("threshold", 0.9))
    a = reference.assign(t, threshold, call.options["max_positives"], p)
    unknown = ~np.isfinite(t.values).all(0) | t.extreme(p)
    n, c, h, w = call.logits.shape
    k = Approx(np.where(unknown, 0, (a.least + a.most) / 2), np.where(unknown, np.inf, (a.most - a.least) / 2))
    y = Approx.of(a.positives, np.where(a.sure & ~unknown, 0.0, np.inf))
    positives = Approx(*(np.moveaxis(x.reshape(c, n, h, w), 0, 1) for x in y))
    return {"num_positives": Approx(*(x.reshape(n, h, w) for x in k)), "positives": positives}


def adaptive_threshold(call: Call, p: Precision) -> Expected:
    """The threshold of the least divergence; any of those that are nearly equal, the first of those that are equal."""
    o, shape = call.options, (len(call.logits), *call.size)
    t, valid = sampled(call, "teacher_logits", p), of_pixels(call, "valid_mask", True)
    sure = (np.isfinite(t.values).all(0) & ~t.unsure & ~t.extreme(p)) | ~valid
    least = np.full((len(o["thresholds"]), valid.size), np.inf)
    reach = _sums_over_windows(shape, o["window"])
    assigned = [reference.assign(t, x, o["max_positives"], p) for x in o["thresholds"]]
    for m, a in enumerate(assigned):
        sure &= a.sure | ~valid
        y = (a.positives & valid).astype(float)
        box = reach(y) - y
        total = box.sum(0)
        b = EPSILON + box / np.maximum(total, 1)
        d = EPSILON + y / np.maximum(y.sum(0), 1)
        least[m] = np.where(total > 0, (b * (np.log(b) - np.log(d))).sum(0), 0)
    clear = reach((~sure & valid).astype(float)[None])[0] == 0
    candidates = least - least.min(0) <= NEARLY_EQUAL
    first = candidates.argmax(0)
    # Those nearly equal to the least are equal to it, or nothing is known of the pixel.
    equal = (least - least.min(0) < 1e-13) == candidates
    thresholds = np.array(o["thresholds"], dtype=np.float32).astype(np.float64)
    value = thresholds[np.where(valid, first, 0)] if valid.size else np.zeros(0)
    value = Approx.of(value, np.where(~valid | (clear & equal.all(0)), 0, np.inf))
    return {"loss": Approx(*(x.reshape(shape) for x in value))}


def _sums_over_windows(shape: tuple[int, int, int], window: int) -> Callable[[np.ndarray], np.ndarray]:
    """A function that adds (C, P) over the windows around the pixels of each image."""
    around = (window // 2, window // 2)

    def reach(x: np.ndarray) -> np.ndarray:
        images = np.pad(x.reshape(len(x), *shape), ((0, 0), (0, 0), around, around))
        out = np.zeros((len(x), *shape))
        for dy, dx in itertools.product(range(window), repeat=2):
            out += images[:, :, dy : dy + shape[1], dx : dx + shape[2]]
        return out.reshape(len(x), -1)

    return reach
