"""``fpl-fast bench``."""

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from fpl_fast.trainer.commands.console import Parser, folder_name, out_console

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Audit the kernels offline, report benchmark results, or time training steps."""
    parser = Parser("fpl-fast bench", "What the kernels cost: counted offline, or measured.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    audit = _add(commands, "audit", "Compile the kernels, which needs no GPU, and check their counts.", _audit)
    audit.add_argument("--update", action="store_true", help="make the counts of now the ones to hold")

    report = _add(commands, "report", "Turn results of make bench into Markdown and pictures.", _report)
    report.add_argument("results", metavar="JSON", nargs="?", help="results; without it the newest in bench/results")
    report.add_argument(
        "--out", type=folder_name, metavar="DIR", help="folder of the report; without it that of the results"
    )

    train = _add(commands, "train", "Time training steps against the style of the public code.", _train)
    train.add_argument("--backbone", help="of the networks; without it resnet50 on a GPU, a tiny one on a CPU")
    train.add_argument("--crop", type=int, help="height and width, pixels; without it 512, 128 on a CPU")
    train.add_argument("--batch", type=int, help="labelled images a step, twice as many unlabelled; else 8, 2 on a CPU")
    train.add_argument("--seconds", type=float, default=60.0, help="time for the rounds, once all is compiled")
    train.add_argument("--out", type=folder_name, metavar="DIR", help="folder of the results; without it bench/results")

    methods = _add(commands, "methods", "Measure steps a second and memory of every method beside CPS.", _methods)
    methods.add_argument(
        "methods", metavar="METHOD", nargs="*", help="as `fpl-fast recipes` lists them; without it all"
    )
    methods.add_argument("--backbone", help="of all networks; without it that of each recipe")
    methods.add_argument("--crop", type=int, help="height and width, pixels; without it 512, on a CPU 64 x 96")
    methods.add_argument("--batch", type=int, help="labelled images a step, as many unlabelled; else 8, 4 on a CPU")
    methods.add_argument("--rounds", type=int, default=5, help="rounds of four steps")
    methods.add_argument(
        "--out", type=folder_name, metavar="DIR", help="folder of the results; without it bench/results"
    )

    options = parser.parse_args(arguments)
    return options.run(options)


def _add(commands: Any, name: str, description: str, run: Callable[[argparse.Namespace], int]) -> Parser:
    parser: Parser = commands.add_parser(name, help=description, description=description)
    parser.set_defaults(run=run)
    return parser


def _audit(options: argparse.Namespace) -> int:
    from fpl_fast.bench.audit.table import run_audit

    return run_audit(check=not options.update, update=options.update)


def _report(options: argparse.Namespace) -> int:
    from fpl_fast.bench.report import write_benchmark_report
    from fpl_fast.bench.results import latest_results

    results = Path(options.results or latest_results())
    _require_replaceable(Path(options.out or results.parent) / results.stem, results)
    out_console().print(str(write_benchmark_report(results, options.out)))
    return 0


def _require_replaceable(stem: Path, results: Path) -> None:
    """Check that a report with its pictures would replace nothing but an earlier report.

    Raises:
        ValueError: A file would be lost.
    """
    report = stem.with_name(f"{stem.name}.md")
    if report.is_file() and results.is_file() and report.samefile(results):
        raise ValueError(f"{results}: results must be the JSON file, got the name of its report")
    ours = report.is_file() and report.read_bytes().startswith(b"# FPL loss on ")
    pictures = [stem.with_name(f"{stem.name}-{name}.png") for name in ("time", "roofline", "memory")]
    for path in [report, *pictures]:
        if path.exists() and not ours:
            raise ValueError(
                f"--out must not write over what fpl-fast did not write, got {str(path)!r}: choose another folder"
            )


def _train(options: argparse.Namespace) -> int:
    import torch

    from fpl_fast.bench.training.peers import default_setup
    from fpl_fast.bench.training.timing import write_training_benchmark

    setup = default_setup("cuda" if torch.cuda.is_available() else "cpu")
    given = {name: getattr(options, name) for name in ("backbone", "crop", "batch")}
    setup = dataclasses.replace(setup, **{name: value for name, value in given.items() if value is not None})
    console = out_console()
    report = write_training_benchmark(setup, seconds=options.seconds, out=options.out, say=console.print)
    console.print(str(report))
    return 0


def _methods(options: argparse.Namespace) -> int:
    import torch

    from fpl_fast.bench.training.methods import Sizes, write_methods_benchmark
    from fpl_fast.trainer.recipes import METHOD_SUMMARIES

    device: Literal["cpu", "cuda"] = "cuda" if torch.cuda.is_available() else "cpu"
    usual = Sizes(crop=512, batch=8) if device == "cuda" else Sizes()
    given = {name: getattr(options, name) for name in ("crop", "batch", "backbone")}
    sizes = usual._replace(**{name: value for name, value in given.items() if value is not None})
    console = out_console()
    report = write_methods_benchmark(
        options.methods or list(METHOD_SUMMARIES),
        device=device,
        sizes=sizes,
        rounds=options.rounds,
        out=options.out,
        say=console.print,
    )
    console.print(str(report))
    return 0
