import pytest
import torch

from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.correctness import wrong_share
from fpl_fast.bench.peers import OWN, PROVIDERS

CPU = torch.device("cpu")
SMALL = [
    Case(shape=(2, 7, 13, 9)),  # odd sides
    Case(shape=(1, 19, 16, 8), max_positives=None, layout="nhwc", teacher="confident"),
    Case(shape=(3, 4, 5, 6), max_positives=1),
    Case(shape=(3, 5, 4, 6), size=(13, 21)),  # a third image repeats the first
    Case(shape=(2, 5, 6, 4), size=(17, 16), max_positives=1, layout="nhwc"),
    Case(shape=(2, 5, 16, 9), labels=True),
    Case(shape=(1, 5, 5, 7), size=(20, 28), labels=True),
]
UNCOMPILED = ("public", "reference", "eager", "triton", "cross_entropy", "argmax_cross_entropy")
RUNS = [
    (provider, case)
    for provider in PROVIDERS
    for case in SMALL
    if provider.name in UNCOMPILED and provider.supports(case)
]


def solve(provider, case):
    inputs = make_inputs(case, CPU)
    loss = provider.bind(case, inputs)(inputs.student)
    return inputs, loss, *torch.autograd.grad(loss, inputs.student)


@pytest.mark.parametrize(("provider", "case"), RUNS, ids=[f"{provider.name}-{case}" for provider, case in RUNS])
def test_providers_are_right(provider, case) -> None:
    assert provider.refusal(case, CPU) is None
    inputs, loss, gradient = solve(provider, case)
    assert wrong_share(provider.solved(case), inputs, loss, gradient) == 0


def test_a_provider_of_another_loss_is_found_out() -> None:
    case = Case(shape=(1, 7, 16, 16))
    provider = next(provider for provider in PROVIDERS if provider.name == "argmax_cross_entropy")
    inputs, loss, gradient = solve(provider, case)
    assert wrong_share(case, inputs, loss, gradient) > 0.2  # K > 1 in about half of the pixels


def test_every_case_has_peers_and_engines() -> None:
    for case in SMALL:
        names = {provider.name for provider in PROVIDERS if provider.supports(case)}
        own = {"triton"} if case.labels else set(OWN)
        assert names & {*OWN} == own and {"eager", "cross_entropy"} <= names
        assert ("liger" in names) == (case.labels and case.size is None)
        assert ("public" in names) == (not case.labels and case.max_positives == 3)


def test_providers_say_what_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refusals = {provider.name: provider.refusal(Case(shape=(1, 60, 8, 8)), CPU) for provider in PROVIDERS}
    assert "at most 32 classes" in refusals["compiled"]
    assert "CUDA" in refusals["triton"]
    labelled = {provider.name: provider.refusal(Case(shape=(1, 5, 8, 8), labels=True), CPU) for provider in PROVIDERS}
    assert "CUDA" in labelled["triton"] and labelled["eager"] is None
    assert "GPU" in refusals["liger"] and "GPU" in refusals["apex"] and "GPU" in refusals["torch_compile_autotuned"]
    assert "compiled engine" in refusals["planes"]
    for name in ("eager", "public", "reference", "cross_entropy"):
        assert refusals[name] is None


def test_names_are_unique() -> None:
    assert len({provider.name for provider in PROVIDERS}) == len(PROVIDERS)
