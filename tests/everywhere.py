"""Runs the suite as other machines would: ``python tests/everywhere.py``, for ``make test-everywhere``.

Convolutions and sums round differently with each instruction set and number of threads, tests draw other numbers with
each seed and run in another order: no verdict may hang on any of that. Every run is a process of its own, because
PyTorch reads these settings when it is imported.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

# What an instruction set or a number of threads reaches: networks and the losses on them.
NUMERIC = ("accumulate", "adaptive_equalization", "ael", "annealed", "consistency", "consistency_loss",
           "context_consistency", "contours", "contrast", "corrmatch", "cross_consistency", "cutmix_seg",
           "deeplabv3plus", "distances", "dpt", "ema", "flaw_detector", "flaw_maps", "gct", "golden", "info_nce",
           "label_losses", "loop", "mean_teacher", "methods", "network", "perturbations", "regions", "step", "u2pl",
           "unimatch", "unimatch_v2")  # fmt: skip

# Tests of these files whose verdict is no number, or which compile for a minute in each setting.
NOT_NUMERIC = (
    "not published and not documentation and not reads_nothing_back and not synchronisation and not compile "
    "and not ignores_nothing"
)


class Setting(NamedTuple):
    """One kind of machine.

    Attributes:
        aten: Instruction set of PyTorch's own loops; on processors without it PyTorch takes the next lower one.
        onednn: Highest instruction set of oneDNN's convolutions, or None for the processor's.
        threads: Threads of a test process.
    """

    aten: str
    onednn: str | None
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """The variables that PyTorch, oneDNN and OpenMP read."""
        onednn = {} if self.onednn is None else {"ONEDNN_MAX_CPU_ISA": self.onednn}
        # Inductor does not tell apart what it has compiled for one instruction set and for another.
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir(), f"fpl_fast-everywhere-{self.aten}"))}
        return {"ATEN_CPU_CAPABILITY": self.aten, "OMP_NUM_THREADS": str(self.threads), **onednn, **cache}


SETTINGS = [Setting(*values) for values in itertools.product(("default", "avx2", "avx512"), (None, "AVX2"), (1, 2))]
SHORT = [Setting("default", None, 2), Setting("avx2", "AVX2", 1), Setting("avx512", "AVX2", 2)]


def plan(seeds: int) -> list[tuple[Setting, int]]:
    """Every setting with every seed; the first ``len(SETTINGS)`` runs have every setting once and seeds in turn."""
    rounds = itertools.product(range(seeds), enumerate(SETTINGS))
    return [(setting, (place + place // seeds + turn) % seeds) for turn, (place, setting) in rounds]


def run_suite(setting: Setting, seed: int, tests: list[str]) -> tuple[bool, str, str]:
    """Run tests in a process of their own; returns whether they passed, pytest's last line, and its whole output."""
    workers = max(1, (os.cpu_count() or 1) // setting.threads)
    command = [sys.executable, "-m", "pytest", "-q", "-n", str(workers), f"--randomly-seed={seed}"]
    command += ["--tb=short", "--show-capture=no", *tests]
    inherited = {name: value for name, value in os.environ.items() if name != "ONEDNN_MAX_CPU_ISA"}
    done = subprocess.run(command, capture_output=True, text=True, env=inherited | setting.environment)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    return done.returncode == 0, lines[-1].strip("= "), done.stdout + done.stderr


def main() -> int:
    """Run the plan, print a line for each run and what failed."""
    parser = argparse.ArgumentParser(description="The suite over instruction sets, threads, seeds and orders.")
    parser.add_argument("--numeric", action="store_true", help="only the tests that compute with networks")
    parser.add_argument("--short", action="store_true", help="these tests under three settings, a few minutes")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of every setting (default: 3)")
    parser.add_argument("--first", type=int, help="runs to take; twelve have every setting once, seeds in turn")
    parser.add_argument("--skip", type=int, default=0, help="runs of these to leave out, because they were made before")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="first seed (default: the time)")
    options = parser.parse_args()
    runs = [(setting, place) for place, setting in enumerate(SHORT)] if options.short else plan(options.seeds)
    runs = runs[: options.first]
    options.numeric |= options.short
    folder = Path(__file__).parent
    tests = [str(folder)]
    if options.numeric:
        tests = [*(str(folder / f"test_{name}.py") for name in NUMERIC), "-k", NOT_NUMERIC]
    if options.short:
        tests[-1] += " and not engines"
    failures = 0
    for number, (setting, place) in list(enumerate(runs, start=1))[options.skip :]:
        seed, begin = options.seed + place, time.monotonic()
        passed, verdict, output = run_suite(setting, seed, tests)
        failures += not passed
        print(
            f"{number:>3} of {len(runs)}  ATen {setting.aten:<7}  oneDNN {setting.onednn or '-':<4}  "
            f"threads {setting.threads}  seed {seed}  {time.monotonic() - begin:4.0f} s  {verdict}",
            flush=True,
        )
        if not passed:
            print(output, flush=True)
    print(f"{failures} of {len(runs) - options.skip} runs failed")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
