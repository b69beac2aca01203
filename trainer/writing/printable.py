"""Text that a terminal shows as it is: names of files may hold characters that command it."""

import re

__all__ = ["printable"]

# Controls, separators of lines, marks that turn the direction of reading, and halves of characters, which stand for
# bytes of a name that are no text. Letters of all scripts and the marks within their words stay.
_COMMANDS = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, *, keep: str = "") -> str:
    r"""Escape what a terminal would obey instead of showing it.

    Args:
        text: Any text.
        keep: Characters that stay, such as the end of a line.

    Example:
        >>> print(printable("a\x1b[31mb\nc"))
        a\x1b[31mb\nc
    """

    def escape(found: re.Match[str]) -> str:
        return found[0] if found[0] in keep else found[0].encode("unicode_escape").decode()

    return _COMMANDS.sub(escape, text)
