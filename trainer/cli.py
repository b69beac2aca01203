"""The command line: ``fpl-fast COMMAND ...``. A user error gives one line and exit code 2."""

import importlib
import logging
import os
import sys
from collections.abc import Sequence
from typing import TextIO

import fpl_fast
from fpl_fast.trainer.config.nearest import nearest
from fpl_fast.trainer.data.one_line import loader_fault
from fpl_fast.trainer.out_of_memory import explain_out_of_memory
from fpl_fast.trainer.writing.printable import printable

__all__ = ["StderrHandler", "main"]

# Modules of fpl_fast.trainer.commands, imported when needed: they need the extras, and most need torch, which takes
# seconds.
_COMMANDS = {
    "init": "describe a folder of images and masks: lists and a configuration to train with",
    "train": "train a recipe or a configuration file, or continue a run",
    "warmup": "compile what a run will launch, in parallel, before it begins",
    "study": "train a grid of runs to the end, and tabulate it: the paper's tables, or your own",
    "eval": "evaluate a run",
    "predict": "segment images with a run",
    "analyze": "compare a run's pseudo-labels and fuzzy positives with the truth",
    "report": "write the HTML report of a run",
    "recipes": "list the recipes",
    "data": "check a data set, or decode it once into a pack",
    "quickstart": "compare supervised training, CPS and FPL+CPS on synthetic scenes, in minutes",
    "bench": "audit the kernels offline, report benchmarks, or time training steps",
}
_INDUCTOR_CACHE = "TORCHINDUCTOR_CACHE_DIR"
_USAGE = "usage: fpl-fast COMMAND [...]\n\n{commands}\n\nfpl-fast COMMAND --help tells more; fpl-fast --version.\n"


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current standard error, which a progress bar replaces by itself to print lines above it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    def format(self, record: logging.LogRecord) -> str:
        """Format a record; names of files in it cannot command the terminal."""
        return printable(super().format(record), keep="\n")

    @property
    def stream(self) -> TextIO:  # type: ignore[override]  # the attribute is never set
        """Standard error."""
        return sys.stderr


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: Without the program's name; default the arguments of the process.

    Returns:
        Exit code: 0, 2 after a user error, 128 + signal after a stop by signal.
    """
    logging.basicConfig(format="%(message)s", handlers=[StderrHandler()])
    logging.getLogger("fpl_fast").setLevel(logging.INFO)
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if os.environ.get(_INDUCTOR_CACHE) == "":  # Inductor would make the current folder of it, for child processes too
        del os.environ[_INDUCTOR_CACHE]
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(
            _USAGE.format(commands="\n".join(f"  {name:<12}{summary}" for name, summary in _COMMANDS.items()))
        )
        return 0
    name, *rest = arguments
    if name == "--version":
        sys.stdout.write(f"fpl-fast {fpl_fast.__version__}\n")
        return 0
    try:
        if name not in _COMMANDS:
            raise ValueError(f"unknown command {name!r}{nearest(name, _COMMANDS)}")
        return importlib.import_module(f"fpl_fast.trainer.commands.{name}").main(rest)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package in ("", "fpl_fast"):
            raise
        return _fail(f'fpl-fast {name} needs {package}, which is not installed: pip install "fpl-fast[train]"')
    except (ValueError, FloatingPointError, OSError, MemoryError, RuntimeError) as error:
        text = explain_out_of_memory(error)
        if text is None and isinstance(error, RuntimeError):
            if not str(error).startswith("DataLoader worker"):
                raise
            text = str(loader_fault(error))  # torch reports a dead loader from wherever this process happens to be
        return _fail(text or str(error))
    except KeyboardInterrupt:
        return 130


def _fail(text: str) -> int:
    sys.stderr.write(f"error: {printable(' '.join(text.split()))}\n")
    return 2


if __name__ == "__main__":
    sys.exit(main())
