"""A loop in plain PyTorch: a student, its moving average as the teacher, CutMix inside the loss.

The network's logits are a quarter of the image: they stay there, and ``size`` interpolates inside the loss.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toy import check_gradient, distort, draw, network

from fpl_fast import cross_entropy, fuzzy_positive_loss

SIZE = (64, 64)


def random_boxes(count: int) -> Tensor:
    """Mask of the pixels where an image shows its neighbour: a box of half the height and width, (N, H, W) bool."""
    mask = torch.zeros(count, *SIZE, dtype=torch.bool)
    for image in mask:
        top, left = torch.randint(SIZE[0] // 2, (2,)).tolist()
        image[top : top + SIZE[0] // 2, left : left + SIZE[1] // 2] = True
    return mask


def unlabelled_loss(student: nn.Module, teacher: nn.Module, images: Tensor, mask: Tensor) -> Tensor:
    """The student sees mixed images; the teacher saw them whole, and the loss mixes what it said."""
    with torch.no_grad():
        believed = teacher(images)
    strong = distort(images)
    mixed = torch.where(mask[:, None], strong.roll(1, 0), strong)
    return fuzzy_positive_loss(
        student(mixed),
        believed,
        partner_logits=believed.roll(1, 0),
        mix_mask=mask,
        size=SIZE,
        align_corners=False,
        max_positives=3,
        balance=True,
    )


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    student = network()
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    images, labels = draw(4)
    for step in range(31):
        unlabelled, _ = draw(4)
        loss_x = cross_entropy(student(images), labels, size=SIZE, align_corners=False)
        loss_u = unlabelled_loss(student, teacher, unlabelled, random_boxes(4))
        optimizer.zero_grad()
        (loss_x + loss_u).backward()
        optimizer.step()
        teacher.update_parameters(student)
        if step % 10 == 0:
            print(f"step {step}: labelled {loss_x:.3f}, unlabelled {loss_u:.3f}")
    check_gradient(unlabelled_loss(student, teacher, draw(4)[0], random_boxes(4)), student)


if __name__ == "__main__":
    main()
