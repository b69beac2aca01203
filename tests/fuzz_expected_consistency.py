"""Expected results of the consistency of two softmaxes."""

import numpy as np
from fuzz_approx import Approx, Precision
from fuzz_expected import Expected, of_pixels, sampled, scaled
from fuzz_inputs import Call
from tolerances import EXACT, SUMS

SMALLEST = 1e-35  # probabilities below may be 0 in float32


def consistency_loss(call: Call, p: Precision) -> Expected:
    """a * D, reduced, with D = sum (p - q)^2 or sum q (log q - log p)."""
    z, t = sampled(call, "student_logits", p), sampled(call, "teacher_logits", p)
    (student, log_student), (teacher, log_teacher) = softmax(z.values), softmax(t.values)
    divergence = call.options["kind"] == "kl"
    matters = (teacher > 0) & divergence
    of_student, of_teacher = (x.blur(p, matters) for x in (z, t))
    student, teacher = _rounded(student, of_student, p), _rounded(teacher, of_teacher, p)
    if divergence:
        loss, slope = _divergence(student, teacher, log_student, log_teacher, of_student + of_teacher, p)
    else:
        loss, slope = _squares(student, teacher, p)
    valid = of_pixels(call, "valid_mask", True)
    bad = ~(np.isfinite(z.values).all(0) & np.isfinite(t.values).all(0))
    unknown = z.unsure | t.unsure | ((z.extreme(p, matters) | t.extreme(p, matters)) & ~bad)

    def known(x: Approx) -> Approx:
        value, error = np.where(bad, np.nan, x.value), np.where(bad, 0, x.error)
        return Approx(np.where(unknown, 0.0, value), np.where(unknown, np.inf, error)).where(valid, 0)

    factor = Approx.of(of_pixels(call, "pixel_weight", 1.0)).where(valid, 0)
    losses, scale = factor.times(known(loss)), Approx.of(1.0)
    if call.options["reduction"] == "mean":
        scale = Approx.of(1 / max(int(valid.sum()), 1))
    if call.options["reduction"] != "none":
        losses = losses.total(SUMS["rtol"] if p.rtol > EXACT["rtol"] else EXACT["rtol"])
        if abs(losses.value) > p.largest:
            losses = Approx.of(0.0, np.inf)
    return scaled(call, losses, known(slope).times(factor), scale)


def softmax(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and their logarithms."""
    shifted = x - x.max(0)
    log = shifted - np.log(np.exp(shifted).sum(0))
    return np.exp(log), log


def _rounded(probability: np.ndarray, blur: np.ndarray, p: Precision) -> Approx:
    """A softmax whose exponents are off by ``blur``; with more than a little of it, any probability is possible."""
    return Approx.of(probability, np.where(blur > 0.05, 1.0, probability * (p.rtol + 2.2 * blur)))


def _squares(student: Approx, teacher: Approx, p: Precision) -> tuple[Approx, Approx]:
    apart = Approx(student.value - teacher.value, student.error + teacher.error + p.gradient)
    loss, mean = (x.times(apart) for x in (apart, student))
    loss, mean = (Approx(x.value.sum(0), x.error.sum(0)) for x in (loss, mean))
    from_mean = Approx(apart.value - mean.value, apart.error + mean.error)
    slope = student.times(from_mean)
    return Approx(loss.value, p.atol + p.rtol * loss.value + loss.error), Approx(
        2 * slope.value, p.gradient + 2 * slope.error + 2 * p.rtol * np.abs(slope.value)
    )


def _divergence(
    student: Approx, teacher: Approx, log_student: np.ndarray, log_teacher: np.ndarray, blur: np.ndarray, p: Precision
) -> tuple[Approx, Approx]:
    q = teacher.value
    terms = np.where(q > 0, q * (log_teacher - log_student), 0)
    size = np.where(q > 0, np.abs(log_teacher) + np.abs(log_student), 0)
    error = p.atol + ((teacher.error + p.rtol * q) * size).sum(0) + 2 * blur
    error = np.where(((q < SMALLEST) & (q * size > p.atol)).any(0), np.inf, error)  # 0 times a large number, or not
    slope = Approx(student.value - q, p.gradient + student.error + teacher.error)
    return Approx(terms.sum(0), error), slope
