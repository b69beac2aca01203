"""Runs of cases: each one three times, in orders of the warps and with errors that differ."""

import collections
import math
import traceback
import zlib
from typing import NamedTuple

import torch

from ptx import expected
from ptx.cases import Case, draw
from ptx.launches import RECORDER, Settings
from ptx.program import Fault, Unsupported

ALL_WARPS = 32
_SALT = 0x5EED


class Outcome(NamedTuple):
    """Result of a case."""

    errors: dict[str, float]
    """Errors over what is allowed, by name: up to 1."""
    launches: collections.Counter[str]
    """Launches of each kernel."""
    accesses: collections.Counter[str]
    """Accesses of each kernel's threads, all of them checked."""
    problem: str | None
    """The fault that stopped it."""

    @property
    def worst(self) -> float:
        """The largest error over what is allowed."""
        return max(self.errors.values(), default=math.inf)

    @property
    def holds(self) -> bool:
        """Whether everything is as it has to be."""
        return self.problem is None and self.worst <= 1

    @property
    def report(self) -> str:
        """The problem or the worst result."""
        if self.problem is not None:
            return self.problem
        name = max(self.errors, key=self.errors.__getitem__)
        return f"{name} is off by {self.errors[name]:.3g} of what is allowed"


def run_case(name: str, seed: int) -> Outcome:
    """Draw a case and run it."""
    RECORDER.launches.clear()
    errors, problem = {}, None
    try:
        errors = _errors(draw(name, seed), zlib.crc32(f"{seed} {name}".encode()))
    except (Fault, Unsupported) as error:
        problem = f"{type(error).__name__}: {error}"
    except Exception:  # it is a failure of this case, and others go on
        problem = traceback.format_exc()
    counts, accesses = collections.Counter(), collections.Counter()
    for launch in RECORDER.launches:
        counts[launch.kernel] += 1
        accesses[launch.kernel] += launch.accesses
    return Outcome(errors, counts, accesses, problem)


def _errors(case: Case, seed: int) -> dict[str, float]:
    before = [x.clone() for x in case.tensors()]
    with RECORDER.using(Settings(seed=seed)):
        first = case.run()
    with RECORDER.using(Settings(seed=seed + 1, salt=_SALT + seed, together=ALL_WARPS)):
        disturbed = case.run()
    with RECORDER.using(Settings(seed=seed + 2, together=2)):
        again = case.run()
    errors = case.check(first)
    errors |= {f"{name} with errors of instructions": x for name, x in case.check(disturbed).items()}
    errors |= {f"{name} again": _unequal_bits(x, first[name]) for name, x in again.items()}
    unchanged = all(expected.unequal(a, b) == 0 for a, b in zip(before, case.tensors(), strict=True))
    return errors | {"inputs": 0.0 if unchanged else math.inf}


def _unequal_bits(a: torch.Tensor, b: torch.Tensor) -> float:
    same = torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b)))
    return 0.0 if same else math.inf
