"""What all configurations are made with."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

__all__ = ["check_scale_range", "config_class", "require"]

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def config_class(cls: type[_Class]) -> type[_Class]:
    """A frozen dataclass whose fields are given by name."""
    return dataclass(frozen=True, kw_only=True)(cls)


def require(rule: bool, name: str, text: str, value: object) -> None:
    """Check a value.

    Args:
        rule: Whether it is as it must be.
        name: The value as the command line calls it.
        text: What follows "must be".
        value: What it is.

    Raises:
        ValueError: It is not.
    """
    if not rule:
        raise ValueError(f"{name} must be {text}, got {value!r}")


def check_scale_range(scales: tuple[float, float], name: str) -> None:
    """Check the range of scales that lie half below and half above 1.

    Raises:
        ValueError: It does not hold 1, or what is not positive.
    """
    require(0 < scales[0] <= 1 <= scales[1], name, "two factors around 1", scales)
