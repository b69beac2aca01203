"""transformers: SegFormer, whose logits are a quarter of the image.

Its own loss interpolates them with ``align_corners=False``, and so does its post-processing: pass the same.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toy import NUM_CLASSES, check_gradient, distort, draw
from transformers import SegformerConfig, SegformerForSemanticSegmentation

from fpl_fast import cross_entropy, fuzzy_positive_loss


def unlabelled_loss(student: nn.Module, teacher: nn.Module, images: Tensor) -> Tensor:
    """Logits stay at a quarter of the image; the loss is that of the image's pixels."""
    with torch.no_grad():
        believed = teacher(pixel_values=images).logits
    logits = student(pixel_values=distort(images)).logits
    return fuzzy_positive_loss(
        logits, believed, size=images.shape[-2:], align_corners=False, max_positives=3, balance=True
    )


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    config = SegformerConfig(
        num_labels=NUM_CLASSES,
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 48, 64],
        decoder_hidden_size=32,
    )
    student = SegformerForSemanticSegmentation(config).train()
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True).eval()
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    images, labels = draw(4)
    for step in range(31):
        unlabelled, _ = draw(4)
        logits = student(pixel_values=images).logits
        loss_x = cross_entropy(logits, labels, size=labels.shape[-2:], align_corners=False)
        loss_u = unlabelled_loss(student, teacher, unlabelled)
        optimizer.zero_grad()
        (loss_x + loss_u).backward()
        optimizer.step()
        teacher.update_parameters(student)
        if step % 10 == 0:
            print(f"step {step}: labelled {loss_x:.3f}, unlabelled {loss_u:.3f}")
    check_gradient(unlabelled_loss(student, teacher, unlabelled), student)


if __name__ == "__main__":
    main()
