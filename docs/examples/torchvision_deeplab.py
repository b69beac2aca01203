"""torchvision: DeepLabV3, whose forward upsamples its logits and wraps them in a dictionary.

``model(images)["out"]`` has the size of the image, sixteen times sixteen as many numbers as the network computed.
The backbone and the head give the small logits, and ``size`` interpolates them as torchvision does.
"""

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models.segmentation import deeplabv3_mobilenet_v3_large
from toy import NUM_CLASSES, check_gradient, distort, draw

from fpl_fast import cross_entropy, fuzzy_positive_loss


class LowResolution(nn.Module):
    """A segmentation network of torchvision without the upsampling at its end."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.backbone, self.classifier = model.backbone, model.classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits at the resolution at which they are computed."""
        return self.classifier(self.backbone(images)["out"])


def unlabelled_loss(student: nn.Module, teacher: nn.Module, images: Tensor) -> Tensor:
    """The loss of the image's pixels from logits at a sixteenth of them."""
    with torch.no_grad():
        believed = teacher(images)
    logits = student(distort(images))
    return fuzzy_positive_loss(
        logits, believed, size=images.shape[-2:], align_corners=False, max_positives=3, balance=True
    )


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    model = deeplabv3_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=NUM_CLASSES)
    student = LowResolution(model)
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    images, labels = draw(4)
    for step in range(5):
        unlabelled, _ = draw(4)
        loss_x = cross_entropy(student(images), labels, size=labels.shape[-2:], align_corners=False)
        loss_u = unlabelled_loss(student, teacher, unlabelled)
        optimizer.zero_grad()
        (loss_x + loss_u).backward()
        optimizer.step()
        teacher.update_parameters(student)
        if step % 2 == 0:
            print(f"step {step}: labelled {loss_x:.3f}, unlabelled {loss_u:.3f}")
    check_gradient(unlabelled_loss(student, teacher, unlabelled), student)


if __name__ == "__main__":
    main()
