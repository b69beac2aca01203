import torch
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.models.ael import AELHead, AuxiliaryHead, PyramidPooling
from fpl_fast.trainer.models.features import Features


def randomise_norms(module):
    for norm in (m for m in module.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)


def layer(x, block, **options):
    """Convolution, batch norm, ReLU, written out with the block's numbers."""
    conv, norm = block[0], block[1]
    y = F.conv2d(x, conv.weight, conv.bias, **options)
    scale = norm.weight / (norm.running_var + 1e-5).sqrt()
    y = (y - norm.running_mean[:, None, None]) * scale[:, None, None] + norm.bias[:, None, None]
    return y.clamp(min=0)


def literal_pooling(aspp, x):
    mean = layer(x.mean((2, 3), keepdim=True), aspp.pool[1])
    parts = [F.interpolate(mean, x.shape[-2:], mode="bilinear", align_corners=True), layer(x, aspp.branches[0])]
    for block, rate in zip(aspp.branches[1:], (12, 24, 36), strict=True):
        parts.append(layer(x, block, padding=rate, dilation=rate))
    return torch.cat(parts, dim=1)


def test_pyramid_pooling_layer_by_layer():
    aspp, x = PyramidPooling(6, 4).eval(), torch.randn(2, 6, 41, 39)
    randomise_norms(aspp)
    torch.testing.assert_close(aspp(x), literal_pooling(aspp, x), rtol=1e-4, atol=1e-4)
    assert all(m.bias is None for m in aspp.modules() if isinstance(m, nn.Conv2d))


def test_head_layer_by_layer():
    head = AELHead((5, 7), channels=6).eval()
    randomise_norms(head)
    features = Features(torch.randn(2, 5, 17, 25), torch.randn(2, 3, 9, 13), torch.randn(2, 7, 9, 13))
    low = layer(features.low, head.low)
    high = layer(literal_pooling(head.aspp, features.high), head.high, padding=1)
    x = torch.cat([low, F.interpolate(high, (17, 25), mode="bilinear", align_corners=True)], dim=1)
    for block in head.refine:
        x = layer(x, block, padding=1)
    torch.testing.assert_close(head(features), x, rtol=1e-4, atol=1e-4)
    assert head.high[0].bias is None
    assert all(block[0].bias is not None for block in (head.low, *head.refine))


def test_auxiliary_head_layer_by_layer():
    head, x = AuxiliaryHead(5, 6, 4).eval(), torch.randn(2, 5, 9, 7)
    randomise_norms(head)
    expected = F.conv2d(layer(x, head[0], padding=1), head[1].weight, head[1].bias)
    torch.testing.assert_close(head(x), expected, rtol=1e-4, atol=1e-4)


def test_dropout_takes_whole_channels_in_training_only():
    blocks = [m for m in (*AELHead((5, 7)).modules(), *AuxiliaryHead(5, 6, 4).modules()) if isinstance(m, nn.Dropout2d)]
    assert [block.p for block in blocks] == [0.1] * 4  # head, two refining layers, auxiliary head
    x = torch.randn(2, 5, 9, 7)
    head = AuxiliaryHead(5, 256, 4)
    torch.manual_seed(0)
    mask = head[0](x).abs().amax((2, 3)) == 0
    assert 0.05 < mask.float().mean() < 0.2
    head.eval()
    assert torch.equal(head(x), head(x))
