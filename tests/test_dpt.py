"""Vision transformers, and the head that decodes them."""

import logging

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.models.dpt import DPTHead
from fpl_fast.trainer.models.features import PatchFeatures
from fpl_fast.trainer.models.network import build_network
from fpl_fast.trainer.models.transformer import Transformer

TINY = {"backbone": "test_vit", "head": "dpt", "output_stride": None}


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    ("backbone", "encoder", "decoder"),
    [
        # published 22,056,576 and 86,580,480 with a mask token of 384 and 768 weights
        ("vit_small_patch14_dinov2", 22_056_192, 2_739_061 - 73_856),
        ("vit_base_patch14_dinov2", 86_579_712, 10_948_309 - 295_168),  # without a residual unit that nothing reaches
    ],
)
def test_parameters_of_unimatch_v2(backbone, encoder, decoder):
    network = build_network(backbone, 21, head="dpt", output_stride=None).to("meta")
    assert num_parameters(network.backbone) == encoder
    assert num_parameters(network.head) + num_parameters(network.classifier) == decoder
    assert network.backbone.encoder.pos_embed.shape[1] == 37 * 37 + 1  # of 518 x 518, with the class token
    assert network.backbone._taps == [2, 5, 8, 11]
    assert list(network.buffers()) == []
    for crop in (518, 798):
        grid = crop // 14
        image = torch.zeros(1, 3, crop, crop, device="meta")
        assert network(image).shape == (1, 21, 8 * grid, 8 * grid)


def test_head_layer_by_layer():
    head = DPTHead(24)
    assert [layer.out_channels for layer in head.project] == [3, 6, 12, 24]
    blocks = tuple(torch.randn(2, 24, 3, 5) for _ in range(4))
    maps = [F.conv2d(x, layer.weight, layer.bias) for x, layer in zip(blocks, head.project, strict=True)]
    maps[0] = F.conv_transpose2d(maps[0], head.resize[0].weight, head.resize[0].bias, stride=4)
    maps[1] = F.conv_transpose2d(maps[1], head.resize[1].weight, head.resize[1].bias, stride=2)
    maps[3] = F.conv2d(maps[3], head.resize[3].weight, head.resize[3].bias, stride=2, padding=1)
    assert [tuple(x.shape[-2:]) for x in maps] == [(12, 20), (6, 10), (3, 5), (2, 3)]
    maps = [F.conv2d(x, layer.weight, padding=1) for x, layer in zip(maps, head.reduce, strict=True)]

    def unit(x, layers):
        inner = F.conv2d(x.clamp(min=0), layers.first.weight, layers.first.bias, padding=1).clamp(min=0)
        return x + F.conv2d(inner, layers.second.weight, layers.second.bias, padding=1)

    path = None
    for place, size in ((3, (3, 5)), (2, (6, 10)), (1, (12, 20)), (0, (24, 40))):
        fusion = head.fusions[place]
        joined = maps[place] if path is None else path + unit(maps[place], fusion.skip)
        joined = F.interpolate(unit(joined, fusion.unit), size, mode="bilinear", align_corners=True)
        path = F.conv2d(joined, fusion.out.weight, fusion.out.bias)
    torch.testing.assert_close(head.fuse(PatchFeatures(blocks)), path)
    refined = F.conv2d(path, head.refine[0].weight, head.refine[0].bias, padding=1).clamp(min=0)
    torch.testing.assert_close(head(PatchFeatures(blocks)), refined)
    assert refined.shape == (2, 4, 24, 40)


