"""A Lightning module: the teacher is a submodule without gradient, updated after every step.

Two loaders come as a dictionary, one batch of each a step.
"""

import lightning as L
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset
from toy import check_gradient, distort, draw, network

from fpl_fast import CrossEntropy, FuzzyPositiveLoss

SIZE = (64, 64)


class SemiSupervised(L.LightningModule):
    """A student that learns from labels and from its moving average."""

    def __init__(self) -> None:
        super().__init__()
        self.student = network()
        average = get_ema_multi_avg_fn(0.9)
        self.teacher = AveragedModel(self.student, multi_avg_fn=average, use_buffers=True).requires_grad_(False)
        self.labelled_loss = CrossEntropy(size=SIZE, align_corners=False)
        self.unlabelled_loss = FuzzyPositiveLoss(size=SIZE, align_corners=False, max_positives=3, balance=True)

    def training_step(self, batch: dict[str, list[Tensor]], batch_idx: int) -> Tensor:
        """Labelled loss plus unlabelled loss."""
        (images, labels), (unlabelled,) = batch["x"], batch["u"]
        loss_x = self.labelled_loss(self.student(images), labels)
        loss_u = self.unlabelled_loss(self.student(distort(unlabelled)), self.teacher(unlabelled))
        self.log_dict({"labelled": loss_x, "unlabelled": loss_u})
        return loss_x + loss_u

    def on_train_batch_end(self, *_: object) -> None:
        """Let the teacher follow."""
        self.teacher.update_parameters(self.student)
        if self.global_step % 10 == 1:
            seen = self.trainer.callback_metrics
            labelled, unlabelled = seen["labelled"], seen["unlabelled"]
            print(f"step {self.global_step - 1}: labelled {labelled:.3f}, unlabelled {unlabelled:.3f}")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The student's parameters only: the teacher is an average."""
        return torch.optim.AdamW(self.student.parameters(), lr=1e-2)


def main() -> None:
    """Train for a few steps."""
    L.seed_everything(0, verbose=False)
    images, labels = draw(64)
    loaders = {
        "x": DataLoader(TensorDataset(images[:16], labels[:16]), batch_size=4, shuffle=True),  # starts anew until
        "u": DataLoader(TensorDataset(images[16:]), batch_size=4, shuffle=True),  # the longer one has ended
    }
    module = SemiSupervised()
    trainer = L.Trainer(
        max_steps=31,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, loaders)
    logits = module.teacher(images[16:20])
    check_gradient(module.unlabelled_loss(module.student(distort(images[16:20])), logits), module.student)


if __name__ == "__main__":
    main()
