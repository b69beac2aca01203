import copy

import pytest
import torch
from torch import nn
from trainer_runs import method_config

from fpl_fast.bench.training.plain_cps import PlainCPS
from fpl_fast.trainer.methods import Batch, View, build_method

C, SIZE = 6, (14, 18)


def make_network():
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, C, 3, 2, 1))
    nn.init.normal_(layers[-1].weight, std=0.5)  # spread logits, so that K varies
    return layers


def make_batch(num_views):
    def view(label=None):
        return View(torch.randn(2, 3, *SIZE), torch.ones(2, *SIZE, dtype=torch.bool), label)

    label = torch.randint(C, (2, *SIZE)).masked_fill(torch.rand(2, *SIZE) < 0.2, 255)
    mask = torch.rand(2, *SIZE) < 0.4
    return Batch(view(label), tuple(view() for _ in range(num_views)), mask if num_views == 2 else None)


@pytest.mark.parametrize("cutmix", [False, True])
@pytest.mark.parametrize(("loss", "weighting"), [("ce", "none"), ("fpl", "none"), ("fpl", "concave")])
def test_same_losses_and_gradients_as_ours(loss, weighting, cutmix) -> None:
    """It may be slower, never different."""
    config = method_config(loss=loss, weighting=weighting, cutmix=cutmix, unsup_weight=1.5)
    ours = build_method(config, make_network).train()
    networks = iter(copy.deepcopy(ours.networks))
    plain = PlainCPS(config, lambda: next(networks), ignore_index=255).train()
    batch = make_batch(ours.num_unlabelled_views)
    terms, expected = plain(batch, 0.0).terms, ours(batch, 0.0).terms
    assert terms.keys() == expected.keys() and terms["loss_unsup"] > 0
    for name in terms:
        torch.testing.assert_close(terms[name], expected[name], rtol=1e-4, atol=1e-5)
    gradients = [
        torch.autograd.grad(sum(values.values()), list(method.parameters()))
        for values, method in ((terms, plain), (expected, ours))
    ]
    for gradient, other in zip(*gradients, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-3, atol=1e-5)
