"""Shared parts of the examples: images drawn in place of a data set, a small network, a check of a gradient."""

import torch
from torch import Tensor, nn

NUM_CLASSES = 4
COLOURS = torch.tensor([[0.1, 0.1, 0.1], [0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.2, 0.3, 0.9]])


def draw(count: int, size: int = 64) -> tuple[Tensor, Tensor]:
    """Noisy images (N, 3, size, size) of three rectangles and their labels (N, size, size)."""
    labels = torch.zeros(count, size, size, dtype=torch.long)
    for label in labels:
        for number in range(1, NUM_CLASSES):
            top, left = torch.randint(size // 2, (2,)).tolist()
            label[top : top + size // 2, left : left + size // 2] = number
    return distort(COLOURS[labels].permute(0, 3, 1, 2)), labels


def distort(images: Tensor) -> Tensor:
    """The same images under new noise: in place of a strong augmentation."""
    return images + 0.2 * torch.randn_like(images)


def network(width: int = 16) -> nn.Module:
    """Logits at a quarter of the image's size."""
    return nn.Sequential(
        *(nn.Conv2d(3, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.ReLU()),
        *(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.GroupNorm(4, width), nn.ReLU()),
        nn.Conv2d(width, NUM_CLASSES, 1),
    )


def check_gradient(loss: Tensor, trained: nn.Module) -> None:
    """Print the norm of the loss's gradient; raise an error where it is zero or not finite."""
    gradients = torch.autograd.grad(loss, list(trained.parameters()))
    norm = torch.nn.utils.get_total_norm(gradients)
    assert norm.isfinite() and norm > 0, norm
    print(f"norm of the unlabelled loss's gradient: {norm:.1e}")
