"""FixMatch, as UniMatch has it for segmentation: weak and strong views, before and after.

Behind FixMatch's gate of 0.95 every pixel has one positive, and the loss would stay a cross entropy. Fuzzy positives
are for the other pixels: the gate goes, and ``confidence_power`` gives doubtful pixels less weight instead.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from toy import check_gradient, distort, draw, network

from fpl_fast import fuzzy_positive_assignment, fuzzy_positive_loss


def before(model: nn.Module, weak: Tensor, strong: Tensor) -> Tensor:
    """The pseudo-label where the model is sure, nothing elsewhere."""
    with torch.no_grad():
        confidence, label = model(weak).softmax(1).max(1)
    loss = F.cross_entropy(model(strong), label, reduction="none")
    return (loss * (confidence >= 0.95)).mean()


def after(model: nn.Module, weak: Tensor, strong: Tensor) -> Tensor:
    """The fuzzy positives of every pixel, weighted by the square of the confidence."""
    with torch.no_grad():
        believed = model(weak)
    return fuzzy_positive_loss(model(strong), believed, max_positives=3, confidence_power=2, balance=True)


def mean_positives(model: nn.Module, weak: Tensor) -> tuple[Tensor, Tensor]:
    """Positives of a pixel: behind a gate of 0.95, and of all pixels."""
    with torch.no_grad():
        believed = model(weak)
    number, _ = fuzzy_positive_assignment(believed, max_positives=3)
    sure = believed.softmax(1).amax(1) >= 0.95
    return number[sure].float().mean(), number.float().mean()


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    images, labels = draw(4)
    labels = labels[:, ::4, ::4]  # this network's logits are a quarter of the image
    for step in range(31):
        weak = draw(4)[0]
        loss_x = F.cross_entropy(model(images), labels)
        loss_u = after(model, weak, distort(weak))
        optimizer.zero_grad()
        (loss_x + loss_u).backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: labelled {loss_x:.3f}, unlabelled {loss_u:.3f}")
    gated, everywhere = mean_positives(model, weak)
    print(f"positives of a pixel: {gated:.2f} behind a gate of 0.95, {everywhere:.2f} without it")
    check_gradient(after(model, weak, distort(weak)), model)


if __name__ == "__main__":
    main()
