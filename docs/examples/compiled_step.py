"""A compiled training step whose threshold follows a schedule.

The loss is one operator in the graph. ``engine="eager"`` computes it without compiling anything of its own; on a GPU
leave it out, and the Triton kernel is called. The threshold is an argument: its first change compiles once more, later
ones do not. ``python compiled_step.py aot_eager`` traces the same graphs without a C++ compiler.
"""

import sys

import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from toy import check_gradient, distort, draw, network

from fpl_fast import cross_entropy, fuzzy_positive_loss

SIZE = (64, 64)
STEPS = 31


def losses(
    student: nn.Module, images: Tensor, labels: Tensor, strong: Tensor, believed: Tensor, threshold: float
) -> tuple[Tensor, Tensor]:
    """The labelled and the unlabelled loss, in one graph."""
    loss_x = cross_entropy(student(images), labels, size=SIZE, engine="eager")
    loss_u = fuzzy_positive_loss(
        student(strong), believed, threshold=threshold, max_positives=3, balance=True, size=SIZE, engine="eager"
    )
    return loss_x, loss_u


def main(backend: str = "inductor") -> None:
    """Train for a few steps."""
    torch.manual_seed(0)
    student = network()
    teacher = AveragedModel(student, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
    compiled = torch.compile(losses, fullgraph=True, backend=backend)
    images, labels = draw(4)
    for step in range(STEPS):
        unlabelled, _ = draw(4)
        with torch.no_grad():
            believed = teacher(unlabelled)
        threshold = 0.7 + 0.25 * step / STEPS
        loss_x, loss_u = compiled(student, images, labels, distort(unlabelled), believed, threshold)
        optimizer.zero_grad()
        (loss_x + loss_u).backward()
        optimizer.step()
        teacher.update_parameters(student)
        if step % 10 == 0:
            print(f"step {step}: labelled {loss_x:.3f}, unlabelled {loss_u:.3f}, threshold {threshold:.3f}")
    check_gradient(compiled(student, images, labels, distort(unlabelled), believed, 0.95)[1], student)
    print(f"graphs compiled: {counters['stats']['unique_graphs']}")


if __name__ == "__main__":
    main(*sys.argv[1:])
