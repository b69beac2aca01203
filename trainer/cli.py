"""The command line: ``fpl-fast COMMAND ...``. Whatever the user got wrong is one line and exit code 2."""

import importlib
import logging
import sys
from collections.abc import Sequence

from fpl_fast.trainer.commands.console import error_console, out_console
from fpl_fast.trainer.config_io import nearest
from fpl_fast.trainer.data.one_line import loader_fault

__all__ = ["main"]

# Modules of fpl_fast.trainer.commands, imported when needed: most need torch, which takes seconds.
_COMMANDS = {
    "train": "train a recipe or a configuration file, or continue a run",
    "eval": "evaluate a run",
    "predict": "segment images with a run",
    "report": "write the HTML report of a run",
    "recipes": "list the recipes",
    "data": "check a data set, or decode it once into a pack",
    "quickstart": "compare supervised training with FPL+CPS on synthetic scenes, in minutes",
    "bench": "audit the kernels offline, report benchmarks, or time training steps",
}
_USAGE = "usage: fpl-fast COMMAND [...]\n\n{commands}\n\nfpl-fast COMMAND --help tells more."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name; default those of the process.

    Returns:
        Exit code: 0, 2 after a user error, 128 + signal after a stop by signal.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("fpl_fast").setLevel(logging.INFO)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        out_console().print(
            _USAGE.format(commands="\n".join(f"  {name:<12}{summary}" for name, summary in _COMMANDS.items()))
        )
        return 0
    name, *rest = arguments
    try:
        if name not in _COMMANDS:
            raise ValueError(f"unknown command {name!r}{nearest(name, _COMMANDS)}")
        return importlib.import_module(f"fpl_fast.trainer.commands.{name}").main(rest)
    except (ValueError, FloatingPointError, OSError) as error:
        error_console().print(f"error: {' '.join(str(error).split())}")
        return 2
    except RuntimeError as error:  # torch tells of a dead loader process in whatever the main process is doing
        if not str(error).startswith("DataLoader worker"):
            raise
        error_console().print(f"error: {loader_fault(error)}")
        return 2
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
