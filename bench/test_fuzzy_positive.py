"""Time of the FPL loss and its gradient, every provider on the same logits."""

import pytest
import torch
from torch import Tensor

from fpl_fast.bench.cases import Case, Op, make_inputs
from fpl_fast.bench.examine import examine
from fpl_fast.bench.measure import flush_cache
from fpl_fast.bench.peers import Provider
from fpl_fast.bench.traffic import minimum_bytes

_SECONDS_A_CELL = 2.0


def test_fuzzy_positive_loss(
    benchmark, case: Case, op: Op, provider: Provider, device: torch.device, copy_bandwidth: float
) -> None:
    reason = provider.refusal(case, device)
    if reason:
        pytest.skip(reason)
    found = examine(case, provider, device)
    if found.wrong_share > found.allowed_share:
        pytest.fail(f"not timed: {provider.name} is wrong in {found.wrong_share:.3%} of the pixels")
    benchmark.group = str(case)
    benchmark.extra_info.update(
        found._asdict(),
        case=str(case),
        op=op,
        provider=provider.name,
        minimum_bytes=minimum_bytes(case, op),
        copy_gbps=copy_bandwidth,
    )
    inputs = make_inputs(case, device)
    student, loss_of = inputs.student, provider.bind(case, inputs.teacher)

    def prepare() -> tuple[tuple[Tensor, ...], dict[str, object]]:
        arguments = (loss_of(student),) if op == "backward" else ()
        flush_cache(device)
        return arguments, {}

    run = {
        "forward": lambda: loss_of(student),
        "backward": lambda loss: torch.autograd.grad(loss, student),
        "both": lambda: torch.autograd.grad(loss_of(student), student),
    }[op]
    rounds = int(min(max(_SECONDS_A_CELL / found.step_s, 3), 50))
    benchmark.pedantic(run, setup=prepare, rounds=rounds)
