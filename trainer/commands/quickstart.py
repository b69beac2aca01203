"""``fpl-fast quickstart``."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from fpl_fast.trainer.commands.console import Parser, folder_name, out_console
from fpl_fast.trainer.config import SyntheticData
from fpl_fast.trainer.run.folder import free_path

if TYPE_CHECKING:
    from fpl_fast.trainer.study.grid import Study
    from fpl_fast.trainer.study.state import StudyFolder

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Train with the same few labels, without unlabelled images, with CPS and with FPL, and compare the results."""
    parser = Parser(
        "fpl-fast quickstart",
        "Train on synthetic street scenes from the same few labels, supervised, by CPS and by FPL+CPS, and compare: "
        "the study of that name, one run for each core, with a report for each run. The same command goes on after a "
        "stop or a kill.",
    )
    parser.add_argument("--out", type=folder_name, metavar="DIR",
        help="folder of the study; default runs/quickstart, or "
                        "runs/quickstart-2 and so on where that is finished or holds something else")  # fmt: skip
    parser.add_argument("--seeds", type=int, metavar="N", default=1, help="seeds of training, 0 to N - 1; default 1")
    options = parser.parse_args(arguments)
    return _run(Path(options.out) if options.out else None, options.seeds)


def _run(path: Path | None, seeds: int) -> int:
    from fpl_fast.trainer.commands.study import train_study
    from fpl_fast.trainer.study.gpus import visible_gpus
    from fpl_fast.trainer.study.grid import read_study
    from fpl_fast.trainer.study.launch import Launcher
    from fpl_fast.trainer.study.state import StudyFolder

    study = read_study("quickstart", seeds=seeds)
    if path is None:
        path = free_path(Path("runs") / "quickstart", is_free=lambda path: StudyFolder(path).has_open_runs(study))
    folder = StudyFolder(path)
    gpus = visible_gpus()
    again = shlex.join(["fpl-fast", "quickstart", "--seeds", str(seeds), "--out", str(path)])
    jobs = min(len(study.trials), len(os.sched_getaffinity(0)))
    with folder.hold(study):
        launcher = Launcher(folder.jobs, cluster="local", devices=1 if gpus else 0, options={})
        code = train_study(study, folder, launcher, jobs=jobs, gpus=gpus, command=again)
        if code == 0:
            _compare(study, folder)
    return code


def _compare(study: "Study", folder: "StudyFolder") -> None:
    """Write the report of each run beside the others of its seed, and print the classes."""
    import numpy as np

    from fpl_fast.trainer.commands.tables import class_table
    from fpl_fast.trainer.data.datasets import class_table as classes_of
    from fpl_fast.trainer.report import read_run, write_report

    iou = {}
    paths = {trial: folder.run(trial).path for trial in study.trials}
    console = out_console()
    for trial, path in paths.items():
        others = [other for rival, other in paths.items() if rival.seed == trial.seed and other != path]
        console.print(f"report: {write_report(path, compare=others)}")
        evaluation = read_run(path).evaluation
        assert evaluation is not None  # of a run that is done
        iou[trial] = evaluation.iou

    data = study.trials[0].config.data
    assert isinstance(data, SyntheticData)
    console.print()
    console.print(f"{data.num_labelled} labelled images, {data.num_unlabelled} unlabelled, {data.num_val} to evaluate")
    console.print(class_table(classes_of(data).names, {
        cell.recipe.partition("/")[2]: np.nanmean([iou[trial] for trial in study.trials if trial.cell == cell], axis=0)
        for cell in study.cells
    }))  # fmt: skip
