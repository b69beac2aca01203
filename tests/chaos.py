"""Disturbs tiny runs in every way we know: ``python tests/chaos.py --rounds 100``, for ``make chaos``.

After each disturbance there must be a checkpoint that can be read, at most one interval may be lost, and the continued
run must equal, bit for bit, the one that nothing disturbed. A line for each round, and a tally.
"""

import argparse
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import chaos_images
import chaos_kinds
import chaos_surroundings
import numpy as np
import torch
from chaos_files import Point, Recorder, recorded
from chaos_images import ImageRuns
from chaos_run import TinyRun, chaos_config

from fpl_fast.trainer.run.folder import RunFolder

_Item = TypeVar("_Item")

KINDS = {
    kind.__name__: kind
    for kind in (
        chaos_kinds.killed_at_a_moment,
        chaos_kinds.killed_at_an_operation,
        chaos_kinds.killed_while_continuing,
        chaos_kinds.stopped,
        chaos_kinds.interrupted_twice,
        chaos_kinds.interrupted_in_set_up,
        chaos_kinds.full_disk,
        chaos_kinds.file_size_limit,
        chaos_kinds.address_space,
        chaos_images.damaged_images_stop,
        chaos_images.damaged_images_skipped,
        chaos_surroundings.read_only_folder,
        chaos_surroundings.damaged_checkpoint,
        chaos_surroundings.dead_loader,
        chaos_surroundings.two_runs,
        chaos_surroundings.killed_rank,
        chaos_surroundings.clock_set_back,
    )
}

PLAN = (
    *("killed_at_an_operation", "full_disk", "killed_at_a_moment", "stopped", "killed_while_continuing"),
    *("damaged_checkpoint", "interrupted_twice", "killed_at_an_operation", "file_size_limit", "dead_loader"),
    *("full_disk", "two_runs", "interrupted_in_set_up", "damaged_images_stop", "address_space"),
    *("damaged_images_skipped", "killed_at_an_operation", "read_only_folder", "clock_set_back", "killed_rank"),
)
"""Kinds of the rounds in turn: more of those that differ from point to point."""


class Draw:
    """Random draws of a round, which its seed and kind bring back.

    Args:
        seed: Of the round. Consecutive seeds of one kind pick every item of a list once before any comes again.
        kind: Its name.
    """

    def __init__(self, seed: int, kind: str) -> None:
        self._seed = seed
        self.rng = np.random.default_rng([zlib.crc32(kind.encode()), seed])

    def pick(self, items: Sequence[_Item]) -> _Item:
        """Pick an item by the seed."""
        order = np.random.default_rng(0).permutation(len(items))
        return items[order[self._seed % len(items)]]


class Campaign:
    """The runs that rounds are compared with, made when the first round needs them.

    Args:
        parent: Folder of all runs.
        defect: Damages the product in every process but those of straight runs.
    """

    def __init__(self, parent: Path, defect: Callable[[], object] = lambda: None) -> None:
        self.parent, self.defect = parent, defect
        self.images = ImageRuns(self)

    @cached_property
    def tiny(self) -> TinyRun:
        """The tiny run on synthetic images, with its straight run, whose operations are recorded."""
        tiny = TinyRun(self.parent / "tiny", chaos_config(), self.defect)
        tiny.train_straight(Recorder(tiny.straight.path, self.parent / "operations").install)
        return tiny

    @cached_property
    def _moments(self) -> tuple[float, float]:
        """Seconds until the first step, and until the end."""
        folder, begin = RunFolder(self.tiny.parent / "timed"), time.monotonic()
        process = self.tiny.start(folder)
        while process.reached == 0 and process.lives():
            time.sleep(0.001)
        first = time.monotonic() - begin
        process.wait()
        return first, time.monotonic() - begin

    @property
    def set_up(self) -> float:
        """Seconds of a run before its first step ends."""
        return self._moments[0]

    @property
    def duration(self) -> float:
        """Seconds of a run."""
        return self._moments[1]

    @cached_property
    def operations(self) -> list[Point]:
        """File operations of the straight run."""
        assert self.tiny
        return recorded(self.parent / "operations")

    @cached_property
    def set_up_operations(self) -> list[Point]:
        """File operations before the first step."""
        first_record = Point("write", "metrics.jsonl", 0)
        return self.operations[: self.operations.index(first_record)]

    @cached_property
    def _stopped(self) -> tuple[RunFolder, int]:
        """A run that was stopped where its last checkpoint is newer than its best."""
        folder, step = RunFolder(self.tiny.parent / "stopped"), 3
        ended = self.tiny.start(folder, on_step=lambda done: done == step and os.kill(os.getpid(), signal.SIGTERM))
        assert ended.wait().code == 128 + signal.SIGTERM
        return folder, step

    def copy_stopped(self, folder: RunFolder) -> int:
        """Make ``folder`` a run that was stopped; return the step."""
        shutil.copytree(self._stopped[0].path, folder.path)
        return self._stopped[1]

    @cached_property
    def continued_operations(self) -> list[Point]:
        """File operations of a run that is continued."""
        folder, record = RunFolder(self.tiny.parent / "continued"), self.parent / "continued_operations"
        self.copy_stopped(folder)
        assert self.tiny.start(folder, Recorder(folder.path, record).install).wait().code == 0
        return recorded(record)

    def play(self, name: str, seed: int, folder: RunFolder) -> tuple[str, str | None]:
        """Play a round: where it disturbed, and what was wrong, None if nothing."""
        where = "-"
        try:
            for place in KINDS[name](self, folder, Draw(seed, name)):
                where = place
        except Exception:
            return where, traceback.format_exc()
        return where, None


