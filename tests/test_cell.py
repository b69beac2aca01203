from dataclasses import replace

import pytest
import torch
from _pytest.outcomes import Failed, Skipped

from fpl_fast.bench import cell
from fpl_fast.bench.cases import Case
from fpl_fast.bench.peers import PEERS

CPU = torch.device("cpu")
CASE = Case(shape=(1, 5, 16, 16))
REFERENCE = next(peer for peer in PEERS if peer.name == "reference")


class Benchmark:
    """The fixture of pytest-benchmark, as far as a cell uses it; runs every part once."""

    name, group = "test_fuzzy_positive[some-case]", None

    def __init__(self):
        self.extra_info, self.results = {}, []

    def pedantic(self, run, *, setup, rounds):
        arguments, keywords = setup()
        self.rounds = rounds
        self.results.append(run(*arguments, **keywords))


def time_cell(op="both", peer=REFERENCE):
    benchmark = Benchmark()
    cell.time_cell(benchmark, CASE, op, peer, device=CPU, copy_gbps=12.0)
    return benchmark


def test_parts_of_the_step() -> None:
    forward, backward, both = (time_cell(op).results[0] for op in ("forward", "backward", "both"))
    assert forward.ndim == 0 and forward.requires_grad
    assert torch.equal(backward[0], both[0]) and both[0].shape == CASE.shape


def test_what_goes_with_the_result() -> None:
    benchmark = time_cell("forward")
    info = benchmark.extra_info
    assert benchmark.group == info["case"] == str(CASE)
    assert (info["problem"], info["op"], info["peer"]) == ("fuzzy_positive", "forward", "reference")
    assert info["num_pixels"] == 256 and info["minimum_bytes"] == 2 * 5 * 256 * 4 and info["copy_gbps"] == 12
    assert info["mean_positives"] >= 1 and 3 <= benchmark.rounds <= 50


def test_wrong_peers_are_not_timed() -> None:
    wrong = replace(REFERENCE, name="wrong", bind=lambda case, inputs: lambda student: student.square().mean())
    with pytest.raises(Failed, match=r"not timed: wrong is wrong in 100\.000% of the pixels"):
        time_cell(peer=wrong)


def test_peers_that_cannot_run_are_skipped() -> None:
    with pytest.raises(Skipped, match="no such card"):
        time_cell(peer=replace(REFERENCE, refusal=lambda case, device: "no such card"))

    def exhaust(case, inputs):
        raise torch.OutOfMemoryError

    with pytest.raises(Skipped, match="more memory"):
        time_cell(peer=replace(REFERENCE, bind=exhaust))
