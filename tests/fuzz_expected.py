"""Expected results of a call of the fuzzy positive losses, with what rounding may do to them."""

from typing import Any

import fuzz_reference as reference
import numpy as np
import torch
from fuzz_approx import Approx, Precision
from fuzz_inputs import Call
from tolerances import EXACT, GRADIENT, SUMS
from torch import Tensor

Expected = dict[str, Approx]
MAX_BALANCE = 1000.0  # docs/loss.md
# Rounding of a gradient in its dtype: relative, and half of the smallest number. The pass may truncate, which the table
# allows for, and the backward rounds once more where it has a factor to apply.
ROUNDING = {torch.float64: (0.0, 0.0), **{dtype: (1.5 * t["rtol"], 0.0) for dtype, t in GRADIENT.items()}}
ROUNDING[torch.float16] = ROUNDING[torch.float16][0], 2.0**-24


def numbers(x: Tensor) -> np.ndarray:
    """The values of a tensor, floating point in float64."""
    x = x.detach().cpu().resolve_neg()
    return x.double().numpy() if x.is_floating_point() else x.numpy()


def sampled(call: Call, name: str, p: Precision) -> reference.Sampled:
    """Logits at the pixels of the loss, with CutMix where the call has it."""
    found, *partner = (
        reference.sample(numbers(call.tensors[x]), call.options.get("size"), call.options.get("align_corners", True), p)
        for x in (name, "partner_logits")
        if x == name or (name == "teacher_logits" and x in call.tensors)
    )
    if not partner:
        return found
    mixed = numbers(call.tensors["mix_mask"]).reshape(-1)
    return reference.Sampled(*(np.where(mixed, theirs, own) for theirs, own in zip(partner[0], found, strict=True)))


def of_pixels(call: Call, name: str, otherwise: Any) -> np.ndarray:
    """A per-pixel tensor, (P,), or one value for all."""
    if name in call.tensors:
        return numbers(call.tensors[name]).reshape(-1)
    n = len(call.logits)
    return np.full(n * call.size[0] * call.size[1], otherwise)


def fuzzy_positive(call: Call, p: Precision) -> tuple[dict[str, Tensor], Expected]:
    """Tensors to use instead of the call's, without the pixels whose K hangs on rounding, and the results."""
    o, pseudo = call.options, call.case.loss == "pseudo_label_cross_entropy"
    z, t = sampled(call, "student_logits", p), sampled(call, "teacher_logits", p)
    threshold = of_pixels(call, "threshold", o.get("threshold", 0.9))
    cap = 1 if pseudo else o["max_positives"]
    a = reference.assign(t, threshold, cap, p, o.get("weighting", "none"), o.get("convex_scale", 1.0))
    blur = z.blur(p, a.positives)
    loss, slope = reference.fuzzy_loss(z.values, a.positives, o.get("form", "smooth"))
    loss = Approx.of(loss, p.atol + p.rtol * np.abs(loss) + 2 * blur)
    slope_error = (p.gradient + 2 * p.rtol * np.abs(slope) + 4 * blur) * (slope != 0)
    if o.get("form", "smooth") == "smooth":
        slope_error = p.gradient + 2 * p.rtol * np.abs(slope) + 4 * blur
    ce = reference.label_loss(z.values, a.label)[0]
    ce = Approx.of(ce, p.atol + p.rtol * np.abs(ce) + 2 * blur)

    q, gate = a.confidence, o["confidence_threshold"]
    selected = (q.value >= gate).astype(float)
    sure = a.sure & ~z.unsure & ~t.unsure & ((gate == 0) | (np.abs(q.value - gate) > q.error))
    no_teacher = ~np.isfinite(t.values).all(0)  # the loss is NaN; its weight and its K are not promised
    sure |= no_teacher & ~z.unsure & ~t.unsure
    sure &= ~(z.extreme(p, a.positives) | t.extreme(p))
    if o.get("form") == "hinge" and o.get("size") is not None:
        sure &= _hinge_is_clear(z, a.positives, 2 * blur)
    valid = of_pixels(call, "valid_mask", True)
    instead = {}
    if not (sure | ~valid).all():
        valid = valid & sure
        shape = len(call.logits), *call.size
        instead["valid_mask"] = torch.from_numpy(valid.reshape(shape)).to(call.logits.device)

    bad = ~(np.isfinite(z.values).all(0) & np.isfinite(t.values).all(0))
    loss, ce = (Approx(np.where(bad, np.nan, x.value), np.where(bad, 0, x.error)).where(valid, 0) for x in (loss, ce))
    slope = Approx(np.where(bad, np.nan, slope), np.where(bad, 0, slope_error)).where(valid, 0)
    power = o["confidence_power"]
    factor = Approx.of(q.value**power, power * q.value ** (power - 1) * q.error)
    unknown = np.where(no_teacher, np.inf, 0.0)
    factor = Approx(np.where(no_teacher, 1.0, factor.value), np.where(no_teacher, np.inf, factor.error))
    q = Approx(np.where(no_teacher, 1.0, q.value), np.where(no_teacher, np.inf, q.error))
    factor = Approx.of(of_pixels(call, "pixel_weight", 1.0)).times(factor).where(valid, 0)
    coefficient = factor.times(a.weight).times(Approx.of(selected)).where(valid, 0)
    terms = {
        "weighted": a.weight.times(loss),
        "unweighted": loss,
        "ce": ce,
        "factor": factor,
        "k": Approx.of(a.k, unknown),
        "confidence": q,
        "selected": Approx.of(selected, unknown),
    }
    terms = {name: x.where(valid, 0) for name, x in terms.items()}
    return instead, _reduced(call, p, valid, coefficient.times(loss), coefficient.times(slope), terms)


