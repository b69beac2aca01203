"""Suggestions for misspelt names, in a module of its own that imports no other."""

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str]) -> str:
    """Format a question to append to an error: the known name nearest to a misspelt one, or nothing if none is near."""
    found = difflib.get_close_matches(name, list(known), n=1)
    return f": did you mean {found[0]!r}?" if found else ""
