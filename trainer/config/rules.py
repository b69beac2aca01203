"""Decorator and checks of all configurations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

from fpl_fast.trainer.config.nearest import nearest

__all__ = ["check_jitter", "check_names", "check_scale_range", "config_class", "require"]

_Class = TypeVar("_Class")
_LARGEST_SCALE = 16


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config_class(cls: type[_Class]) -> type[_Class]:
    """Make a class a frozen dataclass whose fields are given by name."""
    return dataclass(frozen=True, kw_only=True)(cls)


def require(rule: bool, name: str, text: str, value: object) -> None:
    """Check a value.

    Args:
        rule: Whether the value obeys its rule.
        name: Name of the setting on the command line.
        text: The rule, as it follows "must be".
        value: The value.

    Raises:
        ValueError: The value breaks its rule.
    """
    if not rule:
        raise ValueError(f"{name} must be {text}, got {value!r}")


def check_names(names: Sequence[str], known: Sequence[str], name: str) -> None:
    """Check a list of names.

    Raises:
        ValueError: A name is unknown (the nearest one is named), or stands twice.
    """
    rule = f"a list of {' and '.join(known)}, each at most once"
    for one in names:
        if one not in known:
            raise ValueError(f"{name} must be {rule}, got {one!r}{nearest(one, known)}")
    require(len(set(names)) == len(names), name, rule, list(names))


def check_scale_range(scales: tuple[float, float], name: str) -> None:
    """Check a range of scales.

    Raises:
        ValueError: The range does not contain 1, is not positive, or reaches too far.
    """
    rule = f"two factors around 1, above 0 and at most {_LARGEST_SCALE}, such as [0.5, 2.0]"
    require(0 < scales[0] <= 1 <= scales[1] <= _LARGEST_SCALE, name, rule, scales)


def check_jitter(jitter: tuple[float, float, float, float], name: str) -> None:
    """Check the strengths of a colour jitter: brightness, contrast, saturation, hue.

    Raises:
        ValueError: A strength is negative, or the hue's is more than half of the colour circle.
    """
    require(min(jitter) >= 0, name, ">= 0", jitter)
    require(jitter[3] <= 0.5, name, "at most 0.5 for the hue, half of the colour circle", jitter)
