"""Console output and argument parser of the commands."""

import argparse
from typing import Any, NoReturn

from rich.console import Console
from rich.text import Text

from fpl_fast.trainer.writing.printable import printable

__all__ = ["Parser", "folder_name", "out_console"]


class _LiteralConsole(Console):
    """A console that escapes control characters, of names of files above all, in lines and in tables."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print objects; a text is one line."""
        super().print(*(printable(thing) if isinstance(thing, str) else thing for thing in objects), **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a text, which may have several lines."""
        return super().render_str(printable(text, keep="\n"), **options)


def out_console() -> Console:
    """Make a console on the current standard output that prints text literally (no emoji) and breaks no lines."""
    return _LiteralConsole(markup=False, emoji=False, highlight=False, soft_wrap=True)


def folder_name(value: str) -> str:
    """Check the name of a folder to write to, as the type of an option.

    Raises:
        argparse.ArgumentTypeError: It is blank, as from a variable of the shell that is not set.
    """
    if not value.strip():
        raise argparse.ArgumentTypeError(f"must name a folder, got {value!r}")
    return value


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are ValueErrors and whose help shows defaults."""

    def __init__(self, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raise the message alone, without usage.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{self.prog}: {message}")
