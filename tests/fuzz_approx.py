"""Numbers with a bound on their rounding error, and the precision that an engine computes in."""

from typing import NamedTuple

import numpy as np
import torch
from tolerances import EXACT, GRADIENT, LOSS, PER_LOGIT, THRESHOLD_MARGIN

SINGLE_UNIT, DOUBLE_UNIT = 2.0**-24, 2.0**-53


class Precision(NamedTuple):
    """Rounding of one engine on one dtype of the arithmetic.

    Attributes:
        rtol: of losses.
        atol: of losses.
        gradient: absolute, of dL/dz.
        weight: absolute, of the confidence weight w.
        margin: cumulative probabilities closer than this to a threshold may fall either way.
        per_logit: relative error of an exponential for each unit of its argument, and of what is subtracted from it.
        position: rounding of a position, which moves a logit by as much of the samples' size.
        largest: logits beyond this may overflow on the way.
    """

    rtol: float
    atol: float
    gradient: float
    weight: float
    margin: float
    per_logit: float
    position: float
    largest: float


def precision(engine: str, double: bool) -> Precision:
    """The precision that an engine promises for losses with or without float64 logits."""
    if double:
        largest = float(torch.finfo(torch.float64).max) / 16
        return Precision(EXACT["rtol"], EXACT["atol"], EXACT["atol"], EXACT["atol"], 1e-12, 0.0, DOUBLE_UNIT, largest)
    per_logit = PER_LOGIT if engine == "triton" else 0.0
    # The kernels give NaN where a logit that matters lies beyond (docs/loss.md).
    largest = 1e9 if engine == "triton" else float(torch.finfo(torch.float32).max) / 16
    atol = GRADIENT[torch.float32]["atol"]
    return Precision(LOSS["rtol"], atol, atol, atol, THRESHOLD_MARGIN, per_logit, SINGLE_UNIT, largest)


class Approx(NamedTuple):
    """Values in float64 and how far another's may be off; infinite where nothing is known."""

    value: np.ndarray
    error: np.ndarray

    @classmethod
    def of(cls, value: object, error: object = 0.0) -> "Approx":
        """Values of one shape with their errors."""
        x = np.asarray(value, dtype=np.float64)
        return cls(x, np.broadcast_to(np.asarray(error, dtype=np.float64), x.shape))

    def times(self, other: "Approx") -> "Approx":
        """The product; 0 times what is not known is not known, it may be NaN."""
        a, b = np.abs(self.value), np.abs(other.value)
        error = _product(a, other.error) + _product(b, self.error) + _product(self.error, other.error)
        return Approx(self.value * other.value, error)

    def over(self, other: "Approx") -> "Approx":
        """The quotient, 1 where the divisor is not positive; nothing is known where the divisor's sign is not."""
        value = np.where(other.value <= 0, 1.0, self.value / other.value)
        left = np.abs(other.value) - other.error
        error = np.where(left > 0, (self.error + np.abs(value) * other.error) / left, np.inf)
        return Approx(value, np.where((other.value <= 0) & (other.error == 0), 0.0, error))

    def total(self, rtol: float) -> "Approx":
        """The sum, with an error of the additions relative to the sum of the absolute values."""
        return Approx.of(self.value.sum(), self.error.sum() + rtol * np.abs(self.value).sum())

    def capped(self, limit: float) -> "Approx":
        """The smaller of the values and a number."""
        return Approx(np.minimum(self.value, limit), self.error)

    def where(self, chosen: np.ndarray, other: float) -> "Approx":
        """The values where chosen, elsewhere another one, exactly."""
        return Approx(np.where(chosen, self.value, other), np.where(chosen, self.error, 0.0))

    def worst(self, actual: np.ndarray) -> str | None:
        """The first value that lies further off than its error, in words, or None."""
        expected = self.value
        close = np.abs(actual - expected) <= self.error
        close |= (actual == expected) | (np.isnan(actual) & np.isnan(expected)) | np.isposinf(self.error)
        if close.all():
            return None
        place = tuple(int(i) for i in np.argwhere(~close)[0])
        where = f" at {list(place)}" if place else ""
        wanted = f"{expected[place]!s} +- {self.error[place]:.2g}"
        return f"{actual[place]!s}{where} instead of {wanted}, {(~close).sum()} of {close.size}"


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product of errors or sizes, infinite where one is."""
    return np.where(np.isposinf(a) | np.isposinf(b), np.inf, a * b)
