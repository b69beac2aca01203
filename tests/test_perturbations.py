import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fpl_fast.trainer.methods.perturbations import (
    add_noise,
    adversarial_noise,
    drop_channels,
    drop_salient,
    keep_pixels,
)


@pytest.fixture
def h():
    return torch.rand(3, 8, 5, 7)


def test_channels_are_kept_scaled_or_dropped_whole(h):
    kept = torch.rand(3, 8) < 0.5
    expected = torch.where(kept.view(3, 8, 1, 1), 2 * h, torch.zeros(()))
    torch.testing.assert_close(drop_channels(h, kept, 0.5), expected)


def test_noise_is_one_for_all_images(h):
    noise = torch.rand(8, 5, 7) - 0.5
    torch.testing.assert_close(add_noise(h, noise), torch.stack([image + image * noise for image in h]))


def test_the_most_active_pixels_of_each_image_are_dropped(h):
    dropped = drop_salient(h, torch.tensor(0.9))
    for image, ours in zip(h, dropped, strict=True):
        activity = image.mean(0)
        low = activity < 0.9 * activity.max()
        assert 0 < low.sum() < low.numel()
        assert torch.equal(ours, image * low)


def test_pixels_are_kept_at_the_nearest_neighbour(h):
    kept = torch.rand(3, 20, 28) < 0.5
    assert torch.equal(keep_pixels(h, kept), h * kept[:, None, ::4, ::4])


@pytest.mark.parametrize("num_images", [3, 6])
def test_adversarial_noise_is_the_gradient_of_the_divergence(h, num_images):
    """In float64, where the norm is not far above the guard: images of other processes make it shorter."""
    h, decoder = h.double().requires_grad_(), nn.Conv2d(8, 5, 1).double()
    direction = torch.rand_like(h) - 0.5
    noise = adversarial_noise(h, decoder, direction, xi=1e-6, radius=2.0, num_images=num_images)

    d = torch.stack([image / (image.norm() + 1e-8) for image in direction]).requires_grad_()
    p = decoder(h.detach()).softmax(1).detach()
    moved = F.log_softmax(decoder(h.detach() + 1e-6 * d), 1)
    (gradient,) = torch.autograd.grad((p * (p.log() - moved)).sum() / num_images, d)
    expected = torch.stack([2 * image / (image.norm() + 1e-8) for image in gradient])
    torch.testing.assert_close(noise, expected, rtol=1e-6, atol=0)
    assert noise.flatten(1).norm(dim=1).max() < 0.1
    assert not noise.requires_grad and decoder.weight.grad is None


def test_adversarial_noise_has_its_length_and_changes_predictions_more_than_chance(h):
    decoder = nn.Conv2d(8, 5, 1)
    direction = torch.rand_like(h) - 0.5
    noise = adversarial_noise(h, decoder, direction, xi=0.1, radius=2.0, num_images=3)
    torch.testing.assert_close(
        noise.flatten(1).norm(dim=1), torch.full((3,), 2.0), rtol=1e-3, atol=0
    )  # 1e-8 in the norm
    chance = direction / direction.flatten(1).norm(dim=1).view(3, 1, 1, 1) * 2
    p = decoder(h).softmax(1)
    changes = [(decoder(h + moved).softmax(1) - p).square().sum() for moved in (noise, chance)]
    assert changes[0] > 1.5 * changes[1]
