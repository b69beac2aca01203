"""Ramps from 0 to 1 over the first part of a run."""

import math
from collections.abc import Callable
from typing import Literal

__all__ = ["RampKind", "ramp"]

RampKind = Literal["linear", "sigmoid", "cosine", "log", "exp"]

_RAMPS: dict[RampKind, Callable[[float], float]] = {
    "linear": lambda x: x,
    "sigmoid": lambda x: math.exp(-5 * (1 - x) ** 2),
    "cosine": lambda x: (1 - math.cos(math.pi * x)) / 2,
    "log": lambda x: 1 - math.exp(-5 * x),
    "exp": lambda x: math.exp(5 * (x - 1)),
}


def ramp(kind: RampKind, progress: float, share: float) -> float:
    """Compute the height of a ramp that ends after a share of the run; 1 everywhere where the share is 0.

    With x = min(progress / share, 1): "linear" x; "sigmoid" exp(-5 (1 - x)^2); "cosine" (1 - cos(pi x)) / 2; "log"
    1 - exp(-5 x), which ends at 0.993; "exp" exp(5 (x - 1)).

    Source: Ouali et al., Semi-Supervised Semantic Segmentation with Cross-Consistency Training (CVPR 2020).

    Example:
        >>> ramp("linear", 0.1, 0.4)
        0.25
    """
    return _RAMPS[kind](min(progress / share, 1.0)) if share else 1.0
