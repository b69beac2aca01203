"""``fpl-fast report``."""

from fpl_fast.trainer.commands.console import Parser, out_console

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Write ``report.html`` of a run."""
    parser = Parser("fpl-fast report", "Write RUN/report.html, one file that needs nothing else.")
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--compare", metavar="RUN", nargs="+", default=[], help="runs to set beside it")
    options, others = parser.parse_known_args(arguments)
    if others:
        are_runs = not any(other.startswith("-") for other in others)
        remedy = f"; runs to set beside {options.run} come after --compare" if are_runs else ""
        parser.error(f"unrecognized arguments: {' '.join(others)}{remedy}")

    from fpl_fast.trainer.report import write_report

    out_console().print(str(write_report(options.run, compare=options.compare)))
    return 0
