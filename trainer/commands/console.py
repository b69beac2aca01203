"""Where commands write, and how they read their arguments."""

import argparse
from typing import NoReturn

from rich.console import Console

__all__ = ["Parser", "out_console"]


def out_console() -> Console:
    """Standard output, as it is now; text is taken literally (``a:100:b`` is no emoji) and lines are not broken."""
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
        """Leave with the message alone.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"{self.prog}: {message}")
