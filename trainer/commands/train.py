"""``fpl-fast train``."""

import shlex
from pathlib import Path

from fpl_fast.trainer.commands.console import out_console
from fpl_fast.trainer.commands.settings import read_config, take_options
from fpl_fast.trainer.config import PublicData, RunConfig
from fpl_fast.trainer.run.folder import RunFolder, free_path
from fpl_fast.trainer.run.same_run import require_same_run

__all__ = ["main", "run_training"]

_PROG = "fpl-fast train RECIPE|CONFIG.yaml [--partition 1/N] [--dry-run] [--out DIR [--auto-resume]]"
_DESCRIPTION = """
RECIPE is one of fpl-fast recipes; the defaults below are those of the recipe given. --out names the run folder
(default runs/RECIPE). --partition is the labelled part of voc or city and brings its number of steps; --backbone and
--data-root are short for --model.backbone and --data.root. --dry-run takes two steps on random images, without the
data, and tells what the run will need. fpl-fast train --resume DIR continues a run that was stopped; --auto-resume does
so where DIR holds the same run and begins it otherwise, for launchers that repeat a command (torchrun, SLURM).
"""


def main(arguments: list[str]) -> int:
    """Train a recipe or a configuration file with changes, or continue a run."""
    options, rest = take_options(arguments, "--out", "--resume", flags=["--auto-resume", "--dry-run"])
    if options.resume is not None:
        if rest or options.out is not None or options.auto_resume or options.dry_run:
            raise ValueError(f"--resume goes alone: the run keeps its configuration, got {shlex.join(arguments)}")
        folder = RunFolder(options.resume)
        return run_training(folder.load_config(), folder, resume=True)

    if options.auto_resume and options.out is None:
        raise ValueError("--auto-resume must come with --out, which names the run to continue, got no --out")
    config = read_config(rest, prog=_PROG, description=_DESCRIPTION)
    if options.dry_run:
        return _show_dry_run(config)
    folder = RunFolder(options.out or free_path(_default_path(config)))
    resume = options.auto_resume and folder.config.is_file()
    if resume:
        require_same_run(folder.load_config(), config, source="--auto-resume")
    return run_training(config, folder, resume=resume)


def _default_path(config: RunConfig) -> Path:
    """Default folder runs/RECIPE, for a cell of the paper's tables with backbone and part of the labels."""
    path = Path("runs") / (config.recipe or "run")
    if not isinstance(config.data, PublicData):
        return path
    return path.with_name(f"{path.name}-{config.model.backbone}-{config.data.partition.replace('/', '_')}")


def _show_dry_run(config: RunConfig) -> int:
    from fpl_fast.trainer.commands.tables import dry_run_table
    from fpl_fast.trainer.dry_run import dry_run

    result = dry_run(config)
    if result.is_first:
        out_console().print(dry_run_table(config, result))
    return 0


def run_training(config: RunConfig, folder: RunFolder, *, resume: bool = False) -> int:
    """Train with a progress bar, write the report, print the result and return the exit code."""
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
