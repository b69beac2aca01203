"""Settings on the command line, read in the same way by every command that takes a configuration."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fpl_fast.trainer.commands.console import folder_name
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config.io import load_config, override_config
from fpl_fast.trainer.recipes import make_recipe

__all__ = ["expand_short_names", "read_config", "take_options"]

_SHORT_NAMES = {
    "--backbone": "--model.backbone",
    "--data-root": "--data.root",
    "--protocol": "--eval.protocol",
}


def expand_short_names(arguments: Sequence[str]) -> list[str]:
    """Expand the short names of settings in arguments.

    Example:
        >>> expand_short_names(["--data-root", "D", "--backbone=resnet101"])
        ['--data.root', 'D', '--model.backbone=resnet101']
    """
    expanded = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        expanded.append(_SHORT_NAMES.get(name, name) + equals + value)
    return expanded


def take_options(
    arguments: Sequence[str], *names: str, flags: Sequence[str] = ()
) -> tuple[argparse.Namespace, list[str]]:
    """Split arguments into a command's own options and the rest.

    Args:
        arguments: All arguments.
        names: Options with a value; None where absent.
        flags: Options without a value.

    Raises:
        ValueError: An option lacks its value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in names:
        parser.add_argument(name, type=folder_name if name == "--out" else str)
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    try:
        return parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None


def read_config(arguments: Sequence[str], *, prog: str, description: str) -> RunConfig:
    """Read the configuration that the first argument names, changed by the others.

    Args:
        arguments: A recipe or a file, and options.
        prog: Command that the help shows.
        description: First text of the help.

    Raises:
        ValueError: There is no such recipe, file, option or value.
    """
    options, rest = take_options(expand_short_names(arguments), "--partition")
    named = bool(rest) and not rest[0].startswith("-")
    if not named and not {"-h", "--help"} & set(rest):
        raise ValueError("the first argument must be a recipe or a configuration file; fpl-fast recipes lists recipes")
    name = rest[0] if named else "synthetic/fpl_cps_cutmix"
    if Path(name).is_dir() and (Path(name) / "config.yaml").is_file():
        raise ValueError(f"{name}: is a run: continue it with --resume {name}, or repeat it from {name}/config.yaml")
    if not name.endswith((".yaml", ".yml")):
        config = make_recipe(name, partition=options.partition)
    elif options.partition is None:
        config = load_config(name)
    else:
        raise ValueError(f"--partition goes with a recipe; {name} takes --data.partition and --train.steps")
    return override_config(config, rest[named:], prog=prog, description=description)
