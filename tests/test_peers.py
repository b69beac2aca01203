import pytest
import torch

from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.correctness import wrong_share
from fpl_fast.bench.peers import OWN, PEERS

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
RUNS = [(peer, case) for peer in PEERS for case in SMALL if peer.name in UNCOMPILED and peer.supports(case)]


def solve(peer, case):
    inputs = make_inputs(case, CPU)
    loss = peer.bind(case, inputs)(inputs.student)
    return inputs, loss, *torch.autograd.grad(loss, inputs.student)


@pytest.mark.parametrize(("peer", "case"), RUNS, ids=[f"{peer.name}-{case}" for peer, case in RUNS])
def test_peers_are_right(peer, case) -> None:
    assert peer.refusal(case, CPU) is None
    inputs, loss, gradient = solve(peer, case)
    assert wrong_share(peer.solved(case), inputs, loss, gradient) == 0


def test_a_peer_of_another_loss_is_found_out() -> None:
    case = Case(shape=(1, 7, 16, 16))
    peer = next(peer for peer in PEERS if peer.name == "argmax_cross_entropy")
    inputs, loss, gradient = solve(peer, case)
    assert wrong_share(case, inputs, loss, gradient) > 0.2  # K > 1 in about half of the pixels


def test_every_case_has_peers_and_engines() -> None:
    for case in SMALL:
        names = {peer.name for peer in PEERS if peer.supports(case)}
        own = {"triton"} if case.labels else set(OWN)
        assert names & {*OWN} == own and {"eager", "cross_entropy"} <= names
        assert ("liger" in names) == (case.labels and case.size is None)
        assert ("public" in names) == (not case.labels and case.max_positives == 3)


def test_peers_say_what_they_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    refusals = {peer.name: peer.refusal(Case(shape=(1, 60, 8, 8)), CPU) for peer in PEERS}
    assert "at most 32 classes" in refusals["compiled"]
    assert "CUDA" in refusals["triton"]
    labelled = {peer.name: peer.refusal(Case(shape=(1, 5, 8, 8), labels=True), CPU) for peer in PEERS}
    assert "CUDA" in labelled["triton"] and labelled["eager"] is None
    assert "GPU" in refusals["liger"] and "GPU" in refusals["apex"] and "GPU" in refusals["torch_compile_autotuned"]
    assert "compiled engine" in refusals["planes"]
    for name in ("eager", "public", "reference", "cross_entropy"):
        assert refusals[name] is None


def test_names_are_unique() -> None:
    assert len({peer.name for peer in PEERS}) == len(PEERS)
