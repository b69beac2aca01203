"""One cell of the tables: a peer, a case and a part of the step, checked and then timed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from fpl_fast.bench.cases import Case, Op, make_inputs
from fpl_fast.bench.examine import examine
from fpl_fast.bench.measure import flush_cache, hold_device
from fpl_fast.bench.peers.peer import Peer
from fpl_fast.bench.traffic import minimum_bytes

__all__ = ["TimeCell", "time_cell"]

TimeCell = Callable[[Case, Op, Peer], None]
"""Function that times one part of the step of one peer on one case; the fixture of the suites."""

# Time to spend on the rounds of a cell; there are some seven hundred in the full suite on a GPU.
_CELL_S = {"cpu": 1.0, "cuda": 0.2}
_MIN_ROUNDS, _MAX_ROUNDS = 3, 50


def time_cell(benchmark: Any, case: Case, op: Op, peer: Peer, *, device: torch.device, copy_gbps: float) -> None:
    """Time a part of the step after the peer's result has been checked.

    Skips the test if the peer cannot run the case here, and fails it if the peer is wrong.

    Args:
        benchmark: The fixture of pytest-benchmark; the figures of the report are added to its results.
        case: Problem to solve.
        op: Part of the step.
        peer: Implementation to time.
        device: Device to run on.
        copy_gbps: Bandwidth of a large copy in the same run, to record with the result.
    """
    reason = peer.refusal(case, device)
    if reason:
        pytest.skip(reason)
    try:
        found = examine(case, peer, device)
    except torch.OutOfMemoryError:
        pytest.skip("it needs more memory than the device has")
    if found.wrong_share > found.allowed_share:
        pytest.fail(f"not timed: {peer.name} is wrong in {found.wrong_share:.3%} of the pixels")
    benchmark.group = str(case)
    benchmark.extra_info.update(
        found._asdict(),
        problem=benchmark.name.partition("[")[0].removeprefix("test_"),
        case=str(case),
        op=op,
        peer=peer.name,
        num_pixels=case.num_pixels,
        minimum_bytes=minimum_bytes(case, op),
        copy_gbps=copy_gbps,
    )
    inputs = make_inputs(case, device)
    student, loss_of = inputs.student, peer.bind(case, inputs)

    def prepare() -> tuple[tuple[Tensor, ...], dict[str, object]]:
        arguments = (loss_of(student),) if op == "backward" else ()
        flush_cache(device)
        hold_device(device)
        return arguments, {}

    run = {
        "forward": lambda: loss_of(student),
        "backward": lambda loss: torch.autograd.grad(loss, student),
        "both": lambda: torch.autograd.grad(loss_of(student), student),
    }[op]
    rounds = int(min(max(_CELL_S[device.type] / found.step_s, _MIN_ROUNDS), _MAX_ROUNDS))
    benchmark.pedantic(run, setup=prepare, rounds=rounds)
