"""Settings on the command line: the short names of the common ones."""

from collections.abc import Sequence

__all__ = ["SHORT_NAMES", "expand_short_names"]

SHORT_NAMES = {
    "--backbone": "--model.backbone",
    "--data-root": "--data.root",
    "--protocol": "--eval.protocol",
}


def expand_short_names(arguments: Sequence[str]) -> list[str]:
    """The same arguments with short names written out.

    Example:
        >>> expand_short_names(["--data-root", "D", "--backbone=resnet101"])
        ['--data.root', 'D', '--model.backbone=resnet101']
    """
    expanded = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        expanded.append(SHORT_NAMES.get(name, name) + equals + value)
    return expanded
