"""The fuzzy positive loss of a run, as what is shown of its pixels needs it."""

from torch import Tensor

from fpl_fast import adaptive_threshold
from fpl_fast.trainer.config import MethodConfig, PseudoLabelConfig

__all__ = ["loss_settings", "loss_threshold", "spread"]


def loss_settings(config: MethodConfig) -> PseudoLabelConfig:
    """Settings of the fuzzy positive loss of a method; their defaults for a method that does not have them."""
    return config if isinstance(config, PseudoLabelConfig) else PseudoLabelConfig(name=config.name)


def loss_threshold(settings: PseudoLabelConfig, teacher_logits: Tensor) -> float | Tensor:
    """Compute the threshold of the loss: one, or with candidates that of each pixel, (N, H, W), of (N, C, H, W)."""
    if not settings.threshold_candidates:
        return settings.threshold
    return adaptive_threshold(
        teacher_logits,
        settings.threshold_candidates,
        settings.threshold_window,
        max_positives=settings.max_positives,
    )


def spread(num: int, total: int) -> list[int]:
    """Choose ``num`` of ``total`` indices, evenly spread, or all.

    Example:
        >>> spread(3, 9)
        [0, 3, 6]
    """
    num = min(num, total)
    return [place * total // num for place in range(num)]
