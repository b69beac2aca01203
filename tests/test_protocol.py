import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.evaluation import protocol
from fpl_fast.trainer.evaluation.protocol import (
    PROTOCOLS,
    Protocol,
    named_protocol,
    predict_classes,
    predict_logits,
)

NUM_CLASSES = 4


@pytest.mark.parametrize(
    "window, size, rows, columns",
    [
        ((800, 800), (1024, 2048), [0, 224], [0, 534, 1068, 1248]),  # Cityscapes in the CPS protocol
        ((769, 769), (1024, 2048), [0, 255], [0, 513, 1026, 1279]),  # Cityscapes in the AEL protocol
        ((798, 798), (1024, 2048), [0, 226], [0, 532, 1064, 1250]),  # Cityscapes with UniMatch V2
        ((512, 512), (512, 512), [0], [0]),
        ((768, 768), (769, 2304), [0, 1], [0, 512, 1024, 1536]),  # 2/3 of 768 is whole
        ((3, 2), (7, 5), [0, 2, 4], [0, 2, 3]),
    ],
)
def test_window_positions(window, size, rows, columns):
    protocol = Protocol(window)
    assert protocol.starts(size[0], axis=0) == rows
    assert protocol.starts(size[1], axis=1) == columns


@pytest.mark.parametrize("window, stride", [((5, 7), 2 / 3), ((4, 4), 1.0), ((9, 3), 0.34)])
def test_sliding_windows_sum_raw_logits(window, stride):
    """Against a loop over pixels; the network answers at half the resolution and sees where a window starts."""
    image = torch.randn(2, 3, 11, 13)
    convolution = nn.Conv2d(3, NUM_CLASSES, 3, padding=1)

    @torch.no_grad()
    def network(crop):
        return F.avg_pool2d(convolution(crop), 2, ceil_mode=True)

    protocol = Protocol(window, stride)
    expected = torch.zeros(2, NUM_CLASSES, 11, 13)
    for top, left in itertools.product(protocol.starts(11, 0), protocol.starts(13, 1)):
        inside = (..., slice(top, top + window[0]), slice(left, left + window[1]))
        expected[inside] += F.interpolate(network(image[inside]), window, mode="bilinear", align_corners=True)
    torch.testing.assert_close(predict_logits(network, image, protocol), expected)


def test_a_small_image_is_padded_around_its_centre_and_cut_out_again():
    image, seen = torch.rand(1, 3, 4, 6) + 1, []

    def network(crop):
        seen.append(crop)
        return crop

    logits = predict_logits(network, image, Protocol((7, 9)))
    (padded,) = seen
    assert padded.shape == (1, 3, 7, 9)
    assert torch.equal(padded[..., 1:5, 1:7], image)
    assert padded.count_nonzero() == image.numel()
    torch.testing.assert_close(logits, image)


def test_an_image_smaller_in_one_direction_only():
    image = torch.rand(1, 3, 4, 20) + 1
    logits = predict_logits(lambda crop: crop, image, Protocol((8, 8)))
    times = torch.tensor([1] * 6 + [2] * 2 + [1] * 4 + [2] * 2 + [1] * 6)  # windows at 0, 6, 12
    torch.testing.assert_close(logits, image * times)


def test_padding_is_the_mean_colour_whichever_side_is_short():
    """0 after normalisation, as the crops of training are padded; black would be -mean / std."""
    seen = []

    def network(crops):
        seen.extend(crops[:, 0])
        return crops

    predict_logits(network, torch.full((1, 3, 2, 5), 7.0), Protocol((4, 4), stride=1.0))
    row = [7.0] * 4
    assert [window.tolist() for window in seen] == [[[0.0] * 4, row, row, [0.0] * 4]] * 2


def test_whole_image_upsamples_to_the_image():
    image = torch.randn(1, 3, 9, 14)
    coarse = torch.randn(1, NUM_CLASSES, 3, 4)
    logits = predict_logits(lambda _: coarse.bfloat16(), image, Protocol())
    assert logits.dtype == torch.float32
    torch.testing.assert_close(
        logits, F.interpolate(coarse.bfloat16().float(), (9, 14), mode="bilinear", align_corners=True)
    )


@pytest.mark.parametrize("size", [(9, 14), (16, 24), (5, 31), (15, 8)])
def test_an_image_is_reflected_to_a_multiple_and_cut_out_again(size):
    image, seen = torch.randn(1, 3, *size), []

    def network(x):
        seen.append(x)
        return F.avg_pool2d(x[:, :1], 4)

    logits = predict_logits(network, image, Protocol(multiple=8))
    missing = [-side % 8 for side in size]
    padded = F.pad(image, (0, missing[1], 0, missing[0]), mode="reflect")
    assert torch.equal(*seen, padded)
    whole = F.interpolate(network(padded), padded.shape[-2:], mode="bilinear", align_corners=True)
    torch.testing.assert_close(logits, whole[..., : size[0], : size[1]])


