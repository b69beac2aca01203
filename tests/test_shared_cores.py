import re

import pytest
import torch
from tolerances import GRADIENT, LOSS
from torch.testing import assert_close

from fpl_fast.bench.cases import Case, make_inputs
from fpl_fast.bench.peers.distances import distance_peers
from fpl_fast.bench.shared_cores import main


def test_a_table_of_each_case_beside_busy_processes(capsys):
    before = torch.get_num_threads()
    arguments = ["--side", "32", "--rounds", "2", "--peers", "eager", "--threads", "1", "2", "--busy", "0", "1"]
    assert main(arguments) == 0
    assert torch.get_num_threads() == before
    full, upsampled = capsys.readouterr().out.strip().split("\n\n")
    assert full.startswith("2x19x32x32-float32") and upsampled.startswith("2x19x8x8-to-32x32-float32")
    for table in (full, upsampled):
        assert re.search(r"peak memory, MB: argmax_cross_entropy \d+, eager \d+$", table.splitlines()[0])
        rows = [re.findall(r"[^| ]+", line) for line in table.splitlines()[3:]]
        expected = [
            [busy, threads, peer] for busy in "01" for threads in "12" for peer in ("argmax_cross_entropy", "eager")
        ]
        assert [row[:3] for row in rows] == expected
        assert all(0 < float(median) <= float(slowest) for _, _, _, median, slowest, *_ in rows)
        assert all(float(row[5]) == 1 for row in rows if row[2] == "argmax_cross_entropy")


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_the_consistency_loss_beside_plain_pytorch(capsys, kind):
    arguments = ["--loss", kind, "--side", "32", "--rounds", "1", "--peers", "eager", "--threads", "1", "--busy", "0"]
    assert main(arguments) == 0
    full, upsampled = capsys.readouterr().out.strip().split("\n\n")
    for table in (full, upsampled):
        assert re.match(rf"{kind}, 2x19x\d+.*; peak memory, MB: pytorch \d+, eager \d+\n.* ÷ pytorch ", table)
    with pytest.raises(SystemExit):
        main(["--loss", kind, "--peers", "public"])
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.endswith(f"must be among compiled, eager, pytorch with --loss {kind}, got public")


@pytest.mark.parametrize(("option", "least"), [("--rounds", 1), ("--threads", 1), ("--busy", 0), ("--side", 4)])
@pytest.mark.parametrize("below", [True, False])
def test_numbers_have_a_least(capsys, option, least, below):
    text = str(least - 1) if below else "1.5"
    with pytest.raises(SystemExit):
        main([option, text])
    assert f"argument {option}: must be a whole number from {least}, got {text}" in capsys.readouterr().err


@pytest.mark.parametrize("case", [Case(shape=(1, 5, 9, 7)), Case(shape=(2, 4, 5, 6), size=(17, 20))], ids=str)
@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_peers_of_the_consistency_loss_agree(case, kind):
    inputs = make_inputs(case, torch.device("cpu"))
    peers = {peer.name: peer for peer in distance_peers(kind)}
    ours, expected = (peers[name].bind(case, inputs)(inputs.student) for name in ("eager", "pytorch"))
    assert_close(ours, expected, **LOSS)
    gradients = [torch.autograd.grad(loss, inputs.student)[0] for loss in (ours, expected)]
    assert_close(*gradients, **GRADIENT[torch.float32])
    assert gradients[0].abs().max() > 1e-4