def _hinge_is_clear(z: reference.Sampled, positives: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Whether the lowest positive and the highest negative are alone, and which of them is higher is known."""
    low = np.sort(np.where(positives, z.values, np.inf), 0)
    high = -np.sort(-np.where(positives, -np.inf, z.values), 0)
    clear = (low[1] - low[0] > apart) & (np.abs(high[0] - low[0]) > apart)
    return clear & (high[0] - high[1] > apart)


def _reduced(
    call: Call, p: Precision, valid: np.ndarray, losses: Approx, slopes: Approx, terms: dict[str, Approx]
) -> Expected:
    """The loss, its gradient and the statistics from the terms of the pixels."""
    o, rtol = call.options, SUMS["rtol"] if p.rtol > EXACT["rtol"] else EXACT["rtol"]
    sums = {name: x.total(rtol) for name, x in terms.items()}
    total = losses.total(rtol)
    if max(np.abs(x.value) for x in (total, sums["weighted"], sums["unweighted"], sums["ce"])) > p.largest:
        total, *_ = unknown = [Approx.of(0.0, np.inf)] * 4  # the sum may overflow
        sums |= dict(zip(("weighted", "unweighted", "ce"), unknown, strict=False))
    num_valid = max(int(valid.sum()), 1)
    one = Approx.of(1.0)
    factor = one
    if o["reduction"] == "mean":
        factor = Approx.of(1 / num_valid, SUMS["rtol"] * (p.rtol > EXACT["rtol"]) / num_valid)
    elif o["reduction"] == "weighted_mean":
        factor = one.over(sums["factor"])
    if o.get("balance"):
        factor = factor.times(sums["ce"].over(sums["weighted"]).capped(MAX_BALANCE))
    results = {}
    if np.isfinite(factor.error):  # otherwise it may be anything, NaN too
        results = scaled(call, losses if o["reduction"] == "none" else total, slopes, factor)
    if o["return_stats"]:
        results |= _statistics(sums, valid, terms["k"])
    return results


def scaled(call: Call, losses: Approx, slopes: Approx, factor: Approx) -> Expected:
    """The loss, 0-d or of pixels, and its gradient."""
    loss = losses.times(factor)
    if loss.value.ndim:
        loss = Approx(*(x.reshape(len(call.logits), *call.size) for x in loss))
    upstream = Approx.of(numbers(call.upstream).reshape(-1) if call.upstream.ndim else numbers(call.upstream))
    slopes_of_loss = slopes.times(factor).times(upstream)
    if not np.isfinite(factor.value):  # 0 times NaN: where nothing is pushed, either
        slopes_of_loss = Approx(slopes_of_loss.value, np.where(slopes.value == 0, np.inf, slopes_of_loss.error))
    return {"loss": loss, "gradient": gradient(call, slopes_of_loss, factor)}


def gradient(call: Call, slopes: Approx, factor: Approx) -> Approx:
    """The gradient in the logits, in their dtype, from the derivatives at the pixels, (C, P)."""
    logits = call.logits
    native, size = tuple(logits.shape), call.options.get("size")
    corners = call.options.get("align_corners", True)
    value = reference.adjoint(slopes.value, native, size, corners)
    error = reference.adjoint(slopes.error, native, size, corners)
    if size is not None:  # what is not finite may spread along rows and columns
        rough = reference.adjoint(np.abs(np.nan_to_num(slopes.value, nan=np.inf)), native, size, corners)
        error = np.where(np.isfinite(value) & np.isfinite(error), error + 2e-6 * rough, np.inf)
        if not np.isfinite(slopes.value).all():
            error = np.full(error.shape, np.inf)
    relative, smallest = ROUNDING[logits.dtype]
    smallest = smallest * max(1.0, float(np.abs(factor.value).max())) + 1e-37 * (logits.dtype != torch.float64)
    return Approx(value, error + relative * np.abs(np.nan_to_num(value)) + smallest)


def _statistics(sums: Expected, valid: np.ndarray, positives: Approx) -> Expected:
    num_valid = int(valid.sum())
    per = Approx.of(1 / max(num_valid, 1))
    k, share = positives.value, 1e-6 + positives.error.sum()
    found = {name: sums[x].times(per) for name, x in (("mean_positives", "k"), ("mean_confidence", "confidence"),
             ("cross_entropy", "ce"), ("unweighted_loss", "unweighted"), ("weighted_loss", "weighted"),
             ("selected_share", "selected"))}  # fmt: skip
    counts = [(k[valid] == i).sum() for i in (1, 2, 3)] + [(k[valid] > 3).sum()]
    found["positives_histogram"] = Approx.of(np.array(counts) / max(num_valid, 1), share)
    found["num_valid"] = Approx.of(num_valid)
    found["valid_share"] = Approx.of(num_valid / max(valid.size, 1), 1e-6)
    return found | {"weight_sum": sums["factor"]}
