"""segmentation_models_pytorch: two networks that teach each other (CPS), with fuzzy positives.

Its networks upsample their logits themselves, to the size of the image: nothing is left for ``size``.
"""

import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn
from toy import NUM_CLASSES, check_gradient, draw

from fpl_fast import cross_entropy, fuzzy_positive_loss


def cross_supervision(logits_a: Tensor, logits_b: Tensor) -> Tensor:
    """Each network learns from the other one; no gradient flows into the second argument."""
    loss_a = fuzzy_positive_loss(logits_a, logits_b, max_positives=3, balance=True)
    loss_b = fuzzy_positive_loss(logits_b, logits_a, max_positives=3, balance=True)
    return loss_a + loss_b


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    pair = nn.ModuleList(
        smp.Unet("resnet18", encoder_weights=None, decoder_channels=(64, 32, 16, 16, 16), classes=NUM_CLASSES)
        for _ in range(2)  # the same network from two initialisations
    )
    optimizer = torch.optim.AdamW(pair.parameters(), lr=2e-3)
    images, labels = draw(4)
    for step in range(11):
        unlabelled, _ = draw(4)
        loss_x = sum(cross_entropy(model(images), labels) for model in pair)
        loss_u = cross_supervision(*(model(unlabelled) for model in pair))
        optimizer.zero_grad()
        (loss_x + loss_u).backward()
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}: labelled {loss_x:.3f}, unlabelled {loss_u:.3f}")
    for model, other in (pair, pair[::-1]):
        check_gradient(fuzzy_positive_loss(model(unlabelled), other(unlabelled), max_positives=3), model)


if __name__ == "__main__":
    main()
