"""Console output and argument parser of the commands."""

import argparse
from typing import NoReturn

from rich.console import Console

__all__ = ["Parser", "out_console"]


def out_console() -> Console:
    """Make a console on the current standard output that prints text literally (no emoji) and breaks no lines."""
    return Console(markup=False, emoji=False, highlight=False, soft_wrap=True)


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
