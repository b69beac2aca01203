"""``fpl-fast quickstart``."""

import dataclasses
from pathlib import Path

from fpl_fast.trainer.commands.console import Parser, out_console
from fpl_fast.trainer.config import OptimConfig, RunConfig, SyntheticData
from fpl_fast.trainer.recipes import make_recipe
from fpl_fast.trainer.run.folder import RunFolder, free_path

__all__ = ["main"]

METHODS = ("supervised", "cps_cutmix", "fpl_cps_cutmix")

# Three runs fit into four minutes on two cores, and networks from scratch get further in them by AdamW than by the
# SGD of the recipes.
_STEPS = 500
_OPTIM = OptimConfig(algorithm="adamw", lr=0.01, weight_decay=0.01)


def main(arguments: list[str]) -> int:
    """Train with the same few labels, without unlabelled images, with CPS and with FPL, and compare the results."""
    parser = Parser(
        "fpl-fast quickstart",
        "Train on synthetic street scenes from the same few labels, supervised, by CPS and by FPL+CPS, and compare.",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the three runs; default runs/quickstart")
    parser.add_argument("--seed", type=int, default=0, help="seed of training; the scenes stay the same")
    options = parser.parse_args(arguments)
    parent = Path(options.out) if options.out else free_path(Path("runs") / "quickstart")
    folders = {method: RunFolder(parent / method) for method in METHODS}
    for folder in folders.values():
        folder.require_free()

    from fpl_fast.trainer.commands.train import run_training
    from fpl_fast.trainer.report import write_report

    for method, folder in folders.items():
        code = run_training(_config(method, options.seed), folder)
        if code:
            return code
    paths = [folder.path for folder in folders.values()]
    reports = [write_report(path, compare=[other for other in paths if other != path]) for path in paths]
    _show(folders, reports)
    return 0


def _config(method: str, seed: int) -> RunConfig:
    config = make_recipe(f"synthetic/{method}")
    return dataclasses.replace(config, optim=_OPTIM, train=dataclasses.replace(config.train, steps=_STEPS, seed=seed))


def _show(folders: dict[str, RunFolder], reports: list[Path]) -> None:
    """Print the final table."""
    from fpl_fast.trainer.commands.tables import class_table
    from fpl_fast.trainer.report import read_run

    runs = [read_run(folder.path) for folder in folders.values()]
    data = folders[METHODS[0]].load_config().data
    assert isinstance(data, SyntheticData)
    console = out_console()
    console.print()
    console.print(f"{data.num_labelled} labelled images, {data.num_unlabelled} unlabelled, {data.num_val} to evaluate")
    evaluations = {run.name: run.evaluation for run in runs if run.evaluation is not None}
    (names, *_) = (evaluation.class_names for evaluation in evaluations.values())
    table = class_table(names, {run: evaluation.iou.tolist() for run, evaluation in evaluations.items()})
    table.add_row("pixel accuracy", *(f"{100 * evaluation.pixel_accuracy:.1f}" for evaluation in evaluations.values()))
    table.add_row("seconds", *(f"{run.elapsed_s:.0f}" for run in runs))
    console.print(table)
    for report in reports:
        console.print(f"report: {report}")
