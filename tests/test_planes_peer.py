import pytest
import torch

from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.correctness import wrong_share
from fpl_fast.bench.peers.planes import PLANES, compiled_step

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "case",
    [
        Case(shape=(3, 5, 7, 6)),
        Case(shape=(2, 4, 6, 5), layout="nhwc", max_positives=None),
        Case(shape=(2, 5, 4, 5), size=(11, 13)),
    ],
    ids=str,
)
def test_planes_are_right(monkeypatch, case) -> None:
    """Uncompiled: on a CPU the graph takes the compiler half a minute."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    compiled_step.cache_clear()
    inputs = make_inputs(case, CPU)
    loss = PLANES.bind(case, inputs)(inputs.student)
    (gradient,) = torch.autograd.grad(2 * loss, inputs.student)
    compiled_step.cache_clear()
    assert wrong_share(case, inputs, loss, gradient / 2) == 0


def test_planes_are_for_gpus_and_few_classes() -> None:
    assert PLANES.refusal(Case(), CPU) == "on a CPU it is the compiled engine"
    assert PLANES.refusal(Case(), torch.device("cuda")) is None
    assert not PLANES.supports(Case(shape=(8, 60, 8, 8))) and not PLANES.supports(Case(labels=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_compiled_planes_are_right() -> None:
    case, device = Case(shape=(2, 5, 64, 48), dtype=torch.bfloat16), torch.device("cuda")
    inputs = make_inputs(case, device)
    loss = PLANES.bind(case, inputs)(inputs.student)
    assert wrong_share(case, inputs, loss, *torch.autograd.grad(loss, inputs.student)) == 0