def test_blocks_are_spread_over_the_depth_and_normalised():
    backbone = Transformer("test_vit").eval()  # six blocks
    encoder, image = backbone.encoder, torch.randn(2, 3, 160, 160)
    x = encoder.norm_pre(encoder._pos_embed(encoder.patch_embed(image)))
    found = []
    for block in encoder.blocks:
        x = block(x)
        found.append(encoder.norm(x)[:, 1:].movedim(1, -1).unflatten(-1, (10, 10)))
    expected = [found[index] for index in (0, 2, 3, 5)]
    for ours, theirs in zip(backbone(image).blocks, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_every_parameter_gets_a_gradient_at_any_size():
    network = build_network(num_classes=5, **TINY)
    assert network.size_multiple == 16
    logits = network(torch.randn(2, 3, 32, 80))
    assert logits.shape == (2, 5, 16, 40)
    logits.square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []


@pytest.mark.parametrize("name", ["test_vit", "test_vit2", "test_vit3"])
def test_nothing_is_left_of_what_classified(name):
    """Pooling and its norm would wait for a gradient in vain."""
    network = build_network(name, 5, head="dpt", output_stride=None)
    network(torch.randn(2, 3, 32, 32)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None] == []


def test_parts_compose():
    network, image = build_network(num_classes=5, **TINY).eval(), torch.randn(2, 3, 48, 64)
    logits = network(image)
    torch.testing.assert_close(network.classify(network.decode(network.encode(image))), logits)
    torch.testing.assert_close(network.classify(network.forward_with_decoded(image)[1]), logits)
    _, aux, fused = network.forward_with_fused(image)
    assert aux is None
    assert fused.shape[1] == network.fused_channels
    torch.testing.assert_close(network.classify(network.head.refine(fused)), logits)


def test_channels_are_perturbed_alike_in_all_blocks():
    network, image = build_network(num_classes=5, **TINY).eval(), torch.randn(2, 3, 32, 48)
    assert network.feature_channels == (64,)
    factor = 2.0 * (torch.rand(2, 64, 1, 1) < 0.5)
    blocks = tuple(block * factor for block in network.encode(image).blocks)
    expected = network.classify(network.decode(PatchFeatures(blocks)))
    torch.testing.assert_close(network(image, factors=(factor,), beside_clean=False), expected)
    both = network(image, factors=(factor,))
    torch.testing.assert_close(both, torch.cat([network(image), expected]))
    assert not torch.allclose(expected, network(image), atol=1e-3)


def test_low_precision_and_compilation():
    network, image = build_network(num_classes=5, **TINY).eval(), torch.randn(2, 3, 32, 32)
    factor = torch.rand(2, 64, 1, 1)
    with torch.autocast("cpu", torch.bfloat16):
        assert network(image, factors=(factor,), beside_clean=False).dtype == torch.bfloat16
    graphs, expected = [], network(image)

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    network.compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(network(image), expected)
    assert len(graphs) == 1


def test_published_files_of_dinov2_fit(tmp_path, caplog):
    """Their names are timm's, and a mask token more."""
    source = Transformer("test_vit").encoder
    torch.save(source.state_dict() | {"mask_token": torch.zeros(1, 64)}, tmp_path / "dinov2.pth")
    with caplog.at_level(logging.INFO):
        network = build_network(num_classes=5, weights_file=tmp_path / "dinov2.pth", **TINY)
    for name, value in network.backbone.encoder.state_dict().items():
        assert torch.equal(value, source.state_dict()[name])
    assert "not used: mask_token" in caplog.text


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "resnet50",
            {},
            "backbone must be a plain vision transformer with model.head dpt, got 'resnet50': take --model",
        ),
        ("test_vitt", {}, r"backbone must be .*, got 'test_vitt' \(nearest: .*test_vit"),
        ("test_vit", {"output_stride": 8}, "output_stride must be 16 or None for the backbone 'test_vit', .*, got 8"),
    ],
)
def test_wrong_arguments(name, options, message):
    with pytest.raises(ValueError, match=message):
        Transformer(name, **options)


def test_weights_that_cannot_be_fetched_are_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=r"timm's weights test_vit\.r160_in1k could not be fetched: give a file") as e:
        build_network(num_classes=5, pretrained=True, **TINY)
    assert "\n" not in str(e.value)


def test_no_norm_has_statistics():
    assert not any(
        isinstance(m, nn.modules.batchnorm._NormBase) for m in build_network(num_classes=5, **TINY).modules()
    )
