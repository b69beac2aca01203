import itertools
import math

import fresh
import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from fpl_fast.trainer.data.sample import Sample
from fpl_fast.trainer.data.transforms import Augmentation, normalize


def numbered(height, width):
    """A sample in which image and label tell the pixel's row and column."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    image = torch.stack([rows, columns, 7 * rows + columns]).to(torch.uint8)
    return Sample(image, (7 * rows + columns).to(torch.uint8))


def views(sample, augmentation, num=200, seed=0):
    rng = np.random.default_rng(seed)
    return [augmentation(sample, rng) for _ in range(num)]


def test_image_label_and_valid_stay_together():
    for view in views(numbered(12, 17), Augmentation((9, 21), scales=(1.0,))):
        assert torch.equal(view.image[2][view.valid], view.label[view.valid])
        assert (view.label[~view.valid] == 255).all()
        assert (view.image[:, ~view.valid] == 0).all()


def test_crop_offsets_are_uniform_and_inclusive():
    sample, crop = numbered(10, 13), (7, 9)
    corners = {
        (int(view.image[0, 0, 0]), int(view.image[1, 0, 0]))
        for view in views(sample, Augmentation(crop, scales=(1.0,), flip_probability=0), num=400)
    }
    # (10 - 7 + 1) x (13 - 9 + 1) offsets: neither end is missing, none is past the end
    assert corners == set(itertools.product(range(4), range(5)))


def test_flip_mirrors_columns_only():
    sample = numbered(6, 8)
    view = Augmentation((6, 8), scales=(1.0,), flip_probability=1.0)(sample, np.random.default_rng(0))
    assert torch.equal(view.image, sample.image.flip(-1))
    assert torch.equal(view.label, sample.label.flip(-1))
    flipped = [
        torch.equal(view.label, sample.label.flip(-1)) for view in views(sample, Augmentation((6, 8), scales=(1.0,)))
    ]
    assert 70 < sum(flipped) < 130  # of 200 at p = 0.5: more than four standard deviations away


def test_padding_is_centred_with_the_odd_pixel_after():
    view = Augmentation((8, 11), scales=(1.0,))(numbered(5, 6), np.random.default_rng(3))
    expected = torch.zeros(8, 11, dtype=torch.bool)
    expected[1:6, 2:8] = True
    assert torch.equal(view.valid, expected)


def test_scales_are_drawn_from_the_set_and_sizes_rounded_down():
    areas = {
        int(view.valid.sum()) for view in views(numbered(13, 9), Augmentation((64, 64), scales=(0.5, 0.75, 1.5, 2.0)))
    }
    assert areas == {6 * 4, 9 * 6, 19 * 13, 26 * 18}


def test_continuous_scales_lie_half_below_and_half_above_one():
    """Sizes of an image that the crop never cuts tell the scale."""
    augmentation = Augmentation((800, 800), scale_range=(0.1, 2.0))
    sides = np.array([np.sqrt(int(view.valid.sum())) / 400 for view in views(numbered(400, 400), augmentation)])
    assert 0.09 < sides.min() < 0.3
    assert 1.8 < sides.max() <= 2
    assert (sides < 1).mean() == pytest.approx(0.5, abs=0.18)  # five standard deviations
    assert sides[sides < 1].mean() == pytest.approx(0.55, abs=0.15)
    assert sides[sides > 1].mean() == pytest.approx(1.5, abs=0.17)


def test_padding_may_carry_a_label():
    view = Augmentation((8, 11), scales=(1.0,), pad_label=0)(numbered(5, 6), np.random.default_rng(3))
    assert (view.label[~view.valid] == 0).all()
    assert not view.valid.all()


def test_resizing_as_the_published_code():
    # the label by nearest neighbour at floor(i / scale), the image by bilinear interpolation of pixel centres
    sample = numbered(12, 10)
    view = Augmentation((18, 15), scales=(1.5,), flip_probability=0)(sample, np.random.default_rng(0))
    rows, columns = ((torch.arange(extent) / 1.5).long() for extent in (18, 15))
    assert torch.equal(view.label, sample.label[rows][:, columns])
    exact = torch.nn.functional.interpolate(sample.image[None].double(), (18, 15), mode="bilinear")[0]
    assert (view.image.double() - exact).abs().max() < 1.1  # rows and columns round to uint8, one after the other
    # halving averages pairs and does not blur wider: no anti-aliasing filter
    stripes = Sample((torch.arange(10) % 2 * 200).to(torch.uint8).expand(3, 4, 10), None)
    half = Augmentation((2, 5), scales=(0.5,), flip_probability=0)(stripes, np.random.default_rng(0))
    assert (half.image == 100).all()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"scales": (1.5,)}, [3, 3, 2, 1, 1, 0]),  # Chen et al.: flipped, then resized
        ({"scale_range": (1.0, 1.5)}, [3, 2, 2, 1, 0, 0]),  # Hu et al.: resized, then flipped
    ],
)
def test_flip_and_resizing_in_the_order_of_either_code(monkeypatch, options, expected):
    monkeypatch.setattr(Augmentation, "_draw_scale", lambda self, rng: 1.5)
    row = torch.arange(4, dtype=torch.uint8)
    sample = Sample((60 * row).expand(3, 2, 4), row.expand(2, 4))
    view = Augmentation((3, 6), flip_probability=1.0, **options)(sample, np.random.default_rng(0))
    assert view.label.tolist() == [expected] * 3
    assert view.image[0, 0].tolist() == [180, 150, 110, 70, 30, 0]  # bilinear weights are symmetric


@pytest.mark.parametrize("flip", [0, 1])
@pytest.mark.parametrize("size", [(64, 96), (75, 50), (61, 97), (60, 45)])  # divisible, some, prime, some
@pytest.mark.parametrize("scale", [0.5, 0.75, 1.0, 1.5, 1.75, 2.0])
def test_a_crop_is_cut_from_the_whole_resized_image(size, scale, flip):
    rng = fresh.rng()
    pixels, label = (torch.from_numpy(rng.integers(256, size=(n, *size), dtype=np.uint8)) for n in (3, 1))
    resized = [math.floor(side * scale) for side in size]
    seen = (pixels.flip(-1), label.flip(-1)) if flip else (pixels, label)
    whole_image = tv.resize(seen[0], resized, InterpolationMode.BILINEAR, antialias=False).int()
    whole_label = tv.resize(seen[1], resized, InterpolationMode.NEAREST)[0]
    crop = (17, 22)
    augmentation = Augmentation(crop, scales=(scale,), flip_probability=flip)
    for seed in rng.integers(10**6, size=30):
        view = augmentation(Sample(pixels, label[0]), np.random.default_rng(seed))
        draws = np.random.default_rng(seed)
        draws.random(), draws.integers(1)  # flip and scale
        top, left = (draws.integers(side - extent + 1) for side, extent in zip(resized, crop, strict=True))
        window = (..., slice(top, top + crop[0]), slice(left, left + crop[1]))
        assert torch.equal(view.label, whole_label[window])
        assert (view.image.int() - whole_image[window]).abs().max() <= 1  # weights are rounded at other places
        assert view.valid.all()


def test_one_pixel_shrinks_no_further():
    view = Augmentation((3, 3), scales=(0.5,))(numbered(1, 1), np.random.default_rng(0))
    assert view.valid.sum() == 1


@pytest.mark.parametrize("size", [(2, 1), (1, 2), (3, 1), (1, 1), (2, 2), (3, 3)])
@pytest.mark.parametrize("flip", [0, 1])
def test_images_of_a_few_pixels(size, flip):
    """Also where the resized image is a single pixel, the mean of those in its middle."""
    pixels = torch.from_numpy(fresh.rng().integers(256, size=(3, *size), dtype=np.uint8))
    for scale in (0.3, 0.5, 0.75, 1.0, 2.0):
        extent = [max(1, math.floor(side * scale)) for side in size]
        view = Augmentation(extent, scales=(scale,), flip_probability=flip)(
            Sample(pixels, pixels[0]), np.random.default_rng(0)
        )
        seen = pixels.flip(-1) if flip else pixels
        exact = torch.nn.functional.interpolate(seen[None].double(), extent, mode="bilinear")[0]
        assert (view.image.double() - exact).abs().max() < 1.1
        assert view.label.shape == tuple(extent)


def test_unlabelled_and_labelled_views_agree():
    sample, augmentation = numbered(20, 30), Augmentation((16, 16))
    with_label = augmentation(sample, np.random.default_rng(8))
    without = augmentation(Sample(sample.image, None), np.random.default_rng(8))
    assert without.label is None
    assert torch.equal(with_label.image, without.image)
    assert torch.equal(with_label.valid, without.valid)


def test_sample_is_not_written():
    sample = numbered(6, 8)
    image, label = sample.image.clone(), sample.label.clone()
    for view in views(sample, Augmentation((6, 8), scales=(1.0,)), num=4):
        view.image.fill_(9), view.label.fill_(9)
    assert torch.equal(sample.image, image)
    assert torch.equal(sample.label, label)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_normalize(memory_format):
    mean, std = (0.2, 0.5, 0.7), (0.1, 0.3, 0.25)
    image = torch.randint(0, 256, (2, 3, 5, 7), dtype=torch.uint8).contiguous(memory_format=memory_format)
    valid = torch.rand(2, 5, 7) < 0.7
    expected = (image.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    actual = normalize(image, valid, mean, std)
    assert actual.dtype == torch.float32
    assert actual.is_contiguous(memory_format=memory_format)
    mask = valid[:, None].expand_as(actual)
    torch.testing.assert_close(actual[mask].double(), expected[mask], atol=1e-5, rtol=1e-5)
    assert (actual[~mask] == 0).all()
    torch.testing.assert_close(normalize(image, None, mean, std).double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"crop_size": (0, 4)}, r"crop_size must be at least 1 x 1, got \(0, 4\)"),
        ({"crop_size": (4, 4), "scales": ()}, r"scales .* got \(\)"),
        ({"crop_size": (4, 4), "scales": (1.0, -0.5)}, r"scales .* got \(1.0, -0.5\)"),
        ({"crop_size": (4, 4), "flip_probability": 1.5}, "flip_probability .* got 1.5"),
    ],
)
def test_wrong_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        Augmentation(**options)
