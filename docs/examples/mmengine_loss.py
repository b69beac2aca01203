"""MMEngine, on whose registry MMSegmentation's stands: the loss by its name in a configuration.

The registered class keeps the convention of MMSegmentation's losses: ``loss_weight``, a ``loss_name`` that starts with
"loss" and so joins the sum, the logits first, ``weight`` for pixels. The second argument is the teacher's logits.
"""

import torch
from mmengine.model import BaseModel, ExponentialMovingAverage
from mmengine.optim import OptimWrapper
from mmengine.registry import MODELS
from torch import Tensor, nn
from toy import check_gradient, distort, draw, network

from fpl_fast import cross_entropy, fuzzy_positive_loss


@MODELS.register_module()
class FuzzyPositiveLoss(nn.Module):
    """Fuzzy positive loss; ``options`` are those of ``fpl_fast.fuzzy_positive_loss``."""

    def __init__(self, loss_weight: float = 1.0, loss_name: str = "loss_fpl", **options: object) -> None:
        super().__init__()
        self.loss_weight, self.loss_name, self.options = loss_weight, loss_name, options

    def forward(self, seg_logit: Tensor, teacher_logit: Tensor, weight: Tensor | None = None, **tensors) -> Tensor:
        """``tensors``: ``size`` of the image where the logits are smaller, ``valid_mask`` without the padding."""
        loss = fuzzy_positive_loss(seg_logit, teacher_logit, pixel_weight=weight, **self.options, **tensors)
        return self.loss_weight * loss


@MODELS.register_module()
class MeanTeacher(BaseModel):
    """A student and its moving average; of a segmentor, ``network()`` is ``decode_head(backbone(images))``."""

    def __init__(self, unlabelled_loss: dict) -> None:
        super().__init__()
        self.student = network()
        self.teacher = ExponentialMovingAverage(self.student, momentum=0.1)
        self.unlabelled_loss = MODELS.build(unlabelled_loss)

    def forward(self, images: Tensor, labels: Tensor, unlabelled: Tensor, mode: str = "loss") -> dict[str, Tensor]:
        """The losses by their names, whose sum the optimiser gets."""
        size = tuple(images.shape[-2:])
        loss_x = cross_entropy(self.student(images), labels, size=size, align_corners=False)
        loss_u = self.unlabelled_loss(self.student(distort(unlabelled)), self.teacher(unlabelled), size=size)
        return {"loss_ce": loss_x, self.unlabelled_loss.loss_name: loss_u}

    def train_step(self, data: dict, optim_wrapper: OptimWrapper) -> dict[str, Tensor]:
        """A step of the optimiser, then of the teacher."""
        log = super().train_step(data, optim_wrapper)
        self.teacher.update_parameters(self.student)
        return log


def main() -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    loss = {"type": "FuzzyPositiveLoss", "max_positives": 3, "balance": True, "align_corners": False}
    model = MODELS.build({"type": "MeanTeacher", "unlabelled_loss": loss})
    optimizer = OptimWrapper(torch.optim.AdamW(model.student.parameters(), lr=1e-2))
    images, labels = draw(4)
    for step in range(31):
        log = model.train_step({"images": images, "labels": labels, "unlabelled": draw(4)[0]}, optimizer)
        if step % 10 == 0:
            print(f"step {step}: labelled {log['loss_ce']:.3f}, unlabelled {log['loss_fpl']:.3f}")
    check_gradient(model(images, labels, draw(4)[0])["loss_fpl"], model.student)


if __name__ == "__main__":
    main()
