"""``fpl-fast warmup``."""

import os
import time

from rich.table import Table

from fpl_fast.trainer.commands.console import out_console
from fpl_fast.trainer.commands.settings import read_config
from fpl_fast.trainer.config import RunConfig

__all__ = ["main"]

_PROG = "fpl-fast warmup RECIPE|CONFIG.yaml [--partition 1/N]"
_DESCRIPTION = """
Compile what this run will launch, several kernels at once, so that its first step does not wait: the losses' kernels
into Triton's cache, and the networks with --train.compile true. The run's own code makes the calls, one step on random
images and one prediction, without the data: this takes the GPU that the run will have, once for each kind. On a CPU it
builds the graphs of the compiled engine.
"""


def main(arguments: list[str]) -> int:
    """Compile for a recipe or a configuration file with changes."""
    return _warm_up(read_config(arguments, prog=_PROG, description=_DESCRIPTION))


def _warm_up(config: RunConfig) -> int:
    from fpl_fast.trainer.commands.progress import counting
    from fpl_fast.trainer.warmup import warm_up

    console, begin = out_console(), time.perf_counter()
    with counting() as count:
        result = warm_up(config, len(os.sched_getaffinity(0)), count("compiled"))
    took = time.perf_counter() - begin
    if not result.compiled:
        console.print(f"nothing to compile: on this device ({result.device}) the run's losses are plain PyTorch")
        return 0
    table = Table("compiled", "from", "seconds")
    table.columns[-1].justify = "right"
    for one in sorted(result.compiled, key=lambda one: -one.seconds):
        table.add_row(one.name, "cache" if one.was_there else "anew", f"{one.seconds:.1f}")
    console.print(table)
    anew = [one.seconds for one in result.compiled if not one.was_there]
    console.print(
        f"{result.device}: {len(anew)} of {len(result.compiled)} compiled anew, {sum(anew):.0f} s of compilation; "
        f"{took:.0f} s in all, one step and one prediction among them"
    )
    for folder in sorted({one.file.parent for one in result.compiled if one.file is not None}):
        console.print(f"graphs are in {folder}", soft_wrap=True)
    return 0
