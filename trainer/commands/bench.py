"""``fpl-fast bench``."""

import argparse
from collections.abc import Callable
from typing import Any

from fpl_fast.trainer.commands.console import Parser, out_console

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Audit the kernels offline, or turn benchmark results into a report."""
    parser = Parser("fpl-fast bench", "What the kernels cost: counted offline, or measured.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    audit = _add(commands, "audit", "Compile the kernels, which needs no GPU, and check their counts.", _audit)
    audit.add_argument("--update", action="store_true", help="make the counts of now the ones to hold")

    report = _add(commands, "report", "Turn results of make bench into Markdown and pictures.", _report)
    report.add_argument("results", metavar="JSON", nargs="?", help="results; without it the newest in bench/results")
    report.add_argument("--out", metavar="DIR", help="folder of the report; without it that of the results")

    options = parser.parse_args(arguments)
    return options.run(options)


def _add(commands: Any, name: str, description: str, run: Callable[[argparse.Namespace], int]) -> Parser:
    parser: Parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    return parser


def _audit(options: argparse.Namespace) -> int:
    from fpl_fast.bench.audit import run_audit

    return run_audit(check=not options.update, update=options.update)


def _report(options: argparse.Namespace) -> int:
    from fpl_fast.bench.report import write_benchmark_report

    out_console().print(str(write_benchmark_report(options.results, options.out)))
    return 0