def plan(rounds: int, seed: int, only: str | None) -> Iterator[tuple[str, int]]:
    """Kind and seed of each round: of every kind, consecutive seeds."""
    taken: Counter[str] = Counter()
    for name in itertools.islice(itertools.cycle(PLAN if only is None else (only,)), rounds):
        yield name, seed + taken[name]
        taken[name] += 1


def main() -> int:
    """Play the rounds; print a line for each, and the tally."""
    parser = argparse.ArgumentParser(description="Tiny runs, disturbed in every way we know.")
    parser.add_argument("--rounds", type=int, default=100, help="rounds to play (default: 100)")
    parser.add_argument(
        "--skip", type=int, default=0, help="first rounds of these to leave out, because they were made before"
    )
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of each kind's first (default: the time)")
    parser.add_argument("--only", choices=KINDS, metavar="KIND", help=f"one kind: {', '.join(KINDS)}")
    options = parser.parse_args()
    if not 0 <= options.skip < options.rounds:
        parser.error(
            f"--rounds must be >= 1 and --skip in [0, rounds), got --rounds {options.rounds} --skip {options.skip}"
        )
    torch.set_num_threads(1)  # of the forked processes as well
    parent = Path(tempfile.mkdtemp(prefix="fpl_fast-chaos-"))
    parent.chmod(0o755)  # a round without privileges reads its configuration here
    campaign = Campaign(parent)
    tally: dict[str, Counter[str]] = {}
    rounds = list(enumerate(plan(options.rounds, options.seed, options.only), start=1))[options.skip :]
    for number, (name, seed) in rounds:
        begin, folder = time.monotonic(), RunFolder(campaign.tiny.parent / f"round_{number}")
        where, wrong = campaign.play(name, seed, folder)
        verdict = "FAILED" if wrong else "skipped" if where.startswith("skipped") else "passed"
        tally.setdefault(name, Counter())[verdict] += 1
        print(f"{number:>4}  {verdict}  {name}: {where}  ({time.monotonic() - begin:.1f} s)", flush=True)
        if wrong:
            print(f"{wrong}repeat with: python tests/chaos.py --only {name} --seed {seed} --rounds 1", flush=True)
        else:
            shutil.rmtree(folder.path, ignore_errors=True)
    print(f"seed {options.seed}")
    for name, verdicts in tally.items():
        print(f"{name:<26}{', '.join(f'{count} {verdict}' for verdict, count in sorted(verdicts.items()))}")
    failed = sum(verdicts["FAILED"] for verdicts in tally.values())
    print(f"{failed} of {len(rounds)} rounds failed" + (f"; their runs are in {parent}" if failed else ""))
    if not failed:
        shutil.rmtree(parent)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
