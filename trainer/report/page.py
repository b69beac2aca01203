"""Assembles the sections of the report in one file."""

import html
import shlex
from collections.abc import Sequence
from pathlib import Path

import yaml

from fpl_fast.trainer.report.analysis import positives
from fpl_fast.trainer.report.classes import classes, confusion
from fpl_fast.trainer.report.comparison import comparison, differences
from fpl_fast.trainer.report.document import document
from fpl_fast.trainer.report.evaluations import other_evaluations
from fpl_fast.trainer.report.pictures import pictures
from fpl_fast.trainer.report.progress import class_progress
from fpl_fast.trainer.report.run import Run, read_run
from fpl_fast.trainer.report.summary import curves, header
from fpl_fast.trainer.report.text import missing
from fpl_fast.trainer.writing.replacing import replacing

__all__ = ["write_report"]


def write_report(run_dir: Path | str, compare: Sequence[Path | str] = ()) -> Path:
    """Write ``report.html`` into a run folder: curves, per-class scores, confusion matrix, pictures, configuration.

    The page is one file without scripts and without requests. Parts that the run has not produced yet are named as
    missing.

    Args:
        run_dir: a run folder as training writes it.
        compare: other run folders, drawn into the same curves; score differences refer to the first of them.

    Returns:
        The path of the page.

    Raises:
        ValueError: if a folder is no run, or a file in it cannot be understood.

    Example:
        >>> write_report("runs/fpl_cps_cutmix", compare=["runs/supervised"])  # doctest: +SKIP
    """
    run = read_run(run_dir)
    path = run.path / "report.html"
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: must be free for the report, got a folder: move it elsewhere")
    others = [read_run(path) for path in compare]
    body = "\n".join(
        [
            header(run),
            comparison(run, others),
            differences(run, others),
            curves(run, others),
            classes(run, others),
            class_progress(run),
            confusion(run),
            other_evaluations(run),
            pictures(run, others),
            positives(run),
            _details(run),
        ]
    )
    page = document(run.name, body)
    if path.is_file() and b"fpl-fast</title>" not in path.read_bytes():
        raise ValueError(f"{path}: must be a report that fpl-fast wrote, got another page: move it elsewhere")
    with replacing(path) as file:
        file.write(page.encode())
    return path


def _details(run: Run) -> str:
    """Render the command to repeat the run, its environment, and the whole configuration."""
    folder = run.path.relative_to(Path.cwd()) if run.path.is_relative_to(Path.cwd()) else run.path
    command = shlex.join(["fpl-fast", "train", f"{folder}/config.yaml", "--out", f"{folder}-again"])
    environment = "".join(
        f"<dt>{html.escape(key)}</dt><dd>{html.escape(value)}</dd>" for key, value in run.environment.items()
    )
    config = html.escape(yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True))
    return (
        "<section class=stack><h2>Run it again</h2>"
        f"<pre>{html.escape(command)}</pre>"
        f"{f'<dl>{environment}</dl>' if environment else missing('The machine and the versions were not recorded.')}"
        f"<details><summary>Configuration</summary><pre>{config}</pre></details></section>"
    )
