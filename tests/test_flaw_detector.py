import pytest
import torch
from torch.nn import functional as F

from fpl_fast.trainer.models.flaw_detector import FlawDetector


@pytest.mark.parametrize(("num_classes", "number"), [(21, 8_294_017), (19, 8_291_969)])
def test_number_of_parameters(num_classes, number):
    assert sum(p.numel() for p in FlawDetector(num_classes).parameters()) == number


def test_sizes():
    """Those of 512 x 512 pixels in the public code; the last map is upsampled."""
    detector, sizes = FlawDetector(4, channels=2), []
    for layer in detector.layers:
        if isinstance(layer, torch.nn.Conv2d):
            layer.register_forward_hook(lambda _, __, output: sizes.append(tuple(output.shape[1:])))
    with torch.no_grad():
        maps = detector(torch.randn(1, 3, 512, 512), torch.rand(1, 4, 512, 512))
    assert maps.shape == (1, 512, 512)
    assert [side for _, side, _ in sizes] == [256, 128, 127, 63, 62, 31, 30, 15]
    assert [channels for channels, _, _ in sizes] == [2, 4, 4, 8, 8, 16, 16, 1]


def test_equals_the_literal_version():
    detector = FlawDetector(4, channels=3).train()
    image, probability = torch.randn(2, 3, 60, 70), torch.rand(2, 4, 60, 70)
    x = torch.cat([image, probability], 1)
    layers = [layer for layer in detector.layers if isinstance(layer, torch.nn.Conv2d)]
    for layer, stride in zip(layers, (2, 2, 1, 2, 1, 2, 1, 2), strict=True):
        x = F.conv2d(x, layer.weight, layer.bias, stride, 1)
        if layer is not layers[-1]:
            half = (x.shape[1] + 1) // 2
            first, second = F.batch_norm(x[:, :half], None, None, training=True), F.instance_norm(x[:, half:])
            x = F.leaky_relu(torch.cat([first, second], 1), 0.2)
    expected = F.interpolate(x, (60, 70), mode="bilinear", align_corners=True)[:, 0]
    torch.testing.assert_close(detector(image, probability), expected, rtol=1e-4, atol=1e-5)


def test_least_size():
    size = FlawDetector.LEAST_SIZE
    detector = FlawDetector(4, channels=2).train()
    for height, width in ((size, size), (size, 90)):
        assert detector(torch.randn(1, 3, height, width), torch.rand(1, 4, height, width)).isfinite().all()
    with pytest.raises((RuntimeError, ValueError)):
        detector(torch.randn(1, 3, size - 1, 90), torch.rand(1, 4, size - 1, 90))
