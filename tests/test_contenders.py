import pytest
import torch

from fpl_fast.bench.contenders import NAMES, Setup, default_setup, make_contenders
from fpl_fast.bench.plain_cps import PlainCPS
from fpl_fast.trainer.methods import CrossPseudoSupervision

TINY = Setup(device="cpu", backbone="test_resnet", crop=32, batch=2, head_channels=8, low_channels=4, num_classes=5)


@pytest.fixture(scope="module")
def contenders():
    return dict(make_contenders(TINY))


def test_contenders_differ_as_their_names_say(contenders) -> None:
    assert list(contenders) == list(NAMES)
    assert [type(contender.method) for contender in contenders.values()] == [
        PlainCPS, CrossPseudoSupervision, PlainCPS, CrossPseudoSupervision,
    ]  # fmt: skip
    assert [contender.method.config.loss for contender in contenders.values()] == ["fpl", "ce", "ce", "fpl"]
    assert [contender.public_style for contender in contenders.values()] == [True, False, False, False]
    networks = [list(contender.method.networks) for contender in contenders.values()]
    assert networks[1] == networks[2] == networks[3] and networks[0] != networks[1]
    layouts = [c.batch.labelled.image.is_contiguous(memory_format=torch.channels_last) for c in contenders.values()]
    assert layouts == [False, True, True, True]


def test_contenders_see_the_same_batch(contenders) -> None:
    first, *others = (contender.batch for contender in contenders.values())
    assert (first.labelled.label == 255).any() and first.mix_mask.any()
    for other in others:
        assert torch.equal(first.labelled.image, other.labelled.image)
        assert torch.equal(first.labelled.label, other.labelled.label)
        assert torch.equal(first.unlabelled[1].image, other.unlabelled[1].image)
        assert torch.equal(first.mix_mask, other.mix_mask)


@pytest.mark.parametrize("name", NAMES)
def test_a_step_moves_the_weights(contenders, name) -> None:
    contender = contenders[name]
    weight = contender.method.networks[1].classifier.weight
    before = weight.detach().clone()
    contender.step()
    assert not torch.equal(weight, before)


def test_memory_between_steps_is_weights_buffers_and_momentum(contenders) -> None:
    contender = contenders["fpl"]
    contender.step()
    weights = sum(p.numel() for p in contender.method.parameters())
    buffers = sum(b.numel() * b.element_size() for b in contender.method.buffers())
    assert contender.static_mb == pytest.approx((8 * weights + buffers) / 2**20)


def test_defaults_by_device() -> None:
    gpu = default_setup("cuda")
    assert (gpu.backbone, gpu.crop, gpu.batch, gpu.images_per_step) == ("resnet50", 512, 8, 24)
    assert default_setup("cpu").crop < gpu.crop


@pytest.mark.parametrize(("changes", "message"), [({"crop": 16}, "--crop must be >= 32"), ({"batch": 1}, "--batch")])
def test_numbers_have_rules(changes, message) -> None:
    values = {"device": "cpu", "backbone": "x", "crop": 64, "batch": 2, "head_channels": 8, "low_channels": 4}
    with pytest.raises(ValueError, match=message):
        Setup(**{**values, **changes})
