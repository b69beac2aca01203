"""Errors of loader processes, as the user should read them."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

__all__ = ["in_one_line"]

_Item = TypeVar("_Item")


def in_one_line(items: Iterable[_Item]) -> Iterator[_Item]:
    """Items as they come; of an error that torch wraps in the traceback of a loader process, the message.

    Raises:
        ValueError: What the loader raised.
    """
    try:
        yield from items
    except ValueError as error:
        raise ValueError(str(error).strip().splitlines()[-1].removeprefix("ValueError: ")) from None
