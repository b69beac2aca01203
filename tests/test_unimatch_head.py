"""UniMatch's decoder, and perturbed features beside the clean ones."""

import pytest
import torch
from test_ael import layer, randomise_norms
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.models.features import Features
from fpl_fast.trainer.models.network import build_network
from fpl_fast.trainer.models.unimatch import UniMatchHead

TINY = {"backbone": "test_resnet", "num_classes": 5, "head_channels": 8, "low_channels": 4}


def test_head_layer_by_layer():
    head = UniMatchHead((5, 7), channels=6, low_channels=3).eval()
    randomise_norms(head)
    features = Features(torch.randn(2, 5, 17, 25), torch.randn(2, 3, 9, 13), torch.randn(2, 7, 9, 13))
    aspp, x = head.aspp[0], features.high
    mean = layer(x.mean((2, 3), keepdim=True), aspp.pool[1]).expand(-1, -1, 9, 13)
    parts = [layer(x, block, padding=rate, dilation=max(rate, 1))
             for block, rate in zip(aspp.branches, (0, 6, 12, 18), strict=True)]  # fmt: skip
    high = layer(torch.cat([mean, *parts], dim=1), head.aspp[1])
    high = F.interpolate(high, (17, 25), mode="bilinear", align_corners=True)
    x = torch.cat([layer(features.low, head.low), high], dim=1)
    for block in head.refine:
        x = layer(x, block, padding=1)
    torch.testing.assert_close(head(features), x, rtol=1e-4, atol=1e-4)
    assert all(m.bias is None for m in head.modules() if isinstance(m, nn.Conv2d))


def draw_factors(network, num):
    return tuple(2.0 * (torch.rand(num, c, 1, 1) < 0.5) for c in network.feature_channels)


@pytest.mark.parametrize("head", ["cps", "ael", "unimatch"])
def test_perturbed_logits_follow_the_clean_ones(head):
    network, image = build_network(**TINY, head=head).eval(), torch.randn(3, 3, 64, 96)
    factors = draw_factors(network, 3)
    clean, perturbed = network(image, factors=factors).chunk(2)
    torch.testing.assert_close(clean, network(image), rtol=1e-4, atol=1e-5)
    features = network.encode(image)
    low, high = factors
    scaled = features._replace(low=features.low * low, high=features.high * high)
    torch.testing.assert_close(perturbed, network.classify(network.decode(scaled)), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(perturbed, clean, atol=1e-3)
    alone = network(image, factors=factors, beside_clean=False)
    torch.testing.assert_close(alone, perturbed, rtol=1e-4, atol=1e-5)


def test_both_halves_share_the_statistics_of_the_decoder():
    """One pass over both: the running statistics move once."""
    network, image = build_network(**TINY, head="unimatch").train(), torch.randn(2, 3, 64, 64)
    network(image, factors=draw_factors(network, 2))
    moved = {m.num_batches_tracked.item() for m in network.modules() if isinstance(m, nn.BatchNorm2d)}
    assert moved == {1}


def test_auxiliary_logits_see_clean_features():
    network, image = build_network(**TINY, head="ael").eval(), torch.randn(2, 3, 64, 64)
    logits, aux = network.forward_with_aux(image, factors=draw_factors(network, 2))
    assert len(logits) == 4
    torch.testing.assert_close(aux, network.forward_with_aux(image)[1])


def test_low_precision_stays_low():
    network, image = build_network(**TINY, head="unimatch").eval(), torch.randn(2, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image, factors=draw_factors(network, 2)).dtype == torch.bfloat16


def test_other_factors_are_no_other_graph():
    network, image, graphs = build_network(**TINY, head="unimatch").eval(), torch.randn(2, 3, 32, 32), []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    factors = [draw_factors(network, 2) for _ in range(3)]
    expected = [network(image, factors=factor) for factor in factors]
    network.compile(backend=backend, fullgraph=True)
    for factor, logits in zip(factors, expected, strict=True):
        torch.testing.assert_close(network(image, factors=factor), logits)
    assert len(graphs) == 1
