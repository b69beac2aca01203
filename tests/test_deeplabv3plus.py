import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.models.backbone import Features
from fpl_fast.trainer.models.deeplabv3plus import ASPP, DeepLabV3PlusHead, build_network

TINY = {"backbone": "test_resnet", "head_channels": 24, "low_channels": 8}


def num_parameters(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "backbone, num_classes, classifier, total",
    [("resnet50", 21, 5_397, 40_475_957), ("resnet101", 19, 4_883, 59_467_571)],
)
def test_parameters_are_counted_as_published(backbone, num_classes, classifier, total):
    network = build_network(backbone, num_classes)
    assert num_parameters(network.head) == 16_838_752
    assert num_parameters(network.classifier) == classifier
    assert num_parameters(network) == total


def test_aspp_layer_by_layer():
    aspp, x = ASPP(6, 4).eval(), torch.randn(2, 6, 21, 23)
    for norm in (module for module in aspp.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
        norm.running_mean.normal_(), norm.running_var.uniform_(0.5, 2)

    def norm(y, module):
        scale = module.weight / (module.running_var + 1e-5).sqrt()
        return (y - module.running_mean[:, None, None]) * scale[:, None, None] + module.bias[:, None, None]

    def leaky(y):
        return torch.where(y > 0, y, 0.01 * y)

    weights = [branch.weight for branch in aspp.branches]
    parallel = [F.conv2d(x, weights[0])]
    parallel += [F.conv2d(x, w, padding=d, dilation=d) for w, d in zip(weights[1:], (6, 12, 18), strict=True)]
    a = F.conv2d(leaky(norm(torch.cat(parallel, 1), aspp.branches_norm)), aspp.reduce.weight)
    _, first, pool_norm, _, second = aspp.pool
    g = F.conv2d(x.mean((2, 3), keepdim=True), first.weight)
    g = F.conv2d(leaky(norm(g, pool_norm)), second.weight)
    torch.testing.assert_close(aspp(x), leaky(norm(a + g, aspp.norm)), rtol=1e-4, atol=1e-4)


def test_head_concatenates_upsampled_features_before_fine_ones():
    head = DeepLabV3PlusHead((5, 7), channels=6, low_channels=3).eval()
    features = Features(torch.randn(1, 5, 9, 13), torch.randn(1, 7, 3, 4))
    high = F.interpolate(head.aspp(features.high), (9, 13), mode="bilinear", align_corners=True)
    expected = head.refine(torch.cat([high, head.low(features.low)], dim=1))
    torch.testing.assert_close(head(features), expected)
    assert head.refine[0][0].in_channels == 9
    assert not any(m.bias is not None for m in head.modules() if isinstance(m, nn.Conv2d))


def test_initialisation():
    torch.manual_seed(0)
    network = build_network("test_resnet", 11)
    for module in network.head.modules():
        if isinstance(module, nn.Conv2d):
            fan_in = module.in_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.06)
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()
            assert (module.bias == 0).all()
            assert (module.eps, module.momentum) == (1e-5, 0.1)
    bound = 256**-0.5
    assert network.classifier.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.1)
    assert network.classifier.bias.abs().max() <= bound
    assert network.classifier.bias.std() > 0.2 * bound


def test_two_networks_differ():
    first, second = build_network(num_classes=5, **TINY), build_network(num_classes=5, **TINY)
    assert not torch.equal(first.classifier.weight, second.classifier.weight)
    assert not torch.equal(first.head.low[0].weight, second.head.low[0].weight)


@pytest.mark.parametrize("size", [(64, 64), (65, 97), (33, 34)])  # a multiple of 16, odd, just above one
def test_logits_have_stride_four_and_parts_compose(size):
    network = build_network(num_classes=5, **TINY).eval()
    image = torch.randn(2, 3, *size)
    logits = network(image)
    assert logits.shape == (2, 5, -(-size[0] // 4), -(-size[1] // 4))
    torch.testing.assert_close(network.classify(network.decode(network.encode(image))), logits)


def test_every_parameter_gets_a_gradient():
    network = build_network(num_classes=5, **TINY)
    network(torch.randn(2, 3, 64, 64)).square().mean().backward()
    missing = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
    assert missing == []


def test_channels_last_and_autocast():
    network = build_network(num_classes=5, **TINY).eval().to(memory_format=torch.channels_last)
    image = torch.randn(2, 3, 64, 96).contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        low_precision = network(image)
    assert low_precision.dtype == torch.bfloat16
    assert low_precision.is_contiguous(memory_format=torch.channels_last)
    exact = network(image)
    assert (low_precision.float() - exact).norm() < 0.1 * exact.norm()


@pytest.mark.parametrize("name, value", [("num_classes", 1), ("head_channels", 0), ("low_channels", -3)])
def test_wrong_arguments(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least ., got {value}"):
        build_network(**TINY | {"num_classes": 5} | {name: value})
