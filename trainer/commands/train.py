"""``fpl-fast train``."""

import argparse
import shlex
from pathlib import Path

from fpl_fast.trainer.commands.console import out_console
from fpl_fast.trainer.config import RunConfig
from fpl_fast.trainer.config_io import config_to_dict, flatten, load_config, override_config
from fpl_fast.trainer.recipes import make_recipe
from fpl_fast.trainer.run_folder import RunFolder, free_path

__all__ = ["main", "read_config", "run_training"]

_PROG = "fpl-fast train RECIPE|CONFIG.yaml [--out DIR [--auto-resume]]"
_DESCRIPTION = """
RECIPE is one of fpl-fast recipes; the defaults below are those of the recipe given. --out names the run folder
(default runs/RECIPE). fpl-fast train --resume DIR continues a run that was stopped; --auto-resume does so where DIR
holds the same run and begins it otherwise, for launchers that repeat a command (torchrun, SLURM).
"""


def main(arguments: list[str]) -> int:
    """Train a recipe or a configuration file with changes, or continue a run."""
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    own.add_argument("--out")
    own.add_argument("--resume")
    own.add_argument("--auto-resume", action="store_true")
    try:
        options, rest = own.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from None

    if options.resume is not None:
        if rest or options.out is not None or options.auto_resume:
            others = shlex.join(rest) or ("--out" if options.out is not None else "--auto-resume")
            raise ValueError(f"--resume goes alone: the run keeps its configuration, got {others}")
        folder = RunFolder(options.resume)
        return run_training(folder.load_config(), folder, resume=True)

    if options.auto_resume and options.out is None:
        raise ValueError("--auto-resume must come with --out, which names the run to continue, got no --out")
    config = read_config(rest, prog=_PROG, description=_DESCRIPTION)
    folder = RunFolder(options.out or free_path(Path("runs") / (config.recipe or "run")))
    resume = options.auto_resume and folder.config.is_file()
    if resume:
        _require_same(folder, config)
    return run_training(config, folder, resume=resume)


def _require_same(folder: RunFolder, config: RunConfig) -> None:
    """Check that a run to continue is the one that the command line describes.

    Raises:
        ValueError: It is another one; the first setting that differs is named.
    """
    theirs, ours = (flatten(config_to_dict(c)) for c in (folder.load_config(), config))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise ValueError(
                f"{folder.config}: --auto-resume must be given the settings of the run, got {key} {ours.get(key)!r} "
                f"instead of {theirs.get(key)!r}"
            )


def read_config(arguments: list[str], *, prog: str, description: str) -> RunConfig:
    """The configuration that the first argument names, changed by the others.

    Args:
        arguments: A recipe or a file, and options.
        prog: Command that the help shows.
        description: What the help says first.

    Raises:
        ValueError: There is no such recipe, file, option or value.
    """
    named = bool(arguments) and not arguments[0].startswith("-")
    if not named and not {"-h", "--help"} & set(arguments):
        raise ValueError("the first argument must be a recipe or a configuration file; fpl-fast recipes lists recipes")
    name = arguments[0] if named else "synthetic/fpl_cps_cutmix"
    config = load_config(name) if name.endswith((".yaml", ".yml")) else make_recipe(name)
    return override_config(config, arguments[named:], prog=prog, description=description)


def run_training(config: RunConfig, folder: RunFolder, *, resume: bool = False) -> int:
    """Train with a progress bar, write the report, say what came out; returns the exit code."""
    from fpl_fast.trainer.commands.progress import ProgressMonitor
    from fpl_fast.trainer.loop import train
    from fpl_fast.trainer.report import write_report

    with ProgressMonitor(folder.path.name) as monitor:
        outcome = train(config, folder, monitor, resume=resume)
    if outcome.stopped_by is not None:
        if outcome.is_first:
            command = shlex.join(["fpl-fast", "train", "--resume", str(folder.path)])
            out_console().print(f"stopped after step {outcome.step} of {config.train.steps}; continue with: {command}")
        return 128 + outcome.stopped_by
    if outcome.is_first:
        report = write_report(folder.path)
        out_console().print(f"mIoU {100 * outcome.miou:.2f} % after step {outcome.step}; report: {report}")
    return 0
