import pytest
import torch

from fpl_fast.bench.training.peers import NAMES, Setup, default_setup, make_peers
from fpl_fast.bench.training.plain_cps import PlainCPS
from fpl_fast.trainer.methods import CrossPseudoSupervision

TINY = Setup(device="cpu", backbone="test_resnet", crop=32, batch=2, head_channels=8, low_channels=4, num_classes=5)


@pytest.fixture(scope="module")
def peers():
    return dict(make_peers(TINY))


def test_peers_differ_as_their_names_say(peers) -> None:
    assert list(peers) == list(NAMES)
    assert [type(peer.method) for peer in peers.values()] == [
        PlainCPS, CrossPseudoSupervision, PlainCPS, CrossPseudoSupervision,
    ]  # fmt: skip
    assert [peer.method.config.loss for peer in peers.values()] == ["fpl", "ce", "ce", "fpl"]
    assert [peer.public_style for peer in peers.values()] == [True, False, False, False]
    networks = [list(peer.method.networks) for peer in peers.values()]
    assert networks[1] == networks[2] == networks[3] and networks[0] != networks[1]
    layouts = [c.batch.labelled.image.is_contiguous(memory_format=torch.channels_last) for c in peers.values()]
    assert layouts == [False, True, True, True]


def test_peers_see_the_same_batch(peers) -> None:
    first, *others = (peer.batch for peer in peers.values())
    assert (first.labelled.label == 255).any() and first.mix_mask.any()
    for other in others:
        assert torch.equal(first.labelled.image, other.labelled.image)
        assert torch.equal(first.labelled.label, other.labelled.label)
        assert torch.equal(first.unlabelled[1].image, other.unlabelled[1].image)
        assert torch.equal(first.mix_mask, other.mix_mask)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_the_weights(peers, name) -> None:
    peer = peers[name]
    weight = peer.method.networks[1].classifier.weight
    before = weight.detach().clone()
    peer.step()
    assert not torch.equal(weight, before)


def test_memory_between_steps_is_weights_buffers_and_momentum(peers) -> None:
    peer = peers["fpl"]
    peer.step()
    weights = sum(p.numel() for p in peer.method.parameters())
    buffers = sum(b.numel() * b.element_size() for b in peer.method.buffers())
    assert peer.static_mb == pytest.approx((8 * weights + buffers) / 2**20)


def test_defaults_by_device() -> None:
    gpu = default_setup("cuda")
    assert (gpu.backbone, gpu.crop, gpu.batch, gpu.images_per_step) == ("resnet50", 512, 8, 24)
    assert default_setup("cpu").crop < gpu.crop


@pytest.mark.parametrize(("changes", "message"), [({"crop": 16}, "--crop must be >= 32"), ({"batch": 1}, "--batch")])
def test_numbers_have_rules(changes, message) -> None:
    values = {"device": "cpu", "backbone": "x", "crop": 64, "batch": 2, "head_channels": 8, "low_channels": 4}
    with pytest.raises(ValueError, match=message):
        Setup(**{**values, **changes})
