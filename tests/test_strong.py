"""Strong photometric augmentation of crops."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import functional as tv

from fpl_fast.trainer.data.strong import StrongAugmentation

NOTHING = {"jitter_probability": 0.0, "grey_probability": 0.0, "blur_probability": 0.0}


def noise(*size):
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8)


def views(number, image, **changes):
    rng = np.random.default_rng(4)
    return StrongAugmentation(**(NOTHING | changes), num_views=number)(image, rng)


def test_probabilities_are_those_asked_for():
    image = noise(6, 7)
    assert torch.equal(views(2, image), torch.stack([image, image]))
    for name, share in (("jitter", 0.8), ("grey", 0.2), ("blur", 0.5)):
        made = views(500, image, **{f"{name}_probability": share}, blur_sigma=(1.0, 2.0))
        changed = (made != image).flatten(1).any(1).float().mean()
        assert changed.item() == pytest.approx(share, abs=0.08)  # four standard deviations


def test_grey_is_grey_and_blur_is_pillow_s():
    image = noise(9, 8)
    (grey,) = views(1, image, grey_probability=1.0)
    assert torch.equal(grey, tv.rgb_to_grayscale(image, 3)) or (grey.int() - grey[:1].int() == 0).all()
    (blurred,) = views(1, image, blur_probability=1.0, blur_sigma=(1.3, 1.3))
    picture = Image.fromarray(image.permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(1.3))
    assert torch.equal(blurred, tv.pil_to_tensor(picture))


@pytest.mark.parametrize("blur_first", [False, True])
def test_the_blur_comes_first_or_last(blur_first):
    """Grey levels are rounded, and so do not commute with the blur."""
    image = noise(20, 20)
    (made,) = views(1, image, grey_probability=1.0, blur_probability=1.0, blur_sigma=(1.1, 1.1), blur_first=blur_first)
    picture, blur = Image.fromarray(image.permute(1, 2, 0).numpy()), ImageFilter.GaussianBlur(1.1)
    if blur_first:
        expected = tv.rgb_to_grayscale(picture.filter(blur), 3)
    else:
        expected = tv.rgb_to_grayscale(picture, 3).filter(blur)
    assert torch.equal(made, tv.pil_to_tensor(expected))


@pytest.mark.parametrize("which", range(4))
def test_each_part_of_the_jitter_stays_in_its_range(which):
    """A factor is uniform in 1 - s ... 1 + s, a hue in -s ... s; each on a picture that shows it."""
    strength = 0.25 if which == 3 else 0.5
    jitter = [0.0] * 4
    jitter[which] = strength
    image = torch.tensor([160, 40, 40], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 2).clone()
    image[:, :, 1] = image[[1, 1, 0], :, 1]  # red and blue
    made = views(400, image, jitter_probability=1.0, jitter=tuple(jitter)).float()
    ends = []
    adjust = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)[which]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    for sign in (-1, 1):
        value = sign * strength if which == 3 else 1 + sign * strength
        ends.append(tv.pil_to_tensor(adjust(picture, value)).float())
    distance = [(made - end).abs().flatten(1).amax(1) for end in ends]
    assert min(d.min() for d in distance) <= 6  # both ends are reached nearly
    assert max(d.min() for d in distance) <= 6
    if which < 3:
        low, high = torch.minimum(*ends), torch.maximum(*ends)
        assert ((made >= low - 1) & (made <= high + 1)).all()
    assert len(made.flatten(1).unique(dim=0)) > 20


def test_the_order_of_the_jitter_varies():
    """Brightness that saturates and contrast do not commute."""
    image = torch.tensor([[250, 30]] * 3, dtype=torch.uint8).view(3, 1, 2)
    made = views(300, image, jitter_probability=1.0, jitter=(0.5, 0.5, 0.0, 0.0))
    assert (made[:, 0, 0, 0] == 255).any() and len(made.flatten(1).unique(dim=0)) > 50


def test_views_differ_and_the_generator_decides():
    image = noise(8, 8)
    augmentation = StrongAugmentation(num_views=2)
    ours, same, other = (augmentation(image, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert ours.shape == (2, 3, 8, 8) and ours.dtype == torch.uint8
    assert torch.equal(ours, same) and not torch.equal(ours, other)
    assert not torch.equal(*ours)


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (3, 2)])
def test_crops_smaller_than_the_blur(size):
    made = views(20, noise(*size), blur_probability=1.0, jitter_probability=1.0, blur_sigma=(2.0, 2.0))
    assert made.shape == (20, 3, *size)


def test_black_padding_is_jittered_with_the_image():
    """As in the public code: the validity mask and not the colour says what is padding."""
    image = noise(8, 8)
    image[:, :, 5:] = 0
    made = views(50, image, jitter_probability=1.0)
    assert made[..., 5:].any()