def test_sides_shorter_than_their_reflection():
    """PyTorch refuses to reflect these."""
    seen = []
    predict_logits(lambda x: seen.append(x) or x, torch.arange(6.0).view(1, 1, 2, 3), Protocol(multiple=8))
    rows, columns = [0, 1] * 4, [0, 1, 2, 1, 0, 1, 2, 1]
    assert torch.equal(seen[0][0, 0], torch.arange(6.0).view(2, 3)[rows][:, columns])
    predict_logits(lambda x: seen.append(x) or x, torch.ones(1, 1, 1, 1), Protocol(multiple=8))
    assert torch.equal(seen[1], torch.ones(1, 1, 8, 8))


def test_probabilities_are_averaged_over_windows():
    """Against a loop over windows that keeps every window's probabilities of every pixel."""
    image = torch.randn(1, 3, 10, 12)
    convolution = nn.Conv2d(3, NUM_CLASSES, 3, padding=1)
    protocol = Protocol((6, 5), combine="probabilities")
    answers = [[[] for _ in range(12)] for _ in range(10)]
    with torch.no_grad():
        for top, left in itertools.product(protocol.starts(10, 0), protocol.starts(12, 1)):
            probabilities = convolution(image[..., top : top + 6, left : left + 5]).softmax(1)[0]
            for row, column in itertools.product(range(6), range(5)):
                answers[top + row][left + column].append(probabilities[:, row, column])
        found = predict_logits(convolution, image, protocol).softmax(1)[0]
        summed = predict_logits(convolution, image, Protocol((6, 5))).softmax(1)[0]
    expected = torch.stack([torch.stack([torch.stack(a).mean(0) for a in row], -1) for row in answers], 1)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(summed, expected)


@pytest.mark.parametrize(
    "window, size, rows, columns",
    [
        ((801, 801), (1024, 2048), [0, 534], [0, 534, 1068, 1602]),  # Cityscapes in the protocol of UniMatch
        ((61, 61), (96, 160), [0, 40, 80], [0, 40, 80, 120]),
        ((9, 9), (4, 6), [0], [0]),
        ((1, 1), (2, 3), [0, 1], [0, 1, 2]),  # a step of no pixel would never end
    ],
)
def test_the_border_cuts_windows(window, size, rows, columns):
    """Nothing is padded, and every pixel has the mean of the windows over it."""
    protocol, seen = Protocol(window, combine="probabilities", border="cut"), []
    assert (protocol.starts(size[0], axis=0), protocol.starts(size[1], axis=1)) == (rows, columns)
    image = torch.randn(1, NUM_CLASSES, *size)

    def network(crops):
        seen.extend([tuple(crops.shape[-2:])] * len(crops))
        return crops

    torch.testing.assert_close(predict_logits(network, image, protocol).softmax(1), image.softmax(1))
    expected = itertools.product(*([min(w, s - t) for t in starts] for w, s, starts in
                                   zip(window, size, (rows, columns), strict=True)))  # fmt: skip
    assert sorted(seen) == sorted(expected)


def test_probabilities_of_zero_stay_finite():
    logits = torch.tensor([0.0, 500.0, -500.0, 0.0]).view(1, 4, 1, 1)
    found = predict_logits(lambda crops: logits.expand(len(crops), 4, 2, 2), torch.zeros(1, 3, 2, 3),
                           Protocol((2, 2), combine="probabilities"))  # fmt: skip
    assert found.isfinite().all()
    assert (found.argmax(1) == 1).all()


def test_named_protocols():
    size = (5, 7)
    assert named_protocol("cps", size) == Protocol(window=size)
    assert named_protocol("ael", size) == Protocol(window=size, combine="probabilities")
    assert named_protocol("ael_crop", size) == Protocol(centre=size)
    assert named_protocol("unimatch", size) == Protocol(window=size, combine="probabilities", border="cut")
    assert named_protocol("cac", size) == Protocol(multiple=8)
    assert named_protocol("whole", size) == Protocol()
    assert len(PROTOCOLS) == 6
    names = "cps, ael, ael_crop, cac, unimatch, whole"
    with pytest.raises(ValueError, match=f"protocol must be one of {names}, got 'window'"):
        named_protocol("window", size)


