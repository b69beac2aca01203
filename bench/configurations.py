"""Times of other launch configurations at full resolution, on a GPU: ``python -m fpl_fast.bench.configurations``.

What the audit counts does not say how long a kernel takes: how many warps are resident, and whether they wait for each
other, decides as much. All configurations are compiled first, side by side, into Triton's cache; then each is timed
alone, the usual one first.
"""

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple
from unittest.mock import patch

import torch
from torch import Tensor

from fpl_fast import fuzzy_positive_loss
from fpl_fast.bench.cases import Case, Inputs, make_inputs
from fpl_fast.bench.trace import Launches, trace_launches
from fpl_fast.kernels import full_resolution, fuzzy_positive
from fpl_fast.kernels.configs import Config, choose_config

__all__ = ["PROBLEMS", "Problem", "compile_configuration", "describe", "main", "step"]

_WARM_UP, _STEPS = 2, 8
_NAME_LENGTH = 24


class Problem(NamedTuple):
    """A case and the configurations to try beside the usual one."""

    case: Case
    balance: bool
    others: tuple[Config, ...]
    in_tiles: bool = False
    """Many classes in tiles, though they are few enough to be read in chunks."""

    @property
    def title(self) -> str:
        """Words for a heading."""
        return f"{self.case}{', balance' * self.balance}{', in tiles' * self.in_tiles}"

    @property
    def configurations(self) -> tuple[Config | None, ...]:
        """The usual one, as None, and the others."""
        return None, *self.others


def _problems() -> Iterator[Problem]:
    """Those that no GPU has timed yet come first."""
    narrow = partial(Case, dtype=torch.bfloat16)
    chunks = tuple(Config(*x) for x in ((10, 64, 1), (15, 64, 1, 96), (15, 64, 1), (10, 128, 2, 80), (10, 32, 1)))
    for num_classes, group in ((150, 8), (60, 2), (100, 4), (171, 8)):
        case = narrow(shape=(4, num_classes, 512, 512))
        tiles = [(256 // group, 4), (256 // group, 4, 168), (128 // group, 2), (64 // group, 1), (64, 8)]
        yield Problem(case, False, chunks)
        yield Problem(case, False, tuple(Config(group, *x) for x in tiles), in_tiles=True)
    rows = tuple(Config(1, *x) for x in ((128, 2), (128, 2, 128), (128, 2, 96), (64, 2), (256, 4)))
    for balance in (False, True):
        yield Problem(narrow(shape=(8, 19, 512, 512), layout="nhwc"), balance, rows)
    planes = tuple(Config(1, *x) for x in ((64, 1), (64, 1, 128), (64, 1, 96), (128, 2), (256, 4), (128, 4)))
    for balance in (False, True):
        yield Problem(narrow(shape=(8, 19, 512, 512)), balance, planes)
    yield Problem(narrow(shape=(8, 19, 512, 512), max_positives=None), False, planes)
    for balance in (False, True):
        yield Problem(
            Case(shape=(8, 19, 512, 512)), balance, tuple(Config(1, *x) for x in ((128, 4), (32, 1), (64, 2)))
        )


PROBLEMS = tuple(_problems())


def main(arguments: list[str] | None = None) -> int:
    """Compile, time and print all configurations."""
    parser = argparse.ArgumentParser(description="Time launch configurations of the fuzzy positive loss on this GPU.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="compilations at a time; default: %(default)s")
    parser.add_argument("--only", metavar="WORD", nargs="+", help="problems whose title has one of the words, as 4x150")
    options = parser.parse_args(arguments)
    problems = [x for x in PROBLEMS if not options.only or any(word in x.title for word in options.only)]
    if not problems:
        titles = "; ".join(problem.title for problem in PROBLEMS)
        parser.error(f"--only must have a word of a title, got {' '.join(options.only)!r}: {titles}")
    if not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU, on which configurations are timed; fpl-fast bench audit counts without one")
    device = torch.device("cuda")
    with multiprocessing.get_context("spawn").Pool(max(options.jobs, 1)) as pool:
        todo = [(problem, config, device) for problem in problems for config in problem.configurations]
        pool.starmap(compile_configuration, todo, chunksize=1)
    for problem in problems:
        sys.stdout.write(f"## {problem.title}\n")
        inputs = make_inputs(problem.case, device)
        for config in problem.configurations:
            run = partial(step, problem, inputs, config)
            for _ in range(_WARM_UP):
                run()
            launches = trace_launches(partial(_repeat, run), device)
            sys.stdout.write(describe(config, launches, _STEPS) + "\n")
            sys.stdout.flush()
    return 0


def compile_configuration(problem: Problem, config: Config | None, device: torch.device) -> None:
    """Compile what a problem takes with a configuration, by a small step."""
    small = replace(problem.case, shape=(1, problem.case.num_classes, 64, 64))
    step(problem._replace(case=small), make_inputs(small, device), config)


def step(problem: Problem, inputs: Inputs, config: Config | None) -> tuple[Tensor, Tensor]:
    """Compute the loss and its gradient with a configuration; None stands for the usual one."""

    def choose(*_: object, **__: object) -> Config:
        assert config is not None
        return config

    def never(*_: object) -> bool:
        return False

    # Launches are kept by their arguments, among which no configuration is.
    with (
        patch.dict(full_resolution._REPLAYS, clear=True),
        patch.object(full_resolution, "choose_config", choose if config else choose_config),
        patch.object(fuzzy_positive, "is_streamed", never if problem.in_tiles else fuzzy_positive.is_streamed),
    ):
        loss = fuzzy_positive_loss(
            inputs.student,
            inputs.teacher,
            max_positives=problem.case.max_positives,
            balance=problem.balance,
            engine="triton",
        )
    return loss.detach(), torch.autograd.grad(loss, inputs.student)[0]


def _repeat(run: Callable[[], object]) -> None:
    for _ in range(_STEPS):
        run()


def describe(config: Config | None, launches: tuple[Launches, ...], steps: int) -> str:
    """Render the launches of some steps as a line: microseconds of a step, and of each kernel in it."""
    name = "as usual" if config is None else " ".join(f"{key} {value}" for key, value in config._asdict().items())
    kernels = ", ".join(f"{x.name[:_NAME_LENGTH]} {x.total_us / steps:.2f}" for x in launches)
    return f"{name}: {sum(x.total_us for x in launches) / steps:.1f} us: {kernels}"


if __name__ == "__main__":
    sys.exit(main())
