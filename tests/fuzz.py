"""The fuzzing campaign of the losses: ``python tests/fuzz.py --minutes 10``, for ``make fuzz``.

Cases (``fuzz_cases.py``) are drawn from a seed one after the other and run on every engine that takes them
(``fuzz_checks.py``). A campaign goes on where it stopped; ``--only SEED:NUMBER`` repeats one case. A failure is shrunk
to the simplest case that still breaks the same promise.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton

import fuzz_cases
import fuzz_checks
import poison
from fuzz_cases import Case

from fpl_fast.engines import packages
from fpl_fast.trainer.writing.replacing import replacing

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
Check = Callable[[Case, str, str], tuple[str, str] | None]
SEEDS_OF_A_SHRUNK_CASE = 3  # other numbers that a simpler case may need to fail
FOLDER = Path(__file__).parents[1] / "build" / "fuzz"
# With --compiled: the options that machine code is compiled for stay the same, so that a few compilations serve all.
PINNED = {"c": 5, "dtype": "float32", "teacher_dtype": "float32", "partner_dtype": None, "weighting": "concave",
          "form": "smooth", "max_positives": 3, "valid": "some", "pixel_weight": "float32", "confidence_power": 2.0,
          "threshold": 0.9, "thresholds": (0.84, 0.89, 0.94, 0.99), "window": 5, "kind": "kl"}  # fmt: skip


@dataclasses.dataclass
class Campaign:
    """Progress of a campaign.

    Attributes:
        seed: Of its cases.
        table: Digest of its first cases, by which it knows that it is still drawn from the same settings.
        next: Number of the next case.
        seconds: Time spent.
        counts: Inputs by loss and engine.
        pairs: Pairs of values that cases had.
        failures: One line each.
    """

    seed: int
    table: str
    next: int = 0
    seconds: float = 0.0
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    pairs: set[str] = dataclasses.field(default_factory=set)
    failures: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def open(cls, file: Path, seed: int, pinned: dict[str, Any]) -> "Campaign":
        """The campaign in a file, or a new one.

        Raises:
            ValueError: If the file's cases are drawn from other settings than today's.
        """
        drawn = [str(fuzz_cases.draw(seed, number, pinned)) for number in range(200)]
        table = hashlib.sha256("\n".join(drawn).encode()).hexdigest()[:16]
        if not file.exists():
            return cls(seed, table)
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["table"] != table:
            raise ValueError(f"{file} is a campaign of other settings than those of fuzz_cases.py; remove it")
        return cls(**kept | {"counts": collections.Counter(kept["counts"]), "pairs": set(kept["pairs"])})

    def save(self, file: Path) -> None:
        """Write the file, whole."""
        file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(file) as out:
            out.write(json.dumps(vars(self) | {"pairs": sorted(self.pairs)}).encode())

    def step(self, pinned: dict[str, Any]) -> None:
        """Run the next case."""
        begin = time.monotonic()
        case = fuzz_cases.draw(self.seed, self.next, pinned)
        for report in failures(self.seed, self.next, case, fuzz_checks.check):
            self.failures.append(report)
            print(report, flush=True)
        self.counts.update(f"{case.loss} {engine}" for engine in fuzz_checks.engines(case, DEVICE))
        self.pairs.update(fuzz_cases.pairs(case))
        self.next += 1
        self.seconds += time.monotonic() - begin

    def line(self) -> str:
        """The counts in one line."""
        return (
            f"seed {self.seed}: {self.next} inputs, {sum(self.counts.values())} inputs x engines, "
            f"{len(self.pairs)} of {fuzz_cases.num_pairs()} pairs of settings, {len(self.failures)} failures, "
            f"{self.seconds / 60:.1f} minutes"
        )

    def table_of_counts(self) -> str:
        """The counts by loss and engine, in Markdown."""
        engines = ("eager", "compiled", "triton")
        lines = [f"| loss | {' | '.join(engines)} |", "|---|" + "---:|" * len(engines)]
        for loss in fuzz_cases.SETTINGS:
            counts = [self.counts[f"{loss} {engine}"] for engine in engines]
            lines.append(f"| `{loss}` | {' | '.join(f'{x:,}' if x else '–' for x in counts)} |")
        return "\n".join(lines)


def failures(seed: int, number: int, case: Case, check: Check, device: str = DEVICE) -> Iterator[str]:
    """A report for each engine that breaks a promise on a case."""
    for engine in fuzz_checks.engines(case, device):
        broken = check(case, engine, device)
        if broken is None:
            continue
        smallest, (promise, how) = shrunk(case, engine, broken, check, device)
        yield f"--only {seed}:{number}, engine {engine}, {promise}: {broken[1]}\n    shrunk: {smallest}\n    {how}"


def shrunk(
    case: Case, engine: str, broken: tuple[str, str], check: Check, device: str = DEVICE
) -> tuple[Case, tuple[str, str]]:
    """The simplest case found that breaks the same promise, and how it does."""
    progress = True
    while progress:
        progress = False
        for simpler in case.shrink():
            if engine not in fuzz_checks.engines(simpler, device):
                continue
            for shift in range(SEEDS_OF_A_SHRUNK_CASE):
                candidate = dataclasses.replace(simpler, seed=simpler.seed + shift)
                found = check(candidate, engine, device)
                if found is not None and found[0] == broken[0]:
                    case, broken, progress = candidate, found, True
                    break
            if progress:
                break
    return case, broken


def prepare(compiled: bool) -> None:
    """Poison memory that nothing has written; without ``compiled`` the class planes run as PyTorch operations."""
    if not compiled:
        packages.load = lambda specialisation: specialisation.evaluate
        packages.unavailable_reason = lambda: None
    for owner, name in poison.ALLOCATE:
        setattr(owner, name, poison.poisoned(getattr(owner, name)))
    if DEVICE == "cpu":
        import quick_interpreter

        quick_interpreter.prepare_once()


def seed_and_number(text: str) -> tuple[int, int]:
    """SEED:NUMBER, as a failure prints it."""
    seed, _, number = text.partition(":")
    if not (seed.isdecimal() and number.isdecimal()):
        raise argparse.ArgumentTypeError(f"must be two numbers, as a failure prints them, got {text!r}")
    return int(seed), int(number)


def main() -> int:
    """Run or continue a campaign, or repeat a case; 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description="Random inputs through every loss and engine, against float64.")
    parser.add_argument("--minutes", type=float, default=10, help="time to run (default: 10)")
    parser.add_argument("--seed", type=int, default=0, help="of the campaign, which goes on (default: 0)")
    parser.add_argument("--only", metavar="SEED:NUMBER", type=seed_and_number, help="repeat this case alone")
    parser.add_argument("--compiled", action="store_true", help="compile the class planes, for one set of options")
    options = parser.parse_args()
    if not options.minutes > 0:
        parser.error(f"--minutes must be > 0, got {options.minutes:g}")
    prepare(options.compiled)
    pinned = PINNED if options.compiled else {}
    if options.only:
        seed, number = options.only
        case = fuzz_cases.draw(seed, number, pinned)
        print(case)
        reports = list(failures(seed, number, case, fuzz_checks.check))
        print("\n".join(reports) or "every promise holds")
        return int(bool(reports))

    file = FOLDER / f"{'compiled-' if options.compiled else ''}{DEVICE}-{options.seed}.json"
    try:
        campaign = Campaign.open(file, options.seed, pinned)
    except ValueError as error:
        parser.error(str(error))
    begin = told = time.monotonic()
    try:
        while time.monotonic() < begin + 60 * options.minutes:
            campaign.step(pinned)
            if time.monotonic() > told + 30:
                told = time.monotonic()
                campaign.save(file)
                print(campaign.line(), flush=True)
    finally:  # also where it is interrupted
        campaign.save(file)
    print(campaign.table_of_counts())
    print(campaign.line())
    return int(bool(campaign.failures))


if __name__ == "__main__":
    sys.exit(main())