def test_the_part_that_counts():
    plane = torch.arange(35).view(1, 5, 7)
    assert Protocol(window=(2, 2)).part(plane) is plane
    assert torch.equal(Protocol(centre=(3, 3)).part(plane), plane[:, 1:4, 2:5])
    padded = Protocol(centre=(7, 7)).part(plane)
    assert torch.equal(padded[:, 1:6], plane)
    assert padded.count_nonzero() == plane.count_nonzero()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Protocol((0, 5)), r"window must be at least 1 x 1 or None, got \(0, 5\)"),
        (lambda: Protocol(centre=(5, 0)), r"centre must be at least 1 x 1 or None, got \(5, 0\)"),
        (lambda: Protocol((4, 4), 1.5), r"stride must be in \(0, 1\], got 1.5"),
        (lambda: Protocol(combine="votes"), "combine must be 'logits' or 'probabilities', got 'votes'"),
        (lambda: Protocol(border="open"), "border must be 'shift' or 'cut', got 'open'"),
        (lambda: Protocol(multiple=0), "multiple must be at least 1 pixel, got 0"),
    ],
)
def test_wrong_arguments(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("size", "seen"), [((75, 100), (70, 98)), ((3, 20), (14, 14)), ((35, 21), (42, 28)), ((28, 42), (28, 42))]
)
@pytest.mark.parametrize("window", [None, (28, 30)])
def test_transformers_see_multiples_of_their_patches(size, seen, window):
    """Images and windows are resized to the nearest multiple and their logits back; halves are rounded up."""
    convolution, shapes = nn.Conv2d(3, NUM_CLASSES, 3, padding=1), []

    class Network(nn.Module):
        size_multiple = 14

        def forward(self, image):
            shapes.append(tuple(image.shape[-2:]))
            return F.avg_pool2d(convolution(image), 2)

    def resize(x, size):
        return F.interpolate(x, size, mode="bilinear", align_corners=True)

    network, image = Network(), torch.randn(1, 3, *size)
    logits = predict_logits(network, image, Protocol(window))
    assert logits.shape == (1, NUM_CLASSES, *size)
    if window is None:
        assert shapes == [seen]
        torch.testing.assert_close(logits, resize(resize(network(resize(image, seen)), seen), size))
    else:
        assert set(shapes) == {(28, 28)}


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("multiple", [1, 5])
def test_classes_are_those_of_the_logits(name, autocast, multiple):
    """All but near ties; windows, reflected borders and images of another size than the network's."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3, padding=1, stride=2))
    network.size_multiple = multiple
    image, protocol = torch.randn(2, 3, 21, 34), named_protocol(name, (12, 16))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        image = protocol.part(image)
        logits = predict_logits(network, image, protocol)
        classes = predict_classes(network, image, protocol, num_classes=6)
        with pytest.raises(ValueError, match="network must return num_classes = 7 channels, got 6"):
            predict_classes(network, image, protocol, num_classes=7)
    two = logits.topk(2, dim=1).values
    clear = two[:, 0] - two[:, 1] > 1e-5
    assert torch.equal(classes[clear], logits.argmax(1)[clear]) and clear.float().mean() > 0.9
    assert classes.dtype == torch.int64 and classes.shape == logits[:, 0].shape


@pytest.mark.parametrize("name", ["cps", "ael", "unimatch"])
@pytest.mark.parametrize(("images", "multiple"), [(1, 1), (2, 1), (1, 5)])
def test_windows_together_are_windows_one_at_a_time(name, images, multiple, monkeypatch):
    """As many as the bound allows, of one size; the predictions are the same where two logits do not nearly tie."""
    convolution, seen = nn.Conv2d(3, 6, 3, padding=1, stride=2), []

    class Network(nn.Module):
        size_multiple = multiple

        def forward(self, crops):
            seen.append(len(crops) * crops.shape[-2] * crops.shape[-1])
            return convolution(crops)

    image, named, found = torch.randn(images, 3, 33, 50), named_protocol(name, (15, 20)), {}
    for most in (1, 1500, 1 << 22):
        monkeypatch.setattr(protocol, "batch_pixels", lambda device, most=most: most)
        seen.clear()
        with torch.inference_mode():
            logits, classes = predict_logits(Network(), image, named), predict_classes(Network(), image, named)
        found[most] = logits, classes, len(seen)
        assert max(seen) <= max(most, images * 300) or most == 1 << 22
    one_at_a_time, alone, passes = found[1]
    two = one_at_a_time.topk(2, dim=1).values
    clear = two[:, 0] - two[:, 1] > 1e-4
    assert clear.float().mean() > 0.9
    for logits, classes, fewer in (found[1500], found[1 << 22]):
        torch.testing.assert_close(logits, one_at_a_time)
        assert torch.equal(classes[clear], alone[clear])
        assert fewer < passes
    sizes = [{min(extent, side - first) for first in named.starts(side, axis)}
             for axis, (extent, side) in enumerate(((15, 33), (20, 50)))]  # fmt: skip
    assert found[1 << 22][2] == 2 * math.prod(map(len, sizes))


def test_windows_go_together_on_a_gpu_alone():
    assert [protocol.batch_pixels(torch.device(name)) for name in ("cpu", "cuda")] == [0, protocol.BATCH_PIXELS]


def test_one_window_has_no_logits_at_its_size(monkeypatch):
    """Images of PASCAL VOC, each smaller than the window around it."""
    network, image = nn.Conv2d(3, 6, 3, padding=1, stride=4), torch.randn(2, 3, 21, 30)
    with torch.inference_mode():
        logits = predict_logits(network, image, Protocol(window=(32, 32)))
        monkeypatch.setattr(protocol, "upsample", None)
        classes = predict_classes(network, image, Protocol(window=(32, 32)))
    two = logits.topk(2, dim=1).values
    clear = two[:, 0] - two[:, 1] > 1e-5
    assert torch.equal(classes[clear], logits.argmax(1)[clear]) and clear.float().mean() > 0.9
