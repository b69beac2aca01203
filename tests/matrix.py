"""Runs tests with other versions of Python and PyTorch: ``python tests/matrix.py 3.12:2.11.0 3.13:newest``.

For ``make matrix``. Each pair has an environment of its own in ``build/matrix``, which is kept; NumPy, Triton and the
others are what pip finds for it. The interpreters, such as ``python3.12``, must be on the PATH.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "build" / "matrix"

# What a version reaches: PyTorch's operators and compiler, Triton's interpreter, files, the trainer's libraries.
TESTS = ("adaptive_threshold", "arguments", "backbone", "checkpoint", "consistency_loss", "derivatives", "dpt",
         "functional", "golden", "kept_files", "kernels_fuzzy_positive", "kernels_upsampled", "label_losses",
         "loggers", "loop", "ops", "optim", "pack", "packages", "planes", "predict", "pseudo_labels", "recipes",
         "reference", "resume", "schedules", "step", "transforms", "weights")  # fmt: skip
# Triton 3.6's interpreter takes arrays of one element for numbers, which NumPy 2.4 refuses; a GPU does not need it.
NUMPY = {"2.11": "numpy<2.4"}
TOOLS = ("pytest", "pytest-xdist", "pytest-randomly", "hypothesis")
LIBRARIES = ("torch", "triton", "numpy", "lightning", "timm")


class Cell(NamedTuple):
    """A Python and a PyTorch, which may be "newest"."""

    python: str
    torch: str

    @classmethod
    def parse(cls, text: str) -> "Cell":
        """A cell as the command line has it, 3.12:2.11.0."""
        if not (match := re.fullmatch(r"(3\.\d+):(\d+(?:\.\d+)+|newest)", text)):
            raise argparse.ArgumentTypeError(f"must be PYTHON:TORCH such as 3.12:2.11.0 or 3.13:newest, got {text}")
        return cls(*match.groups())

    @property
    def environment(self) -> Path:
        """Folder of the virtual environment."""
        return FOLDER / f"python{self.python}-torch{self.torch}"


def install(cell: Cell) -> str | None:
    """Make or complete the environment of a cell; the reason where that fails."""
    interpreter = shutil.which(f"python{cell.python}")
    if interpreter is None:
        return f"python{cell.python} is not on the PATH"
    python = cell.environment / "bin" / "python"
    torch = "torch" if cell.torch == "newest" else f"torch=={cell.torch}"
    commands = [] if python.exists() else [[interpreter, "-m", "venv", str(cell.environment)]]
    numpy = NUMPY.get(".".join(cell.torch.split(".")[:2]), "numpy")
    commands += [[str(python), "-m", "pip", "install", "--quiet", torch, numpy, "-e", f"{ROOT}[train]", *TOOLS]]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            return next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
    return None


def versions(cell: Cell) -> list[str]:
    """Versions of the libraries in the environment of a cell."""
    code = f"from importlib.metadata import version; print(*map(version, {LIBRARIES}))"
    return subprocess.check_output([str(cell.environment / "bin" / "python"), "-c", code], text=True).split()


def run_tests(cell: Cell, arguments: list[str]) -> tuple[bool, str, str]:
    """Run the tests of a cell; returns whether they passed, pytest's last line, and its whole output."""
    command = [str(cell.environment / "bin" / "python"), "-m", "pytest", "-q", "-n", str(os.cpu_count() or 1)]
    command += ["--tb=short", "--show-capture=no", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    lines = done.stdout.strip().splitlines() or [done.stderr.strip()]
    return done.returncode == 0, lines[-1].strip("= "), done.stdout + done.stderr


def main() -> int:
    """Run every cell, print a row of a table for each, and what failed."""
    parser = argparse.ArgumentParser(description="The tests with other versions of Python and PyTorch.")
    parser.add_argument("cells", nargs="+", type=Cell.parse, metavar="PYTHON:TORCH", help="such as 3.12:2.11.0")
    parser.add_argument("--all", action="store_true", help="every test, not only what versions reach")
    options = parser.parse_args()
    tests = ["tests"] if options.all else [f"tests/test_{name}.py" for name in TESTS]
    print(f"| Python | {' | '.join(LIBRARIES)} | seconds | tests |\n|{'--|' * (len(LIBRARIES) + 3)}", flush=True)
    failures = 0
    for cell in options.cells:
        begin, problem = time.monotonic(), install(cell)
        passed, verdict, output = (False, problem, "") if problem else run_tests(cell, tests)
        row = [cell.python, *(["–"] * len(LIBRARIES) if problem else versions(cell))]
        print(f"| {' | '.join(row)} | {time.monotonic() - begin:.0f} | {verdict} |", flush=True)
        if not passed:
            failures += 1
            print(output, file=sys.stderr, flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
