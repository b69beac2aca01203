"""``fpl-fast recipes``."""

from fpl_fast.trainer.commands.console import Parser, out_console
from fpl_fast.trainer.recipes import recipe_descriptions

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """List every recipe with one line on it."""
    Parser("fpl-fast recipes", "List the recipes that fpl-fast train knows.").parse_args(arguments)
    described = recipe_descriptions()
    width = max(map(len, described))
    out_console().print("\n".join(f"{name:<{width}}  {text}" for name, text in described.items()))
    return 0
