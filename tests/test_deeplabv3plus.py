import torch
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.models.deeplabv3plus import ASPP, DeepLabV3PlusHead
from fpl_fast.trainer.models.features import Features


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
    features = Features(torch.randn(1, 5, 9, 13), torch.randn(1, 6, 5, 7), torch.randn(1, 7, 3, 4))
    high = F.interpolate(head.aspp(features.high), (9, 13), mode="bilinear", align_corners=True)
    expected = head.refine(torch.cat([high, head.low(features.low)], dim=1))
    torch.testing.assert_close(head(features), expected)
    assert head.refine[0][0].in_channels == 9
    assert not any(m.bias is not None for m in head.modules() if isinstance(m, nn.Conv2d))
