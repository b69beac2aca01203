"""``fpl-fast report``."""

from pathlib import Path

from fpl_fast.trainer.commands.console import Parser, out_console

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Write ``report.html`` of a run."""
    parser = Parser("fpl-fast report", "Write RUN/report.html, one file that needs nothing else.")
    parser.add_argument("run", metavar="RUN", help="folder of the run")
    parser.add_argument("--compare", metavar="RUN", nargs="+", default=[], help="runs to set beside it")
    options = parser.parse_args(arguments)

    from fpl_fast.trainer.report import write_report

    page = Path(options.run) / "report.html"
    if page.is_file() and b"fpl-fast</title>" not in page.read_bytes():
        raise ValueError(f"{page}: must be a report that fpl-fast wrote, got another page: move it elsewhere")
    out_console().print(str(write_report(options.run, compare=options.compare)))
    return 0
