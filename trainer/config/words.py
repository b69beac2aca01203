"""Types of settings in words, for messages to people who need not know Python."""

import re
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

__all__ = ["describe_type", "explain"]

_ONE = {int: "an integer", float: "a number", bool: "true or false", str: "text"}
_MANY = {int: "integers", float: "numbers", bool: "true or false", str: "texts"}
_EXAMPLES = {int: ("512", "512", "3"), float: ("0.5", "2.0", "1.0"), bool: ("true",) * 3, str: ("a", "b", "c")}
_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}


def describe_type(kind: Any) -> str:
    """Describe the values that a setting of a type may have.

    Example:
        >>> describe_type(tuple[int, int] | None)
        "two integers such as '[512, 512]', or null"
    """
    arguments = typing.get_args(kind)
    if typing.get_origin(kind) in (typing.Union, types.UnionType):
        return ", or ".join("null" if option is type(None) else describe_type(option) for option in arguments)
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if typing.get_origin(kind) is tuple:
        item, open_ended = arguments[0], arguments[-1] is Ellipsis
        count = 2 if open_ended else len(arguments)
        example = f"'[{', '.join(_EXAMPLES[item][:count])}]'"
        return f"{'a list of' if open_ended else _NUMBERS[count]} {_MANY[item]} such as {example}"
    if typing.get_origin(kind) is dict:  # the one map there is, data.label_map
        return "a map such as '{0: null, 1-150: 0-149}'"
    return _ONE.get(kind, "a value")


def explain(message: str, kinds: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """Reword the message of a parser about a setting without Python's names of types.

    Args:
        message: Message of jsonargparse or argparse.
        kinds: Types of the settings, by key.
        given: Texts that were given for them.
    """
    message = " ".join(message.split())
    found = re.match(r'(?:Parser key "|argument --)([\w.]+)', message)
    if found is None or found.group(1) not in kinds:
        return message
    key = found.group(1)
    value = given.get(key)
    got = "nothing" if value is None else repr(value)
    return f"{key} must be {describe_type(kinds[key])}, got {got}"
