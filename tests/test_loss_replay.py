import pytest
import torch

from fpl_fast.bench.training.loss_replay import LossReplay
from fpl_fast.bench.training.peers import NAMES, Setup, make_peers

TINY = Setup(device="cpu", backbone="test_resnet", crop=32, batch=2, head_channels=8, low_channels=4, num_classes=5)


@pytest.fixture(scope="module")
def peers():
    return dict(make_peers(TINY))


@pytest.mark.parametrize("name", NAMES)
def test_replayed_losses_are_those_of_the_logits(peers, name, monkeypatch) -> None:
    """And their gradient reaches the logits of both networks."""
    peer = peers[name]
    replay = LossReplay(peer)
    taken = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args: taken.append((args, original(*args))))
    replay.step()
    (((loss, leaves), gradients),) = taken
    assert len(leaves) == 2 and all(leaf.shape == (2, 5, 8, 8) for leaf in leaves)
    assert loss > 0 and all(gradient.abs().sum() > 0 for gradient in gradients)


def test_networks_are_left_alone(peers) -> None:
    peer = peers["fpl"]
    before = [parameter.detach().clone() for parameter in peer.method.parameters()]
    replay = LossReplay(peer)
    replay.step()
    assert all(torch.equal(a, b) for a, b in zip(peer.method.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in peer.method.parameters())
