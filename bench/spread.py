"""Spread between two runs of a benchmark: ``python -m fpl_fast.bench.spread FIRST.json SECOND.json``."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from fpl_fast.bench.results import Results, read_results

__all__ = ["Spread", "main", "spreads"]


class Spread(NamedTuple):
    """A cell that both runs have."""

    case: str
    op: str
    peer: str
    first_s: float
    second_s: float

    @property
    def ratio(self) -> float:
        """The longer median over the shorter one."""
        return max(self.first_s, self.second_s) / min(self.first_s, self.second_s)


def spreads(first: Results, second: Results) -> list[Spread]:
    """Compare the medians of two runs, cells with the largest ratio first.

    Raises:
        ValueError: The runs have no cell in common.
    """
    medians = {(x.case, x.op, x.peer): x.median_s for x in first.timings}
    found = [
        Spread(*key, medians[key], x.median_s) for x in second.timings if (key := (x.case, x.op, x.peer)) in medians
    ]
    if not found:
        raise ValueError("the two files must have cells in common, got none: compare runs of one suite and device")
    return sorted(found, key=lambda cell: cell.ratio, reverse=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the median and the largest ratios of two files of results."""
    paths = list(sys.argv[1:] if arguments is None else arguments)
    if len(paths) != 2:
        raise ValueError(f"two files of results must be given, got {len(paths)}")
    cells = spreads(*(read_results(Path(path)) for path in paths))
    middle = sorted(cell.ratio for cell in cells)[len(cells) // 2]
    sys.stdout.write(f"{len(cells)} cells in common, median ratio {middle:.3f}, largest {cells[0].ratio:.3f}\n")
    for cell in cells[:10]:
        times = f"{1e3 * cell.first_s:.4g} and {1e3 * cell.second_s:.4g} ms"
        sys.stdout.write(f"{cell.ratio:.3f}  {cell.peer}, {cell.op}, {cell.case}: {times}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
