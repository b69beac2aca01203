"""``fpl-fast eval``."""

from fpl_fast.trainer.commands.console import Parser, out_console
from fpl_fast.trainer.run_folder import RunFolder

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Evaluate a run, print the table of classes and keep it for the report."""
    parser = Parser("fpl-fast eval", "Evaluate a run on its validation images; writes RUN/evaluation.json.")
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--checkpoint", choices=("best", "last"), default="best", help="which weights")
    options = parser.parse_args(arguments)

    from fpl_fast.trainer.commands.progress import ProgressMonitor
    from fpl_fast.trainer.commands.tables import class_table
    from fpl_fast.trainer.trained import load_trained
    from fpl_fast.trainer.validation import save_evaluation, save_samples, validate

    folder = RunFolder(options.run)
    run = load_trained(folder, checkpoint=options.checkpoint)
    with ProgressMonitor(folder.path.name) as monitor:
        result = validate(run.network, run.val, run.config, run.fabric, monitor.validating)
    if run.fabric.is_global_zero:
        save_evaluation(folder, result, run.val, run.config.eval, step=run.step)
        save_samples(folder, run.network, run.val, run.config, run.fabric)
        out_console().print(class_table(run.val.class_names, {f"step {run.step}": result.per_class_iou}))
    return 0
