"""``fpl-fast eval``."""

from pathlib import Path

from fpl_fast.trainer.commands.console import Parser, out_console
from fpl_fast.trainer.commands.settings import expand_short_names
from fpl_fast.trainer.run.folder import RunFolder

__all__ = ["main"]

_DESCRIPTION = """
Evaluate a run: IoU by class, pixel accuracy, confusion matrix. With the data, the protocol and the weights (by their
step) that the run itself was last evaluated with they go to RUN/evaluation.json and confusion.csv, from where fpl-fast
report takes them, otherwise to RUN/evaluations/NAME, which tells what differs.
Every setting of the run can be changed as in training: --protocol ael, --data-root DIR, --eval.window [769,769], ...
"""


def main(arguments: list[str]) -> int:
    """Evaluate a run, print the table of classes and keep it."""
    parser = Parser("fpl-fast eval", _DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights")
    parser.add_argument("--split", default="val", help="val, train (the labelled images), or a list file")
    parser.add_argument(
        "--export",
        metavar="DIR",
        help="also write the predictions: official label ids for Cityscapes, class indices for other data sets",
    )
    options, changes = parser.parse_known_args(expand_short_names(arguments))

    from fpl_fast.trainer.commands.progress import ProgressMonitor
    from fpl_fast.trainer.commands.tables import class_table
    from fpl_fast.trainer.data.datasets import build_split
    from fpl_fast.trainer.evaluation.export import Exporter
    from fpl_fast.trainer.evaluation.own_result import differences, place_evaluation
    from fpl_fast.trainer.evaluation.trained import load_trained
    from fpl_fast.trainer.evaluation.validation import save_evaluation, save_samples, validate
    from fpl_fast.trainer.recipes.tables import published_number

    folder = RunFolder(options.run)
    run = load_trained(folder, checkpoint=options.checkpoint, changes=changes)
    dataset = build_split(run.config.data, options.split)
    export = Exporter(Path(options.export), dataset, run.config) if options.export else None
    with ProgressMonitor(folder.path.name) as monitor:
        result = validate(run.network, dataset, run.config, run.fabric, monitor.validating, export)
    if not run.fabric.is_global_zero:
        return 0
    names = run.classes.names
    differs = differences(folder, run.config, options.split, run.step, result)
    path = place_evaluation(folder, run.config, options.split, run.step, differs)
    save_evaluation(path, result, names, run.config.eval, step=run.step, split=options.split, differs=differs)
    if not differs:
        save_samples(folder, run.network, dataset, run.config, run.fabric)
    table = class_table(names, {f"step {run.step}": result.per_class_iou})
    table.add_row("pixel accuracy", f"{100 * result.pixel_accuracy:.1f}")
    out_console().print(table)
    published = published_number(run.config)
    if differs:
        out_console().print(f"not the run's own result, which differs in {', '.join(differs)}")
    if published:
        out_console().print(f"the paper's mIoU for this recipe, backbone and partition: {published.miou:.2f} %")
    out_console().print(f"{path}, {path.with_name('confusion.csv')}" + (f", {options.export}" if export else ""))
    return 0
