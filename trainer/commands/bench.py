"""``fpl-fast bench``."""

from fpl_fast.trainer.commands.console import Parser, out_console

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Compile the kernels offline and check their counts, or turn benchmark results into a report."""
    parser = Parser("fpl-fast bench", "Audit the kernels, which needs no GPU, or report benchmark results.")
    parser.add_argument("what", choices=("audit", "report"), help="what to do")
    parser.add_argument("results", metavar="JSON", nargs="?", help="report: results of make bench, or the newest")
    parser.add_argument("--update", action="store_true", help="audit: make the counts of now the ones to hold")
    options = parser.parse_args(arguments)

    if options.what == "audit":
        from fpl_fast.bench.audit import run_audit

        return run_audit(check=not options.update, update=options.update)
    from fpl_fast.bench.report import write_benchmark_report

    out_console().print(str(write_benchmark_report(options.results)))
    return 0
