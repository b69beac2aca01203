import pytest
import torch

from fpl_fast.bench.contenders import NAMES, Setup, make_contenders
from fpl_fast.bench.loss_replay import LossReplay

TINY = Setup(device="cpu", backbone="test_resnet", crop=32, batch=2, head_channels=8, low_channels=4, num_classes=5)


@pytest.fixture(scope="module")
def contenders():
    return dict(make_contenders(TINY))


@pytest.mark.parametrize("name", NAMES)
def test_replayed_losses_are_those_of_the_logits(contenders, name, monkeypatch) -> None:
    """And their gradient reaches the logits of both networks."""
    contender = contenders[name]
    replay = LossReplay(contender)
    taken = []
    original = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args: taken.append((args, original(*args))))
    replay.step()
    (((loss, leaves), gradients),) = taken
    assert len(leaves) == 2 and all(leaf.shape == (2, 5, 8, 8) for leaf in leaves)
    assert loss > 0 and all(gradient.abs().sum() > 0 for gradient in gradients)


def test_networks_are_left_alone(contenders) -> None:
    contender = contenders["fpl"]
    before = [parameter.detach().clone() for parameter in contender.method.parameters()]
    replay = LossReplay(contender)
    replay.step()
    assert all(torch.equal(a, b) for a, b in zip(contender.method.parameters(), before, strict=True))
    assert all(parameter.grad is None for parameter in contender.method.parameters())
